"""`iris bench --scaling`: how the cost of IRIS grows with batch, horizon, context, tokens per frame and dataset.

One size varies at a time, the others stay at a small setting that is said beside the figures. A point that would take
too long on this machine, judged by the one before it, is not measured, and says so. Weights and data are random. The
quickest repetition counts, and on a single thread its processor time, as a busy machine can only slow things.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from iris_cli.agents import build, presets_for
from iris_cli.agents.iris.config import TOKENS_PER_FRAME
from iris_cli.agents.iris.world import IrisDream, Workspace, imagine_step
from iris_cli.config import nearest
from iris_cli.device import choose_device, fast_matmul
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError
from iris_cli.learn.imagination import imagine
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.visits import Visits
from iris_cli.nn.sampling import sample
from iris_cli.plots import Curve, Panel, check, growth
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay
from iris_cli.report import Report, Section
from iris_cli.stages.bench import machine, rounded

BATCH, HORIZON = 16, 5  # where they do not vary
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
HORIZONS = (5, 10, 20, 40, 80)
CONTEXTS = (1, 2, 5, 10, 15)  # frames; those that leave room for the horizon
TOKENS = (1, 4, 16, 64)
DATASETS = (1_000, 10_000, 100_000)  # steps
PATIENCE = 6  # times the seconds for a point that one repetition may take
EPISODE = 500  # steps of the random dataset's episodes
ACTIONS = 6

Point = tuple[Callable[[], object], float]  # what is timed, and how many units it does


def scaling(
    *, preset: str = "published", seconds: float = 5.0, device: str = "auto", plot: Path | None = None
) -> dict[str, Any]:
    """Measure throughput along five axes.

    Args:
        preset: of the iris agent.
        seconds: spent on each point, at least, after a repetition to warm up; one whose single repetition would take
            `PATIENCE` times as long is left out.
        device: for the networks.
        plot: where to draw the figures, or None.

    Returns:
        JSON-safe: the machine, and `scaling`: axis -> unit, at (what stays the same), values, and throughput in units
        per second, None where not measured. `clock` says of which seconds.

    Raises:
        ConfigError: for an unknown preset, device or kind of picture, before anything is measured.
        IrisError: if a picture is wanted without matplotlib, likewise.
    """
    if plot is not None:
        check(plot)
    presets = presets_for("iris")
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where="--preset", fix=nearest(preset, presets))
    chosen = choose_device(device)
    torch.manual_seed(0)
    with fast_matmul(), TemporaryDirectory() as folder:
        axes = _Axes(presets[preset], chosen, Path(folder))
        timed = _Timed(seconds, chosen)
        measured = {
            "batch": timed.along(BATCHES, axes.batch),
            "horizon": timed.along(HORIZONS, axes.horizon),
            "context": timed.along([c for c in CONTEXTS if c + HORIZON <= axes.blocks], axes.context),
            "tokens_per_frame": timed.along([k for k in TOKENS if k < axes.positions], axes.tokens_per_frame),
            "dataset_steps": timed.along(DATASETS, axes.dataset_steps, grows=False),
        }
    result = {
        **machine(chosen),
        "agent": "iris",
        "preset": preset,
        "precision": str(axes.dtype).removeprefix("torch."),
        "clock": timed.clock,
        "scaling": {name: {**AXES[name], **points} for name, points in measured.items()},
    }
    if plot is not None:
        _draw(result, plot)
    return result


AXES: dict[str, dict[str, Any]] = {
    "batch": {"unit": "imagined frames", "at": {"horizon": HORIZON, "context": 1}},
    "horizon": {"unit": "imagined frames", "at": {"batch": BATCH, "context": 1}},
    "context": {"unit": "imagined frames", "at": {"batch": BATCH, "horizon": HORIZON}},
    "tokens_per_frame": {
        "unit": "imagined frames (not decoded)", "at": {"batch": BATCH, "horizon": f"up to {HORIZON}", "context": 0},
    },
    "dataset_steps": {"unit": "dynamics updates", "at": {"batch": BATCH}},
}  # fmt: skip


def report_of(result: dict[str, Any], path: Path | None, plot: Path | None) -> Report:
    """The tables that people read."""
    sections = tuple(
        Section(
            f"{axis['unit']} a second, by {name.replace('_', ' ')}",
            tuple(f"{value:,}" for value in axis["values"]),
            (tuple("-" if one is None else one for one in axis["throughput"]),),
        )
        for name, axis in result["scaling"].items()
    )
    missing = any(None in axis["throughput"] for axis in result["scaling"].values())
    files = {"result": path, "plot": plot}
    return Report(
        stage="bench",
        sections=sections,
        files={name: file for name, file in files.items() if file is not None},
        notes=("a - would have taken too long here; --seconds gives it more",) if missing else (),
    )


def _draw(result: dict[str, Any], path: Path) -> None:
    """The measured points, a panel for each axis."""
    panels = []
    for name, axis in result["scaling"].items():
        points = [
            (value, one) for value, one in zip(axis["values"], axis["throughput"], strict=True) if one is not None
        ]
        at = ", ".join(f"{key} {value}" for key, value in axis["at"].items())
        curve = Curve(label=at, x=[value for value, _ in points], y=[one for _, one in points])
        panels.append(Panel(name.replace("_", " "), f"{axis['unit']} / s", curve))
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    title = f"IRIS ({result['preset']}, {result['precision']}) on {result['device']}, {threads}"
    growth(path, panels, title=title)


class _Timed:
    """Times points, and leaves out what would take too long."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._seconds, self._device = seconds, device
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock, self._now = ("processor", time.process_time) if alone else ("wall", time.perf_counter)

    def along(self, values: Sequence[int], point: Callable[[int], Point], *, grows: bool = True) -> dict[str, Any]:
        """Units per second at each value, ascending; if the cost grows with it, None where it would take too long."""
        throughput: list[float | None] = []
        before: tuple[float, int] | None = None  # seconds of a repetition, at which value
        for value in values:
            if grows and before is not None and before[0] * value / before[1] > PATIENCE * self._seconds:
                throughput.append(None)
                continue
            work, units = point(value)
            taken = self._seconds_of(work)
            throughput.append(rounded(units / taken))
            before = taken, value
        return {"values": list(values), "throughput": throughput}

    def _seconds_of(self, work: Callable[[], object]) -> float:
        for _ in range(3 if self._device.type == "cuda" else 1):  # the first loads kernels, the second makes graphs
            self._once(work)
        taken = [self._once(work)]
        while sum(taken) < self._seconds and len(taken) < 100:
            taken.append(self._once(work))
        return min(taken)

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        begun = self._now()
        work()
        self._wait()
        return self._now() - begun

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Axes:
    """What is timed at each point of each axis."""

    def __init__(self, config: Any, device: torch.device, folder: Path) -> None:
        self._agent: Any = build("iris", config, ACTIONS).to(device).eval()
        self._device, self._folder = device, folder
        self.dtype = self._agent.dream_dtype
        self.blocks = config.dynamics.max_blocks
        self.positions = self._agent.dynamics.transformer.max_tokens
        self._dreams = torch.Generator(device=device).manual_seed(0)

    def batch(self, batch: int) -> Point:
        return self._imagination(batch, HORIZON, 1)

    def horizon(self, horizon: int) -> Point:
        return self._imagination(BATCH, horizon, 1)

    def context(self, context: int) -> Point:
        return self._imagination(BATCH, HORIZON, context)

    def tokens_per_frame(self, tokens: int) -> Point:
        """The dynamics alone, behind an empty cache."""
        _, dynamics = self._agent.dreaming_networks()
        cache = dynamics.transformer.new_cache(BATCH)
        steps = min(HORIZON, self.positions // (tokens + 1))
        actions = torch.zeros(BATCH, dtype=torch.int64, device=self._device)
        drawn = torch.zeros(BATCH, tokens, dtype=torch.int64, device=self._device)

        @torch.no_grad()
        def work() -> None:
            cache.reset()
            for _ in range(steps):
                imagine_step(dynamics, cache, actions, lambda logits: sample(logits, self._dreams), drawn)

        return work, BATCH * steps

    def dataset_steps(self, steps: int) -> Point:
        """Draw a batch and learn from it."""
        agent, draws = self._agent, torch.Generator().manual_seed(0)
        replay = self._replay(steps)
        optimizer = make_optimizer(agent.dynamics, agent.config.dynamics)

        def work() -> None:
            agent.dynamics.train()
            segments = agent.dynamics_batch(replay, draws, BATCH, visits=Visits([]))
            ((part,),) = agent.dynamics_losses(segments)
            optimizer.zero_grad(set_to_none=True)
            part.losses.total.backward()
            optimizer.step()
            agent.dynamics.eval()

        return work, 1

    def _imagination(self, batch: int, horizon: int, context: int) -> Point:
        agent = self._agent
        tokenizer, dynamics = agent.dreaming_networks()
        workspace = Workspace(tokenizer, dynamics, batch, capture=True)
        tokens = torch.randint(agent.config.tokenizer.codes, (batch, context, TOKENS_PER_FRAME)).to(self._device)
        actions = torch.zeros(batch, context - 1, dtype=torch.int64, device=self._device)

        @torch.no_grad()
        def work() -> None:
            dream = IrisDream(tokenizer, dynamics, tokens, actions, generator=self._dreams, workspace=workspace)
            imagine(dream, agent.actor_critic, None, horizon + 1, self._dreams)

        return work, batch * horizon

    def _replay(self, steps: int) -> Replay:
        """Black frames with random tokens: what they show changes no speed."""
        replay, environment = Replay(self._device), training_spec("Pong").to_mapping()
        names = [f"ACTION{index}" for index in range(ACTIONS)]
        lengths = [EPISODE] * (steps // EPISODE)
        with Dataset.create(self._folder / f"{steps}.zarr", environment=environment, action_meanings=names) as dataset:
            dataset.append(
                observations=np.zeros((steps, 64, 64, 3), np.uint8), actions=np.zeros(steps, np.int64),
                rewards=np.zeros(steps, np.float32), terminations=np.arange(1, steps + 1) % EPISODE == 0,
                truncations=np.zeros(steps, bool), episode_lengths=lengths, episode_ids=range(len(lengths)),
                writer="random",
            )  # fmt: skip
            replay.refresh(dataset)
        replay.set_tokens(torch.randint(self._agent.config.tokenizer.codes, (steps, TOKENS_PER_FRAME)))
        return replay
