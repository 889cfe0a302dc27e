"""Segments of episodes, drawn from all steps of a dataset, which are kept on the training device as far as they fit.

Sampling as published (IRIS: `from_start`, `from_end`; Δ-IRIS: `around`, `reaching`): uniform over episodes, unless they
are given weights, so that steps of short episodes are drawn more often. An unfinished episode counts like the others,
and one that several environments left in pieces is one: its segments cross from piece to piece. Does not read files:
`Dataset` does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from iris_cli.errors import ConfigError, DatasetError, ShapeError
from iris_cli.object_store import Location
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.fields import FRAME_SHAPE
from iris_cli.replay.frames import GROWTH, KINDS, Frames
from iris_cli.replay.windows import Windows, gather_windows, take_rows, window_steps

_VIEW_SHAPE = (3, 64, 64)


@dataclass(frozen=True)
class Segments:
    """B stretches of T consecutive steps, each within one episode. Padding is zero in every field."""

    frames: Tensor | None  # (B, T, 3, 64, 64) uint8, a channels-last view
    actions: Tensor  # (B, T) int64
    rewards: Tensor  # (B, T) float32, raw
    ends: Tensor  # (B, T) bool, terminated or truncated after this step
    mask: Tensor  # (B, T) bool, False where padded
    tokens: Tensor | None  # (B, T, K) int64
    episodes: Tensor | None = None  # (B,) int64 that they were drawn from, on the CPU
    views: Tensor | None = None  # (B, T, 3, 64, 64) float of any kind, frames as the policy sees them

    def rows(self, chosen: slice) -> "Segments":
        """Some of the segments."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[chosen] for name, value in values.items() if value is not None})

    def repeated(self, times: int) -> "Segments":
        """Each segment so many times in a row."""
        if times == 1:
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: value.repeat_interleave(times, 0) for name, value in values.items() if value is not None}
        )


class _Timeline(NamedTuple):
    """All episodes laid end to end, in the order of their ids: where each of them is, and where its steps are stored.

    Attributes:
        lengths: (E,) int64 steps of each episode.
        starts: (E,) int64 of each on the timeline.
        ends: (P,) int64 of each piece on the timeline.
        shifts: (P,) int64 from the timeline to the steps of the dataset, or None where they are the same.
    """

    lengths: Tensor
    starts: Tensor
    ends: Tensor
    shifts: Tensor | None

    @classmethod
    def of(cls, ends: Tensor, ids: Tensor) -> "_Timeline":
        """From the end (P,) and the episode (P,) of each piece of a dataset."""
        lengths = torch.diff(ends, prepend=ends.new_zeros(1))
        order = ids.argsort(stable=True)
        laid = lengths[order].cumsum(0)
        shifts = ends[order] - laid
        episodes = ids.new_zeros(int(ids.max()) + 1 if len(ids) else 0).index_add_(0, ids, lengths)
        return cls(episodes, episodes.cumsum(0) - episodes, laid, shifts if shifts.any() else None)

    def steps(self, episodes: Tensor, positions: Tensor) -> Tensor:
        """Steps of the dataset at positions in episodes, of the same shape; a position has to lie in its episode."""
        places = self.starts[episodes] + positions
        if self.shifts is None:
            return places
        return places + self.shifts[torch.searchsorted(self.ends, places, right=True)]


class Replay:
    """All steps of a dataset, on one device but for frames that do not fit there. A draw is one gather per field.

    Row 0 of every stored field is zero and stands for padding; step n is row n + 1.

    Args:
        device: where draws go.
        place: of the frames, device, memory or disk; None takes the first with room for them (frames.py). Draws are
            the same in each.

    Raises:
        ConfigError: for another place.
    """

    def __init__(self, device: torch.device, *, place: str | None = None) -> None:
        if place is not None and place not in KINDS:
            raise ConfigError(f"frames are kept on {', '.join(KINDS)}, not on '{place}'", where="IRIS_FRAMES")
        self.device = device
        self.num_steps = 0
        self._kinds = list(KINDS.values()) if place is None else [KINDS[place]]
        self._source: tuple[Location, tuple[str, int]] | None = None
        self._timeline = _Timeline.of(*torch.zeros(2, 0, dtype=torch.int64))  # on the CPU, where draws are made
        self._frames: Frames = self._kinds[0](device, FRAME_SHAPE)
        self._actions = torch.zeros(1, dtype=torch.int64, device=device)
        self._rewards = torch.zeros(1, dtype=torch.float32, device=device)
        self._ends = torch.zeros(1, dtype=torch.bool, device=device)
        self._terminations = torch.zeros(1, dtype=torch.bool, device=device)
        self._cuts = torch.zeros(1, dtype=torch.bool, device=device)  # whether the next row is of another piece
        self._tokens: Tensor | None = None  # of the first steps, maybe fewer than there are
        self._views: Tensor | None = None

    @property
    def place(self) -> str:
        """Where the frames are: device, memory or disk."""
        return self._frames.place

    @property
    def num_episodes(self) -> int:
        """Episodes to draw from, the unfinished ones included."""
        return len(self._timeline.lengths)

    @property
    def tokens(self) -> Tensor | None:
        """(n, K) int64 of the first n steps, all of them unless steps came later; None if none were set."""
        return None if self._tokens is None else self._tokens[1:]

    @property
    def step_bytes(self) -> int:
        """Memory that one step takes, its tokens included where some were set."""
        fields = (self._actions, self._rewards, self._ends, self._terminations, self._cuts, self._tokens)
        return self._frames.frame_bytes + sum(field[0].nbytes for field in fields if field is not None)

    @property
    def is_tokenized(self) -> bool:
        """Whether all steps have tokens."""
        return self._tokens is not None and len(self._tokens) == self.num_steps + 1

    def refresh(self, dataset: Dataset) -> None:
        """Load what was appended since the last time, or everything after a rewind or from another dataset.

        Tokens stay those of the steps that were known; after a rewind there are none.

        Raises:
            DatasetError: if the dataset cannot be read; then nothing is kept.
        """
        source = (dataset.path, dataset.generation)
        known = self.num_steps if source == self._source and self.num_steps <= dataset.num_steps else 0
        if known and known == dataset.num_steps:
            return
        self.num_steps, self._source = 0, None
        if not known:
            self._tokens = None
        self._load_frames(dataset, known)
        self._reserve(dataset.num_steps, kept=known)
        rows = slice(known + 1, dataset.num_steps + 1)
        fields = {name: dataset.read(name, known) for name in ("actions", "rewards", "terminations", "truncations")}
        self._actions[rows] = torch.from_numpy(fields["actions"]).to(self.device)
        self._rewards[rows] = torch.from_numpy(fields["rewards"]).to(self.device)
        self._ends[rows] = torch.from_numpy(fields["terminations"] | fields["truncations"]).to(self.device)
        self._terminations[rows] = torch.from_numpy(fields["terminations"]).to(self.device)
        ends = torch.from_numpy(dataset.episode_ends)
        self._cuts[rows] = False
        self._cuts[ends[:-1].to(self.device)] = True
        self._timeline = _Timeline.of(ends, torch.from_numpy(dataset.episode_ids))
        self.num_steps, self._source = dataset.num_steps, source

    def set_tokens(self, tokens: Tensor) -> None:
        """Keep the tokens of all steps, (N, K) of any integer type, until the steps are others.

        Raises:
            ShapeError: if they are not as many as the steps.
        """
        if tokens.ndim != 2 or len(tokens) != self.num_steps:
            raise ShapeError(f"tokens must have shape ({self.num_steps}, K), got {tuple(tokens.shape)}")
        tokens = tokens.to(self.device, torch.int64)
        self._tokens = torch.cat([tokens.new_zeros(1, tokens.shape[1]), tokens])

    @contextmanager
    def keeping_views(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Memory for what the policy sees of every step, (N, 3, 64, 64), drawn with the segments until the end.

        The steps must stay as they are meanwhile. Who opens it fills it before the first draw.
        """
        self._views = torch.empty(self.num_steps + 1, *_VIEW_SHAPE, dtype=dtype, device=self.device)
        self._views[0] = 0
        try:
            yield self._views[1:]
        finally:
            self._views = None

    def frames_at(self, steps: slice | Tensor) -> Tensor:
        """(n, 3, 64, 64) uint8 frames of these steps, a channels-last view."""
        if isinstance(steps, slice):
            steps = torch.arange(*steps.indices(self.num_steps))
        return self._frames.take(steps.cpu() + 1).permute(0, 3, 1, 2)

    def from_start(
        self, batch: int, length: int, generator: torch.Generator, *, frames: bool = False, tokens: bool = False
    ) -> Segments:
        """Draw segments whose first step is uniform in its episode, padded on the right (for the world model).

        Args:
            batch: segments, B.
            length: steps of each, T.
            generator: of the CPU, so that draws do not depend on the device.
            frames: whether to gather frames.
            tokens: whether to gather tokens.

        Raises:
            DatasetError: if there are no steps, or tokens are asked for and not set.
        """
        episodes, offsets = self._draw(batch, generator)
        return self._gather(episodes, offsets[:, None] + torch.arange(length), frames=frames, tokens=tokens)

    def from_end(
        self, batch: int, length: int, generator: torch.Generator, *, frames: bool = False, tokens: bool = False
    ) -> Segments:
        """Draw segments whose last step is uniform in its episode, padded on the left (for the actor-critic).

        Arguments and errors as `from_start`.
        """
        episodes, offsets = self._draw(batch, generator)
        return self._gather(episodes, offsets[:, None] + torch.arange(1 - length, 1), frames=frames, tokens=tokens)

    def around(
        self,
        batch: int,
        length: int,
        generator: torch.Generator,
        *,
        weights: Tensor | None = None,
        frames: bool = False,
        tokens: bool = False,
    ) -> Segments:
        """Draw segments that hold a step uniform in its episode, anywhere in the segment; padded on both sides.

        Arguments and errors as `from_start`; `weights` (episodes,) are their chances, up to a factor, on the CPU.
        """
        episodes, steps = self._draw(batch, generator, weights)
        starts = steps - torch.randint(length, (batch,), generator=generator)
        return self._gather(episodes, starts[:, None] + torch.arange(length), frames=frames, tokens=tokens)

    def reaching(
        self,
        batch: int,
        length: int,
        generator: torch.Generator,
        *,
        weights: Tensor | None = None,
        frames: bool = False,
        tokens: bool = False,
    ) -> Segments:
        """Draw segments that hold a step uniform in its episode, and end with a real step; padded on the left.

        A segment that would reach beyond its episode ends with the last step. Arguments and errors as `around`.
        """
        episodes, steps = self._draw(batch, generator, weights)
        last = steps + torch.randint(length, (batch,), generator=generator)
        last = torch.minimum(last, self._timeline.lengths[episodes] - 1)
        return self._gather(episodes, last[:, None] + torch.arange(1 - length, 1), frames=frames, tokens=tokens)

    def random_frames(self, batch: int, generator: torch.Generator) -> Tensor:
        """(B, 3, 64, 64) uint8: an episode, then a step of it, both uniform; errors as `from_start`."""
        episodes, offsets = self._draw(batch, generator)
        return self.frames_at(self._timeline.steps(episodes, offsets))

    def windows(self, starts: Tensor, length: int) -> Windows:
        """Stretches of `length` steps that cross the ends of pieces, from `starts` (B,) on the CPU; raw rewards.

        A piece that was left unfinished counts as truncated. The step after a window's last has to be there, as its
        frame is the observation after it.
        """
        steps = slice(1, self.num_steps + 1)
        windows = gather_windows(
            starts.to(self.device), length, stacks=None, actions=self._actions[steps], rewards=self._rewards[steps],
            terminations=self._terminations[steps], truncations=self._cuts[steps] & ~self._terminations[steps],
        )  # fmt: skip
        stacks = self._frames.take(window_steps(starts, length) + 1)  # (B, T + 2, 64, 64, 4)
        return replace(windows, stacks=stacks.permute(0, 1, 4, 2, 3))

    def _draw(self, batch: int, generator: torch.Generator, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) episodes and (B,) steps counted from their first, on the CPU."""
        if not self.num_steps:
            raise DatasetError("the dataset has no steps to draw from", fix="Collect some: iris collect --env Pong")
        if weights is None:
            episodes = torch.randint(self.num_episodes, (batch,), generator=generator)
        else:
            episodes = torch.multinomial(weights, batch, replacement=True, generator=generator)
        fractions = torch.rand(batch, dtype=torch.float64, generator=generator)  # below 1 by enough never to round up
        return episodes, (fractions * self._timeline.lengths[episodes]).long()

    def _gather(self, episodes: Tensor, positions: Tensor, *, frames: bool, tokens: bool) -> Segments:
        """Steps at (B, T) positions counted from the first of each episode; outside of it is padding."""
        if tokens and not self.is_tokenized:
            raise DatasetError("the tokens of these steps are not there", fix="Make them first: iris tokenize DATASET")
        mask = (positions >= 0) & (positions < self._timeline.lengths[episodes, None])
        steps = self._timeline.steps(episodes[:, None], torch.where(mask, positions, 0))
        chosen = torch.where(mask, steps + 1, 0)
        rows = chosen.to(self.device)
        return Segments(
            frames=self._frames.take(chosen).permute(0, 1, 4, 2, 3) if frames else None,  # (B, T, 3, 64, 64)
            actions=self._actions[rows],
            rewards=self._rewards[rows],
            ends=self._ends[rows],
            mask=mask.to(self.device),
            tokens=take_rows(self._tokens, rows) if tokens and self._tokens is not None else None,
            episodes=episodes,
            views=None if self._views is None else take_rows(self._views, rows),
        )

    def _load_frames(self, dataset: Dataset, known: int) -> None:
        """Take in the frames after the first `known`, or all of them into the next place where they do not fit."""
        if not known:
            self._frames = self._kinds[0](self.device, dataset.frame_shape)
        while not self._frames.fits(dataset.num_steps) and self._frames.place != self._kinds[-1].place:
            following = self._kinds[[kind.place for kind in self._kinds].index(self._frames.place) + 1]
            self._frames, known = following(self.device, dataset.frame_shape), 0
        self._frames.extend(dataset, known)

    def _reserve(self, steps: int, *, kept: int) -> None:
        """Make room for that many steps, keeping the first `kept`; grows by a factor, so that copies stay rare."""
        if steps < len(self._actions):
            return
        rows = 1 + (int(steps * GROWTH) if kept else steps)
        for name in ("_actions", "_rewards", "_ends", "_terminations", "_cuts"):
            old = getattr(self, name)
            new = old.new_empty(rows, *old.shape[1:])
            new[: kept + 1] = old[: kept + 1]
            setattr(self, name, new)
