"""Pictures: dreams beside the real game, as frames and as mp4, gif or png files.

`compose` draws, `write_media` writes. Arrays come in; no model, environment or dataset is known here.

    film    one row: several columns that start from the same frame and follow the same actions
    column  one of its pictures over time: the real game, its reconstruction, or what the agent imagined
"""

import errno
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from iris_cli.errors import ConfigError, ShapeError
from iris_cli.files import replacing
from iris_cli.formats.video import count_frames

STRIP_FRAMES = 10  # most frames that a png shows
STRIP_WIDTH = 2400  # pixels
MARK_STEPS = 6  # steps that a reward mark stays, fading: one step is too short to see

BACKGROUND = (16, 17, 20)
TRACK = (44, 46, 52)
DIM_TEXT = (128, 132, 142)
TEXT = (214, 216, 220)
GAIN = (98, 196, 122)
LOSS = (232, 96, 86)
END = (236, 178, 74)
GAP = 32  # grey level between tiles
HELD = 0.5  # brightness of a column's last frame once it has ended

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One picture over time. It closes at its first end, or where its frames run out; then its last frame is held."""

    label: str
    frames: NDArray[np.uint8]  # (T, 64, 64, 3); any height and width, equal in all columns of all films
    rewards: NDArray[np.floating] | None = None  # (T,) earned by the step that led to this frame; 0 for the first
    ends: NDArray[np.bool_] | None = None  # (T,) whether the step that led to this frame ended the episode

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8 or not len(self.frames):
            raise ShapeError(
                f"frames must be uint8 (T, 64, 64, 3), got {self.frames.dtype} {self.frames.shape}",
                where=f"column '{self.label}'",
            )
        for name, marks in (("rewards", self.rewards), ("ends", self.ends)):
            if marks is not None and marks.shape != (len(self.frames),):
                raise ShapeError(
                    f"{name} must have shape ({len(self.frames)},), got {marks.shape}", where=f"column '{self.label}'"
                )

    @property
    def length(self) -> int:
        """Frames up to and with the first end."""
        if self.ends is None or not self.ends.any():
            return len(self.frames)
        return int(self.ends.argmax()) + 1

    @property
    def ended(self) -> bool:
        return self.ends is not None and bool(self.ends.any())


@dataclass(frozen=True, kw_only=True)
class Film:
    """Columns that share a start and its actions. They may differ in length."""

    columns: tuple[Column, ...]
    actions: tuple[str, ...] | None = None  # name of the action taken at each frame; may lack the last ones

    @property
    def length(self) -> int:
        return max(column.length for column in self.columns)


def compose(films: Sequence[Film], *, scale: int = 4) -> NDArray[np.uint8]:
    """Draw films as rows, with column labels above and a status line under each panel.

    The status line has a bar of the time with a tick at each reward, the step and action (first column), marks for a
    fresh reward (+1, -1) and the end, and the score so far. Pixels are repeated, never smoothed.

    Args:
        films: rows, with the same column labels and frame size.
        scale: screen pixels per frame pixel; 3 or more is legible.

    Returns:
        (T, height, width, 3) uint8, T the longest film's length, height and width even.

    Raises:
        ShapeError: if there are no films, or their labels or frame sizes differ.
        ConfigError: if the scale is less than 1.
    """
    if scale < 1:
        raise ConfigError(f"scale is {scale}, but must be 1 or more")
    layout = _Layout(films, scale)
    steps = max(film.length for film in films)
    canvas = layout.blank()
    out = np.empty((steps, *canvas.shape), dtype=np.uint8)
    for step in range(steps):
        out[step] = canvas
        for row, film in enumerate(films):
            for index, column in enumerate(film.columns):
                top, left = layout.corner(row, index)
                panel = np.concatenate([_panel(column, step, scale), layout.status_line(film, index, step, steps)])
                height, width = panel.shape[:2]
                out[step, top : top + height, left : left + width] = panel
    return out


def in_colour(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (T, 64, 64, C) as people see them, (T, 64, 64, 3): those of colour as they are, of stacks the newest."""
    return frames if frames.shape[-1] == 3 else frames[..., -1:].repeat(3, -1)


def write_media(
    frames: NDArray[np.uint8], path: Path, *, fps: float = 15, beside: tuple[Path, str] | None = None
) -> Path:
    """Write frames as .mp4 (H.264), .gif (endless) or .png (up to ten frames, evenly spaced in time, in one picture).

    The file appears under its name only once it is whole. Missing directories above it are made.

    Args:
        frames: (T, height, width, 3) uint8.
        fps: frames per second; a gif rounds its delays to 1/100 s. Means nothing for a png.
        beside: a text file that appears together with it, and its text.

    Returns:
        `path`.

    Raises:
        ShapeError: if the frames are not such an array, or there are none.
        ConfigError: if the extension is another, the fps not positive, or the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ShapeError(f"frames must be uint8 (T, height, width, 3), got {frames.dtype} {frames.shape}")
    if not fps > 0:
        raise ConfigError(f"fps is {fps}, but must be more than 0")
    write = media_writer(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as drafts:
            if beside is not None:
                drafts.enter_context(replacing(beside[0])).write_text(beside[1], encoding="utf-8")
            draft = drafts.enter_context(replacing(path))
            draft.touch()  # fails here with the system's own words, not in ffmpeg with a page of them
            write(frames, draft, fps)
            if path.suffix.lower() == ".mp4" and count_frames(draft) != len(frames):
                raise OSError(errno.EIO, "not all of it could be written; is the disk full?")  # ffmpeg does not say
    except (OSError, RuntimeError) as error:  # RuntimeError: imageio finds no ffmpeg
        raise ConfigError(
            f"cannot write the picture: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}",
            where=path,
            fix="Name a file in a directory you may write to; without ffmpeg, a .gif or .png.",
        ) from error
    return path


def frames_of(path: Path) -> NDArray[np.uint8]:
    """The frames (T, height, width, 3) of a film, as they are decoded.

    Raises:
        OSError, RuntimeError: if it cannot be read.
    """
    with closing(imageio.get_reader(path)) as reader:
        return np.stack([np.asarray(frame)[:, :, :3] for frame in reader.iter_data()])


def png(image: NDArray[np.uint8]) -> bytes:
    """(height, width, 3) uint8 as a PNG file's content."""
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG", optimize=True)
    return content.getvalue()


def tiles(rows: Sequence[Sequence[NDArray[np.uint8]]], *, scale: int = 1, gap: int = 2) -> NDArray[np.uint8]:
    """Pictures (h, w, 3) uint8 of one size in rows and columns, with gaps, pixels repeated `scale` times.

    Raises:
        ShapeError: if there are none, or rows or sizes differ.
    """
    shapes = {picture.shape for row in rows for picture in row}
    if len(shapes) != 1 or len({len(row) for row in rows}) != 1:
        raise ShapeError(f"tiles need rows of equal length and pictures of one size, got {shapes}")
    padded = [
        np.concatenate([np.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=GAP) for picture in row], axis=1)
        for row in ([p.repeat(scale, axis=0).repeat(scale, axis=1) for p in row] for row in rows)
    ]
    return np.concatenate(padded)[:-gap, :-gap]


def media_writer(path: Path) -> Callable[[NDArray[np.uint8], Path, float], None]:
    """What writes this extension; for asking early, before hours of work end at a wrong name.

    Raises:
        ConfigError: if the extension is none of .mp4, .gif and .png.
    """
    match path.suffix.lower():
        case ".mp4":
            return _write_mp4
        case ".gif":
            return _write_gif
        case ".png":
            return _write_png
    raise ConfigError(
        f"'{path.name}' does not say which kind of picture to write", fix="End its name in .mp4, .gif or .png."
    )


class _Layout:
    """Where things lie on the canvas, and the parts of it that do not change."""

    def __init__(self, films: Sequence[Film], scale: int) -> None:
        if not films or not films[0].columns:
            raise ShapeError("there are no films to draw")
        self.labels = [column.label for column in films[0].columns]
        height, width = films[0].columns[0].frames.shape[1:3]
        for film in films:
            if [column.label for column in film.columns] != self.labels:
                raise ShapeError(f"every film must have the columns {', '.join(self.labels)}")
            if any(column.frames.shape[1:3] != (height, width) for column in film.columns):
                raise ShapeError(f"every frame must be {height} x {width} pixels")
        self.rows = len(films)
        self.font = ImageFont.load_default(max(8.0, 3.5 * scale))
        self.margin = 2 * scale
        self.gap = 2 * scale
        self.bar = max(1, scale // 2)
        self.label_height = 5 * scale + 4
        self.status_height = 4 * self.bar + 5 * scale
        self.panel_height, self.panel_width = height * scale, width * scale

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Top and left of a panel."""
        top = self.margin + self.label_height + row * (self.panel_height + self.status_height + self.gap)
        return top, self.margin + column * (self.panel_width + self.gap)

    def blank(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8: the background and the labels, both sides even (yuv420p halves its colours)."""
        bottom, right = self.corner(self.rows, len(self.labels))
        height, width = bottom - self.gap + self.margin, right - self.gap + self.margin
        image = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
        draw = ImageDraw.Draw(image)
        for index, label in enumerate(self.labels):
            top, left = self.corner(0, index)
            draw.text((left, top - self.label_height / 2), label, TEXT, self.font, anchor="lm")
        return np.asarray(image)

    def status_line(self, film: Film, index: int, step: int, steps: int) -> NDArray[np.uint8]:
        """(status_height, panel_width, 3) uint8 for one panel at one step of `steps`."""
        column = film.columns[index]
        now = min(step, column.length - 1)
        image = Image.new("RGB", (self.panel_width, self.status_height), BACKGROUND)
        draw = ImageDraw.Draw(image)
        rewards = np.zeros(column.length) if column.rewards is None else column.rewards[: column.length]
        self._draw_bar(draw, rewards, now, steps)

        middle = (4 * self.bar + self.status_height) / 2
        if index == 0:
            shown = min(step, film.length - 1)
            action = film.actions[shown] if film.actions is not None and shown < len(film.actions) else ""
            draw.text((0, middle), f"{shown}  {action}".rstrip(), DIM_TEXT, self.font, anchor="lm")
        right = float(self.panel_width - 1)
        if column.rewards is not None:
            score = f"score {_number(rewards[: now + 1].sum())}"
            draw.text((right, middle), score, DIM_TEXT, self.font, anchor="rm")
            right -= self.font.getlength(score) + self.gap
        for text, colour in _marks(column, rewards, step):
            right = self._draw_badge(draw, text, colour, right, middle)
        return np.asarray(image)

    def _draw_bar(self, draw: ImageDraw.ImageDraw, rewards: NDArray[np.floating], now: int, steps: int) -> None:
        """The time up to `now` out of `steps`, with a tick where a reward came."""

        def place(step: int) -> int:
            return round((self.panel_width - self.bar) * step / max(1, steps - 1))

        draw.rectangle((0, 2 * self.bar, self.panel_width, 3 * self.bar - 1), TRACK)
        draw.rectangle((0, 2 * self.bar, place(now) + self.bar - 1, 3 * self.bar - 1), DIM_TEXT)
        for step in np.flatnonzero(rewards[: now + 1]):
            left = place(int(step))
            draw.rectangle((left, self.bar, left + self.bar - 1, 4 * self.bar - 1), _reward_colour(rewards[step]))

    def _draw_badge(self, draw: ImageDraw.ImageDraw, text: str, colour: Colour, right: float, middle: float) -> float:
        """A filled mark that ends at `right`; returns where the next one may end."""
        half = (self.status_height - 4 * self.bar) / 2 - 1
        left = right - self.font.getlength(text) - self.gap
        draw.rounded_rectangle((left, middle - half, right, middle + half), self.bar, colour)
        draw.text(((left + right) / 2, middle), text, BACKGROUND, self.font, anchor="mm")
        return left - self.gap / 2


def _marks(column: Column, rewards: NDArray[np.floating], step: int) -> list[tuple[str, Colour]]:
    """Text and colour of a panel's marks, from right to left: the end, and the last reward while it is fresh."""
    marks = [("end", END)] if column.ended and step >= column.length - 1 else []
    came = np.flatnonzero(rewards[: step + 1])
    if len(came) and step - came[-1] < MARK_STEPS:
        reward = rewards[came[-1]]
        marks.append((_number(reward, sign=True), _faded(_reward_colour(reward), step - int(came[-1]))))
    return marks


def _panel(column: Column, step: int, scale: int) -> NDArray[np.uint8]:
    """(height * scale, width * scale, 3) uint8: the frame at `step`, or the last one dimmed."""
    frame = column.frames[min(step, column.length - 1)]
    if step >= column.length:
        frame = (frame * HELD).astype(np.uint8)
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def _number(value: float, *, sign: bool = False) -> str:
    """A reward as people write it: 1, 0.5, 200; with a plus if `sign`."""
    text = f"{float(value):.6g}"
    return f"+{text}" if sign and value > 0 else text


def _reward_colour(reward: float) -> Colour:
    return GAIN if reward > 0 else LOSS


def _faded(colour: Colour, age: int) -> Colour:
    """`colour` on its way to the background: whole at age 0, gone at MARK_STEPS."""
    share = 1 - age / MARK_STEPS
    red, green, blue = (round(share * c + (1 - share) * b) for c, b in zip(colour, BACKGROUND, strict=True))
    return red, green, blue


def _write_mp4(frames: NDArray[np.uint8], path: Path, fps: float) -> None:
    """H.264 in yuv420p with its index first: what browsers and phones play."""
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    even = np.pad(frames, odd, mode="edge") if frames.shape[1] % 2 or frames.shape[2] % 2 else frames
    writer = imageio.get_writer(
        path,
        format="FFMPEG",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        quality=None,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "18", "-movflags", "+faststart"],
    )
    with closing(writer):
        for frame in even:
            writer.append_data(frame)


def _write_gif(frames: NDArray[np.uint8], path: Path, fps: float) -> None:
    """Each frame with its own 256 colours, without dither, so that flat areas stay flat and compress."""
    first, *rest = (Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, optimize=False)


def _write_png(frames: NDArray[np.uint8], path: Path, fps: float) -> None:
    """As many side by side as a screen is wide, the rest in rows below."""
    across = max(1, STRIP_WIDTH // frames.shape[2])
    count = min(STRIP_FRAMES, len(frames))
    count -= count % across if count > across else 0  # no row is left part empty
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    rows = [np.concatenate(list(chosen[i : i + across]), axis=1) for i in range(0, count, across)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)
