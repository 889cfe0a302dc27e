"""What a run's agent shows on a few real frames of its dataset: for reports. Nothing of the run is changed.

Each picture is made by itself, and what cannot be made says why in a sentence.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_cli.errors import IrisError
from iris_cli.render import in_colour, png, tiles
from iris_cli.run import Run
from iris_cli.stages.imagine import Imagine, imagine

SHOWN_FRAMES = 8  # reconstructions
CODED_FRAMES = 1024  # frames whose codes are counted
ATTENDED_STEPS = 8  # steps of the segment whose attention is drawn
FILM_STEPS, FILM_DREAMS = 60, 2
_HEAT = np.array([255.0, 120.0, 20.0])  # where it looks

T = TypeVar("T")


@dataclass(frozen=True)
class CodeUse:
    """How often each code occurs.

    Attributes:
        counts: (V,) descending.
        frames: on how many frames.
    """

    counts: list[int]
    frames: int

    @property
    def used(self) -> int:
        """Codes that occur at all."""
        return sum(count > 0 for count in self.counts)

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of their use, 1 to V."""
        shares = np.array([count for count in self.counts if count], float) / sum(self.counts)
        return float(np.exp(-(shares * np.log(shares)).sum()))


@dataclass(frozen=True)
class Attention:
    """Where the dynamics looks at the end of one real segment.

    Attributes:
        picture: PNG; a row for each layer, a column for each step, brighter where it looks.
        steps_back: (layers, T) share of the attention on each step, the newest last; mean over heads.
        actions: share on actions, of each layer.
    """

    picture: bytes
    steps_back: list[list[float]]
    actions: list[float]


@dataclass(frozen=True)
class Pictures:
    """Pictures of a run; a sentence where one cannot be made.

    Attributes:
        reconstructions: PNGs, each a real frame and what the tokenizer makes of it, side by side.
        codes: how the codebook is used.
        attention: of the dynamics.
        film: an mp4 of dreams, made now.
    """

    reconstructions: list[bytes] | str
    codes: CodeUse | str
    attention: Attention | str
    film: bytes | str


def pictures_of(path: Path, *, film: bool) -> Pictures:
    """Load a run's agent on the CPU and let it look at the newest frames of its dataset.

    Args:
        path: of the run.
        film: whether to dream one, which takes longest.

    Raises:
        IrisError: if the run cannot be opened.
    """
    run = _opened(path)
    with torch.no_grad():
        newest = _attempt(lambda: _newest(run))
        if isinstance(newest, str):
            return Pictures(newest, newest, newest, _attempt(lambda: _film(run)) if film else "")
        return Pictures(
            reconstructions=_attempt(lambda: _reconstructions(run, newest)),
            codes=_attempt(lambda: _codes(run, newest)),
            attention=_attempt(lambda: _attention(run, newest)),
            film=_attempt(lambda: _film(run)) if film else "",
        )


def _opened(path: Path) -> Run:
    """The run at its latest checkpoint; whoever trains it may just have replaced that, so twice."""
    cpu = torch.device("cpu")
    try:
        return Run.open(path, device=cpu)
    except IrisError:
        return Run.open(path, device=cpu)


def _attempt(make: Callable[[], T]) -> T | str:
    try:
        return make()
    except IrisError as error:
        return str(error)


@dataclass(frozen=True)
class _Newest:
    """The newest steps of a dataset, within one episode each."""

    frames: NDArray[np.uint8]  # (N, 64, 64, C)
    actions: NDArray[np.int64]  # (N,)
    starts: list[int]  # of episodes among them


def _newest(run: Run) -> _Newest:
    with run.dataset() as dataset:
        stop = dataset.num_steps
        start = max(0, stop - CODED_FRAMES)
        if stop == 0:
            raise IrisError("the dataset has no steps", where=run.dataset_path)
        starts = [0, *(int(end) - start for end in dataset.episode_ends if start < end < stop)]
        return _Newest(
            dataset.read("observations", start, stop), dataset.read("actions", start, stop).astype(np.int64), starts
        )


def _needs_tokenizer(run: Run) -> None:
    if not run.is_trained("tokenizer"):
        raise IrisError("the tokenizer has not been trained yet")


def _tensor(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # (N, 3, 64, 64)


def _image(view: Tensor) -> NDArray[np.uint8]:
    """(3, 64, 64) in [0, 1] -> (64, 64, 3) uint8."""
    return (view * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _reconstructions(run: Run, newest: _Newest) -> list[bytes]:
    """Each behind the real frame before it, which tokenizers of transitions want."""
    _needs_tokenizer(run)
    count = len(newest.frames)
    evenly = (int(i) for i in np.linspace(0, count - 1, SHOWN_FRAMES))
    chosen = sorted({i + 1 if i in newest.starts and i + 1 < count else i for i in evenly})
    pairs = []
    for index in chosen:
        first = index if index == 0 or index in newest.starts else index - 1
        actions = torch.from_numpy(newest.actions[first:index])
        seen = run.agent.reconstruct(_tensor(newest.frames[first : index + 1]), actions)[-1]
        pairs.append(png(tiles([[in_colour(newest.frames[index][None])[0], _image(seen)]])))
    return pairs


def _codes(run: Run, newest: _Newest) -> CodeUse:
    _needs_tokenizer(run)
    if not hasattr(run.config.tokenizer, "codes"):
        raise IrisError(f"{run.agent_name} has no codebook: its latents are categorical by themselves")
    frames = _tensor(newest.frames)
    if run.agent.frames_have_tokens:
        tokens = torch.cat([run.agent.tokenizer.encode(part) for part in frames.split(128)])
    else:  # of transitions within episodes
        before = torch.tensor([i for i in range(len(frames) - 1) if i + 1 not in newest.starts], dtype=torch.int64)
        if not len(before):
            raise IrisError("there is no transition to encode")
        actions = torch.from_numpy(newest.actions)
        tokens = torch.cat(
            [run.agent.tokenizer.encode(frames[i], actions[i], frames[i + 1]) for i in before.split(128)]
        )
    counts = torch.bincount(tokens.flatten(), minlength=run.config.tokenizer.codes)
    return CodeUse(counts.sort(descending=True).values.tolist(), len(tokens))


def _attention(run: Run, newest: _Newest) -> Attention:
    if not hasattr(run.agent, "attended"):
        raise IrisError(f"the attention of {run.agent_name} cannot be shown yet")
    if not (run.is_trained("dynamics") and run.is_trained("tokenizer")):
        raise IrisError("the dynamics has not been trained yet")
    stop = len(newest.frames)
    first = max(max(newest.starts), stop - min(ATTENDED_STEPS, run.config.dynamics.max_blocks))
    if stop - first < 2:  # the newest episode has just begun
        stop = max(newest.starts)
        first = max(0, stop - min(ATTENDED_STEPS, run.config.dynamics.max_blocks))
    frames, actions = newest.frames[first:stop], torch.from_numpy(newest.actions[first:stop])
    if not len(frames):
        raise IrisError("there is no segment to look at")
    weights = run.agent.attended(run.agent.tokenizer.encode(_tensor(frames)), actions).mean(1)  # (layers, T, 17)
    places = weights[:, :, :-1]
    side = round(places.shape[-1] ** 0.5)
    rows = []
    for layer in places:  # (T, 16)
        heat = (layer / layer.max().clamp_min(1e-12)).unflatten(-1, (side, side)).numpy()
        rows.append([_lit(frame, grid) for frame, grid in zip(frames, heat, strict=True)])
    return Attention(png(tiles(rows)), weights.sum(-1).tolist(), weights[:, :, -1].sum(-1).tolist())


def _lit(frame: NDArray[np.uint8], heat: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """A frame in grey, with light where the heat (side, side) in [0, 1] is."""
    size = frame.shape[0] // heat.shape[0]
    light = heat.repeat(size, 0).repeat(size, 1)[:, :, None]  # (64, 64, 1)
    grey = 30 + 0.5 * frame.mean(-1, keepdims=True)
    return (grey * (1 - light) + (0.3 * grey + 0.7 * _HEAT) * light).clip(0, 255).astype(np.uint8)


def _film(run: Run) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "film.mp4"
        imagine(run, Imagine(steps=FILM_STEPS, num=FILM_DREAMS), path=path)
        return path.read_bytes()
