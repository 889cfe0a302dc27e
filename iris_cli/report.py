"""What a stage returns: its figures and the files it wrote. The CLI shows it, the pipeline logs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath


@dataclass(frozen=True)
class Section:
    """A table with a title and a header, for people; cells are numbers, words or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[float | int | str | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of one stage.

    Attributes:
        stage: its name, as typed.
        figures: name -> number or word, in the order to show them.
        sections: tables that a command shows instead of the figures; a pipeline's line and log have the figures.
        files: what it wrote, by what it is.
        notes: plain sentences a reader should not miss, such as an untrained component.
    """

    stage: str
    figures: dict[str, float | int | str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    files: Mapping[str, PurePath] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
