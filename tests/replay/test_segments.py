from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.errors import DatasetError, ShapeError
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay, Segments

LENGTHS = (1, 3, 6)  # the last one unfinished
CPU = torch.device("cpu")


def append(dataset: Dataset, count: int, *, end: bool = True, extends: bool = False, mark: int = 0) -> None:
    """Steps that carry their index plus one (and the mark), so that padding is told from the first step."""
    index = np.arange(dataset.num_steps, dataset.num_steps + count) + 1 + mark
    dataset.append(
        observations=np.broadcast_to(index[:, None, None, None], (count, 64, 64, 3)).astype(np.uint8),
        actions=index,
        rewards=-index.astype(np.float32),
        terminations=np.zeros(count, bool),
        truncations=np.arange(count) == (count - 1 if end else -1),
        episode_lengths=[count],
        episode_ids=[dataset.num_episodes - extends],
        writer="run",
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Dataset]:
    with Dataset.create(tmp_path / "pong.zarr", environment={"id": "x"}, action_meanings=["NOOP"] * 250) as dataset:
        yield dataset


@pytest.fixture
def replay(dataset: Dataset) -> Replay:
    for length in LENGTHS:
        append(dataset, length, end=length != LENGTHS[-1])
    replay = Replay(CPU)
    replay.refresh(dataset)
    replay.set_tokens(torch.arange(1, 11)[:, None] * torch.tensor([1, 100]))
    return replay


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_close(counts: Tensor, chances: Tensor) -> None:
    """Within 5 standard deviations."""
    draws = counts.sum()
    assert torch.all((counts - draws * chances).abs() < 5 * (draws * chances).sqrt() + 1e-9), counts.tolist()


def assert_fields_agree(segments: Segments) -> None:
    steps = segments.actions
    assert torch.equal(steps > 0, segments.mask)
    assert torch.equal(segments.rewards, -steps.float())
    assert torch.equal(segments.ends, (steps == 1) | (steps == 4))  # the last of six goes on
    assert segments.frames is not None
    assert segments.tokens is not None
    assert torch.equal(segments.frames, steps[..., None, None, None].expand(-1, -1, 3, 64, 64).byte())
    assert torch.equal(segments.tokens, torch.stack([steps, steps * 100], dim=-1))


# Steps 1 | 2 3 4 | 5 6 7 8 9 10 are three episodes. Segments of 4:
FROM_START = [[1, 0, 0, 0]]
FROM_START += [[2, 3, 4, 0], [3, 4, 0, 0], [4, 0, 0, 0]]
FROM_START += [[5, 6, 7, 8], [6, 7, 8, 9], [7, 8, 9, 10], [8, 9, 10, 0], [9, 10, 0, 0], [10, 0, 0, 0]]
FROM_END = [[0, 0, 0, 1]]
FROM_END += [[0, 0, 0, 2], [0, 0, 2, 3], [0, 2, 3, 4]]
FROM_END += [[0, 0, 0, 5], [0, 0, 5, 6], [0, 5, 6, 7], [5, 6, 7, 8], [6, 7, 8, 9], [7, 8, 9, 10]]
CHANCES = torch.tensor([1 / 3 / length for length in LENGTHS for _ in range(length)])


@pytest.mark.parametrize(("sampler", "expected"), [("from_start", FROM_START), ("from_end", FROM_END)])
def test_segments_are_uniform_over_episodes_then_over_steps(replay: Replay, sampler: str, expected: list) -> None:
    segments = getattr(replay, sampler)(6000, 4, generator())

    drawn, counts = segments.actions.unique(dim=0, return_counts=True)
    order = [expected.index(row) for row in drawn.tolist()]  # nothing else is drawn, so no boundary is crossed
    assert sorted(order) == list(range(10))  # the first and the last step of each episode included
    assert_close(counts, CHANCES[order])


@pytest.mark.parametrize("sampler", ["from_start", "from_end"])
def test_all_fields_are_of_the_same_steps_and_padding_is_zero(replay: Replay, sampler: str) -> None:
    segments = getattr(replay, sampler)(40, 4, generator(), frames=True, tokens=True)

    assert_fields_agree(segments)
    assert segments.frames.dtype == torch.uint8
    assert segments.actions.dtype == segments.tokens.dtype == torch.int64
    assert segments.rewards.dtype == torch.float32
    assert segments.ends.dtype == segments.mask.dtype == torch.bool


def test_frames_and_tokens_are_gathered_on_demand(replay: Replay) -> None:
    segments = replay.from_start(4, 4, generator())

    assert segments.frames is None
    assert segments.tokens is None


def test_repeated_segments_stand_in_a_row(replay: Replay) -> None:
    segments = replay.from_start(3, 4, generator(), frames=True, tokens=True)

    twice = segments.repeated(2)

    assert_fields_agree(twice)
    assert replay.from_start(3, 4, generator()).repeated(2).frames is None
    for copies in (slice(0, None, 2), slice(1, None, 2)):
        assert torch.equal(twice.actions[copies], segments.actions)
        assert torch.equal(twice.tokens[copies], segments.tokens)
    assert segments.repeated(1) is segments


def test_random_frames_are_segments_of_one_step(replay: Replay) -> None:
    frames = replay.random_frames(1500, generator())

    segments = replay.from_start(1500, 1, generator(), frames=True)
    assert segments.frames is not None
    assert torch.equal(frames, segments.frames[:, 0])
    assert_close(frames[:, 0, 0, 0].bincount()[1:], CHANCES)


def test_the_generator_alone_decides(replay: Replay) -> None:
    first = replay.from_end(64, 4, generator(1)).actions

    torch.rand(3)
    assert torch.equal(replay.from_end(64, 4, generator(1)).actions, first)
    assert not torch.equal(replay.from_end(64, 4, generator(2)).actions, first)


def test_frames_at_are_in_the_order_asked_for(replay: Replay) -> None:
    assert replay.frames_at(torch.tensor([9, 0, 4]))[:, 0, 0, 0].tolist() == [10, 1, 5]
    assert replay.frames_at(slice(3, 100))[:, 2, 63, 63].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert replay.frames_at(slice(0, 2)).shape == (2, 3, 64, 64)


def test_channels_are_moved_in_front(dataset: Dataset) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    zero = np.zeros(1, bool)
    dataset.append(
        observations=frame, actions=zero.astype(int), rewards=zero.astype(np.float32), terminations=zero,
        truncations=zero, episode_lengths=[1], episode_ids=[0], writer="run",
    )  # fmt: skip
    replay = Replay(CPU)
    replay.refresh(dataset)

    expected = torch.from_numpy(frame[0]).permute(2, 0, 1)
    assert torch.equal(replay.frames_at(slice(0, 1))[0], expected)
    frames = replay.from_end(1, 2, generator(), frames=True).frames
    assert frames is not None
    assert torch.equal(frames[0, 1], expected)


def test_one_short_episode_is_enough(dataset: Dataset) -> None:
    append(dataset, 1)
    replay = Replay(CPU)
    replay.refresh(dataset)

    assert replay.from_start(2, 20, generator()).mask.sum(1).tolist() == [1, 1]
    assert replay.from_end(2, 21, generator()).mask[:, -1].tolist() == [True, True]


def test_an_empty_dataset_cannot_be_drawn_from(dataset: Dataset) -> None:
    replay = Replay(CPU)
    replay.refresh(dataset)

    for draw in (replay.from_start, replay.from_end):
        with pytest.raises(DatasetError, match="no steps"):
            draw(2, 4, generator())
    with pytest.raises(DatasetError, match="no steps"):
        replay.random_frames(2, generator())


# Refreshing


class Reads:
    """A dataset that counts the frames read."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.frames = dataset, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)

    def read(self, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        values = self.dataset.read(field, start, stop)
        self.frames += len(values) * (field == "observations")
        return values


def assert_like_fresh(replay: Replay, dataset: Dataset) -> None:
    fresh = Replay(CPU)
    fresh.refresh(dataset)
    assert (replay.num_steps, replay.num_episodes) == (dataset.num_steps, dataset.num_episodes)
    ours, theirs = (each.from_start(50, 9, generator(), frames=True) for each in (replay, fresh))
    for name in ("frames", "actions", "rewards", "ends", "mask"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_refresh_loads_only_what_is_new_and_lengthens_the_last_episode(replay: Replay, dataset: Dataset) -> None:
    for count in (5, 40, 2):
        append(dataset, count, end=False, extends=True)
        reads = Reads(dataset)
        replay.refresh(reads)  # type: ignore[arg-type]
        assert reads.frames == count
        assert_like_fresh(replay, dataset)
    append(dataset, 3)
    replay.refresh(dataset)
    assert replay.num_episodes == 4
    assert_like_fresh(replay, dataset)


def test_refresh_reads_anew_after_a_rewind(replay: Replay, dataset: Dataset) -> None:
    dataset.rewind(6, writer="run")
    append(dataset, 7, extends=True, mark=100)

    replay.refresh(dataset)

    assert_like_fresh(replay, dataset)
    assert replay.frames_at(slice(6, 8))[:, 0, 0, 0].tolist() == [107, 108]


def test_refresh_follows_a_rewind_to_nothing(replay: Replay, dataset: Dataset) -> None:
    dataset.rewind(0, writer="run")
    replay.refresh(dataset)
    assert replay.num_steps == replay.num_episodes == 0


def test_refresh_reads_another_dataset_anew(replay: Replay, tmp_path: Path) -> None:
    with Dataset.create(tmp_path / "other.zarr", environment={"id": "y"}, action_meanings=["NOOP"] * 250) as other:
        append(other, 10, mark=50)
        replay.refresh(other)
        assert_like_fresh(replay, other)


def test_tokens_stay_with_their_steps(replay: Replay, dataset: Dataset) -> None:
    replay.refresh(dataset)
    assert replay.is_tokenized
    assert replay.tokens is not None
    assert replay.tokens.shape == (10, 2)

    append(dataset, 1, extends=True)
    replay.refresh(dataset)
    assert not replay.is_tokenized  # and so none are drawn, those of the first ten steps included
    assert replay.tokens.shape == (10, 2)
    with pytest.raises(DatasetError, match="tokens"):
        replay.from_start(2, 4, generator(), tokens=True)
    with pytest.raises(ShapeError, match=r"must have shape \(11, K\)"):
        replay.set_tokens(torch.zeros(10, 2))


def test_tokens_are_gone_after_a_rewind(replay: Replay, dataset: Dataset) -> None:
    dataset.rewind(4, writer="run")
    append(dataset, 6)
    replay.refresh(dataset)
    assert replay.num_steps == 10
    assert replay.tokens is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_do_not_depend_on_the_device(replay: Replay, dataset: Dataset) -> None:
    device = torch.device("cuda")
    other = Replay(device)
    other.refresh(dataset)
    ours, theirs = (each.from_end(64, 5, generator(), frames=True) for each in (replay, other))
    assert theirs.frames is not None
    assert theirs.frames.device.type == "cuda"
    assert torch.equal(ours.actions, theirs.actions.cpu())


def test_around_holds_a_step_that_is_uniform_in_its_episode_at_any_place(replay: Replay) -> None:
    segments = replay.around(6000, 3, generator(), frames=True, tokens=True)

    assert_fields_agree(segments)
    assert segments.mask.any(1).all()
    drawn, counts = segments.actions.unique(dim=0, return_counts=True)
    windows: dict[tuple[int, ...], float] = {}
    for first, length in ((1, 1), (2, 3), (5, 6)):
        for step in range(length):
            for before in range(3):
                row = [first + p if 0 <= p < length else 0 for p in range(step - before, step - before + 3)]
                windows[tuple(row)] = windows.get(tuple(row), 0.0) + 1 / 3 / length / 3
    assert {tuple(row) for row in drawn.tolist()} == set(windows)
    assert_close(counts, torch.tensor([windows[tuple(row)] for row in drawn.tolist()]))


def test_reaching_ends_with_a_real_step_and_pads_on_the_left(replay: Replay) -> None:
    segments = replay.reaching(6000, 3, generator(), frames=True, tokens=True)

    assert_fields_agree(segments)
    last, counts = segments.actions[:, -1].unique(return_counts=True)
    chances = torch.zeros(11)
    for first, length in ((1, 1), (2, 3), (5, 6)):
        for step in range(length):
            for after in range(3):
                chances[first + min(step + after, length - 1)] += 1 / 3 / length / 3
    assert last.tolist() == list(range(1, 11))
    assert_close(counts, chances[1:])


def test_weights_are_the_chances_of_episodes_and_the_drawn_ones_are_told(replay: Replay) -> None:
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)

    for sampler in (replay.around, replay.reaching):
        segments = sampler(4000, 2, generator(), weights=weights)

        assert set(segments.episodes.tolist()) == {0, 2}
        assert_close(torch.bincount(segments.episodes)[[0, 2]], torch.tensor([0.25, 0.75]))
        assert torch.equal(segments.actions.amax(1) == 1, segments.episodes == 0)


def test_windows_cross_episodes_in_the_order_of_steps(replay: Replay) -> None:
    windows = replay.windows(torch.tensor([2, 0]), 4)

    assert windows.actions.tolist() == [[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]]  # steps carry their index plus one
    assert windows.rewards.tolist() == [[-2, -3, -4, -5, -6], [0, -1, -2, -3, -4]]
    assert windows.stacks is not None
    assert windows.stacks.shape == (2, 6, 3, 64, 64)
    assert windows.stacks[:, :, 0, 0, 0].tolist() == [[2, 3, 4, 5, 6, 7], [1, 1, 2, 3, 4, 5]]
    assert windows.truncations.tolist() == [[False, False, True, False, False], [True, True, False, False, True]]
    assert not windows.terminations.any()


def test_a_piece_that_was_left_counts_as_truncated_until_the_last_which_goes_on(dataset: Dataset) -> None:
    replay, truncated = Replay(CPU), []
    for extends in (False, True, False):
        append(dataset, 3, end=False, extends=extends)
        replay.refresh(dataset)
        truncations = replay.windows(torch.tensor([1]), replay.num_steps - 2).truncations[0]
        truncated.append(truncations.nonzero()[:, 0].tolist())

    assert truncated == [[], [], [5]]


def test_stacks_have_their_shape_and_a_replay_takes_either(tmp_path: Path, dataset: Dataset) -> None:
    environment = {"id": "x", "view": "grey-stack"}
    draws = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 4), np.uint8)
    with Dataset.create(tmp_path / "s.zarr", environment=environment, action_meanings=["NOOP"]) as stacks:
        steps = {name: np.zeros(5, bool) for name in ("terminations", "truncations")}
        kinds = {"actions": np.zeros(5, np.int64), "rewards": np.zeros(5, np.float32), **steps}
        with pytest.raises(ShapeError, match=r"observations must have shape \(5, 64, 64, 4\)"):
            stacks.append(observations=draws[..., :3], **kinds, episode_lengths=[5], episode_ids=[0], writer="run")
        stacks.append(observations=draws, **kinds, episode_lengths=[5], episode_ids=[0], writer="run")
    append(dataset, 4)
    replay = Replay(CPU)

    for source, shape in ((dataset, (4, 3, 64, 64)), (stacks, (5, 4, 64, 64)), (dataset, (4, 3, 64, 64))):
        replay.refresh(source)
        assert replay.frames_at(slice(None)).shape == shape
    replay.refresh(Dataset.open(tmp_path / "s.zarr"))
    assert np.array_equal(replay.windows(torch.tensor([1]), 3).stacks[0].permute(0, 2, 3, 1).numpy(), draws)
