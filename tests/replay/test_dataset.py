import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from iris_cli.errors import DatasetError, ShapeError
from iris_cli.replay.attributes import sealed
from iris_cli.replay.dataset import Dataset

ROOT = Path(__file__).parents[2]
PONG = {"id": "ALE/Pong-v5", "frame_skip": 4, "clip_rewards": False}
STEP_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


def steps(start: int, count: int, *, ends: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Fields whose values follow from the index of the step, so that any mix-up shows."""
    index = np.arange(start, start + count)
    return {
        "observations": np.broadcast_to((index % 251)[:, None, None, None], (count, 64, 64, 3)).astype(np.uint8),
        "actions": index % 3,
        "rewards": (index % 7 - 3).astype(np.float32),
        "terminations": np.isin(index, ends),
        "truncations": np.zeros(count, bool),
    }


def append(dataset: Dataset, count: int, *, end: bool = True, extends: bool = False, writer: str = "run") -> None:
    start = dataset.num_steps
    ends = (start + count - 1,) if end else ()
    ids = [dataset.num_episodes - extends]
    dataset.append(**steps(start, count, ends=ends), episode_lengths=[count], episode_ids=ids, writer=writer)


def goes_on(dataset: Dataset) -> bool:
    """Whether the last step leaves its episode unfinished."""
    last = dataset.num_steps - 1
    return last >= 0 and not (dataset.read("terminations", last) | dataset.read("truncations", last))[0]


def assert_holds(dataset: Dataset, count: int) -> None:
    assert dataset.num_steps == count
    expected = steps(0, count)
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(dataset.read(name), expected[name], err_msg=name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pong.zarr"


@pytest.fixture
def dataset(path: Path) -> Iterator[Dataset]:
    with Dataset.create(path, environment=PONG, action_meanings=["NOOP", "UP", "DOWN"]) as dataset:
        yield dataset


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "pong.zarr"
    with Dataset.create(path, environment=PONG, action_meanings=["NOOP", "UP", "DOWN"]) as dataset:
        append(dataset, 100)
        append(dataset, 50, end=False)
        dataset.write_tokens("abc123", 0, np.ones((150, 16), np.int64))
    return path


@pytest.fixture
def closed(template: Path, path: Path) -> Path:
    """A dataset on disk: a finished episode of 100 steps, an unfinished one of 50, tokens of all."""
    shutil.copytree(template, path)
    return path


def test_what_was_appended_is_read_back(dataset: Dataset, path: Path) -> None:
    append(dataset, 100)
    append(dataset, 70, end=False)
    append(dataset, 3, extends=True)

    opened = Dataset.open(path)

    assert_holds(opened, 173)
    assert opened.episode_ends.tolist() == [100, 173]
    assert opened.num_actions == 3
    assert opened.environment == PONG
    assert np.flatnonzero(opened.read("terminations")).tolist() == [99, 172]
    assert [opened.read(name).dtype.name for name in STEP_FIELDS] == ["uint8", "int64", "float32", "bool", "bool"]


def test_one_append_may_hold_several_episodes(dataset: Dataset) -> None:
    append(dataset, 4, end=False)
    dataset.append(**steps(4, 9, ends=(5, 9)), episode_lengths=[2, 4, 3], episode_ids=[0, 1, 2], writer="run")

    assert dataset.episode_ends.tolist() == [6, 10, 13]


def test_pieces_with_the_same_id_are_one_episode(dataset: Dataset, path: Path) -> None:
    dataset.append(**steps(0, 9, ends=(8,)), episode_lengths=[2, 3, 4], episode_ids=[0, 1, 2], writer="run")
    dataset.append(**steps(9, 6, ends=(10, 14)), episode_lengths=[2, 4], episode_ids=[0, 1], writer="run")
    dataset.append(**steps(15, 5), episode_lengths=[5], episode_ids=[3], writer="run")

    for read in (dataset, Dataset.open(path)):
        assert read.episode_ends.tolist() == [2, 5, 9, 11, 15, 20]
        assert read.episode_ids.tolist() == [0, 1, 2, 0, 1, 3]
        assert read.pieces(1) == [(2, 5), (11, 15)]
        rewards = read.read("rewards")
        own = [[0, 1, 9, 10], [2, 3, 4, 11, 12, 13, 14], [5, 6, 7, 8]]
        assert read.scores().tolist() == [rewards[indices].sum() for indices in own]
        expected = {"episodes": 4, "complete_episodes": 3, "mean_length": 5.0}
        assert expected.items() <= read.summary().items()


def test_rewind_makes_an_episode_of_several_pieces_unfinished(dataset: Dataset, path: Path) -> None:
    dataset.append(**steps(0, 5), episode_lengths=[2, 3], episode_ids=[0, 1], writer="run")
    dataset.append(**steps(5, 8, ends=(8, 10)), episode_lengths=[4, 2, 2], episode_ids=[0, 1, 2], writer="run")

    dataset.rewind(7, writer="run")

    for rewound in (dataset, Dataset.open(path)):
        assert rewound.episode_ends.tolist() == [2, 5, 7]
        assert rewound.episode_ids.tolist() == [0, 1, 0]
        assert (rewound.num_episodes, len(rewound.scores())) == (2, 0)
    dataset.append(**steps(7, 2, ends=(7, 8)), episode_lengths=[1, 1], episode_ids=[1, 0], writer="run")
    assert len(dataset.scores()) == 2


def test_attributes_are_committed_with_the_steps(dataset: Dataset, path: Path) -> None:
    collector = {"envs": [{"seed": 3, "actions": [0, -1]}], "state": 2**127}
    dataset.append(
        **steps(0, 2), episode_lengths=[2], episode_ids=[0], writer="run", attributes={"collector": collector}
    )
    append(dataset, 5)

    assert Dataset.open(path).attributes["collector"] == collector


def test_it_is_plain_zarr(closed: Path) -> None:
    group = zarr.open_group(closed, mode="r")

    assert sorted(name for name, _ in group.arrays()) == sorted([*STEP_FIELDS, "episode_ends", "episode_ids"])
    assert group.attrs["committed_steps"] == 150
    assert group["observations"].chunks == (64, 64, 64, 3)  # type: ignore[union-attr]


def test_summary_scores_finished_episodes(closed: Path) -> None:
    summary = Dataset.open(closed).summary()

    score = float((np.arange(100) % 7 - 3).sum())
    expected = {"steps": 150, "episodes": 2, "complete_episodes": 1, "mean_score": score, "mean_length": 75.0}
    expected |= {"environment": "ALE/Pong-v5", "actions": 3, "tokens": {"abc123": 150}}
    assert expected.items() <= summary.items()
    assert summary["size_bytes"] > 0
    json.dumps(summary)


def test_an_empty_dataset_opens(dataset: Dataset, path: Path) -> None:
    opened = Dataset.open(path)

    assert opened.num_steps == opened.num_episodes == len(opened.scores()) == 0
    assert opened.read("observations").shape == (0, 64, 64, 3)
    assert opened.summary()["mean_score"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"observations": np.zeros((5, 64, 64), np.uint8)},
        {"observations": np.zeros((5, 64, 64, 3), np.float32)},
        {"actions": np.array([0, 0, 0, 0, 3])},
        {"rewards": np.zeros(4, np.float32)},
        {"terminations": np.array([0, 0, 1, 0, 0], bool)},
        {"episode_lengths": [2, 2]},
        {"episode_ids": [0]},
        {"episode_ids": [2]},
        {"episode_ids": [-1]},
        {"episode_ids": [1, 2]},
        {"episode_lengths": [2, 3], "episode_ids": [1, 1]},
        {"episode_lengths": [2, 3], "episode_ids": [2, 1]},
        {"episode_lengths": [5, 0], "episode_ids": [1, 2]},
        {"attributes": {"committed_steps": 9}},
    ],
)
def test_steps_that_do_not_fit_are_refused(dataset: Dataset, change: dict) -> None:
    append(dataset, 5)
    with pytest.raises(ShapeError):
        dataset.append(**({**steps(5, 5), "episode_lengths": [5], "episode_ids": [1], "writer": "run"} | change))
    assert_holds(dataset, 5)


# Kills


class Killed(BaseException):
    """Stands for a process that stops at this instant."""


def test_an_append_that_stops_at_any_write_leaves_the_last_commit(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, limit = 0, 0
    replace = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        nonlocal writes
        writes += 1
        if writes > limit:
            raise Killed
        return replace(self, target)

    finished = False
    while not finished:
        copy = tmp_path / f"copy{limit}.zarr"
        shutil.copytree(closed, copy)
        writes = 0
        with monkeypatch.context() as patch, Dataset.open(copy, writable=True) as dataset:
            patch.setattr(Path, "replace", replace_or_die)
            try:
                append(dataset, 60, extends=True)
                finished = True
            except Killed:
                pass
        with Dataset.open(copy, writable=True) as dataset:
            if not finished:
                assert_holds(dataset, 150)
                assert dataset.episode_ends.tolist() == [100, 150]
                assert dataset.episode_ids.tolist() == [0, 1]
                assert not list(copy.rglob("*.partial"))
                append(dataset, 30, extends=True)
            assert_holds(dataset, 210 if finished else 180)
            assert dataset.episode_ends.tolist() == [100, dataset.num_steps]
        limit += 1
    assert limit > 14  # 7 arrays' metadata and chunks, then the attributes


APPEND_FOREVER = """
import sys, numpy as np
sys.path[:0] = sys.argv[2:]
from test_dataset import Dataset, append, goes_on
dataset = Dataset.open(sys.argv[1], writable=True)
while True:
    if goes_on(dataset):
        append(dataset, 90, end=dataset.num_steps % 4 == 0, extends=True)
    else:
        append(dataset, 90, end=False)
    print(dataset.num_steps, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_dataset(dataset: Dataset, path: Path) -> None:
    dataset.close()
    for delay in (0.0, 0.1):
        command = [sys.executable, "-c", APPEND_FOREVER, str(path), str(Path(__file__).parent), str(ROOT)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(delay)
            os.kill(child.pid, signal.SIGKILL)
            said += child.stdout.readlines()
        told = [int(line) for line in said if line.endswith("\n")]

        with Dataset.open(path, writable=True) as survivor:
            assert survivor.num_steps >= told[-1] > 0
            assert_holds(survivor, survivor.num_steps)
            assert survivor.episode_ends[-1] == survivor.num_steps
            append(survivor, 7, extends=goes_on(survivor))
            assert_holds(survivor, survivor.num_steps)


def test_a_dataset_appears_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DatasetError, match="no space left"):
        Dataset.create(path, environment=PONG, action_meanings=["NOOP"])
    assert not list(path.parent.iterdir())


# Rewinding


def test_rewind_goes_back_to_an_earlier_commit(dataset: Dataset, path: Path) -> None:
    append(dataset, 100)
    append(dataset, 50, end=False)
    append(dataset, 80, extends=True)
    append(dataset, 20)
    dataset.write_tokens("abc123", 0, np.ones((250, 16), np.int64))
    dataset.rewind(150, writer="run", attributes={"collector": {"at": 150}})

    for rewound in (dataset, Dataset.open(path)):
        assert_holds(rewound, 150)
        assert rewound.episode_ends.tolist() == [100, 150]
        assert rewound.tokens_length("abc123") == 150
        assert rewound.attributes["collector"] == {"at": 150}
    append(dataset, 60, extends=True)
    append(dataset, 5)
    assert_holds(Dataset.open(path), 215)
    assert Dataset.open(path).episode_ends.tolist() == [100, 210, 215]


def test_rewind_into_an_episode_keeps_its_beginning_unfinished(dataset: Dataset, path: Path) -> None:
    append(dataset, 100)
    dataset.rewind(30, writer="run")
    append(dataset, 10, end=False)

    assert Dataset.open(path).episode_ends.tolist() == [30, 40]
    assert len(Dataset.open(path).scores()) == 0


def test_rewind_to_nothing_empties_it(dataset: Dataset, path: Path) -> None:
    append(dataset, 100)
    dataset.rewind(0, writer="run")

    assert Dataset.open(path).num_episodes == 0
    append(dataset, 4)
    assert_holds(Dataset.open(path), 4)


def test_rewind_never_drops_what_someone_else_wrote(dataset: Dataset) -> None:
    append(dataset, 10, writer="run a")
    append(dataset, 10, writer="run b")
    append(dataset, 10, writer="run a")

    with pytest.raises(DatasetError, match="run b"):
        dataset.rewind(15, writer="run a")
    dataset.rewind(20, writer="run a")
    with pytest.raises(DatasetError, match="run b"):
        dataset.rewind(10, writer="run a")
    assert dataset.attributes["writers"] == [{"start": 0, "who": "run a"}, {"start": 10, "who": "run b"}]


def test_rewind_beyond_the_end_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="has 0 steps, but 5 are needed"):
        dataset.rewind(5, writer="run")


def test_generation_changes_only_when_steps_were_dropped(dataset: Dataset) -> None:
    append(dataset, 10)
    before = dataset.generation
    append(dataset, 10)
    dataset.rewind(20, writer="run")
    assert dataset.generation == before

    dataset.rewind(15, writer="run")
    assert dataset.generation != before


# Tokens


def test_tokens_are_resumed_where_they_were_committed(dataset: Dataset, path: Path) -> None:
    append(dataset, 100)
    tokens = np.random.default_rng(0).integers(0, 512, (100, 16))
    assert dataset.read_tokens("abc123") is None

    dataset.write_tokens("abc123", 0, tokens[:60])
    dataset.write_tokens("abc123", dataset.tokens_length("abc123"), tokens[60:])

    read = Dataset.open(path).read_tokens("abc123")
    assert read is not None
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, tokens)


@pytest.mark.parametrize(
    ("start", "tokens"),
    [
        (1, np.zeros((2, 16), np.int64)),
        (0, np.zeros((11, 16), np.int64)),
        (0, np.zeros((10, 16), np.float32)),
        (0, np.full((10, 16), -1)),
        (0, np.zeros(10, np.int64)),
    ],
)
def test_tokens_that_do_not_fit_are_refused(dataset: Dataset, start: int, tokens: np.ndarray) -> None:
    append(dataset, 10)
    with pytest.raises(ShapeError):
        dataset.write_tokens("abc123", start, tokens)
    assert dataset.tokens_length("abc123") == 0


# One writer


def test_of_two_nodes_that_do_not_see_each_other_s_locks_the_first_gives_way(dataset: Dataset, path: Path) -> None:
    append(dataset, 10)
    code = (
        "import fcntl; fcntl.flock = lambda descriptor, how: None  # of another node\n"
        f"from iris_cli.replay.dataset import Dataset; dataset = Dataset.open({str(path)!r}, writable=True)\n"
        "dataset.rewind(5, writer='run'); input()"
    )
    second = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True, cwd=ROOT)
    while Dataset.open(path).num_steps == 10:
        assert second.poll() is None
        time.sleep(0.01)

    try:
        for work in (
            lambda: append(dataset, 10),
            lambda: dataset.rewind(3, writer="run"),
            lambda: dataset.write_tokens("abc123", 0, np.zeros((3, 4), np.int64)),
        ):
            with pytest.raises(DatasetError, match=f"process {second.pid} has taken the dataset over"):
                work()
    finally:
        second.communicate("\n")
    assert Dataset.open(path).num_steps == 5


def test_a_dataset_that_was_closed_and_opened_anew_says_that_it_is_closed(dataset: Dataset, path: Path) -> None:
    dataset.close()
    with Dataset.open(path, writable=True), pytest.raises(DatasetError, match="not open for writing"):
        append(dataset, 10)


def test_a_second_writer_is_told_who_writes(dataset: Dataset, path: Path) -> None:
    code = f"from iris_cli.replay.dataset import Dataset; Dataset.open({str(path)!r}, writable=True)"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert f"DatasetError: process {os.getpid()} is writing to the dataset" in second.stderr
    with pytest.raises(DatasetError, match=str(os.getpid())):
        Dataset.open(path, writable=True)
    Dataset.open(path)
    dataset.close()
    Dataset.open(path, writable=True).close()


def test_a_forgotten_dataset_is_free_again(path: Path) -> None:
    Dataset.create(path, environment=PONG, action_meanings=["NOOP"])
    Dataset.open(path, writable=True).close()


def test_a_dataset_open_for_reading_refuses_to_write(closed: Path) -> None:
    before = tree(closed)
    dataset = Dataset.open(closed)
    with pytest.raises(DatasetError, match="not open for writing"):
        append(dataset, 5)
    with pytest.raises(DatasetError, match="not open for writing"):
        dataset.rewind(5, writer="run")
    with pytest.raises(DatasetError, match="not open for writing"):
        dataset.write_tokens("new", 0, np.zeros((5, 16), np.int64))
    assert tree(closed) == before


# What cannot be opened


def tree(path: Path) -> dict[str, bytes]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]  # which has a time
    return {str(file): file.read_bytes() for file in files}


def test_opening_or_creating_continues_the_same_environment_only(path: Path) -> None:
    for _ in range(2):
        with Dataset.open_or_create(path, environment=PONG, action_meanings=["NOOP"] * 3) as dataset:
            append(dataset, 10)
    assert_holds(Dataset.open(path), 20)
    before = tree(path)

    with pytest.raises(DatasetError, match="frame_skip is 4 there, 1 here"):
        Dataset.open_or_create(path, environment={**PONG, "frame_skip": 1}, action_meanings=["NOOP"] * 3)
    with pytest.raises(DatasetError, match="id is 'ALE/Pong-v5' there, 'ALE/Qbert-v5' here"):
        Dataset.open_or_create(path, environment={**PONG, "id": "ALE/Qbert-v5"}, action_meanings=["NOOP"] * 3)
    assert tree(path) == before


def test_creating_never_overwrites(closed: Path) -> None:
    with pytest.raises(DatasetError, match="already"):
        Dataset.create(closed, environment=PONG, action_meanings=["NOOP"])
    assert_holds(Dataset.open(closed), 150)


def attribute(name: str, value: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        metadata = json.loads((path / "zarr.json").read_text())
        metadata["attributes"] = sealed(metadata["attributes"] | {name: value})
        (path / "zarr.json").write_text(json.dumps(metadata))

    return change


def unsealed(name: str, value: object) -> Callable[[Path], object]:
    """A change that leaves the checksum as it was."""

    def change(path: Path) -> None:
        metadata = json.loads((path / "zarr.json").read_text())
        metadata["attributes"][name] = value
        (path / "zarr.json").write_text(json.dumps(metadata))

    return change


def shorten(path: Path) -> None:
    metadata = json.loads((path / "rewards/zarr.json").read_text())
    metadata["shape"] = [149]
    (path / "rewards/zarr.json").write_text(json.dumps(metadata))


def retype(path: Path) -> None:
    shutil.rmtree(path / "actions")
    zarr.create_array(path / "actions", shape=(150,), dtype="float32")


def renumber(path: Path) -> None:
    zarr.open_array(path / "episode_ids", mode="r+")[:] = np.array([0, 2])


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(""), "there is no dataset"),
        (remove("zarr.json"), "not a Zarr v3 group"),
        (overwrite("zarr.json", b"\x80\x04garbage"), "zarr.json is unreadable"),
        (overwrite("zarr.json", b"[1]"), "zarr.json is unreadable"),
        (overwrite("zarr.json", b'{"zarr_format": 3, "node_type": "group"}'), "not a dataset of this program"),
        (overwrite("zarr.json", b'{"zarr_format": 3, "node_type": "array"}'), "a Zarr array"),
        (attribute("format_version", 3), "format version 3, this program reads 1 to 2"),
        (attribute("format_version", 0), "format version 0, this program reads 1 to 2"),
        (attribute("format_version", "2"), "format version 2, this program reads 1 to 2"),
        (unsealed("created", "2026"), "its attributes are not as they were written"),
        (unsealed("committed_steps", 140), "its attributes are not as they were written"),
        (attribute("committed_steps", "many"), "attributes are not whole"),
        (attribute("committed_steps", 151), "observations has 150 of 151"),
        (attribute("committed_episodes", 1), "episode_ends or episode_ids do not cover"),
        (attribute("tokens", {"../../x": 3}), "attributes are not whole"),
        (shorten, "rewards has 149 of 150"),
        (retype, "actions has dtype float32"),
        (remove("truncations"), "truncations cannot be opened"),
        (overwrite("rewards/zarr.json", b"{"), "rewards cannot be opened"),
        (remove("observations/c.1.0.0.0"), "observations lacks 1 chunk, the first is 1"),
        (remove("truncations/c.0"), "truncations lacks 1 chunk"),
        (overwrite("episode_ends/c.0", b"junk"), "episode_ends has unreadable chunks"),
        (remove("episode_ids"), "episode_ids cannot be opened"),
        (overwrite("episode_ids/c.0", b"junk"), "episode_ids has unreadable chunks"),
        (attribute("committed_episodes", 3), "episode_ends has 2 of 3"),
        (renumber, "episode_ids do not cover"),
        (remove("tokens/abc123/c.0.0"), "tokens/abc123 lacks 1 chunk"),
    ],
)
def test_a_damaged_or_foreign_dataset_is_one_clear_error(
    closed: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(closed)
    before = tree(closed)
    for writable in (False, True):
        with pytest.raises(DatasetError, match=message) as caught:
            Dataset.open(closed, writable=writable)
        assert str(closed) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {name: content for name, content in tree(closed).items() if not name.endswith(".lock")} == {
        name: content for name, content in before.items() if not name.endswith(".lock")
    }


@pytest.mark.parametrize("cut", ["half", "empty", "flipped"])
def test_unreadable_chunks_are_told_when_read(closed: Path, cut: str) -> None:
    chunk = closed / "observations/c.1.0.0.0"
    content = chunk.read_bytes()
    flipped = content[:40] + bytes([content[40] ^ 1]) + content[41:]
    chunk.write_bytes({"half": content[: len(content) // 2], "empty": b"", "flipped": flipped}[cut])
    dataset = Dataset.open(closed)

    dataset.read("observations", 0, 64)
    with pytest.raises(DatasetError, match="observations has unreadable chunks"):
        dataset.read("observations", 0, 100)


def test_chunks_of_zeros_are_written(dataset: Dataset, path: Path) -> None:
    fields = {name: np.zeros_like(values) for name, values in steps(0, 130).items()}
    dataset.append(**fields, episode_lengths=[130], episode_ids=[0], writer="run")

    assert len(list((path / "observations").glob("c.*"))) == 3
    assert Dataset.open(path).num_steps == 130


def test_a_file_is_not_a_dataset(tmp_path: Path) -> None:
    file = tmp_path / "pong.zarr"
    file.write_text("frames")
    with pytest.raises(DatasetError, match="not a Zarr v3 group"):
        Dataset.open(file, writable=True)
    with pytest.raises(DatasetError, match="not a Zarr v3 group"):
        Dataset.open_or_create(file, environment=PONG, action_meanings=["NOOP"])
    assert file.read_text() == "frames"


def test_a_dataset_of_a_game_with_achievements_needs_them_and_no_other_does(dataset: Dataset, path: Path) -> None:
    other = path.with_name("crafter.zarr")
    rows = np.array([[0, 0], [1, 0], [1, 1]], bool)
    with Dataset.create(other, environment=PONG, action_meanings=["A"] * 3, achievements=["eat", "sleep"]) as made:
        made.append(**steps(0, 3), achievements=rows, episode_lengths=[3], episode_ids=[0], writer="run")
        with pytest.raises(ShapeError, match="achievements are to be given"):
            made.append(**steps(3, 1), episode_lengths=[1], episode_ids=[1], writer="run")
        with pytest.raises(ShapeError, match=r"achievements must have shape \(1, 2\)"):
            made.append(
                **steps(3, 1), achievements=rows[:1, :1], episode_lengths=[1], episode_ids=[0], writer="run"
            )  # fmt: skip
    with pytest.raises(ShapeError, match="achievements are to be given"):
        dataset.append(**steps(0, 3), achievements=rows, episode_lengths=[3], episode_ids=[0], writer="run")

    opened = Dataset.open(other)

    assert opened.achievements == ["eat", "sleep"]
    assert np.array_equal(opened.read("achievements"), rows)
    assert opened.unlocked().shape == (0, 2)
    assert dataset.achievements == []
