"""Which steps of a dataset belong to which episode. Numbers only: knows no files.

Steps lie in pieces, in the order they were stored. An episode that was played beside others, and stored while it was
still under way, lies in several pieces, which share its id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iris_cli.errors import ShapeError


@dataclass(frozen=True)
class Episodes:
    """Pieces of episodes, one after the other from step 0 on.

    Attributes:
        ends: (E,) int64, the step after each piece's last; rising.
        ids: (E,) int64, the episode each piece belongs to: 0, 1, 2 and so on, in the order of their first pieces.
    """

    ends: np.ndarray
    ids: np.ndarray

    @classmethod
    def none(cls) -> "Episodes":
        """Those of no steps."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def count(self) -> int:
        """Episodes, the unfinished ones included."""
        return int(self.ids.max(initial=-1)) + 1

    def cover(self, steps: int) -> bool:
        """Whether these are the episodes of that many steps, and ids and ends are as they should be."""
        last = int(self.ends[-1]) if len(self.ends) else 0
        newest = np.diff(np.maximum.accumulate(self.ids), prepend=-1)
        rising, in_order = np.all(np.diff(self.ends, prepend=0) > 0), np.all((newest >= 0) & (newest <= 1))
        return last == steps and bool(rising and in_order and np.all(self.ids >= 0))

    def pieces(self, episode: int) -> list[tuple[int, int]]:
        """(first step, step after the last) of each piece of an episode."""
        own = self.ids == episode
        return list(zip(np.append(0, self.ends[:-1])[own].tolist(), self.ends[own].tolist(), strict=True))

    def extended(self, lengths: Sequence[int], ids: Sequence[int]) -> "Episodes":
        """With more pieces behind; the first of them grows the last piece here, if it is the same episode.

        Raises:
            ShapeError: if a length is not positive, or an episode is there twice or begins out of order.
        """
        begun = [episode for episode in ids if episode >= self.count]
        if len(lengths) != len(ids) or len(set(ids)) < len(ids) or any(number < 0 for number in ids):
            raise ShapeError(f"episodes {list(ids)} do not fit {len(lengths)} pieces: each has its own")
        if begun != list(range(self.count, self.count + len(begun))):
            raise ShapeError(f"episodes {begun} begin out of order: the next is {self.count}")
        if any(length < 1 for length in lengths):
            raise ShapeError(f"pieces of {list(lengths)} steps cannot be")
        start = int(self.ends[-1]) if len(self.ends) else 0
        kept = len(self.ids) - (len(ids) > 0 and len(self.ids) > 0 and ids[0] == self.ids[-1])
        ends = start + np.cumsum(lengths, dtype=np.int64)
        return Episodes(np.append(self.ends[:kept], ends), np.append(self.ids[:kept], np.asarray(ids, np.int64)))

    def cut(self, steps: int) -> "Episodes":
        """Those of the first `steps` steps; an episode that is cut becomes unfinished."""
        kept = np.count_nonzero(self.ends < steps) + (steps > 0)
        return Episodes(np.minimum(self.ends[:kept], steps), self.ids[:kept])

    def scores(self, rewards: np.ndarray, over: np.ndarray) -> np.ndarray:
        """(finished episodes,) float64 sums of `rewards` (N,), in the order of their ids; `over` (N,) ended one."""
        finished = np.sort(self.ids[over[self.ends - 1]])
        of_step = np.repeat(self.ids, np.diff(self.ends, prepend=0))
        return np.bincount(of_step, weights=rewards, minlength=self.count)[finished]
