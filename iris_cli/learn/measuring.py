"""How the figures of a diagnosis come about: the arithmetic that agents share when they measure themselves.

Numbers, tensors and episodes in memory only: nothing here knows an agent, a file or a game. The types: diagnosis.py.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.learn.diagnosis import (
    MOVED,
    ClassFigures,
    ClassifierFigures,
    Curve,
    Diagnosis,
    DreamFigures,
    Episode,
    ImageFigures,
    PolicyFigures,
    TokenFigures,
    TokenizerFigures,
)
from iris_cli.learn.world import Dream

REWARDS = ("-1", "0", "+1")  # classes of rewards, by their sign
ENDS = ("goes on", "ends")  # classes of ends
CONTEXT = 4  # real frames that a dream reads before it begins, as `iris imagine`
STARTS = 16  # dreams
PAID = 0.05  # imagined rewards nearer to 0 are none: an expectation is never exactly 0
SMALL = 9  # pixels: a thing is small if no more than this many that are not background lie around each of its own
_AROUND = 9  # pixels, side of the square that "around" means

Watch = Callable[[int], None]  # is told how many more frames were looked at; may raise to stop


def diagnosis_of(
    episodes: Sequence[Episode],
    *,
    trained: Collection[str],
    context: int,
    horizon: int,
    seed: int,
    looker: "Looker",
    tokenizer: Callable[["Looker | None"], TokenizerFigures],
    dynamics: Callable[[], tuple[TokenFigures | None, ClassifierFigures, ClassifierFigures]],
    dream: Callable[[Sequence[tuple[int, int]]], DreamFigures],
) -> Diagnosis:
    """Measure the parts that were trained, and say of the others why they were not.

    Args:
        episodes: held out; at least one, none empty.
        trained: names of the components that were trained; nothing is measured that another one would decide.
        context: real frames that a dream reads.
        horizon: steps of each dream.
        seed: of the starts of dreams.
        looker: of the policy.
        tokenizer: measures the tokenizer, and lets the policy look if it was trained; called first.
        dynamics: measures tokens, rewards and ends; None where no step follows another.
        dream: measures dreams from (episode, step of the last frame that is read), at least one.
    """
    steps = sum(map(len, episodes))
    if "tokenizer" not in trained:
        parts = ("tokenizer", "dynamics", "rewards", "ends", "dream", "policy")
        untrained = dict.fromkeys(parts, "the tokenizer was never trained")
        return Diagnosis(episodes=len(episodes), steps=steps, skipped=untrained)
    skipped: dict[str, str] = {}
    acts = "actor_critic" in trained
    of_tokenizer = tokenizer(looker if acts else None)
    of_tokens, rewards, ends, of_dream = None, None, None, None
    if "dynamics" in trained:
        of_tokens, rewards, ends = dynamics()
        if of_tokens is None:
            skipped["dynamics"] = "no episode has two steps in a row"
        starts = dream_starts(
            [len(episode) for episode in episodes], before=context - 1, after=horizon, most=STARTS,
            generator=np.random.default_rng(seed),
        )  # fmt: skip
        if starts:
            of_dream = dream(starts)
        else:
            skipped["dream"] = f"no episode has the {context + horizon} steps in a row that a dream is compared with"
    else:
        skipped |= dict.fromkeys(("dynamics", "rewards", "ends", "dream"), "the dynamics was never trained")
    if not acts:
        skipped["policy"] = "the actor-critic was never trained"
    return Diagnosis(
        episodes=len(episodes), steps=steps, tokenizer=of_tokenizer, dynamics=of_tokens, rewards=rewards, ends=ends,
        dream=of_dream, policy=looker.figures(episodes) if acts else None, skipped=skipped,
    )  # fmt: skip


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


class Reconstructions:
    """What a tokenizer shows of episodes, summed over blocks of their frames.

    Args:
        episodes: that the frames will be of.
        device: of the frames.
        sees_past: whether the tokenizer has the frame before when it shows one.
    """

    def __init__(self, episodes: Sequence[Episode], device: torch.device, *, sees_past: bool) -> None:
        total = sum(
            (episode.frames.sum(0, dtype=np.float64) for episode in episodes), np.zeros(episodes[0].frames[0].shape)
        )
        mean = torch.from_numpy(total / sum(map(len, episodes)) / 255).to(device, torch.float32)
        self._mean = mean.permute(2, 0, 1)[None]
        self._sees_past = sees_past
        self._ours, self._by_mean, self._by_past = ImageErrors(), ImageErrors(), ImageErrors()
        self._lost = np.zeros(2)  # summed errors on things that move: all, small ones
        self._contrast = np.zeros(2)  # summed distances of these pixels from the blind image
        self._small_pixels = self._moving_pixels = self._pixels = 0

    def add(self, images: Tensor, frames: Tensor, earlier: Tensor) -> Tensor:
        """Note what the tokenizer shows of frames.

        Args:
            images: (N, 3, 64, 64) in [0, 1].
            frames: (N, 3, 64, 64) uint8, the real ones.
            earlier: (N, 3, 64, 64) uint8, the ones before.

        Returns:
            (N, 64, 64) bool, pixels that move.
        """
        real, past = frames.float() / 255, earlier.float() / 255
        mean = self._mean.expand_as(real)
        moving = differing(frames, earlier)
        self._ours.add(images, real, moving)
        self._by_mean.add(mean, real, moving)
        self._by_past.add(past, real, moving)
        mean_frame = (self._mean * 255).round().to(torch.uint8)
        blind, foreground = (past, moving) if self._sees_past else (mean, differing(frames, mean_frame))
        apart, contrasts = ((x - real).abs().sum(1).double() for x in (images, blind))  # (N, 64, 64)
        small = moving & small_things(foreground)
        for index, where in enumerate((moving & foreground, small)):
            self._lost[index] += float((apart * where).sum())
            self._contrast[index] += float((contrasts * where).sum())
        self._small_pixels += int(small.sum())
        self._moving_pixels += int(moving.sum())
        self._pixels += moving.numel()
        return moving

    def figures(
        self, tokens: Tensor, *, codes: int, still_changed: float | None, latent_entropy: float | None = None
    ) -> TokenizerFigures:
        """The figures so far.

        Args:
            tokens: (N, K) int64 that were made, of one codebook, or classes of K categoricals.
            codes: V, or those of each categorical.
            still_changed: the share of tokens that flicker.
            latent_entropy: of categoricals that draw; None where there is one codebook.
        """
        if latent_entropy is None:
            counts, categoricals = torch.bincount(tokens.flatten(), minlength=codes), 1
            used, entropy = int((counts > 0).sum()), entropy_of_counts(counts)
        else:
            (entropy, used), categoricals = _entropy_of_use(tokens, codes), tokens.shape[1]
        kept = [
            float(1 - lost / whole) if whole else None
            for lost, whole in zip(self._lost, self._contrast, strict=True)
        ]  # fmt: skip
        return TokenizerFigures(
            reconstruction=self._ours.figures(), mean_image=self._by_mean.figures(),
            past_image=self._by_past.figures() if self._sees_past else None,
            moving_share=self._moving_pixels / self._pixels, kept=kept[0], small_kept=kept[1],
            small_pixels=self._small_pixels, still_changed=still_changed, codes=codes * categoricals,
            codes_used=used, perplexity=float(np.exp(entropy)), entropy=entropy, categoricals=categoricals,
            latent_entropy=latent_entropy,
        )  # fmt: skip


class Looker:
    """The policy, looking at one view after the other, and what it made of them.

    Args:
        actor_critic: a policy; it is asked for one view at a time.
        gamma: discount per step of its values.
        known_as: from raw rewards to those that its values are of.
    """

    def __init__(
        self, actor_critic: Any, *, gamma: float, known_as: Callable[[np.ndarray], np.ndarray] = np.sign
    ) -> None:
        self._actor_critic, self._gamma, self._known_as = actor_critic, gamma, known_as
        self._memory: Any = None
        self._logits: list[Tensor] = []
        self._values: list[Tensor] = []

    def look(self, views: Tensor, *, first: bool) -> None:
        """Look at views (N, ...) of an episode, in order; `first` forgets what was before."""
        memory = None if first else self._memory
        for view in views.split(1):
            output = self._actor_critic(view, memory)
            memory = output.memory
            self._logits.append(output.logits_actions)
            self._values.append(output.values)
        self._memory = memory

    def figures(self, episodes: Sequence[Episode]) -> PolicyFigures:
        """Figures of all that it saw, which are these episodes in order."""
        probabilities = torch.cat(self._logits).double().softmax(-1).cpu()  # (N, A)
        values = torch.cat(self._values).double().cpu().numpy()
        entropy = float(torch.special.entr(probabilities).sum(-1).mean())
        shares, actions = probabilities.mean(0), probabilities.shape[1]
        returns, expected, first = [], [], 0
        for episode in episodes:
            if episode.ends[-1]:
                returns.append(discounted_returns(self._known_as(episode.rewards), self._gamma))
                expected.append(values[first : first + len(episode)])
            first += len(episode)
        followed = np.concatenate(returns) if returns else np.zeros(0)
        return PolicyFigures(
            actions=actions, entropy=entropy, entropy_share=entropy / np.log(actions) if actions > 1 else 0.0,
            most_frequent_action=int(shares.argmax()), most_frequent_share=float(shares.max()),
            mean_value=float(values.mean()), mean_return=float(followed.mean()) if returns else None,
            value_correlation=correlation(np.concatenate(expected), followed) if returns else None,
        )  # fmt: skip


class Dreamt(NamedTuple):
    """What dreams showed and paid.

    Attributes:
        views: (B, H, 3, 64, 64) in [0, 1].
        rewards, ends: how many each dream had on average.
    """

    views: Tensor
    rewards: float
    ends: float


def dreamt(
    dream: Dream, actions: Tensor, watch: Watch, *, picture: Callable[[Tensor], Tensor] = lambda view: view
) -> Dreamt:
    """Let B dreams go on under actions (B, H); `picture` makes pictures of views that are none."""
    views = []
    rewards, ends = torch.zeros(2, len(actions), device=actions.device)
    for action in actions.unbind(1):
        outcome = dream.step(action)
        views.append(picture(dream.view))
        rewards += outcome.rewards.abs() > PAID
        ends += outcome.over
        watch(0)
    return Dreamt(torch.stack(views, 1), float(rewards.mean()), float(ends.mean()))


def dream_figures(
    frames: Tensor,
    rewards: Sequence[np.ndarray],
    *,
    context: int,
    played: Callable[[bool], Dreamt],
    seen_start: Tensor | None,
    reconstruction: Tensor,
) -> DreamFigures:
    """Figures of B dreams against what really came.

    Args:
        frames: (B, H + 1, C, 64, 64) uint8, the real ones, from the one that the dreams begin at.
        rewards: B of (H,), the real ones.
        context: real frames that were read.
        played: dreams that take what is most probable if told to, else draw.
        seen_start: (B, C, 64, 64) in [0, 1], the first of the frames as the tokenizer shows it; None: as it is.
        reconstruction: (B, H, C, 64, 64) in [0, 1], the others, likewise.
    """
    real = frames[:, 1:].float() / 255
    moved = torch.stack([differing(frame, frames[:, 0]) for frame in frames[:, 1:].unbind(1)], 1)

    def shown(images: Tensor) -> Curve:
        return curve(images, real, moved)

    sampled, greedy = played(False), played(True)
    copy = shown((frames[:, :1].float() / 255).expand_as(real))
    return DreamFigures(
        starts=len(frames), horizon=real.shape[1], context=context, sampled=shown(sampled.views),
        greedy=shown(greedy.views), copy=copy,
        copy_reconstruction=copy if seen_start is None else shown(seen_start[:, None].expand_as(real)),
        reconstruction=shown(reconstruction), real_rewards=float(np.mean([np.count_nonzero(r) for r in rewards])),
        dreamt_rewards=sampled.rewards, dreamt_ends=sampled.ends,
    )  # fmt: skip


def frames_on(frames: np.ndarray, device: torch.device) -> Tensor:
    """(N, 64, 64, C) uint8 -> (N, C, 64, 64) on the device."""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)


def padded(values: np.ndarray, length: int) -> np.ndarray:
    """(n, ...) -> (length, ...), zeros behind."""
    return np.pad(values, ((0, length - len(values)), *((0, 0) for _ in values.shape[1:])))


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


def _entropy_of_use(classes: Tensor, categories: int) -> tuple[float, int]:
    """Mean over K categoricals of the entropy of how often each of their classes (N, K) occurred, and how many did."""
    counts = [torch.bincount(column, minlength=categories) for column in classes.unbind(1)]
    return float(np.mean([entropy_of_counts(one) for one in counts])), sum(int((one > 0).sum()) for one in counts)


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


@dataclass(frozen=True)
class _Compared:
    """The (M, K) predicted tokens that copying can be compared on."""

    costs: Tensor
    hits: Tensor  # bool
    copied: Tensor  # bool, whether copying hits
    changed: Tensor  # bool


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
    predicted = torch.ones_like(tokens, dtype=torch.bool)
    predicted[segment_starts, 0] = False
    follows = ~segment_starts[1:]
    now, before = tokens[1:][follows], tokens[:-1][follows]  # (M, K)
    stays = now == before
    hits = (guesses == tokens)[1:][follows]
    compared = _Compared(cross_entropy[1:][follows].double(), hits, copied=stays, changed=~stays)
    everywhere = entropy_of_counts(torch.bincount(tokens.flatten(), minlength=codes))
    costs, right = cross_entropy[predicted], (guesses == tokens)[predicted]
    return _token_figures("frames", costs, right, compared, codes=codes, unigram_entropy=everywhere)


def transition_token_figures(
    tokens: Tensor, cross_entropy: Tensor, guesses: Tensor, moving: Tensor, *, codes: int
) -> TokenFigures:
    """Figures of predicted tokens of N transitions, N at least 1.

    Args:
        tokens: (N, K) int64, the true ones.
        cross_entropy: (N, K) of each prediction.
        guesses: (N, K) int64, most probable tokens.
        moving: (N, K) bool, whether a pixel moves in the patch of each token.
        codes: V.
    """
    usual = tokens.mode(0).values  # (K,), the most frequent of each place
    compared = _Compared(cross_entropy.double(), guesses == tokens, copied=tokens == usual, changed=moving)
    everywhere = entropy_of_counts(torch.bincount(tokens.flatten(), minlength=codes))
    return _token_figures(
        "transitions", compared.costs, compared.hits, compared, codes=codes, unigram_entropy=everywhere
    )


def latent_figures(
    latents: Tensor, before: Tensor, cross_entropy: Tensor, guesses: Tensor, *, categories: int
) -> TokenFigures:
    """Figures of N predicted latents of K categoricals, N at least 1; a token is what one categorical says.

    Args:
        latents: (N, K) int64, the most probable classes of the true ones.
        before: (N, K) int64, of the steps before.
        cross_entropy: (N, K) of each prediction.
        guesses: (N, K) int64, most probable classes.
        categories: C, of each categorical.
    """
    stays = latents == before
    compared = _Compared(cross_entropy.double(), guesses == latents, copied=stays, changed=~stays)
    return _token_figures(
        "latents", compared.costs, compared.hits, compared, codes=categories,
        unigram_entropy=_entropy_of_use(latents, categories)[0],
    )  # fmt: skip


def _token_figures(
    tokens_of: str, costs: Tensor, right: Tensor, compared: _Compared, *, codes: int, unigram_entropy: float
) -> TokenFigures:
    """Of the costs of all predicted tokens, whether they are right, and those that copying is compared on."""
    mean = _mean(costs) or 0.0
    changed = compared.changed

    def by_place(values: Tensor) -> list[float]:
        return values.double().mean(0).tolist() if len(values) else []

    return TokenFigures(
        tokens_of=tokens_of,
        cross_entropy=mean,
        cross_entropy_share=mean / math.log(codes),
        unigram_entropy=unigram_entropy,
        accuracy=_mean(right) or 0.0,
        next_accuracy=_mean(compared.hits),
        copy_accuracy=_mean(compared.copied),
        next_cross_entropy=_mean(compared.costs),
        changed=int(changed.sum()),
        changed_accuracy=_mean(compared.hits[changed]),
        changed_copy_accuracy=_mean(compared.copied[changed]),
        changed_cross_entropy=_mean(compared.costs[changed]),
        position_cross_entropy=by_place(compared.costs),
        position_accuracy=by_place(compared.hits),
        position_copy_accuracy=by_place(compared.copied),
        tokens=costs.numel(),
    )


def curve(images: Tensor, real: Tensor, moved: Tensor) -> Curve:
    """Errors by step of images and real frames (B, H, C, 64, 64) in [0, 1]; moved (B, H, 64, 64) since the start."""
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
