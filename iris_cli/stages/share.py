"""`iris push` and `iris pull`: a run as a folder in the layout of the Hugging Face hub, out and in.

    README.md              the model card: scores, protocol, settings, licence
    config.json            who it is: agent, environment, every setting, how it was trained
    model.safetensors      all weights
    reports/evaluate-*     the final evaluation, where there is one

Optimizers, random states and the dataset stay at home, so training goes on from the weights alone. What comes in was
written by others: only these names are read, up to a size, and nothing in them can run code.
"""

import json
import math
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from iris_cli import hub
from iris_cli.agents import build, config_for
from iris_cli.agents.plausible import MAX_ACTIONS, check_plausible
from iris_cli.config import to_mapping, updated
from iris_cli.device import choose_device
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import ConfigError, DatasetError, IrisError, RunError, reason_of
from iris_cli.evaluations import final_evaluation
from iris_cli.object_store import Location
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.model_card import model_card
from iris_cli.version import VERSION

FORMAT, FORMAT_VERSION = "iris-run", 1
CARD, CONFIG, WEIGHTS, REPORTS = "README.md", "config.json", "model.safetensors", "reports"
LIMITS = {CARD: 1 << 20, CONFIG: 1 << 20, WEIGHTS: 1 << 32, f"{REPORTS}/evaluate-*.json": 1 << 24}  # bytes


@dataclass(frozen=True, kw_only=True)
class Push:
    """Where a run goes."""

    repository: str | None = None  # OWNER/NAME on the hub
    to: Path | None = None  # or a folder to make
    licence: str = "unknown"  # of the weights
    private: bool = False  # of a repository that is made


def push(run: Run, settings: Push) -> Report:
    """Share a run.

    Raises:
        ConfigError: unless there is one place to put it.
        RunError: if nothing of it has been trained, or the place refuses.
    """
    if (settings.repository is None) == (settings.to is None):
        raise ConfigError("name one place", where="push", fix="Such as iris push runs/pong --to pong-agent.")
    if not any(map(run.is_trained, run.updates)):
        raise RunError("nothing of this run has been trained, so there is nothing to share", where=run.directory)
    figures: dict[str, float | int | str] = {
        "agent": run.agent_name, "environment": run.environment.name, "licence": settings.licence,
    }  # fmt: skip
    notes = () if settings.licence != "unknown" else ("no licence was named (--licence), so nobody may use it",)
    if settings.to is not None:
        with _appearing(settings.to) as folder:
            _write(run, folder, settings)
        return Report(stage="push", figures=figures, files={"folder": settings.to}, notes=notes)
    assert settings.repository is not None
    with tempfile.TemporaryDirectory(prefix="iris-") as temporary:
        _write(run, Path(temporary), settings)
        address = hub.upload(Path(temporary), settings.repository, private=settings.private)
    return Report(stage="push", figures=figures | {"address": address}, notes=notes)


def pull(source: str, *, out: Location | None = None) -> Report:
    """Make a run of a shared one.

    Args:
        source: a folder that `push` wrote, or OWNER/NAME on the hub.
        out: the run to make; None: runs/ and the source's name.

    Raises:
        RunError: if it is no shared run, or a damaged or hostile one; then nothing is left behind.
    """
    folder = Path(source)
    target: Location = out or Path("runs") / (folder.resolve().name or "pulled")
    if target.exists() or target.is_symlink():
        raise RunError("something is there already", where=target, fix="Name another: --out runs/NAME.")
    if folder.is_dir():
        return _made(folder, target, source)
    if folder.exists() or not hub.is_repository(source):
        raise RunError("this is neither a folder nor OWNER/NAME on the hub", where=source)
    with tempfile.TemporaryDirectory(prefix="iris-") as temporary:
        hub.download(source, Path(temporary), limits=LIMITS)
        return _made(Path(temporary), target, source)


# -- out -------------------------------------------------------------------------------------------------------------


def _write(run: Run, folder: Path, settings: Push) -> None:
    final = final_evaluation(run.directory)
    facts = _facts(run, settings)
    save_file({name: value.contiguous().cpu() for name, value in run.agent.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    report = None
    if final is not None:
        (folder / REPORTS).mkdir()
        shutil.copyfile(final.path, folder / REPORTS / final.path.name)
        report = json.loads(final.path.read_text(encoding="utf-8"))
    name = settings.repository or (settings.to.name if settings.to is not None else "")
    card = model_card(facts, report, name=name, departures=final.departures if final is not None else ())
    (folder / CARD).write_text(card, encoding="utf-8")


def _facts(run: Run, settings: Push) -> dict[str, Any]:
    """config.json. Paths of this machine are not in it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_name": "iris-wm",
        "agent": run.agent_name,
        "environment": run.environment.to_mapping(),
        "num_actions": run.agent.num_actions,
        "config": to_mapping(_without_paths(run.config)),
        "seed": run.seed,
        "updates": run.updates,
        "tokenizer_loss": run.tokenizer_loss,
        "collected_steps": run.collected["steps"] or run.steps_seen or None,
        "dataset": _dataset_facts(run.dataset_path),
        "fingerprint": run.fingerprint(),
        "licence": settings.licence,
        "created": run.card["created"],
        "versions": {**run.card["versions"], "iris-wm": VERSION, "torch": str(torch.__version__)},
        **({"imported": run.card["imported"]} if "imported" in run.card else {}),
    }


def _without_paths(config: Any) -> Any:
    """The settings without the path of perceptual weights, which are not shared."""
    if getattr(config.tokenizer, "lpips", "none") in ("auto", "none"):
        return config
    return replace(config, tokenizer=replace(config.tokenizer, lpips="auto"))


def _dataset_facts(path: Location) -> dict[str, Any] | None:
    """What a run learned from, in numbers; None where the dataset is not there."""
    try:
        with Dataset.open(path) as dataset:
            summary, attributes = dataset.summary(), dataset.attributes
    except DatasetError:
        return None
    kept = ("steps", "episodes", "complete_episodes", "mean_score", "action_meanings", "imported")
    by = sorted({str(entry["who"]).split()[0] for entry in attributes["writers"]})
    return {name: summary[name] for name in kept if name in summary} | {"collected_by": by}


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name once all has gone well, and is gone if not."""
    if target.exists() or target.is_symlink():
        raise RunError("something is there already", where=target, fix="Name another folder: --to.")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(target)
    except OSError as error:
        raise RunError(f"it cannot be written: {reason_of(error)}", where=target) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


# -- in --------------------------------------------------------------------------------------------------------------


def _made(folder: Path, target: Location, source: str) -> Report:
    """The run of a shared folder."""
    facts = _read_facts(folder)
    agent, config, environment = _settings(facts, folder)
    weights = _read_weights(_plain_file(folder, WEIGHTS, LIMITS[WEIGHTS]), agent, config, facts["num_actions"])
    reports, card = _read_reports(folder), _plain_file(folder, CARD, LIMITS[CARD])
    made = Run.create(
        target, agent=agent, config=config, environment=environment, num_actions=facts["num_actions"],
        dataset=Path("data") / f"{environment.stem}.zarr", seed=facts["seed"], device=choose_device("cpu"),
        weights=weights, imported=facts.get("imported"), updates=facts["updates"],
        tokenizer_loss=facts["tokenizer_loss"], pulled={"from": source, "licence": facts["licence"]},
    )  # fmt: skip
    try:
        directory = made.directory
        shutil.copyfile(card, directory / CARD)
        for name, content in reports.items():
            (directory / REPORTS).mkdir(exist_ok=True)
            (directory / REPORTS / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        final_evaluation(directory)  # which a report that is none would spoil
        made.publish()
    except BaseException:
        made.remove()
        raise
    finally:
        made.close()
    figures: dict[str, float | int | str] = {
        "agent": agent, "environment": environment.name, "licence": facts["licence"],
        "parameters": sum(parameter.numel() for parameter in made.agent.parameters()),
    }  # fmt: skip
    return Report(stage="pull", figures=figures, files={"run": target}, notes=_notes(folder, environment))


def _notes(folder: Path, environment: EnvSpec) -> tuple[str, ...]:
    known = {CARD, CONFIG, WEIGHTS, REPORTS, ".gitattributes", ".cache"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in known)
    notes = [f"not taken: {', '.join(others)[:200]}"] if others else []
    if environment.runs_code:
        notes.append(f"its game is of the Python module {environment.id.partition(':')[0]}, run only with --trust-env")
    return tuple(notes)


def _plain_file(folder: Path, name: str, limit: int) -> Path:
    """A file of the folder, if it is one and not too large; links lead anywhere."""
    path = folder / name
    try:
        status = path.lstat()
    except OSError:
        raise RunError(f"it has no {name}, so it is no shared run", where=folder) from None
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{name} is no plain file", where=folder)
    if status.st_size > limit:
        raise RunError(f"{name} has {status.st_size:,} bytes, more than the {limit:,} that it may", where=folder)
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path.name} cannot be read ({str(error)[:120]})", where=path.parent) from None
    return content


def _read_facts(folder: Path) -> dict[str, Any]:
    """config.json, with everything that is taken from it checked."""
    facts = _json(_plain_file(folder, CONFIG, LIMITS[CONFIG]))
    if facts.get("format") != FORMAT or facts.get("format_version") != FORMAT_VERSION:
        raise RunError(f"config.json is not of format {FORMAT} {FORMAT_VERSION}", where=folder)
    kinds = {"agent": str, "environment": dict, "num_actions": int, "config": dict, "seed": int, "updates": dict}
    for name, kind in kinds.items():
        if type(facts.get(name)) is not kind:
            raise RunError(f"config.json lacks {name}, or has it in another form", where=folder)
    updates, loss, imported = facts["updates"], facts.get("tokenizer_loss"), facts.get("imported", {})
    if not 0 < facts["num_actions"] <= MAX_ACTIONS:
        raise RunError(f"config.json says that there are {facts['num_actions']} actions", where=folder)
    if not all(type(count) is int and count >= 0 for count in updates.values()):
        raise RunError("config.json has updates that cannot be counted", where=folder)
    if not (loss is None or _is_text(loss)) or not isinstance(imported, dict):
        raise RunError("config.json does not say by which loss it was trained", where=folder)
    if not all(_is_text(word) for pair in imported.items() for word in pair):
        raise RunError("config.json does not say what it was imported from", where=folder)
    licence = facts.get("licence")
    return {**facts, "tokenizer_loss": loss, "licence": licence if _is_text(licence) else "unknown"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 400 and value.isprintable()


def _settings(facts: dict[str, Any], folder: Path) -> tuple[str, Any, EnvSpec]:
    """Agent, settings and environment, by their own checks; no number is large enough to harm."""
    where = str(folder / CONFIG)
    try:
        environment = EnvSpec.from_mapping(facts["environment"])
        if not _is_text(environment.id) or type(environment.frame_skip) is not int:
            raise ValueError("the environment has no name")
        config = updated(config_for(facts["agent"]), facts["config"], where=lambda *keys: where, presets={})
    except (IrisError, TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise RunError(
            f"config.json does not describe an agent of this program ({str(error)[:200]})", where=folder
        ) from None
    return facts["agent"], _without_paths(config), environment


def _read_weights(path: Path, agent: str, config: Any, num_actions: int) -> dict[str, Tensor]:
    """The weights, if they are just those of such an agent; nothing of their size is made before that is known."""
    try:
        with safe_open(path, framework="pt") as file:
            there = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in _slices(file)}
        check_plausible(agent, config, num_actions, [math.prod(shape) for shape, _ in there.values()])
        with torch.device("meta"):
            wanted = build(agent, config, num_actions).state_dict()
        expected = {name: (tuple(tensor.shape), _DTYPES.get(tensor.dtype)) for name, tensor in wanted.items()}
        differing = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != expected.get(name))
        if differing:
            raise ValueError(f"{len(differing)} tensors differ from config.json's agent, such as {differing[0][:80]}")
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, ConfigError) as error:
        raise RunError(f"{WEIGHTS} cannot be used ({reason_of(error)})", where=path.parent) from None
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise RunError(f"{WEIGHTS} cannot be used ({broken[0]} is not finite)", where=path.parent)
    return weights


_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def _slices(file: Any) -> Iterator[tuple[str, Any]]:
    for name in file.keys():  # noqa: SIM118 - it is no mapping
        yield name, file.get_slice(name)


def _read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The evaluation reports, by file name."""
    place = folder / REPORTS
    if place.is_symlink():
        raise RunError(f"{REPORTS} is a link, which may lead anywhere", where=folder)
    names = sorted(path.name for path in place.glob("evaluate-*.json"))[:10]
    limit = LIMITS[f"{REPORTS}/evaluate-*.json"]
    return {name: _json(_plain_file(place, name, limit)) for name in names}
