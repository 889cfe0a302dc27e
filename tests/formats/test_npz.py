"""npz files: what they give, and what is refused before it is unpacked."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_cli.errors import DatasetError
from iris_cli.formats import npz
from iris_cli.formats.recording import MAX_ACTIONS

N = 10


def fields(**changes: Any) -> dict[str, np.ndarray]:
    """Ten steps in two episodes."""
    values = {
        "observations": np.arange(N * 12, dtype=np.uint8).reshape(N, 2, 2, 3),
        "actions": np.arange(N) % 3,
        "rewards": np.arange(N) / 2,
        "terminations": np.arange(N) == 3,
        "truncations": np.zeros(N, bool),
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def read(path: Path) -> list[Any]:
    return list(npz.read_npz(path, most_values=1000).blocks)


def saved(tmp_path: Path, save: Callable[..., None] = np.savez_compressed, **changes: Any) -> Path:
    save(tmp_path / "x.npz", **fields(**changes))
    return tmp_path / "x.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("block_bytes", [12, 40, 1 << 20])
def test_blocks_of_any_size_make_up_the_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None], block_bytes: int
) -> None:
    monkeypatch.setattr(npz, "BLOCK_BYTES", block_bytes)

    recording = npz.read_npz(saved(tmp_path, save), most_values=1000)
    blocks = list(recording.blocks)

    given = fields()
    assert np.array_equal(np.concatenate([block.images for block in blocks]), given["observations"])
    for name in ("actions", "rewards", "terminations", "truncations"):
        assert np.array_equal(np.concatenate([getattr(block, name) for block in blocks]), given[name])
    assert (recording.num_steps, recording.num_actions) == (N, 3)
    assert max(len(block.actions) for block in blocks) == max(1, min(N, block_bytes // 12))
    ends, total = [], 0
    for block in blocks:
        assert sum(block.lengths) == len(block.actions)
        assert block.continues == (total not in (0, 4))
        for length in block.lengths:
            total += length
            ends.append(total)
    assert set(ends) >= {4, 10}


def test_episodes_may_end_without_a_flag(tmp_path: Path) -> None:
    [block] = read(saved(tmp_path, episode_ends=np.array([4, 7, 10])))

    assert block.lengths == (4, 3, 3)


def test_memory_stays_bounded_while_frames_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 2000
    np.savez_compressed(
        tmp_path / "long.npz", observations=np.zeros((steps, 64, 64, 3), np.uint8), actions=np.zeros(steps, int),
        rewards=np.zeros(steps), terminations=np.zeros(steps, bool), truncations=np.zeros(steps, bool),
    )  # fmt: skip
    monkeypatch.setattr(npz, "BLOCK_BYTES", 1 << 20)
    tracemalloc.start()

    for block in npz.read_npz(tmp_path / "long.npz", most_values=1 << 20).blocks:
        assert len(block.images) <= 85

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20  # the frames are 24 MB


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": None}, "lacks actions"),
        ({"observations": None}, "lacks observations"),
        ({"surprise": np.zeros(3)}, "holds surprise"),
        ({"actions": np.arange(N - 1)}, "rewards have shape"),
        ({"actions": np.arange(N) % 3 - 1}, "action -1 of step 0"),
        ({"actions": (np.arange(N) % 3).astype(float)}, "whole numbers"),
        ({"actions": np.zeros(N, bool)}, "whole numbers"),
        ({"actions": np.zeros((N, 2), int)}, "one value for each step"),
        ({"actions": np.full(N, MAX_ACTIONS)}, f"action {MAX_ACTIONS}"),
        ({"actions": np.full(N, 2**64 - 1, np.uint64)}, "not in 0 to"),
        ({"actions": np.array(["a"] * N)}, "not numbers"),
        ({"rewards": np.full(N, np.nan)}, "reward of step 0 is nan"),
        ({"rewards": np.full(N, np.inf)}, "not finite"),
        ({"rewards": np.full(N, 1e300)}, "not finite"),
        ({"rewards": np.zeros(N, complex)}, "not numbers"),
        ({"rewards": np.zeros(N, bool)}, "must be numbers"),
        ({"terminations": np.full(N, 2)}, "true or false"),
        ({"terminations": np.zeros(N)}, "true or false"),
        ({"truncations": np.zeros(N + 1, bool)}, "truncations have shape"),
        ({"observations": np.zeros((N, 2, 2, 3))}, "must be uint8"),
        ({"observations": np.zeros((N, 2), np.uint8)}, "must be uint8"),
        ({"observations": np.zeros((N - 1, 2, 2, 3), np.uint8)}, "9 observations, but 10 actions"),
        ({"observations": np.zeros((N, 0, 2, 3), np.uint8)}, "cannot be frames"),
        ({"observations": np.zeros((N, 2, 2000, 3), np.uint8)}, "cannot be frames"),
        ({"observations": np.asfortranarray(np.zeros((N, 2, 2, 3), np.uint8))}, "Fortran"),
        ({"episode_ends": np.array([4, 9])}, "must rise"),
        ({"episode_ends": np.array([4, 4, 10])}, "must rise"),
        ({"episode_ends": np.array([-1, 10])}, "must rise"),
        ({"episode_ends": np.array([5, 10])}, "step 3 ends an episode"),
        ({"episode_ends": np.array([4.0, 10.0])}, "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read(saved(tmp_path, **changes))


class Code:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("field", ["observations", "actions", "episode_ends"])
def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path, field: str) -> None:
    path = saved(tmp_path, **{field: np.array([Code(tmp_path / "executed")] * N, object)})

    with pytest.raises(DatasetError, match="run code"):
        read(path)

    assert not (tmp_path / "executed").exists()


def archive(path: Path, **members: bytes) -> Path:
    """An npz whose members are these bytes; the others are as they should be."""
    np.savez(path, **fields())
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content |= {f"{name}.npy": value for name, value in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in content.items():
            file.writestr(name, value)
    return path


def npy(array: np.ndarray, *, shape: tuple[int, ...] | None = None) -> bytes:
    """An .npy file, whose header may say another shape."""
    out = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        npy(np.zeros(N, np.uint8), shape=(N, 2, 2, 3)),
        npy(np.zeros(N, np.uint8), shape=(10**6, 10**6, 10**6)),
        npy(np.zeros(N, np.uint8), shape=(-1, -10)),
        npy(np.zeros(N, np.uint8))[:40],
        b"\x93NUMPY\x09\x00" + b"x" * 50,
        b"\x93NUMPY\x01\x00\x40\x00__import__('os').system('touch executed')",
        b"garbage",
        b"",
    ],
    ids=["too few", "huge", "negative", "cut", "version", "code", "garbage", "empty"],
)
@pytest.mark.parametrize("field", ["observations", "actions"])
def test_headers_that_lie_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DatasetError):
        read(archive(tmp_path / "x.npz", **{field: content}))

    assert not (tmp_path / "executed").exists()


def test_an_archive_made_to_harm_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "HARMLESS_BYTES", 1 << 20)
    path = saved(tmp_path, observations=np.zeros((N, 1000, 1000, 3), np.uint8))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))

    with pytest.raises(DatasetError, match="made to harm"):
        read(path)


def test_a_directory_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.savez)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.index(b"observations.npy", content.index(b"PK\x01\x02")))
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)  # its size, unpacked
    path.write_bytes(content)

    with pytest.raises(DatasetError, match="made to harm"):
        read(path)


@pytest.mark.parametrize("keep", [0, 10, 400, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])

    with pytest.raises(DatasetError, match="no npz file"):
        read(path)


def test_frames_that_are_not_those_of_the_checksum_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.savez)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(12))) + 5] ^= 1
    path.write_bytes(content)

    with pytest.raises(DatasetError, match="CRC"):
        read(path)


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("actions.npy", npy(np.zeros(N, np.int64)))

    with pytest.raises(DatasetError, match="twice"):
        read(path)
