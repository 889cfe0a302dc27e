"""Frames are the same wherever they lie, and no more of them are in memory than the place allows."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from iris_cli.errors import ConfigError, DatasetError
from iris_cli.replay import frames
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay, Segments

CPU = torch.device("cpu")
PLACES = ("device", "memory", "disk")
GIBIBYTE = 2**30


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Dataset]:
    with Dataset.create(tmp_path / "d.zarr", environment={"id": "x"}, action_meanings=["NOOP"]) as dataset:
        yield dataset


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a hundred steps lie in many."""
    for name, value in {"SLAB": 16, "MEMORY_BLOCK": 32, "DISK_BLOCK": 8, "CACHE_BYTES": 5 * 8 * 12288}.items():
        monkeypatch.setattr(frames, name, value)


def append(dataset: Dataset, *pieces: tuple[int, int], ends: bool = False) -> None:
    """Random frames, in pieces of (episode, steps); `ends` ends them."""
    lengths = [length for _, length in pieces]
    steps, draws = sum(lengths), np.random.default_rng(dataset.num_steps)
    over = np.zeros(steps, bool)
    over[np.cumsum(lengths) - 1] = ends
    dataset.append(
        observations=draws.integers(0, 256, (steps, 64, 64, 3), np.uint8), actions=np.zeros(steps, int),
        rewards=draws.normal(size=steps).astype(np.float32), terminations=over, truncations=np.zeros(steps, bool),
        episode_lengths=lengths, episode_ids=[episode for episode, _ in pieces], writer="run",
    )  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DRAWS: dict[str, Callable[[Replay], object]] = {
    "from_start": lambda replay: replay.from_start(9, 12, generator(), frames=True),
    "from_end": lambda replay: replay.from_end(9, 12, generator(), frames=True),
    "around": lambda replay: replay.around(9, 12, generator(), frames=True),
    "reaching": lambda replay: replay.reaching(9, 12, generator(), frames=True),
    "random_frames": lambda replay: replay.random_frames(20, generator()),
    "windows": lambda replay: replay.windows(torch.tensor([0, 17, 33]), 9),
    "frames_at a slice": lambda replay: replay.frames_at(slice(5, 43)),
    "frames_at steps": lambda replay: replay.frames_at(torch.tensor([[3, 44], [3, 0]]).flatten()),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_the_same_in_every_place(dataset: Dataset, draw: str) -> None:
    replays = [Replay(CPU, place=place) for place in PLACES]
    drawn = {place: [] for place in PLACES}
    for pieces in (((0, 40), (1, 5)), ((1, 30),), ((2, 3), (1, 11))):  # it grows between draws
        append(dataset, *pieces)
        for replay in replays:
            replay.refresh(dataset)
            drawn[replay.place].append(DRAWS[draw](replay))

    for first, *others in zip(*drawn.values(), strict=True):
        for other in others:
            for ours, theirs in zip(parts(first), parts(other), strict=True):
                assert torch.equal(ours, theirs)
                assert ours.stride() == theirs.stride()
    assert len(parts(drawn["disk"][-1])[0])


def parts(drawn: object) -> list[torch.Tensor]:
    if isinstance(drawn, torch.Tensor):
        return [drawn]
    return [value for value in vars(drawn).values() if value is not None]


@pytest.mark.parametrize("place", PLACES)
def test_a_rewind_and_another_dataset_are_followed_in_every_place(dataset: Dataset, tmp_path: Path, place: str) -> None:
    append(dataset, (0, 50), (1, 20))
    replay = Replay(CPU, place=place)
    replay.refresh(dataset)
    replay.frames_at(slice(0, 70))
    dataset.rewind(33, writer="run")
    append(dataset, (0, 20))

    replay.refresh(dataset)

    expected = torch.from_numpy(dataset.read("observations")).permute(0, 3, 1, 2)
    assert torch.equal(replay.frames_at(slice(None)), expected)


def test_what_does_not_fit_on_the_device_goes_to_memory_and_then_to_disk(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "ALWAYS_FIT", 12288 * 20)  # more than the later steps bring, less than all have
    free = {"host": 1000 * GIBIBYTE}
    monkeypatch.setattr(frames, "host_memory", lambda: (free["host"], 4 * 12288 * 100))  # 100 frames are kept free
    replay, places = Replay(CPU), []
    # Room for 140 frames is 1.5 times that on the device, where the 70 are beside it; in memory it is what comes in.
    for pieces, host in (
        (((0, 70),), GIBIBYTE),
        (((0, 70),), 12288 * 290),
        (((0, 1),), 12288 * 290),
        (((0, 9),), 12288 * 105),
    ):
        free["host"] = host
        append(dataset, *pieces)
        replay.refresh(dataset)
        places.append(replay.place)
        expected = torch.from_numpy(dataset.read("observations")).permute(0, 3, 1, 2)
        assert torch.equal(replay.frames_at(slice(None)), expected)

    assert places == ["device", "memory", "memory", "disk"]


def test_a_hundred_thousand_frames_stay_on_a_device_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "host_memory", lambda: (6 * GIBIBYTE, 8 * GIBIBYTE))

    assert frames.OnDevice(CPU, (64, 64, 3)).fits(100_000)
    assert not frames.OnDevice(CPU, (64, 64, 3)).fits(1_000_000)
    assert not frames.InMemory(CPU, (64, 64, 3)).fits(10_000_000)


def test_frames_on_disk_take_no_more_memory_than_the_cache(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    block = 64 * 12288  # a chunk of the dataset
    monkeypatch.setattr(frames, "DISK_BLOCK", 64)
    monkeypatch.setattr(frames, "CACHE_BYTES", 2 * block)
    append(dataset, (0, 1800))
    replay = Replay(CPU, place="disk")
    tracemalloc.start()

    replay.refresh(dataset)
    for seed in range(10):
        replay.around(16, 12, generator(seed), frames=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 2 * block < peak < 7 * block < 1800 * 12288 / 4  # one is read and decoded beside those at hand


def test_blocks_from_disk_are_read_once_while_they_are_at_hand(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(dataset, (0, 100))
    replay, reads = Replay(CPU, place="disk"), []
    replay.refresh(dataset)
    read = dataset.read

    def counted(field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        reads.append((start, stop))
        return read(field, start, stop)

    monkeypatch.setattr(dataset, "read", counted)
    replay.frames_at(torch.tensor([9, 10, 8, 99, 9]))
    replay.frames_at(torch.tensor([15, 96]))
    assert reads == [(8, 16), (96, 100)]
    replay.frames_at(slice(16, 56))  # five other blocks fill the cache
    replay.frames_at(torch.tensor([9]))
    assert reads[-1] == (8, 16)


def test_a_damaged_block_is_an_error_when_it_is_drawn(dataset: Dataset) -> None:
    append(dataset, (0, 100))
    replay = Replay(CPU, place="disk")
    replay.refresh(dataset)
    chunk = dataset.path / "observations" / "c.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])

    with pytest.raises(DatasetError, match="damaged"):
        replay.frames_at(torch.tensor([3]))


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="not on 'tape'"):
        Replay(CPU, place="tape")


def test_the_host_tells_of_its_memory() -> None:
    free, total = frames.host_memory()

    assert 2**20 < free <= total


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("place", PLACES)
def test_draws_reach_the_device_from_every_place(dataset: Dataset, place: str) -> None:
    append(dataset, (0, 40), (1, 60))
    here, there = Replay(CPU), Replay(torch.device("cuda"), place=place)
    for replay in (here, there):
        replay.refresh(dataset)

    ours, theirs = (replay.around(9, 12, generator(), frames=True) for replay in (here, there))

    assert theirs.frames.device.type == "cuda"
    assert torch.equal(ours.frames, theirs.frames.cpu())


# Episodes that several environments left in pieces


def same_steps(ours: Segments, theirs: Segments) -> bool:
    names = ("frames", "actions", "rewards", "ends", "mask", "episodes")
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)


def test_an_episode_in_pieces_is_drawn_as_if_it_were_whole(tmp_path: Path) -> None:
    lengths, draws = (30, 9, 22), np.random.default_rng(0)
    steps = [
        {"observations": draws.integers(0, 256, (n, 64, 64, 3), np.uint8), "rewards": draws.normal(size=n)}
        for n in lengths
    ]
    whole = [(episode, 0, length) for episode, length in enumerate(lengths)]
    pieces = [(0, 0, 12), (1, 0, 4), (2, 0, 7), (0, 12, 13), (1, 4, 9), (2, 7, 20), (0, 13, 30), (2, 20, 22)]
    replays = []
    for name, parts_ in (("whole", whole), ("pieces", pieces)):
        with Dataset.create(tmp_path / f"{name}.zarr", environment={"id": "x"}, action_meanings=["A"] * 30) as made:
            for episode, start, stop in parts_:
                made.append(
                    observations=steps[episode]["observations"][start:stop], actions=np.arange(start, stop),
                    rewards=steps[episode]["rewards"][start:stop].astype(np.float32),
                    terminations=np.arange(start, stop) == lengths[episode] - 1,
                    truncations=np.zeros(stop - start, bool), episode_lengths=[stop - start], episode_ids=[episode],
                    writer="run",
                )  # fmt: skip
            replays.append([Replay(CPU, place=place) for place in PLACES])
            for replay in replays[-1]:
                replay.refresh(made)

    for here, there in zip(*replays, strict=True):
        assert [here.num_episodes, there.num_episodes] == [3, 3]
        assert torch.equal(*(replay.random_frames(20, generator()) for replay in (here, there)))
        for sampler in ("from_start", "from_end", "around", "reaching"):
            ours, theirs = (getattr(replay, sampler)(60, 8, generator(), frames=True) for replay in (here, there))
            assert same_steps(ours, theirs)
            full = theirs.actions[theirs.mask.all(1)]
            assert (full.diff(dim=1) == 1).all()  # an episode's steps are numbered: none is missing between pieces
            assert ((full[:, 0] < 12) & (full[:, -1] >= 13)).any()


def test_draws_of_episodes_that_are_whole_are_what_they_always_were(dataset: Dataset) -> None:
    for episode, length in enumerate((1, 3, 6)):
        append(dataset, (episode, length))
    replay = Replay(CPU)
    replay.refresh(dataset)
    step_of = {reward: step + 1 for step, reward in enumerate(dataset.read("rewards").tolist())}

    drawn = {
        name: [[step_of.get(reward, 0) for reward in row] for row in segments.rewards.tolist()]
        for name in ("from_start", "from_end", "around", "reaching")
        for segments in [getattr(replay, name)(3, 4, generator(7))]
    }

    assert drawn == {  # steps, counted from 1, as the program of 2026-11-20 drew them
        "from_start": [[1, 0, 0, 0], [3, 4, 0, 0], [2, 3, 4, 0]],
        "from_end": [[0, 0, 0, 1], [0, 0, 2, 3], [0, 0, 0, 2]],
        "around": [[0, 1, 0, 0], [0, 2, 3, 4], [0, 0, 0, 2]],
        "reaching": [[0, 0, 0, 1], [0, 2, 3, 4], [0, 2, 3, 4]],
    }
