"""Δ-IRIS and IRIS on Crafter: the same data, the same seconds of one core, then what each shows of games never seen.

    OMP_NUM_THREADS=1 python tests/perf/crafter_rollouts.py --seconds 300      (in docs: 180)

Both learn with their preset `small` from the same random steps: the tokenizer for so many seconds of the processor,
the dynamics for as many again. Dreams of both then begin behind the same held-out frames and follow the true actions.
Writes OUT.json (figures), OUT.png (errors by step) and OUT-strip.png (real and dreamt frames). Needs the extras crafter
and plot. What is there under `--work` (data and runs) is used again, so that only what is missing is computed.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iris_cli import plots
from iris_cli.envs.spec import training_spec
from iris_cli.learn.diagnosis import Episode
from iris_cli.learn.measuring import differing, dream_starts, frames_on
from iris_cli.machine import processor
from iris_cli.open_run import open_for_training
from iris_cli.render import png, tiles
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages.collect import Collect, collect_randomly
from iris_cli.stages.diagnose import measured, stored
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

AGENTS = {"delta-iris": "Δ-IRIS", "iris": "IRIS"}
CONTEXT = 4  # real frames that a dream reads before it begins
HORIZON = 15  # steps of a dream
STARTS = 64  # dreams
SHOWN = (1, 3, 5, 10, 15)  # steps on the strip
TRAINING_STEPS, HELD_OUT_STEPS = 8_000, 2_000
UPDATES = 20  # between two looks at the clock


class Starts(NamedTuple):
    """Where dreams begin, and what really came."""

    frames: Tensor  # (B, C + H, 3, 64, 64) uint8
    actions: Tensor  # (B, C + H - 1) int64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="of the processor, for each of two components")
    parser.add_argument("--work", type=Path, default=Path("runs/crafter-rollouts"))
    parser.add_argument("--out", type=Path, default=Path("docs/crafter-delta-iris"))
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="AGENT:SECTION.FIELD=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    train, held_out = (
        collected(options.work / f"{name}.zarr", steps, seed)
        for name, steps, seed in (("train", TRAINING_STEPS, 0), ("held-out", HELD_OUT_STEPS, 1))
    )
    facts: dict[str, Any] = {
        "processor": processor(), "torch": torch.__version__, "threads": 1, "date": time.strftime("%Y-%m-%d"),
        "training_steps": steps_of(train), "held_out_steps": steps_of(held_out), "context": CONTEXT, "starts": STARTS,
    }  # fmt: skip
    dreams: dict[str, Tensor] = {}
    begin: Starts | None = None
    for agent, name in AGENTS.items():
        changes = tuple(change.partition(":")[2] for change in options.changes if change.startswith(f"{agent}:"))
        run = open_for_training(
            train, create=True, run=options.work / agent, agent=agent, preset="small", seed=0, device="cpu",
            assignments=changes,
        )  # fmt: skip
        episodes = stored(run, held_out, steps=HELD_OUT_STEPS)
        begin = begin or starts(episodes)
        figures = {"parameters": parameters(run), "changes": list(changes), **trained(run, options.seconds)}
        dreams[name], figures["dream"] = dreamt(run, begin)
        figures["world_model"] = measured(run, episodes, horizon=HORIZON, seed=0).to_mapping()
        facts[name] = figures
        run.close()
    assert begin is not None
    facts["last frame"] = errors(begin.frames[:, CONTEXT - 1 : CONTEXT].expand_as(begin.frames[:, CONTEXT:]), begin)
    options.out.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    draw(options.out, facts, begin, dreams)


def collected(path: Path, steps: int, seed: int) -> Path:
    """A dataset of random play."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        collect_randomly(path, training_spec("Crafter"), Collect(steps=steps), seed=seed)
    return path


def steps_of(path: Path) -> int:
    with Dataset.open(path) as dataset:
        return dataset.num_steps


def trained(run: Run, seconds: float) -> dict[str, Any]:
    """Train both components for so many seconds each, or as many as are missing; what was done."""

    def learn(component: str, more: Callable[[], object]) -> dict[str, float]:
        note = run.directory / f"{component}.json"
        spent = json.loads(note.read_text())["seconds"] if note.exists() else 0.0
        while spent < seconds:
            begun = time.process_time()
            more()
            spent += time.process_time() - begun
            run.save()
            note.write_text(json.dumps({"seconds": spent}))
        return {"updates": run.updates[component], "seconds": round(spent, 1)}

    return {
        "tokenizer": learn("tokenizer", lambda: train_tokenizer(run, TrainTokenizer(updates=UPDATES))),
        "dynamics": learn("dynamics", lambda: train_dynamics(run, TrainDynamics(updates=UPDATES))),
    }


def parameters(run: Run) -> dict[str, int]:
    return {name: sum(p.numel() for p in getattr(run.agent, name).parameters()) for name in ("tokenizer", "dynamics")}


def starts(episodes: list[Episode]) -> Starts:
    """The same for both agents, with all steps of the horizon behind them."""
    drawn = dream_starts(
        [len(episode) for episode in episodes], before=CONTEXT - 1, after=HORIZON, most=STARTS,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    cuts = [(episodes[e], slice(s - CONTEXT + 1, s + HORIZON + 1)) for e, s in drawn]
    return Starts(
        torch.stack([frames_on(episode.frames[cut], torch.device("cpu")) for episode, cut in cuts]),
        torch.from_numpy(np.stack([episode.actions[cut][:-1] for episode, cut in cuts])),
    )


@torch.no_grad()
def dreamt(run: Run, begin: Starts) -> tuple[Tensor, dict[str, Any]]:
    """Dreams (B, H, 3, 64, 64) under the true actions, tokens drawn, and their errors; also of the likeliest tokens."""
    shown = []
    begun = time.process_time()
    for greedy in (False, True):
        dream = run.agent.begin_dream(
            begin.frames[:, :CONTEXT], None, begin.actions[:, : CONTEXT - 1], torch.Generator().manual_seed(0),
            greedy=greedy, keep=CONTEXT,
        )  # fmt: skip
        views = []
        for action in begin.actions[:, CONTEXT - 1 :].unbind(1):
            dream.step(action)
            views.append(dream.view)
        shown.append(torch.stack(views, 1))
    seconds = (time.process_time() - begun) / 2
    sampled, greedy_ones = shown
    return sampled, {
        "seconds_per_frame": seconds / (STARTS * HORIZON),
        "sampled": errors(sampled, begin),
        "greedy": errors(greedy_ones, begin),
    }


def errors(views: Tensor, begin: Starts) -> dict[str, list[float]]:
    """Of views (B, H, 3, 64, 64) by step: means over all pixels, and over those that moved since the last frame."""
    real = begin.frames[:, CONTEXT:].float() / 255
    shown = views.float() / 255 if views.dtype == torch.uint8 else views
    apart = (shown - real).abs()
    last = begin.frames[:, CONTEXT - 1]
    moved = torch.stack([differing(frame, last) for frame in begin.frames[:, CONTEXT:].unbind(1)], 1)[:, :, None]
    squares = apart.square().mean((0, 2, 3, 4))
    return {
        "absolute": rounded(apart.mean((0, 2, 3, 4))),
        "squared": rounded(squares),
        "psnr": rounded(-10 * squares.log10()),
        "moving_absolute": rounded((apart.mean(2, keepdim=True) * moved).sum((0, 2, 3, 4)) / moved.sum((0, 2, 3, 4))),
    }


def rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def draw(out: Path, facts: dict[str, Any], begin: Starts, dreams: dict[str, Tensor]) -> None:
    """The curves, and the strip: real frames above those of each agent, three dreams side by side downwards."""
    by_step = {"last frame, repeated": facts["last frame"]} | {
        name: facts[name]["dream"]["sampled"] for name in AGENTS.values()
    }
    plots.learning_curves(
        out.with_suffix(".png"),
        [
            plots.Curve(label=name, x=range(1, HORIZON + 1), y=figures["squared"], strong=name.startswith("last"))
            for name, figures in by_step.items()
        ],
        title="Crafter: dreams under true actions, held-out games", x_label="imagined steps",
        y_label="mean squared error of pixels in [0, 1]",
    )  # fmt: skip
    rows = []
    for row in (0, len(begin.frames) // 2, len(begin.frames) - 1):
        real = begin.frames[row, CONTEXT:].float() / 255
        for name, views in {"real": real, **{name: views[row] for name, views in dreams.items()}}.items():
            rows.append([label(name), *pictures(views)])
    rows.insert(0, [label(""), *(label(f"step {step}") for step in SHOWN)])
    (out.parent / f"{out.name}-strip.png").write_bytes(png(tiles(rows, scale=2)))


def label(text: str) -> np.ndarray:
    """A tile (64, 64, 3) uint8 with a word on it."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).text(
        (4, 24), text.replace("Δ-", "delta-"), fill="black", font=ImageFont.load_default(size=12)
    )
    return np.asarray(image)


def pictures(frames: Tensor) -> list[np.ndarray]:
    """Those of (H, 3, 64, 64) in [0, 1] that are shown, (64, 64, 3) uint8."""
    return [(frames[step - 1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for step in SHOWN]


if __name__ == "__main__":
    main()
