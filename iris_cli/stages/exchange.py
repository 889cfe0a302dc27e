"""`iris import-checkpoint` and `iris export-checkpoint`: published weights become a run, and back."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from iris_cli.agents import build, published_format, read_published, section_presets_for
from iris_cli.agents.plausible import check_plausible
from iris_cli.config import convert, parse_assignments, to_mapping, updated
from iris_cli.device import choose_device
from iris_cli.envs.spec import training_spec
from iris_cli.errors import CheckpointError, ConfigError, reason_of
from iris_cli.files import replacing
from iris_cli.nn.lpips import load_lpips
from iris_cli.object_store import Location
from iris_cli.open_run import actions_of, seen_by
from iris_cli.report import Report
from iris_cli.run import Run

LPIPS_FILE = "lpips.safetensors"  # in the directory of a run that was imported with perceptual weights


def import_checkpoint(
    source: Path,
    *,
    env: str,
    run: Location | None = None,
    dataset: Location | None = None,
    device: str = "auto",
    assignments: tuple[str, ...] = (),
) -> Report:
    """Make a run of what a published trainer wrote; of which agent, the file tells.

    Args:
        source: of IRIS (with or without the perceptual network's keys; with them, further training uses it) and Δ-IRIS
            a state dict; of TWM settings and a state dict.
        env: the game it was trained on, which the file does not name.
        run, dataset: paths; by default runs/ and data/ with the game's name.
        device: for the run that is returned.
        assignments: settings in place of those read off the file, such as dynamics.heads=2.

    Raises:
        CheckpointError: if the file is no such thing, or the game has another number of actions.
    """
    environment, changes = training_spec(env), parse_assignments(assignments)
    name, content = read_published(source)
    environment, published = seen_by(name, environment), published_format(name)
    dynamics = changes.get("dynamics")
    heads = dynamics.get("heads") if isinstance(dynamics, dict) else None
    heads = None if heads is None else convert(heads, int, where="--set", name="dynamics.heads")
    config, num_actions = published.config_from_published(content, heads=heads)
    config = updated(config, to_mapping(config), where=lambda *keys: ".".join(keys), presets={})  # of the right kinds
    config = updated(config, changes, where=lambda *keys: "--set " + ".".join(keys), presets=section_presets_for(name))
    if actions_of(environment) != num_actions:
        raise CheckpointError(
            f"the checkpoint has {num_actions} actions, but {environment.name} has {actions_of(environment)}",
            where=source,
        )
    try:
        sizes = [value.numel() for value in content.get("state_dict", content).values()]
        check_plausible(name, config, num_actions, sizes)
        agent = build(name, config, num_actions)
    except (ConfigError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"its settings are not those of its weights ({reason_of(error)})", where=source) from None
    published.load_published(agent, content)
    perceptual = any(name.startswith("tokenizer.lpips.") for name in content)
    if perceptual:
        config = replace(config, tokenizer=replace(config.tokenizer, lpips=LPIPS_FILE))
    directory = run or Path("runs") / environment.stem
    imported = Run.create(
        directory, agent=name, config=config, environment=environment, num_actions=num_actions,
        dataset=dataset or Path("data") / f"{environment.stem}.zarr", seed=0, device=choose_device(device),
        weights=agent.state_dict(), beside={LPIPS_FILE: load_lpips(source).state_dict()} if perceptual else {},
        imported={"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
    )  # fmt: skip
    imported.close()
    figures: dict[str, float | int | str] = {
        "agent": name,
        "environment": environment.name,
        "actions": num_actions,
        "parameters": sum(parameter.numel() for parameter in agent.parameters()),
    }
    if _may_have_lpips(imported):
        figures["perceptual_weights"] = "in the file, kept" if perceptual else "not in the file"
    return Report(stage="import-checkpoint", figures=figures, files={"run": directory})


def export_checkpoint(run: Run, target: Path) -> Report:
    """Write a run's weights as the published trainer would, with the perceptual network where the run has one.

    Raises:
        CheckpointError: if the run's networks have no place in that format, or the file cannot be written.
    """
    if target.is_dir():
        raise CheckpointError(
            "it is a folder, and not a file to write", where=target, fix="iris export-checkpoint last.pt --run RUN"
        )
    published = published_format(run.agent_name)
    figures: dict[str, float | int | str] = {}
    if _may_have_lpips(run):
        lpips = run.directory / run.config.tokenizer.lpips
        content = published.to_published(run.agent, load_lpips(lpips) if lpips.is_file() else None)
        missing = "not included; the published program needs them"
        figures["perceptual_weights"] = "included" if lpips.is_file() else missing
    else:
        content = published.to_published(run.agent)
    entries = len(content.get("state_dict", content))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft:
            torch.save(content, draft)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the file cannot be written ({reason_of(error)})", where=target) from None
    return Report(stage="export-checkpoint", figures={"entries": entries} | figures, files={"checkpoint": target})


def _may_have_lpips(run: Run) -> bool:
    """Whether the run's agent can learn by a perceptual loss."""
    return hasattr(run.config.tokenizer, "lpips")
