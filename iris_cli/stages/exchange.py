"""`iris import-checkpoint` and `iris export-checkpoint`: published weights become a run, and back."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from iris_cli.agents import build, section_presets_for
from iris_cli.agents.iris.checkpoint import config_from_state_dict, load_published, read_published, to_published
from iris_cli.agents.twm import checkpoint as twm
from iris_cli.config import convert, parse_assignments, updated
from iris_cli.device import choose_device
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.errors import CheckpointError
from iris_cli.nn.foreign import read_foreign
from iris_cli.nn.lpips import load_lpips
from iris_cli.open_run import actions_of
from iris_cli.report import Report
from iris_cli.run import Run

LPIPS_FILE = "lpips.safetensors"  # in the directory of a run that was imported with perceptual weights


def import_checkpoint(
    source: Path,
    *,
    env: str,
    run: Path | None = None,
    dataset: Path | None = None,
    device: str = "auto",
    assignments: tuple[str, ...] = (),
) -> Report:
    """Make a run of what a published trainer wrote; which one, the file tells.

    Args:
        source: of IRIS a state dict, with or without the perceptual network's keys (with them, further training uses
            it); of TWM settings and a state dict.
        env: the game it was trained on, which the file does not name.
        run, dataset: paths; by default runs/ and data/ with the game's name.
        device: for the run that is returned.
        assignments: settings in place of those read off the file, such as dynamics.heads=2.

    Raises:
        CheckpointError: if the file is no such thing, or the game has another number of actions.
    """
    environment, changes = training_spec(env), parse_assignments(assignments)
    if twm.is_published(read_foreign(source, fix="It should be a published checkpoint.")):
        return _import_twm(source, environment.as_grey_stacks(), changes, run=run, dataset=dataset, device=device)
    state = read_published(source)
    dynamics = changes.get("dynamics")
    heads = dynamics.get("heads") if isinstance(dynamics, dict) else None
    heads = None if heads is None else convert(heads, int, where="--set", name="dynamics.heads")
    config, num_actions = config_from_state_dict(state, heads=heads)
    config = updated(
        config, changes, where=lambda *keys: "--set " + ".".join(keys), presets=section_presets_for("iris")
    )
    _check_actions(source, environment, num_actions)
    agent = build("iris", config, num_actions)
    load_published(agent, state)
    perceptual = any(name.startswith("tokenizer.lpips.") for name in state)
    if perceptual:
        config = replace(config, tokenizer=replace(config.tokenizer, lpips=LPIPS_FILE))
    imported = Run.create(
        run or Path("runs") / environment.stem, agent="iris", config=config, environment=environment,
        num_actions=num_actions, dataset=dataset or Path("data") / f"{environment.stem}.zarr", seed=0,
        device=choose_device(device),
        weights=agent.state_dict(), beside={LPIPS_FILE: load_lpips(source).state_dict()} if perceptual else {},
        imported=_origin(source),
    )  # fmt: skip
    return _imported(imported, perceptual_weights="in the file, kept" if perceptual else "not in the file")


def _import_twm(
    source: Path, environment: EnvSpec, changes: dict[str, Any], *, run: Path | None, dataset: Path | None, device: str
) -> Report:
    config, num_actions, state = twm.read_published(source)
    config = updated(config, changes, where=lambda *keys: "--set " + ".".join(keys), presets=section_presets_for("twm"))
    _check_actions(source, environment, num_actions)
    agent = build("twm", config, num_actions)
    twm.load_published(agent, state)
    imported = Run.create(
        run or Path("runs") / environment.stem, agent="twm", config=config, environment=environment,
        num_actions=num_actions, dataset=dataset or Path("data") / f"{environment.stem}.zarr", seed=0,
        device=choose_device(device), weights=agent.state_dict(), imported=_origin(source),
    )  # fmt: skip
    return _imported(imported)


def _check_actions(source: Path, environment: EnvSpec, num_actions: int) -> None:
    if actions_of(environment) != num_actions:
        raise CheckpointError(
            f"the checkpoint has {num_actions} actions, but {environment.name} has {actions_of(environment)}",
            where=source,
        )


def _origin(source: Path) -> dict[str, str]:
    return {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}


def _imported(run: Run, **more: str) -> Report:
    """Close a run that was made just now, and tell of it."""
    run.close()
    figures: dict[str, float | int | str] = {
        "agent": run.agent_name,
        "environment": run.environment.name,
        "actions": run.agent.num_actions,
        "parameters": sum(parameter.numel() for parameter in run.agent.parameters()),
        **more,
    }
    return Report(stage="import-checkpoint", figures=figures, files={"run": run.directory})


def export_checkpoint(run: Run, target: Path) -> Report:
    """Write a run's weights as the published trainer would, with the perceptual network where the run has one.

    Raises:
        CheckpointError: if the run's networks have no place in that format, or the file cannot be written.
    """
    figures: dict[str, float | int | str] = {}
    if run.agent_name == "twm":
        content: Any = twm.to_published(run.agent)
        figures["entries"] = len(content["state_dict"])
    else:
        lpips = run.directory / run.config.tokenizer.lpips
        content = to_published(run.agent, load_lpips(lpips) if lpips.is_file() else None)
        figures["entries"] = len(content)
        there = "included" if lpips.is_file() else "not included; the published program needs them"
        figures["perceptual_weights"] = there
    draft = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, draft)
        draft.replace(target)
    except (OSError, RuntimeError) as error:
        if draft.is_file():
            draft.unlink()
        raise CheckpointError(f"the file cannot be written ({error})", where=target) from None
    return Report(stage="export-checkpoint", figures=figures, files={"checkpoint": target})
