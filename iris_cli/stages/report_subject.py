"""What the chapters of a report share: the run they are about, and how words and settings are written."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_cli.agents import presets_for
from iris_cli.config import to_mapping
from iris_cli.html_report.markup import Html, join, tag
from iris_cli.metrics import is_number, numbers_of
from iris_cli.stages.pictures import Pictures
from iris_cli.stages.run_facts import Facts


@dataclass(frozen=True)
class Subject:
    """A run to report on.

    Attributes:
        facts: what its files say.
        pictures: what its agent shows; a sentence where it shows nothing.
        films: its media, the newest first; None where a file is too large for the page.
    """

    facts: Facts
    pictures: Pictures | str
    films: list[tuple[Path, bytes | None]]

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.facts.path.name


def standing(facts: Facts) -> str:
    """Whether the run is under way, in words."""
    if facts.process is not None:
        return "in progress"
    if facts.plan is not None:
        done, every = len(facts.stages), len(facts.plan["stages"])
        return "finished" if done >= every else f"stopped after {done:,} of {every:,} stages"
    return "not being trained now"


def each(subjects: Sequence[Subject], make: Callable[[Subject], Html]) -> Html:
    """The same of each run, under its name where there are several."""
    if len(subjects) == 1:
        return make(subjects[0])
    return join(part for subject in subjects for part in (tag("h3", subject.name), make(subject)))


def collected(facts: Facts) -> int:
    """Environment steps so far, as far as they are recorded."""
    steps = [numbers_of(line).get("steps_in_all", 0.0) for line in facts.stages]
    saved = (facts.state or {}).get("collected")
    known = [saved.get("steps") if isinstance(saved, dict) else None, (facts.state or {}).get("steps_seen")]
    return int(max([*steps, *(float(one) for one in known if is_number(one))], default=0))


def updates_of(facts: Facts) -> dict[str, int]:
    """Of each component, at the latest checkpoint."""
    saved = (facts.state or {}).get("updates")
    return {str(k): int(v) for k, v in saved.items() if is_number(v)} if isinstance(saved, dict) else {}


def preset_of(facts: Facts) -> dict[str, Any] | None:
    """The settings that the run's preset has, by dotted name; None for a preset that is not known."""
    preset = presets_for(facts.card["agent"]).get(str(facts.card["config"].get("preset")))
    return None if preset is None else flattened(to_mapping(preset))


def flattened(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def plain(value: Any) -> str:
    """A setting as one would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return "none" if value is None else str(value)


def score_words(score: float) -> str:
    """A score as people write it."""
    return "–" if not math.isfinite(score) else f"{score:,.1f}" if abs(score) < 10_000 else f"{score:,.0f}"


def words_of(name: str) -> str:
    """`total_loss` -> `total loss`."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """With a capital, unless it begins with a path, and a full stop."""
    begun = text if "/" in text.split(" ")[0] else f"{text[:1].upper()}{text[1:]}"
    return begun + ("" if text.endswith(".") else ".")


def date(moment: float) -> str:
    """Seconds since 1970 as a date."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) + " UTC"


def remark(text: str) -> Html:
    """A sentence in small print."""
    return tag("p", text, class_="note")


def code(text: str) -> Html:
    """Text as it is typed."""
    return tag("pre", text, tabindex="0")
