"""Figures that say how good a world model is, on episodes it never saw: their types, and the arithmetic they share.

Every agent measures itself (`Agent.diagnose`) and answers with a `Diagnosis`; parts that an agent lacks, or that were
never trained, are None and say why under `skipped`. Errors are of pixels in [0, 1], entropies in nats. What the numbers
mean for a person: hints.py. Nothing here knows an agent, a file or a game.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOVED = 12  # of 255: a pixel moves where any channel differs by more. Below lies the flicker of resized frames
SMALL = 9  # pixels: a thing is small if no more than this many that are not background lie around each of its own
_AROUND = 9  # pixels, side of the square that "around" means


@dataclass(frozen=True)
class Episode:
    """Consecutive steps of one episode, in memory, from its first one on unless it was cut.

    Attributes:
        frames: (T, 64, 64, 3) uint8, the frame each action was chosen on.
        actions: (T,) int64.
        rewards: (T,) float32, raw.
        ends: (T,) bool, whether the episode ended with this step; only the last one may be true.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, kw_only=True)
class ImageFigures:
    """How far images are from the real frames. None where there are no such pixels.

    Attributes:
        absolute: mean absolute error over all pixels and channels.
        squared: mean squared error.
        psnr: -10 log10(squared), in dB; None for a perfect image.
        moving_absolute, moving_squared: over pixels that move only.
    """

    absolute: float
    squared: float
    psnr: float | None
    moving_absolute: float | None
    moving_squared: float | None


@dataclass(frozen=True, kw_only=True)
class TokenizerFigures:
    """The tokenizer on held-out frames.

    A pixel moves where it differs from the previous frame of its episode by more than `MOVED` in any channel; the
    first frame of an episode has none.

    Attributes:
        reconstruction: of the tokenizer.
        mean_image: of the mean of these very frames, shown for each: what is left if all that moves is ignored.
        moving_share: of all pixels, in [0, 1].
        kept: of the contrast of what moves, over pixels that move and differ from the mean image by more than `MOVED`:
            1 - (error of the reconstruction) / (error of the mean image). 1 is perfect, 0 as good as ignoring it.
        small_kept: the same for small things (see `small_things`), such as a ball.
        small_pixels: how many pixels that share is of.
        still_changed: of the patches (one per token) in which no pixel moves, the share whose token changes all the
            same; None if there are none.
        codes: V.
        codes_used: by these frames.
        perplexity: exponential of the entropy of their use, 1 to V.
        entropy: of their use, in nats.
    """

    reconstruction: ImageFigures
    mean_image: ImageFigures
    moving_share: float
    kept: float | None
    small_kept: float | None
    small_pixels: int
    still_changed: float | None
    codes: int
    codes_used: int
    perplexity: float
    entropy: float


@dataclass(frozen=True, kw_only=True)
class TokenFigures:
    """Predicted tokens of frames, each given the true ones before it.

    `changed` tokens differ from the same place in the previous frame. Copying, which repeats that frame, gets none of
    them and all others.

    Attributes:
        cross_entropy: of all predicted tokens in nats, as the loss has it.
        cross_entropy_share: of log V, 1 is guessing.
        unigram_entropy: in nats, what one would pay who knew only how often each token occurs here.
        accuracy: share of all predicted tokens that the most probable one hits.
        next_accuracy: the same where the previous frame was read too, the tokens that copying can be compared on.
        copy_accuracy: of repeating the previous frame.
        next_cross_entropy: of these tokens.
        changed: how many changed.
        changed_accuracy: share of the changed ones that is hit; copying has 0. None if none changed.
        changed_cross_entropy: of these.
        position_cross_entropy, position_accuracy, position_copy_accuracy: for each place of the grid, row by row, where
            the previous frame was read.
        tokens: how many were predicted.
    """

    cross_entropy: float
    cross_entropy_share: float
    unigram_entropy: float
    accuracy: float
    next_accuracy: float | None
    copy_accuracy: float | None
    next_cross_entropy: float | None
    changed: int
    changed_accuracy: float | None
    changed_cross_entropy: float | None
    position_cross_entropy: list[float]
    position_accuracy: list[float]
    position_copy_accuracy: list[float]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class of what is classified.

    Attributes:
        count: steps that are of it.
        predicted: steps it was most probable for.
        mean_probability: that it was given, to compare with its share: dreams draw it as often.
        precision, recall: None where nothing was predicted, or nothing is there.
        f1: None where neither; 0 where all was missed.
    """

    count: int
    predicted: int
    mean_probability: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class ClassifierFigures:
    """A classifier, over all its steps.

    Attributes:
        steps: how many.
        accuracy: share of steps whose most probable class is right.
        most_frequent: share of the most frequent class: the accuracy of always saying it.
        cross_entropy: in nats.
        classes: by name.
    """

    steps: int
    accuracy: float
    most_frequent: float
    cross_entropy: float
    classes: dict[str, ClassFigures]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Mean absolute error after 1, 2, ... steps.

    Attributes:
        error: over all pixels.
        moving: over pixels that differ from the start's by more than `MOVED`; None at steps where none does.
    """

    error: list[float]
    moving: list[float | None]


@dataclass(frozen=True, kw_only=True)
class DreamFigures:
    """Open-loop rollouts from held-out starts under the real actions, against what really came.

    Attributes:
        starts: how many.
        horizon: steps of each.
        context: real frames read before.
        sampled: dreams that draw what comes, as in training.
        greedy: dreams that take what is most probable.
        copy: the start's real frame, shown throughout.
        copy_reconstruction: the reconstruction of it, shown throughout: copying with the tokenizer's eyes, as dreams
            see.
        reconstruction: of what really came: the floor that the tokenizer sets.
        real_rewards, dreamt_rewards: mean over starts of the number of rewards other than 0, sampled dreams.
        dreamt_ends: mean over starts of the number of ends, where really none came.
    """

    starts: int
    horizon: int
    context: int
    sampled: Curve
    greedy: Curve
    copy: Curve
    copy_reconstruction: Curve
    reconstruction: Curve
    real_rewards: float
    dreamt_rewards: float
    dreamt_ends: float


@dataclass(frozen=True, kw_only=True)
class PolicyFigures:
    """The actor-critic, looking at the held-out episodes with its memory from their start.

    Attributes:
        actions: A.
        entropy: mean of the policy's at temperature 1, in nats.
        entropy_share: of log A, 1 is random play.
        most_frequent_action: index of the action that is most probable on average.
        most_frequent_share: its mean probability.
        mean_value: what it expects.
        mean_return: the discounted sum of reward signs that followed, in episodes that ended here; None if none did.
        value_correlation: Pearson's, between the two over these steps; None where either is constant.
    """

    actions: int
    entropy: float
    entropy_share: float
    most_frequent_action: int
    most_frequent_share: float
    mean_value: float
    mean_return: float | None
    value_correlation: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that was measured on some episodes; a part that was not is None, and `skipped` says why."""

    episodes: int
    steps: int
    tokenizer: TokenizerFigures | None = None
    dynamics: TokenFigures | None = None
    rewards: ClassifierFigures | None = None
    ends: ClassifierFigures | None = None
    dream: DreamFigures | None = None
    policy: PolicyFigures | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class ImageErrors:
    """Sums errors of images over blocks of frames."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)  # absolute, squared, and both where pixels move
        self._counts = np.zeros(2)

    def add(self, images: Tensor, real: Tensor, moving: Tensor) -> None:
        """Note images and real frames (N, 3, H, W) in [0, 1], and which pixels move (N, H, W) bool."""
        apart = (images - real).abs().double()  # (N, 3, H, W)
        where = moving[:, None]
        parts = (apart.sum(), apart.square().sum(), (apart * where).sum(), (apart.square() * where).sum())
        self._sums += torch.stack(parts).cpu().numpy()
        self._counts += (apart.numel(), int(moving.sum()) * apart.shape[1])

    def figures(self) -> ImageFigures:
        """The means so far."""
        absolute, squared = (self._sums[:2] / max(self._counts[0], 1)).tolist()
        moving = (self._sums[2:] / self._counts[1]).tolist() if self._counts[1] else [None, None]
        return ImageFigures(
            absolute=absolute, squared=squared, psnr=-10 * math.log10(squared) if squared > 0 else None,
            moving_absolute=moving[0], moving_squared=moving[1],
        )  # fmt: skip


def differing(frames: Tensor, others: Tensor) -> Tensor:
    """(N, H, W) bool: pixels whose channels differ by more than `MOVED`; frames (N, 3, H, W) uint8."""
    return ((frames.int() - others.int()).abs() > MOVED).any(1)


def small_things(things: Tensor) -> Tensor:
    """(N, H, W) bool -> those of its pixels that have at most `SMALL` of them around, themselves included."""
    around = F.avg_pool2d(things[:, None].float(), _AROUND, stride=1, padding=_AROUND // 2, count_include_pad=True)
    return things & ((around[:, 0] * _AROUND**2).round() <= SMALL)


def entropy_of_counts(counts: Tensor) -> float:
    """Entropy in nats of how often each of (V,) things occurred."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


def classifier_figures(logits: Tensor, labels: Tensor, names: Sequence[str]) -> ClassifierFigures:
    """Figures of logits (N, classes) against labels (N,) int64, N at least 1; one name per class."""
    logits = logits.double()
    predicted, probabilities = logits.argmax(-1), logits.softmax(-1).mean(0)
    classes = {}
    for index, name in enumerate(names):
        is_it, said = labels == index, predicted == index
        count, says, right = int(is_it.sum()), int(said.sum()), int((is_it & said).sum())
        classes[name] = ClassFigures(
            count=count, predicted=says, mean_probability=float(probabilities[index]),
            precision=right / says if says else None, recall=right / count if count else None,
            f1=2 * right / (count + says) if count + says else None,
        )  # fmt: skip
    return ClassifierFigures(
        steps=len(labels),
        accuracy=float((predicted == labels).double().mean()),
        most_frequent=max(figures.count for figures in classes.values()) / len(labels),
        cross_entropy=float(F.cross_entropy(logits, labels)),
        classes=classes,
    )


def token_figures(
    tokens: Tensor, cross_entropy: Tensor, guesses: Tensor, segment_starts: Tensor, *, codes: int
) -> TokenFigures:
    """Figures of predicted tokens of N frames in the order of their segments, N at least 1.

    Args:
        tokens: (N, K) int64, the true ones.
        cross_entropy: (N, K) of each prediction; that of a segment's very first token does not count.
        guesses: (N, K) int64, most probable tokens, likewise.
        segment_starts: (N,) bool, frames with nothing before them in their segment; the first is one.
        codes: V.
    """
    cross_entropy = cross_entropy.double()
    unpredicted = torch.zeros_like(tokens, dtype=torch.bool)
    unpredicted[segment_starts, 0] = True
    scored = ~unpredicted
    right = guesses == tokens
    follows = ~segment_starts[1:]
    now, before = tokens[1:][follows], tokens[:-1][follows]  # (M, K)
    costs, hits, stays = cross_entropy[1:][follows], right[1:][follows], now == before
    changed = int((~stays).sum())
    mean = float(cross_entropy[scored].mean()) if scored.any() else 0.0

    def by_place(values: Tensor) -> list[float]:
        return values.double().mean(0).tolist() if len(values) else []

    return TokenFigures(
        cross_entropy=mean,
        cross_entropy_share=mean / math.log(codes),
        unigram_entropy=entropy_of_counts(torch.bincount(tokens.flatten(), minlength=codes)),
        accuracy=float(right[scored].double().mean()) if scored.any() else 0.0,
        next_accuracy=_mean(hits),
        copy_accuracy=_mean(stays),
        next_cross_entropy=_mean(costs),
        changed=changed,
        changed_accuracy=_mean(hits[~stays]),
        changed_cross_entropy=_mean(costs[~stays]),
        position_cross_entropy=by_place(costs),
        position_accuracy=by_place(hits),
        position_copy_accuracy=by_place(stays),
        tokens=int(scored.sum()),
    )


def curve(images: Tensor, real: Tensor, moved: Tensor) -> Curve:
    """Errors by step of images and real frames (B, H, 3, 64, 64) in [0, 1]; moved (B, H, 64, 64) since the start."""
    apart = (images - real).abs().double().mean(2)  # (B, H, 64, 64), over channels
    counts = moved.sum((0, 2, 3))
    sums = (apart * moved).sum((0, 2, 3))
    moving = [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
    return Curve(error=apart.mean((0, 2, 3)).tolist(), moving=moving)


def dream_starts(
    lengths: Sequence[int], *, before: int, after: int, most: int, generator: Any
) -> list[tuple[int, int]]:
    """Up to `most` different (episode, step) with `before` steps before it and `after` steps behind, in order.

    Args:
        lengths: of the episodes, in steps with a frame.
        before, after: steps.
        most: how many are drawn, uniformly, of all that there are.
        generator: of the draws.
    """
    numbers = [max(length - before - after, 0) for length in lengths]
    drawn = np.sort(generator.choice(max(sum(numbers), 1), size=min(most, sum(numbers)), replace=False))
    edges = np.cumsum(numbers)
    episodes = np.searchsorted(edges, drawn, side="right")
    return [(int(e), int(d - edges[e] + numbers[e] + before)) for e, d in zip(episodes, drawn, strict=True)]


def discounted_returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """(T,) what follows each step of an episode that ends with the last: r[t] + gamma * R[t + 1]."""
    returns = np.zeros(len(rewards))
    following = 0.0
    for step in reversed(range(len(rewards))):
        returns[step] = following = float(rewards[step]) + gamma * following
    return returns


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's correlation of two (N,), or None where either does not vary."""
    if len(first) < 2 or np.ptp(first) < 1e-9 or np.ptp(second) < 1e-9:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None
