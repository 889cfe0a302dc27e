"""Attention summed by kind of token and by how long ago its step was, on weights that are known."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.learn.attention import Stretch, attention_of, looked_at, stretched
from iris_cli.learn.diagnosis import Episode

PLACES = (0, 0, 1)  # two tokens of a frame, and the action


def episode(length: int) -> Episode:
    zeros = np.zeros(length)
    return Episode(
        frames=np.zeros((length, 1, 1, 3), np.uint8), actions=zeros.astype(np.int64), rewards=zeros, ends=zeros > 0
    )


def test_each_token_counts_for_its_kind_and_its_step() -> None:
    weights = torch.zeros(2, 2, 9, 9)  # 3 steps
    weights[0, :, 8] = torch.arange(9.0) / 36  # the third action
    weights[1, 0, 5, 0], weights[1, 1, 5, 5] = 1.0, 1.0  # the second action; each head looks elsewhere
    weights[1, :, 8] = 7.0  # padding

    found = looked_at(weights, [Stretch(0, 0, 3), Stretch(1, 4, 6)], places=PLACES, action=2, span=3)

    expected = [[[6 + 7, 3 + 4, 0 + 1], [8, 5, 2]], [[0, 18, 0], [18, 0, 0]]]  # of 36: the present step first
    torch.testing.assert_close(found, torch.tensor(expected) / 36)


def test_stretches_are_padded_behind() -> None:
    values = [torch.arange(1.0, 7)[:, None].expand(6, 2), torch.tensor([[9.0, 9.0]])]

    rows = stretched(values, [Stretch(0, 2, 5), Stretch(1, 0, 1)], 4)

    assert rows[..., 0].tolist() == [[3, 4, 5, 0], [9, 0, 0, 0]]


@pytest.mark.parametrize(("most", "predictions"), [(100, 9), (4, 4)])
def test_predictions_are_drawn_once_each_from_all_steps_and_stay_in_their_episode(most: int, predictions: int) -> None:
    asked: list[Stretch] = []

    def weights_of(stretches: Sequence[Stretch]) -> Iterable[Tensor]:
        asked.extend(stretches)
        tokens = torch.ones(len(stretches), 1, 9, 9).tril()
        yield tokens / tokens.sum(-1, keepdim=True)
        yield torch.eye(9).expand(len(stretches), 1, 9, 9)

    seen: list[int] = []
    found = attention_of(
        [episode(4), episode(1), episode(4)], kinds=("frame", "action"), places=PLACES, action=2, span=3, most=most,
        seed=0, batch=2, weights_of=weights_of, watch=seen.append,
    )  # fmt: skip

    assert found.predictions == len(set(asked)) == len(asked) == sum(seen) == predictions
    assert found.weights.shape == (2, 2, 3)
    assert found.weights.sum((1, 2)) == pytest.approx([1, 1])
    assert found.weights[1, 1, 0] == pytest.approx(1)  # the second layer looks at the action itself
    if most == 100:
        assert asked == [
            Stretch(0, 0, 1), Stretch(0, 0, 2), Stretch(0, 0, 3), Stretch(0, 1, 4), Stretch(1, 0, 1),
            Stretch(2, 0, 1), Stretch(2, 0, 2), Stretch(2, 0, 3), Stretch(2, 1, 4),
        ]  # fmt: skip
        steps = [1, 2, 3, 3, 1, 1, 2, 3, 3]
        assert found.weights[0, 0, 2] == pytest.approx(sum(2 / 9 for n in steps if n == 3) / 9)
