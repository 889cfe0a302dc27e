"""What `iris bench` measures: the stages of an agent on real frames of Pong.

IRIS has a plain reference: fast and plain path take turns, so that a busy machine slows both; ratios mean more than
single figures. The other agents do their updates as their stages do them. Weights are random, which changes no speed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_cli.agents import build
from iris_cli.agents.iris.plain import plain_dynamics_loss, plain_encode, plain_see, plain_start
from iris_cli.envs.spec import EnvSpec
from iris_cli.envs.vector import VectorEnv
from iris_cli.learn.acting import Actor
from iris_cli.learn.actor_critic import Rollout, actor_critic_loss
from iris_cli.learn.fit import Steps, fit, learners_of
from iris_cli.learn.imagination import imagine
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.visits import Visits
from iris_cli.learn.watch import Watch
from iris_cli.learn.work import Kept, Work, counted
from iris_cli.nn.lpips import LPIPS
from iris_cli.open_run import environment_for
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay, Segments

FRAMES = 512  # real frames that the measurements work on
CPU_SHARE = 4  # of a batch of the tokenizer and the dynamics, a CPU is timed on one part in so many
DATASET_STEPS, STAGE_UPDATES = 100_000, 200  # at the end of an Atari 100k run
ROOFLINE_BATCH = 2  # rollouts, segments or frames whose operations and activations are counted
WARM_UPS = 3  # on CUDA, where the first repetition loads kernels and the second captures graphs
COMPONENTS = ("tokenizer", "dynamics", "actor_critic")


@dataclass(frozen=True)
class Measured:
    """A stage's speed.

    Attributes:
        throughput: units per second.
        unit: what is counted.
        plain: units per second of the plain reference; None where there is none.
        work: operations and bytes of one unit; None where an emulator does most of it.
        kept: bytes of activations that the backward pass of an update needs at its peak, where there is one.
    """

    throughput: float
    unit: str
    plain: float | None = None
    work: Work | None = None
    kept: int | None = None


class Clock:
    """Times two ways to do the same work in turns, or one.

    Args:
        seconds: spent on each comparison, at least.
        device: to wait for.
    """

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._seconds, self._device = seconds, device

    def compare(
        self, fast: Callable[[], object], plain: Callable[[], object] | None, *then: Callable[[], object]
    ) -> tuple[list[float], list[float]]:
        """Median seconds of each part of the fast and of the plain way.

        Args:
            fast, plain: the first part of each; without a plain one its seconds are none.
            then: further parts, done after each of them.
        """
        for _ in range(WARM_UPS if self._device.type == "cuda" else 1):
            self._laps(fast, *then)
        taken: tuple[list[list[float]], list[list[float]]] = ([], [])
        while not taken[0] or sum(map(sum, taken[0])) + sum(map(sum, taken[1])) < self._seconds:
            taken[0].append(self._laps(fast, *then))
            if plain is not None:
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


class Games:
    """Pong as an agent sees it: one game as in training, and several as in evaluations; and random steps of it.

    Args:
        agent: who shall see it.

    Attributes:
        frames: (FRAMES, 64, 64, C) uint8.
        actions, rewards: (FRAMES,).
    """

    def __init__(self, agent: str) -> None:
        self._spec = environment_for(agent, "Pong")
        self._training = _Playing(self._spec, 1)
        self._testing = _Playing(self._spec.for_testing(), 8)
        self.num_actions = self._training.envs.num_actions
        draws = np.random.default_rng(0)
        frames, self.actions, rewards = [], torch.from_numpy(draws.integers(self.num_actions, size=FRAMES)), []
        for action in self.actions.numpy():
            frames.append(self._training.frames[0].copy())
            rewards.append(float(self._training.step(np.array([action]))[0]))
        self.frames, self.rewards = np.stack(frames), torch.tensor(rewards)

    def replay(self, steps: int, device: torch.device) -> Replay:
        """At least that many steps of one episode: the frames that were seen, again and again."""
        times = -(-steps // FRAMES)
        count, replay = times * FRAMES, Replay(device)
        names = [f"ACTION{index}" for index in range(self.num_actions)]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "pong.zarr"
            with Dataset.create(path, environment=self._spec.to_mapping(), action_meanings=names) as dataset:
                dataset.append(
                    observations=np.tile(self.frames, (times, 1, 1, 1)), actions=np.tile(self.actions.numpy(), times),
                    rewards=np.tile(self.rewards.numpy(), times), terminations=np.zeros(count, bool),
                    truncations=np.zeros(count, bool), episode_lengths=[count], episode_ids=[0], writer="random",
                )  # fmt: skip
                replay.refresh(dataset)
        return replay

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


def play(games: Games, clock: Clock, fast: Actor, plain: Actor | None, *, testing: bool) -> Measured:
    """Steps of real games under a policy."""
    steps = games.steps(fast, testing=testing)
    (seconds,), plain_seconds = clock.compare(
        lambda: games.steps(fast, testing=testing),
        None if plain is None else lambda: games.steps(plain, testing=testing),
    )
    return Measured(steps / seconds, "steps", steps / plain_seconds[0] if plain_seconds else None)


class IrisSubject:
    """IRIS, its optimizers, and batches of real frames, beside the plain path."""

    def __init__(self, config: Any, games: Games, device: torch.device) -> None:
        self.agent: Any = build("iris", config, games.num_actions).to(device).eval()
        self.device = device
        self.dtype = self.agent.dream_dtype
        self.perceptual = LPIPS().to(device).eval() if config.preset == "published" else None
        self.images = torch.from_numpy(games.frames).to(device).permute(0, 3, 1, 2).contiguous()
        self.tokens = self.agent.tokenizer.encode(self.images)
        self._games, self._actions, self._rewards = games, games.actions.to(device), games.rewards.to(device)
        self.draws, self.dreams = torch.Generator().manual_seed(0), torch.Generator(device=device).manual_seed(0)
        self.optimizers = {
            name: make_optimizer(getattr(self.agent, name), getattr(config, name)) for name in COMPONENTS
        }
        self.cache_bytes = 0

    def step_bytes(self) -> int:
        """Of one step in the replay."""
        replay = Replay(self.device)
        replay.set_tokens(self.tokens[:0])
        return replay.step_bytes

    def measure(self, clock: Clock) -> dict[str, Measured]:
        """All stages."""
        return {
            **self._actor_critic(clock),
            "tokenizer": self._tokenizer(clock),
            "tokenize": self._tokenize(clock),
            "dynamics": self._dynamics(clock),
            "collect": self._play(clock, testing=False),
            "evaluate": self._play(clock, testing=True),
        }

    def rows(self, batch: int, length: int) -> Tensor:
        """(B, T) indices of consecutive frames."""
        starts = torch.randint(len(self.images) - length, (batch, 1), generator=self.draws)
        return (starts + torch.arange(length)).to(self.device)

    def segments(self, rows: Tensor) -> Segments:
        """The steps of these rows."""
        real = torch.ones_like(rows, dtype=torch.bool)
        return Segments(None, self._actions[rows], self._rewards[rows], ~real, real, self.tokens[rows])

    def _learn(self, component: str, *losses: Any) -> None:
        """One optimizer step of a component."""
        optimizer = self.optimizers[component]
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        optimizer.step()

    def _actor_critic(self, clock: Clock) -> dict[str, Measured]:
        """A whole update with its burn-in, and the share of imagination in it.

        A stage decodes what it burns in on once for every step of the dataset, if that is less: at the end of a run, an
        update's share of that is 500 frames instead of the 1,280 that it looks at.
        """
        agent, config = self.agent, self.agent.config.actor_critic
        rollouts: list[Rollout] = []
        share = min(config.burn_in, DATASET_STEPS / STAGE_UPDATES / config.batch_size)  # frames to decode for a rollout
        views = agent.views_of(self.tokens)

        def imagined(start: Callable[[], Any]) -> None:
            memory, dream = start()
            rollouts[:] = [imagine(dream, agent.actor_critic, memory, config.horizon, self.dreams)]
            if not self.cache_bytes:
                self.cache_bytes = dream.cache.memory.nbytes

        def fast(batch: int = config.batch_size) -> None:
            rows = self.rows(batch, config.burn_in + 1)
            agent.views_of(self.tokens[self.rows(round(share * batch), 1)[:, 0]])
            segments = replace(self.segments(rows), views=views[rows])
            imagined(lambda: agent.actor_critic_start(segments, self.dreams))

        def plain() -> None:
            rows = self.rows(config.batch_size, config.burn_in + 1)
            real = torch.ones_like(rows, dtype=torch.bool)
            imagined(lambda: plain_start(agent, self.images[rows], real, self.dreams))

        def learn() -> None:
            losses = actor_critic_loss(
                rollouts[0], gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight
            )
            self._learn("actor_critic", losses.total)

        (dreaming, learning), (plain_dreaming, plain_learning) = clock.compare(fast, plain, learn)
        frames = config.batch_size * config.horizon
        work, kept = _counted(agent, lambda: fast(ROOFLINE_BATCH))
        return {
            "imagination": Measured(
                frames / dreaming, "imagined frames", frames / plain_dreaming,
                work / (ROOFLINE_BATCH * config.horizon),
            ),
            "actor_critic": Measured(
                1 / (dreaming + learning), "updates", 1 / (plain_dreaming + plain_learning),
                kept=kept * config.batch_size // ROOFLINE_BATCH,
            ),
        }  # fmt: skip

    def _tokenizer(self, clock: Clock) -> Measured:
        agent, perceptual = self.agent, self.perceptual
        whole = agent.config.tokenizer.batch_size
        at_once = agent.config.tokenizer.micro_batch or (16 if self.device.type == "cpu" else 64)
        batch = _share(self.device, whole)
        agent.tokenizer.train()

        def fast(size: int = batch) -> None:
            frames = self.images[self.rows(size, 1)[:, 0]]
            (parts,) = agent.tokenizer_losses(frames, perceptual=perceptual)
            self._learn("tokenizer", *(part.losses.total * part.share for part in parts))
            agent.tokenizer.update_codebook()

        def plain() -> None:
            frames = self.images[self.rows(batch, 1)[:, 0]]
            self._learn(
                "tokenizer",
                *(
                    agent.tokenizer.loss(share, perceptual=perceptual).total * len(share) / batch
                    for share in frames.split(64)
                ),
            )
            agent.tokenizer.update_codebook()

        (seconds,), (plain_seconds,) = clock.compare(fast, plain)
        work, kept = _counted(agent, lambda: fast(ROOFLINE_BATCH), *([perceptual] if perceptual else []))
        agent.tokenizer.eval()
        rate = batch / whole
        return Measured(
            rate / seconds, "updates", rate / plain_seconds, work * (whole / ROOFLINE_BATCH),
            kept * min(at_once, whole) // ROOFLINE_BATCH,
        )  # fmt: skip

    def _tokenize(self, clock: Clock) -> Measured:
        """Every frame of the dataset once per round, as the tokenizer moves: what training reads."""
        agent, images = self.agent, self.images[:256]
        (seconds,), (plain_seconds,) = clock.compare(
            lambda: agent.tokenizer.encode(images), lambda: [plain_encode(agent, some) for some in images.split(64)]
        )
        work = counted(lambda: agent.tokenizer.encode(images[:64])) / 64
        return Measured(len(images) / seconds, "frames", len(images) / plain_seconds, work)

    def _dynamics(self, clock: Clock) -> Measured:
        agent, config = self.agent, self.agent.config.dynamics
        batch = _share(self.device, config.batch_size)
        agent.dynamics.train()

        def fast(size: int = batch) -> None:
            segments = self.segments(self.rows(size, config.segment_length))
            ((part,),) = agent.dynamics_losses(segments)
            self._learn("dynamics", part.losses.total)

        def plain() -> None:
            segments = self.segments(self.rows(batch, config.segment_length))
            self._learn("dynamics", plain_dynamics_loss(agent.dynamics, segments).total)

        (seconds,), (plain_seconds,) = clock.compare(fast, plain)
        work, kept = _counted(agent, lambda: fast(ROOFLINE_BATCH))
        agent.dynamics.eval()
        rate, whole = batch / config.batch_size, config.batch_size / ROOFLINE_BATCH
        return Measured(rate / seconds, "updates", rate / plain_seconds, work * whole, int(kept * whole))

    def _play(self, clock: Clock, *, testing: bool) -> Measured:
        num_envs = self._games.num_envs(testing=testing)
        plainly = SimpleNamespace(
            actor_critic=self.agent.actor_critic, num_actions=self.agent.num_actions,
            parameters=self.agent.parameters, see=lambda frames: plain_see(self.agent, frames),
        )  # fmt: skip
        fast, plain = (_actor(agent, num_envs) for agent in (self.agent, plainly))
        return play(self._games, clock, fast, plain, testing=testing)


class AgentSubject:
    """An agent without a plain path, trained as its stages train it, on a replay of real frames."""

    def __init__(self, name: str, config: Any, games: Games, device: torch.device) -> None:
        self.agent: Any = build(name, config, games.num_actions).to(device).eval()
        self.device, self.dtype, self.perceptual, self._games, self._config = device, torch.float32, None, games, config
        self._joint = hasattr(self.agent, "agent_losses")
        longest = config.actor_critic.batch_size * (config.actor_critic.horizon + 1) if self._joint else FRAMES
        self._replay = games.replay(2 * max(longest, config.tokenizer.batch_size), device)
        self._draws = torch.Generator().manual_seed(0)
        self._dreams = torch.Generator(device=device).manual_seed(0)
        self.optimizers = {
            name: make_optimizer(getattr(self.agent, name), getattr(config, name)) for name in COMPONENTS
        }
        self.cache_bytes = 0

    def step_bytes(self) -> int:
        """Of one step in the replay."""
        return self._replay.step_bytes

    def measure(self, clock: Clock) -> dict[str, Measured]:
        """All stages, in the order of `IrisSubject.measure`; where all learns together, that is `agent`."""
        agent = self.agent
        return {
            "imagination": self._imagination(clock),
            "actor_critic": self._update(
                clock, "actor_critic", lambda batch: agent.actor_critic_losses(batch, self._dreams)
            ),
            "tokenizer": self._update(clock, "tokenizer", lambda batch: agent.tokenizer_losses(batch, perceptual=None)),
            "tokenize": self._tokenize(clock),
            "dynamics": self._update(clock, "dynamics", agent.dynamics_losses),
            **(
                {
                    "agent": self._update(
                        clock, "agent", lambda batch: agent.agent_losses(batch, self._dreams), COMPONENTS
                    )
                }
                if self._joint
                else {}
            ),
            "collect": self._play(clock, testing=False),
            "evaluate": self._play(clock, testing=True),
        }

    def _draw(self, component: str, batch: int) -> Any:
        return getattr(self.agent, f"{component}_batch")(self._replay, self._draws, batch, visits=Visits([]))

    def _update(
        self, clock: Clock, name: str, losses: Callable[[Any], Steps], components: tuple[str, ...] = ()
    ) -> Measured:
        agent, config = self.agent, self._config
        components = components or (name,)
        whole = (config.dynamics if name == "agent" else getattr(config, name)).batch_size
        batch = whole if name == "actor_critic" else _share(self.device, whole)
        learners = [
            learner
            for component in components
            for learner in learners_of(
                getattr(agent, component), self.optimizers[component], getattr(config, component).clip_norm, component
            )
        ]

        def update(size: int = batch) -> None:
            for component in components:
                getattr(agent, component).train()
            fit(
                lambda: self._draw(name, size), losses, learners,
                watch=Watch(lagging=self.device.type == "cuda", on_growth=lambda growth: None), start=0, updates=1,
                after_update=getattr(agent.tokenizer, "update_codebook", _nothing) if name == "tokenizer" else _nothing,
                report_every=1, on_report=lambda done, means: None, keep_going=lambda done: True,
            )  # fmt: skip
            agent.eval()

        (seconds,), _ = clock.compare(update, None)
        work, kept = _counted(agent, lambda: update(ROOFLINE_BATCH))
        scale = whole / ROOFLINE_BATCH
        if name == "agent":  # its dreams do not grow with the windows: nothing is scaled that was not done
            work, kept, scale = *_counted(agent, lambda: update(whole)), 1
        return Measured(batch / whole / seconds, "updates", None, work * scale, int(kept * scale))

    def _imagination(self, clock: Clock) -> Measured:
        """Rollouts as the actor-critic learns from, with what comes before them but the encoding of latents."""
        agent, config = self.agent, self._config.actor_critic

        def start(batch: int) -> Callable[[], Any]:
            if not self._joint:
                segments = self._draw("actor_critic", batch)
                return lambda: agent.actor_critic_start(segments, self._dreams)
            windows = self._draw("agent", self._config.dynamics.batch_size)
            with torch.no_grad():
                stacks = windows.stacks[:, 1:]
                latents = agent.see(stacks.flatten(0, 1)).unflatten(0, stacks.shape[:2])
                fresh = agent.see(windows.fresh)
            return lambda: agent.actor_critic_start(windows, latents, fresh, self._dreams)

        def imagined(begin: Callable[[], Any]) -> None:
            memory, dream = begin()
            imagine(dream, agent.actor_critic, memory, config.horizon + 1, self._dreams)
            self.cache_bytes = max(self.cache_bytes, getattr(dream, "past", dream).cache.memory.nbytes)

        begin = start(config.batch_size)
        (seconds,), _ = clock.compare(lambda: imagined(begin), None)
        frames = config.batch_size * config.horizon
        if self._joint:
            work = counted(lambda: imagined(begin)) / frames
        else:
            few = start(ROOFLINE_BATCH)
            work = counted(lambda: imagined(few)) / (ROOFLINE_BATCH * config.horizon)
        return Measured(frames / seconds, "imagined frames", None, work)

    def _tokenize(self, clock: Clock) -> Measured:
        """Frames or transitions encoded; these agents do it as they learn, in no stage of its own."""
        agent, frames = self.agent, self._replay.frames_at(slice(0, 256))
        actions = torch.zeros(len(frames) - 1, dtype=torch.int64, device=self.device)

        @torch.no_grad()
        def encode(count: int = len(frames)) -> None:
            if self._joint:
                agent.tokenizer.encode(frames[:count])
            else:
                agent.tokenizer.encode(frames[: count - 1], actions[: count - 1], frames[1:count])

        (seconds,), _ = clock.compare(encode, None)
        return Measured(len(frames) / seconds, "frames", None, counted(lambda: encode(65)) / 64)

    def _play(self, clock: Clock, *, testing: bool) -> Measured:
        actor = _actor(self.agent, self._games.num_envs(testing=testing))
        return play(self._games, clock, actor, None, testing=testing)


def _actor(agent: Any, num_envs: int) -> Actor:
    return Actor(agent, num_envs, temperature=1.0, epsilon=0.01, generators=[torch.Generator().manual_seed(0)])


def _counted(agent: Any, work: Callable[[], object], *others: Any) -> tuple[Work, int]:
    """Do it once; operations and bytes, and the bytes that were kept for backward passes."""
    with Kept(agent, *others) as kept:
        amount = counted(work)
    return amount, kept.peak


def _share(device: torch.device, batch: int) -> int:
    """Of a batch, what is timed here."""
    return max(1, batch // CPU_SHARE) if device.type == "cpu" else batch


def _nothing() -> None:
    pass
