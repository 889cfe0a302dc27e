"""Segments of episodes, drawn from all steps of a dataset that are kept on the training device.

Sampling as published (IRIS: `from_start`, `from_end`; Δ-IRIS: `around`, `reaching`): uniform over episodes, unless they
are given weights, so that steps of short episodes are drawn more often. An unfinished episode counts like the others,
and so does each piece of one that several environments left in pieces: no segment crosses the boundary of a piece. Does
not read files: `Dataset` does.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from iris_cli.errors import DatasetError, ShapeError
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.fields import FRAME_SHAPE
from iris_cli.replay.windows import Windows, gather_windows, take_rows

_SLAB = 2048  # steps read at once; bounds the memory of the host, and small reads are the fastest
_GROWTH = 1.5


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

    def repeated(self, times: int) -> "Segments":
        """Each segment so many times in a row."""
        if times == 1:
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: value.repeat_interleave(times, 0) for name, value in values.items() if value is not None}
        )


class Replay:
    """All steps of a dataset on one device: 1.2 GB for 100,000. A draw is one gather per field.

    Row 0 of every stored field is zero and stands for padding; step n is row n + 1.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.num_steps = 0
        self._source: tuple[Path, tuple[str, int]] | None = None
        self._starts = torch.zeros(0, dtype=torch.int64)  # on the CPU, where draws are made
        self._lengths = torch.zeros(0, dtype=torch.int64)
        self._frames = torch.zeros(1, *FRAME_SHAPE, dtype=torch.uint8, device=device)
        self._actions = torch.zeros(1, dtype=torch.int64, device=device)
        self._rewards = torch.zeros(1, dtype=torch.float32, device=device)
        self._ends = torch.zeros(1, dtype=torch.bool, device=device)
        self._terminations = torch.zeros(1, dtype=torch.bool, device=device)
        self._cuts = torch.zeros(1, dtype=torch.bool, device=device)  # whether the next row is of another piece
        self._tokens: Tensor | None = None  # of the first steps, maybe fewer than there are

    @property
    def num_episodes(self) -> int:
        """Episodes to draw from: the pieces they are stored in, the unfinished ones included."""
        return len(self._lengths)

    @property
    def tokens(self) -> Tensor | None:
        """(n, K) int64 of the first n steps, all of them unless steps came later; None if none were set."""
        return None if self._tokens is None else self._tokens[1:]

    @property
    def step_bytes(self) -> int:
        """Memory that one step takes, its tokens included where some were set."""
        fields = (self._frames, self._actions, self._rewards, self._ends, self._terminations, self._cuts, self._tokens)
        return sum(field[0].nbytes for field in fields if field is not None)

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
        if self._frames.shape[1:] != dataset.frame_shape:
            self._frames = self._frames.new_zeros(1, *dataset.frame_shape)
        self._reserve(dataset.num_steps, kept=known)
        for start in range(known, dataset.num_steps, _SLAB):
            stop = min(start + _SLAB, dataset.num_steps)
            rows = slice(start + 1, stop + 1)
            self._frames[rows] = torch.from_numpy(dataset.read("observations", start, stop)).to(self.device)
        rows = slice(known + 1, dataset.num_steps + 1)
        fields = {name: dataset.read(name, known) for name in ("actions", "rewards", "terminations", "truncations")}
        self._actions[rows] = torch.from_numpy(fields["actions"]).to(self.device)
        self._rewards[rows] = torch.from_numpy(fields["rewards"]).to(self.device)
        self._ends[rows] = torch.from_numpy(fields["terminations"] | fields["truncations"]).to(self.device)
        self._terminations[rows] = torch.from_numpy(fields["terminations"]).to(self.device)
        ends = torch.from_numpy(dataset.episode_ends)
        self._cuts[rows] = False
        self._cuts[ends[:-1].to(self.device)] = True
        self._lengths = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64))
        self._starts = ends - self._lengths
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

    def frames_at(self, steps: slice | Tensor) -> Tensor:
        """(n, 3, 64, 64) uint8 frames of these steps, a channels-last view."""
        present = self._frames[1 : self.num_steps + 1]
        frames = present[steps] if isinstance(steps, slice) else take_rows(present, steps.to(self.device))
        return frames.permute(0, 3, 1, 2)

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
        last = torch.minimum(last, self._lengths[episodes] - 1)
        return self._gather(episodes, last[:, None] + torch.arange(1 - length, 1), frames=frames, tokens=tokens)

    def random_frames(self, batch: int, generator: torch.Generator) -> Tensor:
        """(B, 3, 64, 64) uint8: an episode, then a step of it, both uniform; errors as `from_start`."""
        episodes, offsets = self._draw(batch, generator)
        return self.frames_at(self._starts[episodes] + offsets)

    def windows(self, starts: Tensor, length: int) -> Windows:
        """Stretches of `length` steps that cross the ends of pieces, from `starts` (B,) on the CPU; raw rewards.

        A piece that was left unfinished counts as truncated. The step after a window's last has to be there, as its
        frame is the observation after it.
        """
        steps = slice(1, self.num_steps + 1)
        windows = gather_windows(
            starts.to(self.device), length, stacks=self._frames[steps], actions=self._actions[steps],
            rewards=self._rewards[steps], terminations=self._terminations[steps],
            truncations=self._cuts[steps] & ~self._terminations[steps],
        )  # fmt: skip
        assert windows.stacks is not None
        return replace(windows, stacks=windows.stacks.permute(0, 1, 4, 2, 3))  # (B, T + 2, 4, 64, 64)

    def _draw(self, batch: int, generator: torch.Generator, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) episodes and (B,) steps counted from their first, on the CPU."""
        if not self.num_steps:
            raise DatasetError("the dataset has no steps to draw from", fix="Collect some: iris collect --env Pong")
        if weights is None:
            episodes = torch.randint(self.num_episodes, (batch,), generator=generator)
        else:
            episodes = torch.multinomial(weights, batch, replacement=True, generator=generator)
        fractions = torch.rand(batch, dtype=torch.float64, generator=generator)  # below 1 by enough never to round up
        return episodes, (fractions * self._lengths[episodes]).long()

    def _gather(self, episodes: Tensor, positions: Tensor, *, frames: bool, tokens: bool) -> Segments:
        """Steps at (B, T) positions counted from the first of each episode; outside of it is padding."""
        if tokens and not self.is_tokenized:
            raise DatasetError("the tokens of these steps are not there", fix="Make them first: iris tokenize DATASET")
        mask = (positions >= 0) & (positions < self._lengths[episodes, None])
        rows = torch.where(mask, self._starts[episodes, None] + positions + 1, 0).to(self.device)
        return Segments(
            frames=take_rows(self._frames, rows).permute(0, 1, 4, 2, 3) if frames else None,  # (B, T, 3, 64, 64)
            actions=self._actions[rows],
            rewards=self._rewards[rows],
            ends=self._ends[rows],
            mask=mask.to(self.device),
            tokens=take_rows(self._tokens, rows) if tokens and self._tokens is not None else None,
            episodes=episodes,
        )

    def _reserve(self, steps: int, *, kept: int) -> None:
        """Make room for that many steps, keeping the first `kept`; grows by a factor, so that copies stay rare."""
        if steps < len(self._frames):
            return
        rows = 1 + (int(steps * _GROWTH) if kept else steps)
        for name in ("_frames", "_actions", "_rewards", "_ends", "_terminations", "_cuts"):
            old = getattr(self, name)
            new = old.new_empty(rows, *old.shape[1:])
            new[: kept + 1] = old[: kept + 1]
            setattr(self, name, new)
