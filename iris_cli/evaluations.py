"""The evaluation reports of a run, read: which one is final, and what makes it incomparable with published scores.

`stages/evaluate.py` writes them. No agent is loaded, and nothing is computed or printed here.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from iris_cli.card import read_card
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import DAMAGE, ConfigError, RunError, reason_of

EPISODES = 100  # of the protocol that all papers on Atari 100k share
STEPS = 100_000  # environment steps that the agent may learn from: what gives Atari 100k its name
TEMPERATURES = {"iris": 0.5, "delta-iris": 1.0, "twm": 1.0}  # of the policy, in the published evaluations
TIME = "%Y-%m-%dT%H:%M:%S%z"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One report of `iris evaluate`, with what run.yaml says of its run."""

    path: Path
    run: Path
    game: str
    agent: str
    preset: str
    seed: int  # of the run
    scores: list[float]  # raw, one per episode
    mean: float
    standard_error: float  # of the mean, over episodes
    updates: int  # of all components together, when it was made
    checkpoint: str
    steps: int | None  # environment steps in its dataset by then; None: not recorded
    imported: bool  # from a published checkpoint
    cut: int  # episodes that a limit of steps ended, whose scores are not whole
    fingerprint: str  # of the weights
    time: datetime
    protocol: Mapping[str, Any]  # as the report has it
    device: str | None  # that the agent was on; None: not recorded
    departures: tuple[str, ...]  # from the published protocol, in words
    achievement_score: float | None  # in percent, of these episodes; None in games without achievements


def evaluations(run: Path) -> list[Evaluation]:
    """All evaluation reports of a run, in the run's own order: by updates, then checkpoint, then time.

    Raises:
        RunError: if this is no run, or a report cannot be read.
    """
    card = read_card(run)
    found = [_read(path, run, card) for path in sorted((run / "reports").glob("evaluate-*.json"))]
    return sorted(found, key=lambda report: (report.updates, report.checkpoint, report.time))


def final_evaluation(run: Path) -> Evaluation | None:
    """The report that stands for a run: of its newest weights; among those the newest that follows the protocol.

    Reports of earlier weights are never taken, so that a run cannot choose its best moment. None if there is none.

    Raises:
        RunError: as `evaluations`.
    """
    return final_of(evaluations(run))


def final_of(reports: Sequence[Evaluation]) -> Evaluation | None:
    """As `final_evaluation`, of what `evaluations` returned."""
    newest = [report for report in reports if report.fingerprint == reports[-1].fingerprint]
    whole = [report for report in newest if not report.departures]
    return (whole or newest)[-1] if newest else None


def _read(path: Path, run: Path, card: Mapping[str, Any]) -> Evaluation:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = [_finite(score) for score in content["scores"]]
        if not scores:
            raise ValueError("there are no scores")
        return Evaluation(
            path=path, run=run, game=_text(content["environment"]), agent=_text(content["agent"]),
            preset=str(card["config"].get("preset")), seed=card["seed"], scores=scores, mean=_finite(content["mean"]),
            standard_error=_finite(content["standard_error"]), updates=sum(map(_count, content["updates"].values())),
            checkpoint=_text(content["checkpoint"]), steps=_optional(_count, content.get("collected_steps")),
            imported="imported" in card, cut=_count(content["cut"]), fingerprint=_text(content["fingerprint"]),
            time=datetime.strptime(content["time"], TIME), protocol=content["protocol"],
            device=_optional(_text, content.get("device")), departures=tuple(_departures(content, len(scores))),
            achievement_score=_finite(content["achievements"]["score"]) if "achievements" in content else None,
        )  # fmt: skip
    except (*DAMAGE, ConfigError) as error:
        raise RunError(f"the report cannot be read ({reason_of(error)})", where=path, fix="Remove it.") from None


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a figure is no number")
    return float(value)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a count is none")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("a name is no text")
    return value


def _optional(read: Callable[[object], T], value: object) -> T | None:
    return None if value is None else read(value)


def _departures(content: Mapping[str, Any], episodes: int) -> list[str]:
    """What was measured otherwise than in the papers on Atari 100k."""
    protocol, words = content["protocol"], []
    if episodes < EPISODES:
        words.append(f"{episodes} episodes, not {EPISODES}")
    temperature = TEMPERATURES.get(content["agent"])
    if temperature is not None and protocol["temperature"] != temperature:
        words.append(f"temperature {protocol['temperature']}, not {temperature}")
    if protocol["epsilon"]:
        words.append(f"epsilon {protocol['epsilon']}, not 0")
    if not protocol["sampled"]:
        words.append("actions not sampled")
    if protocol["max_steps"] is not None:
        words.append(f"games cut at {protocol['max_steps']:,} steps ({content['cut']} of {episodes} were)")
    environment = EnvSpec.from_mapping(protocol["environment"])
    if environment.kind == "atari":
        plain = EnvSpec(id=environment.id, kind="atari")
        if environment.view == "grey-stack":  # TWM's, with a protocol of its own
            plain = plain.as_grey_stacks()
        published = plain.for_testing().to_mapping()
        words += [
            f"{name} {value}, not {published[name]}"
            for name, value in environment.to_mapping().items()
            if value != published[name]
        ]
    return words
