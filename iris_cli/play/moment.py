"""A moment: what one step showed, in every world that was there, and how to get back. And films of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_cli.errors import ShapeError
from iris_cli.play.worlds import Expected, Pixels
from iris_cli.render import Column, Film, compose

FILM_SCALE = 3  # screen pixels per pixel
MAX_FILM_FRAMES = 1500  # 100 seconds at 15 a second; drawn, they are up to 0.6 GB


@dataclass(frozen=True)
class Panel:
    """One picture of a moment."""

    picture: Pixels
    reward: float = 0.0  # of the step that led here
    end: bool = False  # whether that step ended the episode


@dataclass(frozen=True)
class Look:
    """What the policy makes of a moment."""

    value: float  # discounted return that it expects
    chances: tuple[float, ...]  # of each action, at the temperature it is played at
    memory: Any = field(repr=False)  # for the next look


@dataclass(eq=False)
class Moment:
    """A step of a session.

    Attributes:
        step: since the session's start.
        before: the moment that an action led from; None at the start, and where the past was forgotten.
        action, who: what led here, and who chose it.
        panels: label -> picture, in the order in which they are shown; the leading world's among them.
        reward, over, score: of the leading world: of this step, whether the episode ended with it, and the sum so far.
        observation: what the real game gave, where there is one.
        tokens: of the leading picture, or None.
        expected: what the dream expected of the step that led here, where there is one.
        look: what the policy makes of it, where there is one.
        saved: the worlds as they stood here; only every few steps.
    """

    step: int
    before: "Moment | None"
    action: int | None
    who: str | None
    panels: dict[str, Panel]
    reward: float
    over: bool
    score: float
    observation: NDArray[np.uint8] | None = None
    tokens: tuple[int, ...] | None = None
    expected: Expected | None = None
    look: Look | None = None
    saved: Any = None


def film_of(moments: Sequence[Moment], meanings: Sequence[str]) -> NDArray[np.uint8]:
    """(T, height, width, 3) uint8: the moments with a column for each picture that all of them have.

    A column whose world ended is held, dimmed.

    Raises:
        ShapeError: if there are too many moments, or none with a picture in common.
    """
    if not 0 < len(moments) <= MAX_FILM_FRAMES:
        raise ShapeError(f"a film has 1 to {MAX_FILM_FRAMES} frames, and these are {len(moments)}")
    labels = [label for label in moments[0].panels if all(label in moment.panels for moment in moments)]
    if not labels:
        raise ShapeError("these moments have no picture in common")
    columns = tuple(_column(label, moments) for label in labels)
    actions = tuple("" if m.action is None else f"{m.who}: {meanings[m.action]}" for m in moments[1:])
    return compose([Film(columns=columns, actions=actions)], scale=FILM_SCALE)


def _column(label: str, moments: Sequence[Moment]) -> Column:
    panels = [moment.panels[label] for moment in moments]
    rewards = np.array([0.0] + [panel.reward for panel in panels[1:]])
    ends = np.array([panel.end for panel in panels])
    if label == "reconstruction":  # it pays nothing itself
        return Column(label=label, frames=np.stack([panel.picture for panel in panels]), ends=ends)
    return Column(label=label, frames=np.stack([panel.picture for panel in panels]), rewards=rewards, ends=ends)
