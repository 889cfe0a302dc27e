"""Reading metrics.jsonl while it is written, half-written, or taken back."""

from pathlib import Path

import pytest

from iris_cli.metrics import Follower, is_number, numbers_of, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    return file


def test_there_are_no_lines_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none").lines == []
    assert Follower(tmp_path / "none").look() == ([], False)


def test_a_half_written_last_line_is_not_there_yet(path: Path) -> None:
    whole = path.stat().st_size
    with path.open("a") as file:
        file.write('{"a": 3, "b"')

    found = read_metrics(path)

    assert [line["a"] for line in found.lines] == [1, 2]
    assert (found.end, found.skipped) == (whole, 0)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00\n", b"[1, 2]\n", b'{"a": \n', b"null\n", b"[" * 100_000 + b"\n", b'{"a": 1}}\n']
)
def test_lines_that_are_no_objects_are_counted_and_passed_over(path: Path, garbage: bytes) -> None:
    path.write_bytes(path.read_bytes() + garbage + b'{"a": 3}\n')

    found = read_metrics(path)

    assert [line["a"] for line in found.lines] == [1, 2, 3]
    assert found.skipped == 1
    assert found.end == path.stat().st_size


def test_lines_between_two_places(path: Path) -> None:
    first = len('{"a": 1}\n')

    assert [line["a"] for line in read_metrics(path, first).lines] == [2]
    assert [line["a"] for line in read_metrics(path, 0, first).lines] == [1]
    assert read_metrics(path, 0, first + 3).end == first


def test_a_follower_gives_what_is_new_and_only_once(path: Path) -> None:
    follower = Follower(path)
    assert [line["a"] for line in follower.look()[0]] == [1, 2]
    with path.open("a") as file:
        file.write('{"a": 3}\n{"a"')

    assert follower.look() == ([{"a": 3}], False)
    with path.open("a") as file:
        file.write(": 4}\n")
    assert follower.look() == ([{"a": 4}], False)
    assert follower.look() == ([], False)


def test_a_follower_starts_again_where_lines_were_taken_back(path: Path) -> None:
    follower = Follower(path)
    follower.look()
    path.write_text('{"a": 1}\n{"a": 7}\n{"a": 8}\n')  # as long as before and longer, but another

    lines, anew = follower.look()

    assert anew
    assert [line["a"] for line in lines] == [1, 7, 8]
    path.write_text('{"a": 1}\n')
    assert follower.look() == ([{"a": 1}], True)


def test_numbers_are_finite_and_no_counters() -> None:
    line = {
        "time": 1.0,
        "round": 2,
        "stage": "x",
        "update": 3,
        "loss": 0.5,
        "bad": float("nan"),
        "flag": True,
        "w": "a",
    }

    assert numbers_of(line) == {"loss": 0.5}
    assert numbers_of({"event": "stage", "figures": {"score": 2, "words": "b"}, "seconds": 4}) == {"score": 2.0}
    assert numbers_of({"event": "stage", "figures": 3}) == {}
    assert not is_number(float("inf"))
