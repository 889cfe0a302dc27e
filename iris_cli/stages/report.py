"""`iris report`: one HTML file about a run, or several side by side: no network, no scripts, everything inside.

It is made of the run's files and, unless that is not wanted, of what its agent shows on a few frames of its dataset.
Runs in progress are reported as they stand. What a run does not have is left out with a sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris_cli import console
from iris_cli.aliases import named
from iris_cli.card import holds_sweeps
from iris_cli.errors import ConfigError, IrisError
from iris_cli.files import write_atomically
from iris_cli.html_report.page import document
from iris_cli.object_store import Location
from iris_cli.report import Report
from iris_cli.stages.pictures import Pictures, pictures_of
from iris_cli.stages.report_chapters import chapters, footer, lead, title
from iris_cli.stages.report_subject import Subject
from iris_cli.stages.run_facts import facts_of
from iris_cli.working_copy import at_hand, publish

MEDIA_BYTES = 13_000_000  # of films in a page, which text makes a third larger: with the rest, under 20 MB


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What to report, and where."""

    out: Path | None = None  # None: report.html in the run's directory; of several runs, report.html here
    pictures: bool = True  # load the agent, and let it look at frames and dream; else files alone

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"a report is an .html file, not '{self.out.name}'", where="--out")


def report(runs: Sequence[Location], settings: WriteReport) -> Report:
    """Write the page.

    Args:
        runs: their directories or URLs; among several, those that are no runs are left out with a note.
        settings: what and where.

    Raises:
        RunError: if none of them is a run, or the one that is named is none.
    """
    subjects, notes = _subjects(runs, settings)
    path = settings.out or (subjects[0].facts.path / "report.html" if len(runs) == 1 else Path("report.html"))
    page = named(document(title(subjects), lead(subjects, notes), chapters(subjects), footer(subjects)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode("utf-8", "replace").decode("utf-8"))  # JSON may hold halves of characters
    size = path.stat().st_size
    if settings.out is None and len(runs) == 1:
        publish(runs[0])
    notes += [note for subject in subjects for note in subject.facts.notes]
    return Report(
        stage="report", figures={"runs": len(subjects), "megabytes": size / 1e6}, files={"page": path},
        notes=tuple(notes),
    )  # fmt: skip


def _subjects(runs: Sequence[Location], settings: WriteReport) -> tuple[list[Subject], list[str]]:
    found: list[Subject] = []
    notes: list[str] = []
    problem: IrisError | None = None
    with console.progress("report", len(runs), "runs") as bar:
        for run in runs:
            if holds_sweeps(run):
                continue
            try:
                facts = facts_of(at_hand(run))
            except IrisError as error:
                problem = problem or error
                notes.append(f"{run} is left out: {error}")
                continue
            finally:
                bar.advance()
            films = _films(facts.media, MEDIA_BYTES // len(runs))
            found.append(Subject(facts, _pictures(run, settings, film=not facts.media), films))
    if not found:
        assert problem is not None
        raise problem
    return found, notes


def _films(media: Sequence[Path], most: int) -> list[tuple[Path, bytes | None]]:
    """Files, the newest first, with their content as long as it fits."""
    films: list[tuple[Path, bytes | None]] = []
    for path in reversed(media):
        size = path.stat().st_size
        films.append((path, path.read_bytes() if size <= most else None))
        most -= size if size <= most else 0
    return films


def _pictures(run: Location, settings: WriteReport, *, film: bool) -> Pictures | str:
    if not settings.pictures:
        return "left out as asked (--no-pictures)"
    try:
        return pictures_of(at_hand(run, weights=True), film=film)
    except IrisError as error:
        return str(error)
