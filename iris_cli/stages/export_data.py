"""`iris export`: a dataset becomes a Minari dataset, or a film with a CSV of its actions. Back: `iris import`."""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iris_cli import console, interrupts
from iris_cli.errors import ConfigError, DatasetError, Interrupted, reason_of
from iris_cli.formats.minari import MinariWriter
from iris_cli.formats.recording import Block
from iris_cli.formats.video import FilmWriter
from iris_cli.object_store import Location
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report

KINDS = ("minari", "mp4")
BLOCK_STEPS = 1024  # of a film, read at once
_FIELDS = ("actions", "rewards", "terminations", "truncations")
_MINARI_NAME = re.compile(r"[-_A-Za-z0-9]+-v\d+")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Where to, and how."""

    to: str = "minari"  # or mp4
    out: Path | None = None  # None: beside the dataset, or here if that is at a URL; NAME-v0 or NAME.mp4
    fps: float = 15.0  # of a film
    lossless: bool = False  # of a film: every pixel as it is, at the price that few players show it

    def __post_init__(self) -> None:
        if self.to not in KINDS:
            raise ConfigError(f"'{self.to}' is not one of {', '.join(KINDS)}", where="--to")
        if not 0 < self.fps <= 1000:
            raise ConfigError(f"fps is {self.fps}, but must be above 0 and at most 1,000", where="--fps")


def export_data(path: Location, settings: Export) -> Report:
    """Write a dataset for other programs.

    Raises:
        DatasetError: if there is no dataset, or nothing in it, or the target is there already; then nothing is written.
        ConfigError: if the target's name does not fit its kind.
        Interrupted: after Ctrl-C; nothing is written.
    """
    place = path if isinstance(path, Path) else Path(path.name)
    with Dataset.open(path) as dataset:
        if not dataset.num_steps:
            raise DatasetError("the dataset has no steps", where=path)
        with console.progress(f"export {path.name}", dataset.num_steps, "steps") as bar:
            episodes = _watched(dataset, bar)
            if settings.to == "minari":
                return _to_minari(dataset, episodes, settings.out or place.with_name(f"{path.stem}-v0"))
            return _to_film(dataset, episodes, settings, settings.out or place.with_suffix(".mp4"))


def _watched(dataset: Dataset, bar: console.Bar) -> Iterator[int]:
    """The episodes, in order, until Ctrl-C."""
    for episode in range(dataset.num_episodes):
        if interrupts.requested():
            raise Interrupted("export stopped; nothing was written.")
        yield episode
        bar.advance(sum(stop - start for start, stop in dataset.pieces(episode)))


def _to_minari(dataset: Dataset, episodes: Iterator[int], target: Path) -> Report:
    """An episode has T + 1 observations there; where the last one was not kept, the one before it is repeated."""
    if not _MINARI_NAME.fullmatch(target.name):
        raise ConfigError(f"'{target.name}' is no name of a Minari dataset", where="--out", fix="Such as pong-v0.")
    _refuse_existing(target)
    facts, repeated = _imported(dataset), 0
    first = facts["first_action"] if type(facts.get("first_action")) is int else 0
    spec = facts["env_spec"] if isinstance(facts.get("env_spec"), str) else None
    with _workplace(target) as draft:
        writer = MinariWriter(
            draft / "dataset", name=target.name, shape=dataset.frame_shape, num_actions=dataset.num_actions,
            first_action=first, env_spec=spec, description=_words(dataset),
        )  # fmt: skip
        for episode in episodes:
            values = {name: _whole(dataset, name, episode) for name in ("observations", *_FIELDS)}
            final = dataset.final_observation(episode)
            repeated += final is None
            final = values["observations"][-1] if final is None else final
            values["observations"] = np.concatenate([values["observations"], final[None]])
            values["actions"] = values["actions"] + first
            writer.write(**values)
        (draft / "dataset").rename(target)
    notes = []
    if repeated:
        notes.append(
            f"of {repeated:,} episodes the frame after the last step was never stored: the one before stands in"
        )
    if dataset.achievements:
        notes.append("achievements have no place in Minari, and were left out")
    return Report(stage="export", figures=_figures(dataset), files={"minari": target}, notes=tuple(notes))


def _to_film(dataset: Dataset, episodes: Iterator[int], settings: Export, target: Path) -> Report:
    if target.suffix.lower() != ".mp4":
        raise ConfigError(f"'{target.name}' must end in .mp4", where="--out")
    if dataset.frame_shape[2] != 3:
        raise DatasetError("stacks of grey frames are no film", where=dataset.path, fix="Use --to minari.")
    rows = target.with_suffix(".csv")
    _refuse_existing(target, rows)
    with _workplace(target) as draft:
        film = FilmWriter(
            draft / "film.mp4", draft / "film.csv", size=(64, 64), fps=settings.fps, lossless=settings.lossless
        )
        with closing(film):
            for episode in episodes:
                for block in _blocks(dataset, episode):
                    film.write(block, episode)
        (draft / "film.csv").rename(rows)
        (draft / "film.mp4").rename(target)
    notes = () if settings.lossless else ("the film is compressed: importing it gives nearly the same frames",)
    return Report(stage="export", figures=_figures(dataset), files={"film": target, "actions": rows}, notes=notes)


def _blocks(dataset: Dataset, episode: int) -> Iterator[Block]:
    for first, last in dataset.pieces(episode):
        for start in range(first, last, BLOCK_STEPS):
            stop = min(start + BLOCK_STEPS, last)
            images = dataset.read("observations", start, stop)
            values: dict[str, Any] = {name: dataset.read(name, start, stop) for name in _FIELDS}
            yield Block(images=images, **values, lengths=(stop - start,))


def _whole(dataset: Dataset, field: str, episode: int) -> np.ndarray:
    """All steps of an episode."""
    return np.concatenate([dataset.read(field, start, stop) for start, stop in dataset.pieces(episode)])


def _figures(dataset: Dataset) -> dict[str, float | int | str]:
    return {"steps": dataset.num_steps, "episodes": dataset.num_episodes, "actions": dataset.num_actions}


def _imported(dataset: Dataset) -> dict[str, Any]:
    """What the dataset says it was made of."""
    facts = dataset.attributes.get("imported")
    return facts if isinstance(facts, dict) else {}


def _words(dataset: Dataset) -> str:
    licence = _imported(dataset).get("licence", "not stated")
    return f"Exported by iris-wm from a dataset of {dataset.environment.get('id')}. Licence of the data: {licence}."


def _refuse_existing(*targets: Path) -> None:
    for target in targets:
        if target.exists() or target.is_symlink():
            raise DatasetError("something is there already", where=target, fix="Name another place: --out.")


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make things in, out of which they are renamed when they are whole."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        raise DatasetError(f"it cannot be written: {reason_of(error)}", where=target) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
