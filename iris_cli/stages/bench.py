"""`iris bench`: how fast every stage runs on this machine, beside the plain reference, and what a full run would take.

The work is IRIS on real frames of Pong. Fast and plain path take turns in one process, so that a busy machine slows
both; ratios mean more than single figures. Weights are random, which changes no speed.
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_cli.agents import build, presets_for
from iris_cli.agents.iris.plain import plain_dynamics_loss, plain_encode, plain_see, plain_start
from iris_cli.config import nearest
from iris_cli.device import choose_device, fast_matmul
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError
from iris_cli.learn.acting import Actor
from iris_cli.learn.actor_critic import Rollout, actor_critic_loss
from iris_cli.learn.imagination import imagine
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.work import Work, counted, peaks
from iris_cli.machine import processor
from iris_cli.nn.lpips import LPIPS
from iris_cli.replay.segments import Segments
from iris_cli.report import Report, Section
from iris_cli.version import VERSION

FRAMES = 512  # real frames that the measurements work on
GAME_STEPS = 1500  # of an evaluated game: assumed, since it depends on the game and the policy
CPU_SHARE = 4  # of a batch of the tokenizer and the dynamics, a CPU is timed on one part in so many
ROOFLINE_BATCH = 2  # rollouts, segments or frames whose operations are counted

# The published schedule, pipelines/atari100k.yaml: what a full run consists of.
ROUNDS, ROUND_STEPS, LAST_COLLECTING, FIRST_DYNAMICS = 600, 200, 500, 26
UPDATES = {"tokenizer": 119_000, "dynamics": 115_000, "actor_critic": 110_000}
GAMES = 120 * 16 + 100


@dataclass(frozen=True)
class Measured:
    """A stage's speed.

    Attributes:
        throughput: units per second.
        unit: what is counted.
        plain: units per second of the plain reference.
        amount: units in a full run.
        work: operations and bytes of one unit; None where an emulator does most of it.
    """

    throughput: float
    unit: str
    plain: float
    amount: float
    work: Work | None = None


def bench(*, preset: str = "published", seconds: float = 5.0, device: str = "auto") -> dict[str, Any]:
    """Measure all stages.

    Args:
        preset: of the iris agent.
        seconds: spent on each measurement, at least; one repetition of both paths is always done.
        device: for the networks.

    Returns:
        JSON-safe: the machine, `stages`, and `predicted_hours` of a full Atari 100k run. A stage's `share_of_run` and
        `seconds` are of that run; those of `imagination` are part of `actor_critic`'s.
    """
    presets = presets_for("iris")
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where="--preset", fix=nearest(preset, presets))
    chosen = choose_device(device)
    torch.manual_seed(0)
    with closing(_Games()) as games, fast_matmul():
        subject = _Subject(presets[preset], games, chosen)
        measured = _measure(subject, games, _Clock(seconds, chosen))
    peak_flops, bandwidth = peaks(chosen, subject.dtype)
    total = sum(one.amount / one.throughput for name, one in measured.items() if name != "imagination")
    return {
        **_machine(chosen),
        "preset": preset,
        "precision": str(subject.dtype).removeprefix("torch."),
        "tokenizer_loss": "weights-free" if subject.perceptual is None else "L1 + LPIPS (random weights)",
        "batch": subject.agent.config.actor_critic.batch_size,
        "peak_operations_per_second": _rounded(peak_flops),
        "peak_bytes_per_second": _rounded(bandwidth),
        "peak_memory_gb": _rounded(_memory(chosen) / 1e9),
        "predicted_hours": _rounded(total / 3600),
        "assumed": f"games of {GAME_STEPS:,} steps in evaluations; the published schedule of 100,000 steps",
        "stages": {name: _row(one, total, peak_flops, bandwidth) for name, one in measured.items()},
    }


def save(result: dict[str, Any], path: Path) -> Path:
    """Write a result to a file, or into a directory as `DATE-HARDWARE.json`."""
    if path.suffix != ".json":
        words = "".join(c if c.isalnum() else " " for c in result["device"]).split()
        path = path / f"{result['date']}-{'-'.join(words).lower()}-{result['preset']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def report_of(result: dict[str, Any], path: Path | None) -> Report:
    """The tables that people read."""
    stages = result["stages"]
    columns = ("stage", "a second", "of", "x plain", "share of run", "hours", "of roofline")
    rows = tuple(
        (
            name, row["throughput"], row["unit"], row["ratio_to_plain"], f"{row['share_of_run']:.1%}",
            _rounded(row["seconds"] / 3600), f"{row['share_of_roofline']:.0%}" if "share_of_roofline" in row else "-",
        )
        for name, row in stages.items()
    )  # fmt: skip
    facts = tuple((name.replace("_", " "), value) for name, value in result.items() if name != "stages")
    return Report(
        stage="bench",
        sections=(Section("This machine", ("", ""), facts), Section("Stages", columns, rows)),
        files={} if path is None else {"result": path},
        notes=("imagination is a part of actor_critic",),
    )  # fmt: skip


def _row(one: Measured, total: float, peak_flops: float, bandwidth: float) -> dict[str, Any]:
    seconds = one.amount / one.throughput
    row: dict[str, Any] = {
        "throughput": _rounded(one.throughput),
        "unit": one.unit,
        "ratio_to_plain": _rounded(one.throughput / one.plain),
        "share_of_run": _rounded(seconds / total),
        "seconds": _rounded(seconds),
    }
    if one.work is not None:
        least = max(one.work.operations / peak_flops, one.work.bytes / bandwidth)  # seconds per unit
        row |= {
            "operations": _rounded(one.work.operations),
            "bytes": _rounded(one.work.bytes),
            "share_of_roofline": _rounded(least * one.throughput),
        }
    return row


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# -- the machine -------------------------------------------------------------------------------------------------------


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "iris-wm": VERSION,
        "date": time.strftime("%Y-%m-%d"),
    }


def _memory(device: torch.device) -> int:
    """Bytes at the peak: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Clock:
    """Times two ways to do the same work in turns."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._seconds, self._device = seconds, device

    def compare(
        self, fast: Callable[[], object], plain: Callable[[], object], *then: Callable[[], object]
    ) -> tuple[list[float], list[float]]:
        """Median seconds of each part of the fast and of the plain way.

        Args:
            fast, plain: the first part of each.
            then: further parts, done after each of them.
        """
        self._laps(fast, *then)  # warms up
        taken: tuple[list[list[float]], list[list[float]]] = ([], [])
        while not taken[0] or sum(map(sum, taken[0])) + sum(map(sum, taken[1])) < self._seconds:
            taken[0].append(self._laps(fast, *then))
            taken[1].append(self._laps(plain, *then))
        fast_seconds, plain_seconds = ([median(part) for part in zip(*laps, strict=True)] for laps in taken)
        return fast_seconds, plain_seconds

    def _laps(self, *parts: Callable[[], object]) -> list[float]:
        seconds = []
        for part in parts:
            self._wait()
            begun = time.perf_counter()
            part()
            self._wait()
            seconds.append(time.perf_counter() - begun)
        return seconds

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


# -- what is measured --------------------------------------------------------------------------------------------------


class _Games:
    """Pong: one game as in training, and several as in evaluations; and random steps of it.

    Attributes:
        frames: (FRAMES, 64, 64, 3) uint8.
        actions, rewards: (FRAMES,).
    """

    def __init__(self) -> None:
        spec = training_spec("Pong")
        self._training = _Playing(spec, 1)
        self._testing = _Playing(spec.for_testing(), 8)
        self.num_actions = self._training.envs.num_actions
        draws = np.random.default_rng(0)
        frames, self.actions, rewards = [], torch.from_numpy(draws.integers(self.num_actions, size=FRAMES)), []
        for action in self.actions.numpy():
            frames.append(self._training.frames[0].copy())
            rewards.append(float(self._training.step(np.array([action]))[0]))
        self.frames, self.rewards = np.stack(frames), torch.tensor(rewards)

    def steps(self, actor: Actor, *, testing: bool) -> int:
        """Play a little, and say how many steps that were."""
        playing = self._testing if testing else self._training
        for _ in range(20):
            playing.step(actor.act(playing.frames))
        return 20 * playing.envs.num_envs

    def num_envs(self, *, testing: bool) -> int:
        """Games at once."""
        return (self._testing if testing else self._training).envs.num_envs

    def close(self) -> None:
        """End the games' processes."""
        self._training.envs.close()
        self._testing.envs.close()


class _Playing:
    """Environments that go on for ever."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self.envs = VectorEnv(spec, num_envs)
        self.frames = self.envs.reset(list(range(num_envs)))

    def step(self, actions: np.ndarray) -> np.ndarray:
        given = self.envs.step(actions)
        over = given.terminations | given.truncations
        self.frames = self.envs.reset([1 if one else None for one in over]) if over.any() else given.frames
        return given.rewards


class _Subject:
    """An agent, its optimizers, and batches of real frames."""

    def __init__(self, config: Any, games: _Games, device: torch.device) -> None:
        self.agent: Any = build("iris", config, games.num_actions).to(device).eval()
        self.device = device
        self.dtype = self.agent.dream_dtype
        self.perceptual = LPIPS().to(device).eval() if config.preset == "published" else None
        self.images = torch.from_numpy(games.frames).to(device).permute(0, 3, 1, 2).contiguous()
        self.tokens = self.agent.tokenizer.encode(self.images)
        self._actions, self._rewards = games.actions.to(device), games.rewards.to(device)
        self.draws, self.dreams = torch.Generator().manual_seed(0), torch.Generator(device=device).manual_seed(0)
        self._optimizers = {
            name: make_optimizer(getattr(self.agent, name), getattr(config, name))
            for name in ("tokenizer", "dynamics", "actor_critic")
        }

    def rows(self, batch: int, length: int) -> Tensor:
        """(B, T) indices of consecutive frames."""
        starts = torch.randint(len(self.images) - length, (batch, 1), generator=self.draws)
        return (starts + torch.arange(length)).to(self.device)

    def segments(self, rows: Tensor) -> Segments:
        """The steps of these rows."""
        real = torch.ones_like(rows, dtype=torch.bool)
        return Segments(None, self._actions[rows], self._rewards[rows], ~real, real, self.tokens[rows])

    def learn(self, component: str, *losses: Any) -> None:
        """One optimizer step of a component."""
        optimizer = self._optimizers[component]
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        optimizer.step()

    def actor(self, *, plain: bool, num_envs: int) -> Actor:
        """Who plays, and how it sees."""
        if not plain:
            who = self.agent
        else:
            who = SimpleNamespace(
                actor_critic=self.agent.actor_critic, num_actions=self.agent.num_actions,
                parameters=self.agent.parameters, see=lambda frames: plain_see(self.agent, frames),
            )  # fmt: skip
        return Actor(who, num_envs, temperature=1.0, epsilon=0.01, generators=[torch.Generator().manual_seed(0)])


def _measure(subject: _Subject, games: _Games, clock: _Clock) -> dict[str, Measured]:
    return {
        **_actor_critic(subject, clock),
        "tokenizer": _tokenizer(subject, clock),
        "tokenize": _tokenize(subject, clock),
        "dynamics": _dynamics(subject, clock),
        "collect": _play(subject, games, clock, testing=False),
        "evaluate": _play(subject, games, clock, testing=True),
    }


def _actor_critic(subject: _Subject, clock: _Clock) -> dict[str, Measured]:
    """A whole update with its burn-in, and the share of imagination in it."""
    agent, config = subject.agent, subject.agent.config.actor_critic
    rollouts: list[Rollout] = []

    def imagined(start: Callable[[], Any]) -> None:
        memory, dream = start()
        rollouts[:] = [imagine(dream, agent.actor_critic, memory, config.horizon, subject.dreams)]

    def fast(batch: int = config.batch_size) -> None:
        rows = subject.rows(batch, config.burn_in + 1)
        imagined(lambda: agent.actor_critic_start(subject.segments(rows), subject.dreams))

    def plain() -> None:
        rows = subject.rows(config.batch_size, config.burn_in + 1)
        real = torch.ones_like(rows, dtype=torch.bool)
        imagined(lambda: plain_start(agent, subject.images[rows], real, subject.dreams))

    def learn() -> None:
        losses = actor_critic_loss(
            rollouts[0], gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight
        )
        subject.learn("actor_critic", losses.total)

    (dreaming, learning), (plain_dreaming, plain_learning) = clock.compare(fast, plain, learn)
    frames = config.batch_size * config.horizon
    work = counted(lambda: fast(ROOFLINE_BATCH))
    return {
        "imagination": Measured(
            frames / dreaming, "imagined frames", frames / plain_dreaming, UPDATES["actor_critic"] * frames,
            work / (ROOFLINE_BATCH * config.horizon),
        ),
        "actor_critic": Measured(
            1 / (dreaming + learning), "updates", 1 / (plain_dreaming + plain_learning), UPDATES["actor_critic"]
        ),
    }  # fmt: skip


def _tokenizer(subject: _Subject, clock: _Clock) -> Measured:
    agent, perceptual = subject.agent, subject.perceptual
    whole = agent.config.tokenizer.batch_size
    batch = _share(subject, whole)
    agent.tokenizer.train()

    def fast(size: int = batch) -> None:
        frames = subject.images[subject.rows(size, 1)[:, 0]]
        (parts,) = agent.tokenizer_losses(frames, perceptual=perceptual)
        subject.learn("tokenizer", *(part.losses.total * part.share for part in parts))
        agent.tokenizer.update_codebook()

    def plain() -> None:
        frames = subject.images[subject.rows(batch, 1)[:, 0]]
        subject.learn(
            "tokenizer",
            *(
                agent.tokenizer.loss(share, perceptual=perceptual).total * len(share) / batch
                for share in frames.split(64)
            ),
        )
        agent.tokenizer.update_codebook()

    (seconds,), (plain_seconds,) = clock.compare(fast, plain)
    work = counted(lambda: fast(ROOFLINE_BATCH)) * (whole / ROOFLINE_BATCH)
    agent.tokenizer.eval()
    rate = batch / whole
    return Measured(rate / seconds, "updates", rate / plain_seconds, UPDATES["tokenizer"], work)


def _tokenize(subject: _Subject, clock: _Clock) -> Measured:
    """Every frame of the dataset once per round, as the tokenizer moves: what training reads."""
    agent, images = subject.agent, subject.images[:256]
    (seconds,), (plain_seconds,) = clock.compare(
        lambda: agent.tokenizer.encode(images), lambda: [plain_encode(agent, some) for some in images.split(64)]
    )
    amount = sum(ROUND_STEPS * min(each, LAST_COLLECTING) for each in range(FIRST_DYNAMICS, ROUNDS + 1))
    work = counted(lambda: agent.tokenizer.encode(images[:64])) / 64
    return Measured(len(images) / seconds, "frames", len(images) / plain_seconds, amount, work)


def _dynamics(subject: _Subject, clock: _Clock) -> Measured:
    agent, config = subject.agent, subject.agent.config.dynamics
    batch = _share(subject, config.batch_size)
    agent.dynamics.train()

    def fast(size: int = batch) -> None:
        segments = subject.segments(subject.rows(size, config.segment_length))
        ((part,),) = agent.dynamics_losses(segments)
        subject.learn("dynamics", part.losses.total)

    def plain() -> None:
        segments = subject.segments(subject.rows(batch, config.segment_length))
        subject.learn("dynamics", plain_dynamics_loss(agent.dynamics, segments).total)

    (seconds,), (plain_seconds,) = clock.compare(fast, plain)
    work = counted(lambda: fast(ROOFLINE_BATCH)) * (config.batch_size / ROOFLINE_BATCH)
    agent.dynamics.eval()
    rate = batch / config.batch_size
    return Measured(rate / seconds, "updates", rate / plain_seconds, UPDATES["dynamics"], work)


def _play(subject: _Subject, games: _Games, clock: _Clock, *, testing: bool) -> Measured:
    num_envs = games.num_envs(testing=testing)
    fast, plain = (subject.actor(plain=plain, num_envs=num_envs) for plain in (False, True))
    steps = games.steps(fast, testing=testing)
    (seconds,), (plain_seconds,) = clock.compare(
        lambda: games.steps(fast, testing=testing), lambda: games.steps(plain, testing=testing)
    )
    amount = GAMES * GAME_STEPS if testing else ROUND_STEPS * LAST_COLLECTING
    return Measured(steps / seconds, "steps", steps / plain_seconds, amount)


def _share(subject: _Subject, batch: int) -> int:
    """Of a batch, what is timed here."""
    return max(1, batch // CPU_SHARE) if subject.device.type == "cpu" else batch
