"""Figures that say how good a world model is, on episodes it never saw: their types. How they come about: measuring.py.

Every agent measures itself (`Agent.diagnose`) and answers with a `Diagnosis`; parts that an agent lacks, or that were
never trained, are None and say why under `skipped`. Errors are of pixels in [0, 1], entropies in nats. What the numbers
mean for a person: hints.py. Nothing here knows an agent, a file or a game.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

MOVED = 12  # of 255: a pixel moves where any channel differs by more. Below lies the flicker of resized frames


@dataclass(frozen=True)
class Episode:
    """Consecutive steps of one episode, in memory, from its first one on unless it was cut.

    Attributes:
        frames: (T, 64, 64, 3) uint8, or stacks (T, 64, 64, 4): what each action was chosen on.
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
        past_image: of the frame before, shown for each; None for a tokenizer that does not see it.
        moving_share: of all pixels, in [0, 1].
        kept: of the contrast of what moves, over pixels that move and differ from the blind image by more than `MOVED`:
            1 - (error of the reconstruction) / (error of the blind image). 1 is perfect, 0 as good as ignoring it. The
            blind image is what a tokenizer has that ignores what happens: the past image if it sees that, else the
            mean image.
        small_kept: the same for small things (see `small_things`), such as a ball.
        small_pixels: how many pixels that share is of.
        still_changed: of the patches (one per token) in which no pixel moves, the share whose token changes all the
            same; None if there are none, or tokens stand for transitions, which owe nothing to the ones before.
        codes: V; of categoricals, all classes of all of them.
        codes_used: by these frames.
        perplexity: exponential of the entropy of their use, 1 to V; of categoricals, to the classes of one.
        entropy: of their use, in nats; of categoricals, the mean over them.
        categoricals: distributions that a latent consists of, each with classes of its own; 1 for one codebook.
        latent_entropy: mean entropy of these distributions, 1 being uniform; None for tokens, which are not drawn.
    """

    reconstruction: ImageFigures
    mean_image: ImageFigures
    past_image: ImageFigures | None = None
    moving_share: float
    kept: float | None
    small_kept: float | None
    small_pixels: int
    still_changed: float | None
    codes: int
    codes_used: int
    perplexity: float
    entropy: float
    categoricals: int = 1
    latent_entropy: float | None = None

    @property
    def blind_image(self) -> ImageFigures:
        """Of what a tokenizer has that ignores all that happens."""
        return self.mean_image if self.past_image is None else self.past_image


@dataclass(frozen=True, kw_only=True)
class TokenFigures:
    """Predicted tokens of frames, of transitions or of latents, each given the true ones before it.

    Of frames: `changed` tokens differ from the same place in the previous frame. Copying, which repeats that frame,
    gets none of them and all others; the first frame of a segment has none to compare with.

    Of transitions: a token is `changed` where a pixel of its patch moves in the transition. There is no frame to
    repeat; copying stands for always saying the most frequent token of each place.

    Of latents: what one categorical says of a stack of frames, its most probable class. Copying repeats that of the
    step before. A cross-entropy is that with the encoder's distribution; the places are the categoricals.

    Attributes:
        tokens_of: "frames", "transitions" or "latents".
        cross_entropy: of all predicted tokens in nats, as the loss has it.
        cross_entropy_share: of log V, 1 is guessing.
        unigram_entropy: in nats, what one would pay who knew only how often each token occurs here.
        accuracy: share of all predicted tokens that the most probable one hits.
        next_accuracy: the same over the tokens that copying can be compared on.
        copy_accuracy: of copying.
        next_cross_entropy: of these tokens.
        changed: how many changed.
        changed_accuracy: share of the changed ones that is hit; None if none changed.
        changed_copy_accuracy: of copying; 0 for frames.
        changed_cross_entropy: of these.
        position_cross_entropy, position_accuracy, position_copy_accuracy: for each place of the grid, row by row, over
            the tokens that copying can be compared on.
        tokens: how many were predicted.
    """

    tokens_of: str = "frames"
    cross_entropy: float
    cross_entropy_share: float
    unigram_entropy: float
    accuracy: float
    next_accuracy: float | None
    copy_accuracy: float | None
    next_cross_entropy: float | None
    changed: int
    changed_accuracy: float | None
    changed_copy_accuracy: float | None = None
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
            see. That frame itself where dreams see frames.
        reconstruction: of what really came: the floor that the tokenizer sets. Of transitions, their true tokens,
            painted one onto the other from the start's frame on.
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
    """The actor-critic, looking at the held-out episodes as it does when it plays, with its memory from their start.

    Attributes:
        actions: A.
        entropy: mean of the policy's at temperature 1, in nats.
        entropy_share: of log A, 1 is random play.
        most_frequent_action: index of the action that is most probable on average.
        most_frequent_share: its mean probability.
        mean_value: what it expects.
        mean_return: the discounted sum of rewards that followed, as the dynamics knows them (in Atari their signs), in
            episodes that ended here; None if none did.
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

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Diagnosis":
        """The inverse of `to_mapping`; keys that it does not write are passed over.

        Raises:
            KeyError, TypeError, ValueError: if something is missing, or no mapping where one belongs.
        """
        return _built(cls, mapping)


def _built(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that a field has: figures are made of mappings, all else is taken as it is."""
    if isinstance(kind, types.UnionType):
        return None if value is None else _built(typing.get_args(kind)[0], value)
    if typing.get_origin(kind) is dict:
        return {str(name): _built(typing.get_args(kind)[1], item) for name, item in dict(value).items()}
    if not is_dataclass(kind) or not isinstance(kind, type):
        return value
    hints = typing.get_type_hints(kind)
    if missing := [f.name for f in fields(kind) if f.name not in value and not _is_optional(f)]:
        raise KeyError(missing[0])
    return kind(**{name: _built(hints[name], value[name]) for name in hints if name in value})


def _is_optional(one: Field[Any]) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING
