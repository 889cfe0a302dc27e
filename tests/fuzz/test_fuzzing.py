"""The harness itself: each thing that an input must not do is seen, and the same seed tries the same inputs."""

import io
import json
import os
import pickle
import random
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzzing
import numpy as np
import pytest
from fuzzing import Prepared, Sandbox, Target, fuzz, mutate_bytes, mutate_json, mutate_yaml, mutate_zip

from iris_cli.errors import ConfigError


def target(parse: Callable[[bytes], object], **settings: bool) -> Target:
    return Target("t", lambda folder: Prepared([b"seed"], parse), mutate_bytes, **settings)


def crash_of(sandbox: Sandbox, parse: Callable[[bytes], object], **settings: bool) -> fuzzing.Crash | None:
    one = target(parse, **settings)
    return sandbox.attempt(one, Prepared([], parse), b"x")


class Evil:
    def __reduce__(self) -> tuple:
        return os.getcwd, ()


def write(path: str) -> Callable[[bytes], object]:
    return lambda data: Path(path).write_bytes(data)


def fail(error: BaseException) -> Callable[[bytes], object]:
    def parse(data: bytes) -> None:
        raise error

    return parse


@pytest.mark.parametrize(
    "parse",
    [
        fail(ValueError("x")), fail(RecursionError()), fail(MemoryError()), fail(SystemExit(0)), fail(AssertionError()),
        write("../escape"), write("/tmp/iris-fuzz-escape"), lambda data: Path("../up").mkdir(),
        lambda data: Path("a").symlink_to("/etc"), lambda data: os.rename(__file__, "here"),
        lambda data: subprocess.run(["true"]), lambda data: os.system("true"),
        lambda data: pickle.loads(pickle.dumps(Evil())),
        lambda data: socket.create_connection(("127.0.0.1", 9), timeout=0.1),
        lambda data: np.load(io.BytesIO(_objects()), allow_pickle=True),
    ],
)  # fmt: skip
def test_what_an_input_must_not_do_is_seen(sandbox: Sandbox, parse: Callable[[bytes], object]) -> None:
    assert crash_of(sandbox, parse) is not None
    assert not Path("/tmp/iris-fuzz-escape").exists()


def _objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_what_it_may_do_is_none(sandbox: Sandbox) -> None:
    def parse(data: bytes) -> None:
        Path("folder").mkdir()
        Path("folder/file").write_bytes(data)
        Path("folder/file").rename("other")
        with tempfile.TemporaryDirectory() as place:
            Path(place, "x").touch()
        raise ConfigError("it is wrong")

    assert crash_of(sandbox, parse) is None
    assert list(sandbox.place.iterdir()) == []


def test_what_is_hidden_by_a_broad_except_is_seen(sandbox: Sandbox) -> None:
    def parse(data: bytes) -> None:
        try:
            Path("../escape").write_bytes(data)
        except BaseException:
            raise ConfigError("it is wrong") from None

    crash = crash_of(sandbox, parse)

    assert crash is not None
    assert crash.kind == "_Forbidden"


def test_ffmpeg_may_be_run_where_that_is_how_it_works(sandbox: Sandbox) -> None:
    assert crash_of(sandbox, lambda data: subprocess.run(["true"]), may_spawn=True) is None


def test_time_and_memory_without_end_are_seen(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.05)
    monkeypatch.setattr(fuzzing, "MEMORY", 1 << 28)
    sandbox.limit_memory()

    def spin(data: bytes) -> None:
        while True:
            pass

    slow, large = crash_of(sandbox, spin), crash_of(sandbox, lambda data: bytearray(1 << 30))

    assert slow is not None
    assert slow.kind == "_TooSlow"
    assert large is not None
    assert large.kind == "MemoryError"


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_json, mutate_yaml, mutate_zip(mutate_bytes)])
def test_the_same_seed_makes_the_same_changes_and_they_change_something(mutate: fuzzing.Mutate) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(zipfile.ZipInfo("a.npy"), b"content")
    seed = archive.getvalue() if mutate not in (mutate_json, mutate_yaml) else b'{"a": [1, {"b": "c"}], "d": null}'

    one, two = ([mutate(seed, draws) for _ in range(30)] for draws in (random.Random(7), random.Random(7)))

    assert len(set(one)) > 15
    if mutate in (mutate_bytes, mutate_json, mutate_yaml):  # archives carry the time
        assert one == two


def test_numbers_of_any_size_can_be_changed() -> None:
    draws = random.Random(0)

    for _ in range(300):
        mutate_json(json.dumps({"a": 10**400, "b": [-(10**40), 1e308, "x"]}).encode(), draws)


def test_a_run_reports_each_kind_of_crash_once(root: Path) -> None:
    def parse(data: bytes) -> None:
        if data != b"seed":
            raise KeyError(data[:3])

    tried, crashes = fuzz(target(parse), seed=0, inputs=20, root=root)

    assert tried == 20
    assert [(crash.kind, crash.where) for crash in crashes] == [("KeyError", "test_fuzzing.py:parse")]
    assert fuzz(target(parse), seed=0, inputs=20, root=root)[1][0].data == crashes[0].data
