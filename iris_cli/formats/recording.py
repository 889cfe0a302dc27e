"""What every format gives: steps in blocks, checked. Knows no file.

Whatever comes from elsewhere is refused in one sentence if it is not what it should be; nothing in it is executed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_cli.errors import DatasetError

MAX_STEPS = 50_000_000  # of a recording; what is not frames takes 14 bytes a step in memory
MAX_ACTIONS = 1024  # more are no choice of keys but something else, such as a timestamp
BLOCK_BYTES = 64 << 20  # of pictures that are in memory at once

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


@dataclass(frozen=True)
class Block:
    """n consecutive steps.

    Attributes:
        images: n pictures, uint8, of any size and layout, that each action was chosen on.
        actions: (n,) int64 from 0.
        rewards: (n,) float32.
        terminations, truncations: (n,) bool, each only at the end of a piece.
        lengths: steps of each consecutive piece of an episode; their sum is n.
        continues: whether the first piece goes on with the last episode of the block before.
        finals: the pictures after the last step of each piece, where they were kept: of all, or of none.
    """

    images: Images
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    lengths: tuple[int, ...]
    continues: bool = False
    finals: Images = ()


@dataclass(frozen=True)
class Recording:
    """Steps that someone else recorded.

    Attributes:
        num_steps: in all.
        num_actions: of the game, as far as it is known.
        blocks: the steps, once.
        facts: where they come from, as JSON-safe values.
        keeps_finals: whether the blocks carry pictures after the last steps.
    """

    num_steps: int
    num_actions: int
    blocks: Iterator[Block]
    facts: dict[str, Any] = field(default_factory=dict)
    keeps_finals: bool = False


@dataclass(frozen=True)
class Steps:
    """Everything about N steps but their pictures, checked.

    Attributes:
        ends: (E,) int64, the step after the last of each episode; rising, the last is N.
    """

    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def num_actions(self) -> int:
        """One more than the largest action."""
        return int(self.actions.max(initial=-1)) + 1

    def block(self, start: int, images: Images) -> Block:
        """The steps from `start` on that these pictures belong to."""
        stop = start + len(images)
        first, last = np.searchsorted(self.ends, [start, stop], side="right").tolist()
        inner = self.ends[first:last].tolist()
        marks = [start, *inner, *([stop] if not inner or inner[-1] != stop else [])]
        own = slice(start, stop)
        return Block(
            images=images,
            actions=self.actions[own],
            rewards=self.rewards[own],
            terminations=self.terminations[own],
            truncations=self.truncations[own],
            lengths=tuple(np.diff(marks).tolist()),
            continues=start > 0 and (first == 0 or int(self.ends[first - 1]) != start),
        )


def checked_steps(
    *,
    actions: NDArray[Any],
    rewards: NDArray[Any],
    terminations: NDArray[Any],
    truncations: NDArray[Any],
    ends: NDArray[Any] | None,
    where: str | Path,
) -> Steps:
    """Steps of one consecutive recording.

    Args:
        actions: (N,) integers from 0.
        rewards: (N,) finite numbers.
        terminations, truncations: (N,) bool, or integers 0 and 1.
        ends: (E,) where episodes end, rising to N; None: after each termination or truncation, and after the last step.
        where: they come from, for errors.

    Raises:
        DatasetError: naming what is wrong.
    """
    steps = len(actions)
    if not 0 < steps <= MAX_STEPS:
        raise DatasetError(f"there are {steps:,} steps, but there must be 1 to {MAX_STEPS:,}", where=where)
    for name, values in (("rewards", rewards), ("terminations", terminations), ("truncations", truncations)):
        if values.shape != (steps,):
            raise DatasetError(f"{name} have shape {values.shape}, but the actions {actions.shape}", where=where)
    over = _flags(terminations, "terminations", where) | _flags(truncations, "truncations", where)
    boundaries = _boundaries(over) if ends is None else _checked_ends(ends, over, where)
    return Steps(
        actions=checked_actions(actions, where),
        rewards=checked_rewards(rewards, where),
        terminations=_flags(terminations, "terminations", where),
        truncations=_flags(truncations, "truncations", where),
        ends=boundaries,
    )


def checked_actions(actions: NDArray[Any], where: str | Path, *, first: int = 0) -> NDArray[np.int64]:
    """(N,) int64 actions counted from 0.

    Args:
        actions: as they came.
        where: they come from, for errors.
        first: the number of the first action there.

    Raises:
        DatasetError: if they are not whole numbers from `first` on, or too large to be actions.
    """
    if actions.ndim != 1 or actions.dtype.kind not in "iu":
        raise DatasetError(
            f"actions are {actions.dtype} {actions.shape}, but must be whole numbers, one for each step", where=where
        )
    wrong = np.flatnonzero((actions < first) | (actions >= first + MAX_ACTIONS))
    if len(wrong):
        raise DatasetError(
            f"action {actions[wrong[0]]} of step {wrong[0]:,} is not in {first} to {first + MAX_ACTIONS - 1}",
            where=where,
        )
    return actions.astype(np.int64) - first


def checked_rewards(rewards: NDArray[Any], where: str | Path) -> NDArray[np.float32]:
    """(N,) float32.

    Raises:
        DatasetError: if they are no numbers, or not finite.
    """
    if rewards.ndim != 1 or rewards.dtype.kind not in "fiu":
        raise DatasetError(f"rewards are {rewards.dtype} {rewards.shape}, but must be numbers", where=where)
    with np.errstate(over="ignore"):
        small = rewards.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(small))
    if len(wrong):
        raise DatasetError(f"the reward of step {wrong[0]:,} is {rewards[wrong[0]]}, not finite", where=where)
    return small


def _flags(values: NDArray[Any], name: str, where: str | Path) -> NDArray[np.bool_]:
    if values.dtype.kind not in "biu" or (values.dtype.kind != "b" and not np.isin(values, (0, 1)).all()):
        raise DatasetError(f"{name} are {values.dtype}, but must be true or false (or 0 and 1)", where=where)
    return values.astype(bool)


def _boundaries(over: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.union1d(np.flatnonzero(over) + 1, [len(over)]).astype(np.int64)


def _checked_ends(ends: NDArray[Any], over: NDArray[np.bool_], where: str | Path) -> NDArray[np.int64]:
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise DatasetError(f"episode_ends are {ends.dtype} {ends.shape}, but must be whole numbers", where=where)
    marks = [int(end) for end in ends]
    rising = all(before < after for before, after in zip([0, *marks], marks, strict=False))
    if not rising or marks[-1] != len(over):
        raise DatasetError(f"episode_ends must rise to the number of steps, {len(over):,}", where=where)
    outside = np.setdiff1d(np.flatnonzero(over) + 1, marks)
    if len(outside):
        raise DatasetError(f"step {outside[0] - 1:,} ends an episode, but no episode_ends says so", where=where)
    return np.array(marks, np.int64)


def picture_shape(shape: Sequence[int], where: str | Path, *, most: int) -> tuple[int, ...]:
    """The shape of a picture, if it is one of a size that can be.

    Raises:
        DatasetError: if it is empty, or has more than `most` values.
    """
    if not shape or min(shape) < 1 or math.prod(shape) > most:
        raise DatasetError(f"pictures of shape {tuple(shape)} cannot be frames", where=where)
    return tuple(shape)
