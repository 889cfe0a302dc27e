"""Films with a CSV of actions: one row for each frame, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from iris_cli.errors import DatasetError
from iris_cli.formats import video
from iris_cli.formats.recording import Block

N = 12


@pytest.fixture(scope="session")
def _film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey frames of 48x32, each brighter than the one before, as most recorders write them."""
    path = tmp_path_factory.mktemp("film") / "play.mp4"
    writer = imageio_ffmpeg.write_frames(
        str(path), (48, 32), fps=30, macro_block_size=2, output_params=["-movflags", "+faststart"]
    )
    writer.send(None)
    noise = np.random.default_rng(0).integers(0, 10, (N, 32, 48, 3))
    for index in range(N):
        writer.send((noise[index] + 20 * index).astype(np.uint8))
    writer.close()
    return path


@pytest.fixture
def film(_film: Path, tmp_path: Path) -> Path:
    path = tmp_path / "play.mp4"
    path.write_bytes(_film.read_bytes())
    rows(path, "action", *(str(index % 3) for index in range(N)))
    return path


def rows(film: Path, *lines: str) -> Path:
    path = film.with_suffix(".csv")
    path.write_text("\n".join(lines) + "\n")
    return path


def read(film: Path, most_pixels: int = 10_000) -> list[Block]:
    return list(video.read_video(film, film.with_suffix(".csv"), most_pixels=most_pixels).blocks)


def test_each_row_meets_its_frame(film: Path) -> None:
    [block] = read(film)

    means = [float(image.mean()) for image in block.images]
    assert block.images[0].shape == (32, 48, 3)
    assert np.allclose(means, 4.5 + 20 * np.arange(N), atol=4)
    assert block.actions.tolist() == [index % 3 for index in range(N)]
    assert not block.rewards.any()
    assert block.lengths == (N,)


def test_films_are_read_in_blocks(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "BLOCK_BYTES", 5 * 32 * 48 * 3)

    blocks = read(film)

    assert [len(block.images) for block in blocks] == [5, 5, 2]
    assert [block.continues for block in blocks] == [False, True, True]


def test_all_columns_are_read_in_any_order_and_spelling(film: Path) -> None:
    lines = [f"{i // 4}, {i / 2},{'True' if i == 2 else 'false'},{int(i == 9)},{i % 3}" for i in range(N)]
    rows(film, "Episode,REWARD,terminated,truncated,action", *lines)

    [block] = read(film)

    assert block.lengths == (3, 1, 4, 2, 2)
    assert np.array_equal(block.rewards, np.arange(N) / 2)
    assert np.flatnonzero(block.terminations).tolist() == [2]
    assert np.flatnonzero(block.truncations).tolist() == [9]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "first line"),
        (["action"], "no rows"),
        (["button", "1"], "first line"),
        (["action,action", "1,1"], "first line"),
        (["action,sum", "1,1"], "first line"),
        (["action"] + ["1"] * (N - 1), "12 frames, but play.csv 11 rows|more frames"),
        (["action"] + ["1"] * (N + 1), "12 frames, but play.csv 13 rows"),
        (["action,reward"] + ["1"] * N, "1 values, but 2 columns"),
        (["action"] + ["1,2"] * N, "2 values, but 1 columns"),
        (["action"] + ["1"] * 3 + ["-1"] * 9, "action -1 of step 3"),
        (["action"] + ["1.5"] * N, "whole number"),
        (["action"] + ["1e3"] * N, "whole number"),
        (["action"] + ["NOOP"] * N, "whole number"),
        (["action"] + ["9" * 30] * N, "whole number"),
        (["action"] + ["100000"] * N, "action 100000"),
        (["action,reward"] + ["1,nan"] * N, "not finite"),
        (["action,reward"] + ["1,inf"] * N, "not finite"),
        (["action,reward"] + ["1,1e99"] * N, "not finite"),
        (["action,reward"] + ["1,"] * N, "could not convert"),
        (["action,terminated"] + ["1,maybe"] * N, "0 or 1"),
        (["action,episode"] + ["1,first"] * N, "episode is 'first'"),
        (["action", "1" * 5000], "4,096 characters"),
        (["action", '"' + "1\n" * 100], "rows cannot be read"),
        (["action", "1\x00"], "rows cannot be read"),
    ],
)
def test_rows_that_do_not_fit_are_refused(film: Path, lines: list[str], said: str) -> None:
    rows(film, *lines)

    with pytest.raises(DatasetError, match=said) as raised:
        read(film)

    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()


def test_the_line_that_is_wrong_is_named(film: Path) -> None:
    rows(film, "action", "1", "2", "x", "1")

    with pytest.raises(DatasetError, match=r"play\.csv:4"):
        read(film)


def test_rows_of_no_text_are_refused(film: Path) -> None:
    film.with_suffix(".csv").write_bytes(b"action\n\xff\xfe\n")

    with pytest.raises(DatasetError, match="rows cannot be read"):
        read(film)


def test_missing_rows_are_named(film: Path) -> None:
    film.with_suffix(".csv").unlink()

    with pytest.raises(DatasetError, match="--csv"):
        read(film)


def damage(path: Path, change: Callable[[bytearray], Any]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def noise(content: bytearray) -> None:
    start = content.index(b"mdat") + 600
    content[start : start + 400] = np.random.default_rng(0).bytes(400)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.clear(),
        lambda content: content.__delitem__(slice(len(content) * 2 // 3, None)),
        lambda content: content.__delitem__(slice(0, 40)),
        noise,
    ],
    ids=["empty", "cut", "headless", "noise"],
)
def test_a_damaged_film_is_refused(film: Path, change: Callable[[bytearray], Any]) -> None:
    damage(film, change)

    with pytest.raises(DatasetError, match=r"cannot be decoded|frames, but"):
        read(film)


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile other.mp4\n"],
    ids=["playlist", "concat"],
)
def test_a_list_of_other_files_is_no_film(film: Path, text: str) -> None:
    film.rename(film.with_name("other.mp4"))
    film.write_text(text)

    with pytest.raises(DatasetError, match="cannot be decoded"):
        read(film)


def test_pictures_that_are_too_large_are_not_decoded(film: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be decoded"):
        read(film, most_pixels=1000)


@pytest.mark.parametrize("name", ["-y.mp4", "concat:a|b.mp4", "http:x.mp4", "a b'%d.mp4"])
def test_a_strange_name_is_only_a_name(film: Path, name: str) -> None:
    strange = film.with_name(name)
    film.rename(strange)
    film.with_suffix(".csv").rename(strange.with_suffix(".csv"))

    assert sum(len(block.images) for block in read(strange)) == N


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_a_film_that_is_left_ends_its_decoder(film: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))

    frames = video._frames(film, 10_000)
    next(frames)
    frames.close()

    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    block = Block(
        images=draws.integers(0, 256, (N, 64, 64, 3), np.uint8), actions=draws.integers(0, 4, N),
        rewards=draws.normal(size=N).astype(np.float32), terminations=np.arange(N) == N - 1,
        truncations=np.zeros(N, bool), lengths=(N,),
    )  # fmt: skip
    writer = video.FilmWriter(tmp_path / "o.mp4", tmp_path / "o.csv", size=(64, 64), fps=15, lossless=True)
    writer.write(block, 0)
    writer.close()

    [again] = read(tmp_path / "o.mp4")

    assert np.array_equal(np.stack(list(again.images)), block.images)
    for name in ("actions", "rewards", "terminations", "truncations"):
        assert np.array_equal(getattr(again, name), getattr(block, name)), name
