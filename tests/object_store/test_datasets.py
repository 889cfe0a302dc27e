"""A dataset in an object store is one on disk: the same content, whole after a cut anywhere, few requests."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import ObjectStore

from iris_cli.errors import DatasetError, IrisError, StoreError
from iris_cli.object_store import StoreURL, client_of, listing, put, remove
from iris_cli.replay.dataset import Dataset
from iris_cli.stages.repair import repair
from iris_cli.stages.verify import verify

PONG = {"id": "ALE/Pong-v5", "frame_skip": 4, "clip_rewards": False}


def create(place: StoreURL | Path) -> Dataset:
    return Dataset.create(place, environment=PONG, action_meanings=["A", "B", "C"])


def append(dataset: Dataset, count: int, *, over: bool = True) -> None:
    """Steps whose values follow from their index, of one episode that goes on with an unfinished one."""
    start = dataset.num_steps
    index = np.arange(start, start + count)
    goes_on = start > 0 and not dataset.read("terminations", start - 1)[0]
    dataset.append(
        observations=np.broadcast_to((index % 251)[:, None, None, None], (count, 64, 64, 3)).astype(np.uint8),
        actions=index % 3, rewards=(index % 7 - 3).astype(np.float32),
        terminations=(index == start + count - 1) & over, truncations=np.zeros(count, bool),
        episode_lengths=[count], episode_ids=[dataset.num_episodes - goes_on], writer="run",
    )  # fmt: skip


def tokens(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count)[:, None] % 97 + np.arange(4)


def assert_same(one: Dataset, other: Dataset) -> None:
    own = ("created", "digest")
    attributes = [{k: v for k, v in each.attributes.items() if k not in own} for each in (one, other)]
    assert attributes[0] == attributes[1]
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(one.read(name), other.read(name), err_msg=name)
    for fingerprint in one.attributes["tokens"]:
        np.testing.assert_array_equal(one.read_tokens(fingerprint), other.read_tokens(fingerprint))
    np.testing.assert_array_equal(one.episode_ends, other.episode_ends)
    np.testing.assert_array_equal(one.episode_ids, other.episode_ids)
    np.testing.assert_array_equal(one.scores(), other.scores())


def test_it_holds_what_one_on_disk_holds(bucket: StoreURL, tmp_path: Path) -> None:
    url, path = bucket / "pong.zarr", tmp_path / "pong.zarr"
    for place in (url, path):
        with create(place) as dataset:
            append(dataset, 70)
            append(dataset, 30, over=False)
            dataset.write_tokens("abc", 0, tokens(0, 90))
        with Dataset.open(place, writable=True) as dataset:
            append(dataset, 100, over=False)
            dataset.rewind(150, writer="run")
            append(dataset, 20)
            dataset.write_tokens("abc", 90, tokens(90, 60))

    assert_same(Dataset.open(str(url)), Dataset.open(path))
    assert Dataset.open(url).summary()["size_bytes"] > 0
    group = zarr.open_group(ObjectStore(client_of(url)), mode="r")  # with any Zarr library
    assert group["observations"].shape == (170, 64, 64, 3)
    assert group["tokens/abc"].shape == (150, 4)


def test_an_append_takes_few_requests_however_long_the_dataset(bucket: StoreURL, line) -> None:  # type: ignore[no-untyped-def]
    counts = []
    with create(bucket / "pong.zarr") as dataset:
        for _ in range(3):
            line.requests.clear()
            append(dataset, 1000)
            counts.append(len(line.requests))
        line.requests.clear()
        dataset.write_tokens("abc", 0, tokens(0, 1024))
        dataset.write_tokens("abc", 1024, tokens(1024, 1024))

    assert max(counts) <= 40, counts  # 16 of them frames; at most 8 at once, so that about 12 wait for each other
    assert counts[2] <= counts[0] + 2
    assert len(line.requests) <= 20


def test_a_cut_at_any_request_leaves_what_was_committed(bucket: StoreURL, line, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The line is cut in the middle of every fifth request that writes, up to the one that commits."""
    monkeypatch.setenv("IRIS_STORE_SECONDS", "0")
    url = bucket / "pong.zarr"
    with create(url) as dataset:
        append(dataset, 100, over=False)
        dataset.write_tokens("abc", 0, tokens(0, 100))
    for work, committed in (
        (lambda dataset: append(dataset, 100), lambda dataset: dataset.num_steps),
        (lambda dataset: dataset.write_tokens("def", 0, tokens(0, 100)), lambda dataset: dataset.tokens_length("def")),
    ):
        for allowed in range(0, 100, 5):
            seen: list[str] = []

            def is_next(request: str, allowed: int = allowed, seen: list[str] = seen) -> bool:
                seen.extend([request] if request.startswith("PUT") else [])
                return request.startswith("PUT") and len(seen) > allowed

            dataset = Dataset.open(url, writable=True)
            before = committed(dataset)
            line.cut_at = is_next
            with suppress(StoreError):
                work(dataset)
            dataset.close()
            over = len(seen) <= allowed
            if not over:
                line.join()
            line.cut_at = lambda request: False

            found = Dataset.open(url)
            assert committed(found) == (before + 100 if over else before)
            index = np.arange(found.num_steps)
            np.testing.assert_array_equal(found.read("observations")[:, 5, 6, 0], index % 251)
            np.testing.assert_array_equal(found.read("rewards"), (index % 7 - 3).astype(np.float32))
            np.testing.assert_array_equal(found.read_tokens("abc"), tokens(0, 100))
            assert found.episode_ends[-1] == found.num_steps
            if over:
                break
        assert allowed > 3


def test_a_cut_while_it_is_made_leaves_none_and_the_next_try_makes_it(bucket: StoreURL, line, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("IRIS_STORE_SECONDS", "0")
    url = bucket / "pong.zarr"
    for what in ("rewards/zarr.json", "pong.zarr/zarr.json"):
        seen: list[str] = []

        def is_it(request: str, what: str = what, seen: list[str] = seen) -> bool:
            seen.append(request)
            return request.startswith("PUT") and request.endswith(what) and "rewards/zarr.json" in "".join(seen)

        line.cut_at = is_it
        with pytest.raises(StoreError):
            create(url)
        line.join()

        assert not Dataset.exists(url)
        with pytest.raises(DatasetError):
            Dataset.open(url)
    with Dataset.open_or_create(url, environment=PONG, action_meanings=["A", "B", "C"]) as dataset:
        append(dataset, 3)
    assert Dataset.open(url).num_steps == 3


def test_what_lies_there_already_is_not_touched(bucket: StoreURL) -> None:
    with create(bucket / "data" / "pong.zarr"):
        pass
    before = listing(bucket)

    for place in (bucket / "data", bucket / "data" / "pong.zarr"):
        with pytest.raises(DatasetError, match="something is there already"):
            create(place)

    assert listing(bucket) == before


def test_a_missing_object_is_damage_and_not_zeros(bucket: StoreURL) -> None:
    url = bucket / "pong.zarr"
    with create(url) as dataset:
        append(dataset, 100)
    remove([url / "observations" / "c.1.0.0.0"])

    with pytest.raises(DatasetError, match="observations lacks 1 chunk"):
        Dataset.open(url)


def test_verify_and_repair_reach_into_the_store(bucket: StoreURL) -> None:
    url = bucket / "pong.zarr"
    with create(url) as dataset:
        append(dataset, 100)
        dataset.write_tokens("abc", 0, tokens(0, 100))
    assert not any(finding.is_wrong for finding in verify(url))
    put(url / "tokens" / "abc" / "c.0.0", b"garbage")
    put(url / "tokens" / "def" / "c.0.0", b"never committed")

    assert [finding.part for finding in verify(url) if finding.is_wrong] == ["tokens/abc"]
    assert len(repair(url)) == 2
    assert not any(name.startswith("tokens/") and "c.0" in name for name in listing(url))
    assert not any(finding.is_wrong for finding in verify(url))
    assert Dataset.open(url).num_steps == 100


def test_requests_go_on_when_the_server_is_back(bucket: StoreURL, line, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("IRIS_STORE_SECONDS", "20")
    with create(bucket / "pong.zarr") as dataset:
        append(dataset, 100)
        line.cut_at = lambda request: request.startswith("PUT") and "observations/c.1" in request
        back = threading.Timer(0.8, line.join)
        threading.Thread(target=lambda: (_until(lambda: line.is_cut), back.start())).start()
        append(dataset, 100)

    assert Dataset.open(bucket / "pong.zarr").num_steps == 200
    notes = capsys.readouterr().err
    assert 1 <= notes.count("trying again in") <= 3  # one for all that were under way
    assert str(bucket / "pong.zarr") in notes


def test_of_two_machines_one_may_write(bucket: StoreURL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket / "pong.zarr"
    with create(url) as mine:
        append(mine, 10)
        with pytest.raises(DatasetError, match="is writing to the dataset"):
            Dataset.open(url, writable=True)
        monkeypatch.setenv("IRIS_CACHE", str(tmp_path / "another-machine"))
        with Dataset.open(url, writable=True) as theirs:
            append(theirs, 5)
            for work in (lambda: append(mine, 10), lambda: mine.write_tokens("abc", 0, tokens(0, 10))):
                with pytest.raises(DatasetError, match="somebody else has written"):
                    work()
            with pytest.raises(IrisError, match="somebody else wrote here"):
                mine.rewind(5, writer="run")

    found = Dataset.open(url)
    assert found.num_steps == 15
    np.testing.assert_array_equal(found.read("actions"), np.arange(15) % 3)


def _until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")
