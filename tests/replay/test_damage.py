"""Every damage to a dataset is found by `Dataset.examine`; `Dataset.repair` mends what needs no guess, no more."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iris_cli.errors import DatasetError
from iris_cli.replay.dataset import Dataset

ENVIRONMENT = {"id": "ALE/Pong-v5"}
TOKENS = np.arange(150 * 4).reshape(150, 4) % 500


def append(dataset: Dataset, steps: int, *, extends: bool = False) -> None:
    start = dataset.num_steps
    index = np.arange(start, start + steps)
    dataset.append(
        observations=np.broadcast_to((index % 251)[:, None, None, None], (steps, 64, 64, 3)).astype(np.uint8),
        actions=index % 3, rewards=index.astype(np.float32), terminations=np.zeros(steps, bool),
        truncations=np.zeros(steps, bool), episode_lengths=[steps], episode_ids=[dataset.num_episodes - extends],
        writer="run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 150 steps with the tokens of two tokenizers."""
    path = tmp_path_factory.mktemp("template") / "pong.zarr"
    with Dataset.create(path, environment=ENVIRONMENT, action_meanings=["NOOP", "UP", "DOWN"]) as dataset:
        append(dataset, 150)
        dataset.write_tokens("aaa", 0, TOKENS)
        dataset.write_tokens("bbb", 0, TOKENS)
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "pong.zarr")
    return tmp_path / "pong.zarr"


def wrong(path: Path) -> list[str]:
    return [finding.part for finding in Dataset.examine(path) if finding.is_wrong]


def contents(path: Path) -> dict[str, bytes]:
    """Every file but the lock, which names whoever wrote last."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def flip(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (path / name).write_bytes(content)


def stopped_append(path: Path) -> None:
    """As a process leaves it that was killed just before the commit."""
    attributes = (path / "zarr.json").read_bytes()
    with Dataset.open(path, writable=True) as dataset:
        append(dataset, 90, extends=True)
    (path / "zarr.json").write_bytes(attributes)
    (path / "rewards" / "c.0.1234.partial").write_bytes(b"half")


def stopped_tokens(path: Path) -> None:
    attributes = (path / "zarr.json").read_bytes()
    with Dataset.open(path, writable=True) as dataset:
        dataset.write_tokens("ccc", 0, TOKENS[:64])
    (path / "zarr.json").write_bytes(attributes)


def test_a_dataset_as_it_was_written_is_whole_and_nothing_is_to_be_mended(path: Path) -> None:
    before = contents(path)

    assert wrong(path) == []
    assert Dataset.repair(path) == []
    assert contents(path) == before


CHUNKS = ["observations/c.1.0.0.0", "actions/c.0", "rewards/c.0", "terminations/c.0", "truncations/c.0",
          "episode_ends/c.0", "episode_ids/c.0"]  # fmt: skip


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("damage", [flip, lambda path, name: (path / name).unlink()])
def test_a_damaged_chunk_of_steps_is_found_and_never_guessed(
    path: Path, chunk: str, damage: Callable[[Path, str], None]
) -> None:
    damage(path, chunk)
    before = contents(path)

    assert chunk.split("/")[0] in wrong(path)
    with pytest.raises(DatasetError, match=r"cannot be brought back.*Nothing was changed"):
        Dataset.repair(path)
    assert contents(path) == before


def test_the_place_of_the_damage_is_named(path: Path) -> None:
    flip(path, "observations/c.1.0.0.0")

    [found] = [finding for finding in Dataset.examine(path) if finding.is_wrong]

    assert (found.part, found.found) == (
        "observations",
        "one of its chunks is damaged, the first holds 64 to 127 of 150",
    )


@pytest.mark.parametrize("damage", [flip, lambda path, name: (path / name).unlink()])
def test_damaged_tokens_are_dropped_and_others_stay(path: Path, damage: Callable[[Path, str], None]) -> None:
    damage(path, "tokens/aaa/c.0.0")
    assert wrong(path) == ["tokens/aaa"]

    [done] = Dataset.repair(path)

    assert "dropped tokens/aaa" in done
    assert "iris tokenize" in done
    assert wrong(path) == []
    dataset = Dataset.open(path)
    assert (dataset.read_tokens("aaa"), dataset.num_steps) == (None, 150)
    assert np.array_equal(dataset.read_tokens("bbb"), TOKENS)
    assert not (path / "tokens" / "aaa").exists()


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (stopped_append, ["removed observations: 90 beyond the 150", "removed rewards/c.0.1234.partial: half a file"]),
        (stopped_tokens, ["removed tokens/ccc: tokens never committed"]),
    ],
)
def test_what_was_never_committed_is_cut_away(path: Path, leave: Callable[[Path], None], said: list[str]) -> None:
    expected = contents(path)
    leave(path)
    left = contents(path)
    assert wrong(path) == []  # it does no harm

    planned = Dataset.repair(path, dry_run=True)
    assert contents(path) == left
    done = Dataset.repair(path)

    assert done == planned
    assert all(any(words in sentence for sentence in done) for words in said), done
    assert Dataset.repair(path) == []
    assert set(contents(path)) == set(expected)
    dataset = Dataset.open(path, writable=True)
    with dataset:
        append(dataset, 10, extends=True)
    assert Dataset.open(path).read("rewards").tolist() == list(range(160))


def test_nobody_repairs_what_another_writes(path: Path) -> None:
    stopped_append(path)
    with Dataset.open(path, writable=True):
        before = contents(path)
        with pytest.raises(DatasetError, match=f"process {os.getpid()} is writing"):
            Dataset.repair(path)
        assert contents(path) == before


def test_what_is_committed_is_on_the_disk_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that an append changed was flushed, all others before the attributes."""
    flushed: list[str] = []
    monkeypatch.setattr("iris_cli.replay.arrays.flush", lambda file: flushed.append(str(Path(file).relative_to(path))))
    before = contents(path)
    with Dataset.open(path, writable=True) as dataset:
        append(dataset, 90, extends=True)
    changed = {name for name, content in contents(path).items() if before.get(name) != content}

    assert changed <= set(flushed)
    assert flushed[-2:] == ["zarr.json", "."]
    assert flushed.index("zarr.json") == len(flushed) - 2
