"""Pictures hold what they should: every frame, its colours, and the marks of rewards and ends."""

from io import BytesIO
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from iris_cli.errors import ConfigError, ShapeError
from iris_cli.render import BACKGROUND, END, GAIN, GAP, LOSS, Column, Film, compose, frames_of, png, tiles, write_media

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def flat(colour: tuple[int, int, int], steps: int) -> np.ndarray:
    """(steps, 64, 64, 3) frames of one colour, a white dot moving along the top so that no two are the same."""
    frames = np.full((steps, 64, 64, 3), colour, dtype=np.uint8)
    frames[np.arange(steps), 0, np.arange(steps)] = 255
    return frames


def film(steps: int = 12, **imagined: np.ndarray) -> Film:
    return Film(
        columns=(
            Column(label="real", frames=flat(RED, steps)),
            Column(label="reconstruction", frames=flat(GREEN, steps)),
            Column(label="imagined", frames=flat(BLUE, steps), **imagined),
        ),
        actions=("NOOP",) * (steps - 1),
    )


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


def centres(picture: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the three panels of a one-row picture."""
    width = picture.shape[1]
    return [tuple(picture[picture.shape[0] // 2, width * part // 6].tolist()) for part in (1, 3, 5)]


def test_columns_stand_side_by_side_and_films_one_under_another() -> None:
    one, two = compose([film()]), compose([film(), film()])

    assert centres(one[0]) == [RED, GREEN, BLUE]
    assert two.shape[2] == one.shape[2]
    assert two.shape[1] > one.shape[1] + 256


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
def test_sizes_are_even_at_every_scale(scale: int) -> None:
    frames = compose([film(3), film(3)], scale=scale)

    assert frames.dtype == np.uint8
    assert frames.shape[1] % 2 == 0
    assert frames.shape[2] % 2 == 0


def test_pixels_are_repeated_and_never_smoothed() -> None:
    noise = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    frames = compose([Film(columns=(Column(label="real", frames=noise),))], scale=4)

    enlarged = noise[1].repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(frames[1], enlarged.shape)
    assert (windows[:, 8, 0] == enlarged).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(("reward", "colour"), [(1.0, GAIN), (-1.0, LOSS)])
def test_a_reward_is_marked_when_it_comes_and_not_before(reward: float, colour: tuple[int, int, int]) -> None:
    rewards = np.zeros(12, dtype=np.float32)
    rewards[5] = reward

    frames = compose([film(rewards=rewards)])

    assert [has(frame, colour) for frame in frames] == [False] * 5 + [True] * 7


def test_an_end_is_marked_and_the_rest_of_its_column_held_and_dimmed() -> None:
    ends = np.zeros(12, dtype=bool)
    ends[5] = True

    frames = compose([film(ends=ends)])

    assert [has(frame, END) for frame in frames] == [False] * 5 + [True] * 7
    assert centres(frames[5]) == [RED, GREEN, BLUE]
    assert centres(frames[6]) == [RED, GREEN, tuple(value // 2 for value in BLUE)]


def test_a_shorter_film_holds_its_last_frame_until_the_longest_ends() -> None:
    frames = compose([film(4), film(9)])

    top = slice(0, frames.shape[1] // 2)
    assert len(frames) == 9
    assert has(frames[3, top], RED)
    assert not has(frames[4, top], RED)
    assert (frames[4, top] == frames[8, top]).all()


def test_steps_actions_and_labels_are_written() -> None:
    frames = compose([film()])

    assert (frames[0, :20] != BACKGROUND).any()
    below = frames[:, -28:, :256]
    assert (below[3] != below[4]).any()


def test_mp4_gives_back_every_frame_at_its_size_and_colour(tmp_path: Path) -> None:
    frames = compose([film()])

    path = write_media(frames, tmp_path / "new" / "dream.mp4", fps=10)

    with imageio.get_reader(path) as reader:
        read, meta = np.stack([*reader.iter_data()]), reader.get_meta_data()
    assert read.shape == frames.shape
    assert (meta["fps"], meta["codec"], meta["pix_fmt"].split("(")[0]) == (10, "h264", "yuv420p")
    assert np.abs(np.subtract(centres(read[-1]), centres(frames[-1]), dtype=int)).max() < 12
    assert path.stat().st_size < 100_000


def test_mp4_takes_odd_sizes(tmp_path: Path) -> None:
    path = write_media(flat(RED, 3)[:, :63, :61], tmp_path / "odd.mp4")

    with imageio.get_reader(path) as reader:
        assert np.stack([*reader.iter_data()]).shape == (3, 64, 62, 3)


def test_gif_gives_back_every_frame_and_repeats_for_ever(tmp_path: Path) -> None:
    frames = compose([film()])

    path = write_media(frames, tmp_path / "dream.gif", fps=10)

    with imageio.get_reader(path) as reader:
        read = [frame[..., :3] for frame in reader]
        meta = reader.get_meta_data(0)
    assert np.stack(read).shape == frames.shape
    assert np.abs(np.subtract(centres(read[-1]), centres(frames[-1]), dtype=int)).max() < 4
    assert (meta["duration"], meta["loop"]) == (100, 0)


def test_png_shows_up_to_ten_frames_from_first_to_last_in_rows_as_wide_as_a_screen(tmp_path: Path) -> None:
    frames = compose([film(30)])

    read = imageio.imread(write_media(frames, tmp_path / "dream.png"))

    height, width = frames.shape[1:3]
    assert read.shape == (3 * height, 3 * width, 3)  # nine frames
    assert (read[:height, :width] == frames[0]).all()
    assert (read[-height:, -width:] == frames[-1]).all()


def test_png_of_one_frame_is_that_frame(tmp_path: Path) -> None:
    frames = compose([film(1)])

    assert (imageio.imread(write_media(frames, tmp_path / "dream.PNG")) == frames[0]).all()


@pytest.mark.parametrize("name", ["dream.avi", "dream", "dream.mp4.txt"])
def test_another_extension_is_refused_and_the_three_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\.mp4, \.gif or \.png"):
        write_media(flat(RED, 2), tmp_path / name)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dream.mp4", "dream.gif", "dream.png"])
def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(ConfigError, match="cannot write the picture") as error:
        write_media(flat(RED, 2), tmp_path / "file" / name)

    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_media(flat(RED, 2), tmp_path / "dream.png")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_media(flat(BLUE, 2), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="column 'real'"):
        Column(label="real", frames=np.zeros((3, 64, 64, 3), dtype=np.float32))
    with pytest.raises(ShapeError, match=r"rewards must have shape \(3,\), got \(2,\)"):
        Column(label="real", frames=flat(RED, 3), rewards=np.zeros(2))
    with pytest.raises(ShapeError, match="no films"):
        compose([])
    with pytest.raises(ShapeError, match="real, reconstruction, imagined"):
        compose([film(), Film(columns=film().columns[:2])])
    with pytest.raises(ShapeError, match=r"float64 \(2, 64, 64, 3\)"):
        write_media(np.zeros((2, 64, 64, 3)), tmp_path / "dream.png")


def test_films_are_read_as_they_were_written(tmp_path: Path) -> None:
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :, 24:] = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]

    for kind in ("mp4", "gif"):
        back = frames_of(write_media(frames, tmp_path / f"a.{kind}"))

        assert back.shape == frames.shape
        assert np.abs(back.astype(int) - frames).mean() < 3


def test_tiles_stand_in_rows_and_columns_with_gaps_and_repeated_pixels() -> None:
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30, 40)]

    picture = tiles([pictures[:2], pictures[2:]], scale=2, gap=1)

    assert picture.shape == (2 * 4 + 1, 2 * 6 + 1, 3)
    assert [int(picture[y, x, 0]) for y, x in ((0, 0), (3, 12), (5, 5), (8, 7))] == [10, 20, 30, 40]
    assert {int(value) for value in picture[4].flatten()} == {GAP}
    assert np.array_equal(imageio.imread(BytesIO(png(picture))), picture)
    with pytest.raises(ShapeError):
        tiles([pictures[:1], pictures])
    with pytest.raises(ShapeError):
        tiles([])
