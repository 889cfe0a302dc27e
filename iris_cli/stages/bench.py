"""`iris bench`: how fast every stage runs on this machine, what a full run would take, and what memory it needs.

Figures are of the published schedule of an Atari 100k run. IRIS is measured beside its plain reference.
"""

import json
import platform
import resource
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iris_cli.agents import presets_for
from iris_cli.config import nearest
from iris_cli.device import choose_device, fast_matmul
from iris_cli.errors import ConfigError
from iris_cli.files import write_atomically
from iris_cli.learn.work import peaks
from iris_cli.machine import commit, processor
from iris_cli.report import Report, Section
from iris_cli.stages.bench_measures import AgentSubject, Clock, Games, IrisSubject, Measured
from iris_cli.version import VERSION

GAME_STEPS = 1500  # of an evaluated game: assumed, since it depends on the game and the policy


@dataclass(frozen=True)
class Schedule:
    """What a full Atari 100k run consists of, as published: pipelines/atari100k*.yaml.

    Attributes:
        updates: of each component; `agent` is all of them together.
        games: of all evaluations.
        encoded: frames that the tokenize stage encodes.
        steps: of the environment.
    """

    updates: dict[str, int]
    games: int
    encoded: int = 0
    steps: int = 100_000

    def amounts(self, batch: int, horizon: int) -> dict[str, float]:
        """Stage -> how much of its unit there is, with rollouts of that size."""
        imagining = "agent" if "agent" in self.updates else "actor_critic"
        return {
            **self.updates,
            "imagination": self.updates[imagining] * batch * horizon,
            "tokenize": self.encoded,
            "collect": self.steps,
            "evaluate": self.games * GAME_STEPS,
        }


SCHEDULES = {
    "iris": Schedule(
        updates={"tokenizer": 119_000, "dynamics": 115_000, "actor_critic": 110_000}, games=120 * 16 + 100,
        encoded=sum(200 * min(each, 500) for each in range(26, 601)),  # all, once a round, as the tokenizer moves
    ),
    "delta-iris": Schedule(
        updates={"tokenizer": 119_000, "dynamics": 66_000, "actor_critic": 105_000}, games=24 * 32 + 100
    ),
    "twm": Schedule(
        updates={"tokenizer": 24_000, "dynamics": 12_038, "actor_critic": 7_022, "agent": 125_000}, games=19 * 10 + 100
    ),
}  # fmt: skip


def bench(
    *, agent: str = "iris", preset: str = "published", seconds: float = 5.0, device: str = "auto"
) -> dict[str, Any]:
    """Measure all stages.

    Args:
        agent: iris, delta-iris or twm.
        preset: of the agent.
        seconds: spent on each measurement, at least; one repetition of both paths is always done.
        device: for the networks.

    Returns:
        JSON-safe: the machine, `memory`, `stages`, and `predicted_hours` of a full Atari 100k run. A stage's
        `share_of_run` and `seconds` are of that run; those of `imagination` are part of `actor_critic`'s, or of
        `agent`'s where all components learn together. `ratio_to_plain` is None for an agent without a plain path.

    Raises:
        ConfigError: for an unknown agent, preset or device.
    """
    presets = presets_for(agent)
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where="--preset", fix=nearest(preset, presets))
    config, chosen = presets[preset], choose_device(device)
    torch.manual_seed(0)
    with closing(Games(agent)) as games, fast_matmul():
        subject = IrisSubject(config, games, chosen) if agent == "iris" else AgentSubject(agent, config, games, chosen)
        measured = subject.measure(Clock(seconds, chosen))
    peak_flops, bandwidth = peaks(chosen, subject.dtype)
    amounts = SCHEDULES[agent].amounts(config.actor_critic.batch_size, config.actor_critic.horizon)
    total = sum(amounts[name] / one.throughput for name, one in measured.items() if name != "imagination")
    return {
        **machine(chosen),
        "agent": agent,
        "preset": preset,
        "precision": str(subject.dtype).removeprefix("torch."),
        "tokenizer_loss": _tokenizer_loss(agent, subject),
        "batch": config.actor_critic.batch_size,
        "peak_operations_per_second": rounded(peak_flops),
        "peak_bytes_per_second": rounded(bandwidth),
        "peak_memory_gb": rounded(_peak_memory(chosen) / 1e9),
        "predicted_hours": rounded(total / 3600),
        "assumed": f"games of {GAME_STEPS:,} steps in evaluations; the published schedule of 100,000 steps",
        "memory": memory_plan(subject, measured, SCHEDULES[agent].steps),
        "stages": {
            name: _row(one, amounts[name], total, peak_flops, bandwidth) for name, one in measured.items()
        },
    }  # fmt: skip


def memory_plan(
    subject: IrisSubject | AgentSubject, measured: dict[str, Measured], steps: int
) -> dict[str, int | dict[str, int]]:
    """Bytes that training needs on its device.

    Args:
        subject: whose optimizers have taken a step.
        measured: its stages.
        steps: in the replay.

    Returns:
        weights (with buffers, copies in another precision and the perceptual network), gradients (of the largest
        component, or of all that learn together), optimizers, replay, cache (keys and values of a batch of dreams),
        activations (component -> kept for its backward pass at the peak, at the settings' batch, counted on a small
        one), and total: all of these, with the largest activations, as no two components learn at a time.
    """
    agent = subject.agent
    sizes = [_bytes(getattr(agent, name)) for name in subject.optimizers]
    floats = 2 if subject.dtype == torch.bfloat16 else 0
    copies = sum(tensor.numel() * floats for name in ("tokenizer", "dynamics") for tensor in _tensors(agent, name))
    activations = {name: one.kept for name, one in measured.items() if one.kept is not None}
    plan: dict[str, int] = {
        "weights": _bytes(agent) + copies + (_bytes(subject.perceptual) if subject.perceptual is not None else 0),
        "gradients": sum(sizes) if "agent" in measured else max(sizes),
        "optimizers": sum(
            value.nbytes
            for optimizer in subject.optimizers.values()
            for state in optimizer.state.values()
            for value in state.values()
        ),
        "replay": subject.step_bytes() * steps,
        "cache": subject.cache_bytes,
    }
    return {**plan, "activations": activations, "total": sum(plan.values()) + max(activations.values())}


def save(result: dict[str, Any], path: Path) -> Path:
    """Write a result to a file, or into a directory under its date, hardware and preset."""
    if path.suffix != ".json":
        words = "".join(c if c.isalnum() else " " for c in result["device"]).split()
        kind = "-scaling" if "scaling" in result else ""
        agent = "" if result["agent"] == "iris" else f"{result['agent']}-"
        path = path / f"{result['date']}-{'-'.join(words).lower()}-{agent}{result['preset']}{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    return path


def report_of(result: dict[str, Any], path: Path | None) -> Report:
    """The tables that people read."""
    stages = result["stages"]
    columns = ("stage", "a second", "of", "x plain", "share of run", "hours", "of roofline")
    rows = tuple(
        (
            name, row["throughput"], row["unit"], row["ratio_to_plain"] or "-", f"{row['share_of_run']:.1%}",
            rounded(row["seconds"] / 3600), f"{row['share_of_roofline']:.0%}" if "share_of_roofline" in row else "-",
        )
        for name, row in stages.items()
    )  # fmt: skip
    facts = tuple((name.replace("_", " "), value) for name, value in result.items() if name not in ("stages", "memory"))
    plan = dict(result["memory"])
    total, activations = plan.pop("total"), plan.pop("activations")
    plan |= {f"activations of {name}": size for name, size in activations.items()} | {"in all": total}
    memory = tuple((name, f"{size / 1e6:,.1f} MB") for name, size in plan.items())
    return Report(
        stage="bench",
        sections=(
            Section("This machine", ("", ""), facts),
            Section("Memory of training", ("", ""), memory),
            Section("Stages", columns, rows),
        ),
        files={} if path is None else {"result": path},
        notes=(f"imagination is a part of {'agent' if 'agent' in stages else 'actor_critic'}",),
    )  # fmt: skip


def _row(one: Measured, amount: float, total: float, peak_flops: float, bandwidth: float) -> dict[str, Any]:
    seconds = amount / one.throughput
    row: dict[str, Any] = {
        "throughput": rounded(one.throughput),
        "unit": one.unit,
        "ratio_to_plain": None if one.plain is None else rounded(one.throughput / one.plain),
        "share_of_run": rounded(seconds / total),
        "seconds": rounded(seconds),
    }
    if one.work is not None:
        least = max(one.work.operations / peak_flops, one.work.bytes / bandwidth)  # seconds per unit
        row |= {
            "operations": rounded(one.work.operations),
            "bytes": rounded(one.work.bytes),
            "share_of_roofline": rounded(least * one.throughput),
        }
    return row


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


# -- the machine -------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides the program."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "iris-wm": VERSION,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def _tokenizer_loss(agent: str, subject: IrisSubject | AgentSubject) -> str:
    if agent != "iris":
        return "published"
    return "weights-free" if subject.perceptual is None else "L1 + LPIPS (random weights)"


def _tensors(module: nn.Module, name: str) -> list[torch.Tensor]:
    part = getattr(module, name)
    return [*part.parameters(), *part.buffers()]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _peak_memory(device: torch.device) -> int:
    """Bytes at the peak: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
