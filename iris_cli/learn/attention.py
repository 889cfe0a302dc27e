"""What a dynamics looks at when it predicts: attention summed by kind of token and by how long ago its step was.

Every agent measures itself (`Agent.attention`): it hands the weights of its layers to `looked_at`. Predictions are read
off the token of the action, in all three. Source of the picture: Robine et al. 2023, figure 6.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.learn.diagnosis import Episode

Watch = Callable[[int], None]  # is told how many more predictions were made; may raise to stop


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays do not compare as one
class Attention:
    """Attention of predictions, the mean over them and over heads.

    Attributes:
        kinds: of tokens, by name.
        weights: (layers, kinds, S) float64: of the present step, the one before, ...; those of a layer sum up to 1.
        predictions: how many there were. Those near the start of an episode have less to look back on.
    """

    kinds: tuple[str, ...]
    weights: np.ndarray
    predictions: int


@dataclass(frozen=True)
class Stretch:
    """Steps `start` up to `stop` of an episode, the last of which is predicted from."""

    episode: int
    start: int
    stop: int


def attention_of(
    episodes: Sequence[Episode],
    *,
    kinds: tuple[str, ...],
    places: Sequence[int],
    action: int,
    span: int,
    most: int,
    seed: int,
    batch: int,
    weights_of: Callable[[Sequence[Stretch]], Iterable[Tensor]],
    watch: Watch,
) -> Attention:
    """Measure the attention of up to `most` predictions, drawn uniformly from all steps.

    Args:
        episodes: at least one, none empty.
        kinds: of tokens, by name.
        places: which of them each token of a step is, in their order.
        action: the place that is predicted from.
        span: steps that a prediction may look back on, its own included.
        most: how many.
        seed: of which.
        batch: stretches at once.
        weights_of: layer by layer the attention (B, heads, n, n) over stretches, padded on the right to one length.
        watch: called now and then.
    """
    lengths = np.array([len(episode) for episode in episodes])
    owners, ends = np.repeat(np.arange(len(lengths)), lengths), np.cumsum(lengths)
    drawn = np.sort(np.random.default_rng(seed).choice(ends[-1], size=min(most, ends[-1]), replace=False))
    steps = [(int(owners[d]), int(d - ends[owners[d]] + lengths[owners[d]])) for d in drawn]
    stretches = [Stretch(episode, max(step + 1 - span, 0), step + 1) for episode, step in steps]
    total: Tensor | None = None
    for begin in range(0, len(stretches), batch):
        some = stretches[begin : begin + batch]
        layers = [looked_at(one, some, places=places, action=action, span=span) for one in weights_of(some)]
        sums = torch.stack(layers).sum(1).double().cpu()  # (layers, kinds, span)
        total = sums if total is None else total + sums
        watch(len(some))
    assert total is not None
    return Attention(kinds=kinds, weights=(total / len(stretches)).numpy(), predictions=len(stretches))


def looked_at(
    weights: Tensor, stretches: Sequence[Stretch], *, places: Sequence[int], action: int, span: int
) -> Tensor:
    """What the last action of each stretch looks at.

    Args:
        weights: (B, heads, n, n) of a layer over stretches from their start, n tokens or fewer than their steps have.
        stretches: B.
        places, action, span: as in `attention_of`.

    Returns:
        (B, kinds, span), mean over heads.
    """
    last = torch.tensor([stretch.stop - stretch.start - 1 for stretch in stretches], device=weights.device)  # (B,)
    rows = weights.mean(1)[torch.arange(len(last), device=weights.device), last * len(places) + action]  # (B, n)
    tokens = torch.arange(rows.shape[1], device=weights.device)
    ago = (last[:, None] - tokens // len(places)).clamp(min=0)  # what is ahead is not looked at
    kinds = torch.tensor(places, device=weights.device)[tokens % len(places)]  # (n,)
    summed = rows.new_zeros(len(last), (max(places) + 1) * span)
    return summed.scatter_add_(1, kinds * span + ago, rows).unflatten(1, (-1, span))


def stretched(values: Sequence[Tensor], stretches: Sequence[Stretch], span: int) -> Tensor:
    """Rows (B, span, ...) of each episode's values (T, ...), zeros behind."""
    rows = [values[stretch.episode][stretch.start : stretch.stop] for stretch in stretches]
    return torch.stack([F.pad(row, [0, 0] * (row.dim() - 1) + [0, span - len(row)]) for row in rows])
