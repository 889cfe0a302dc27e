"""Linear layers with SiLU between them, named linear1, linear2, ..., and the initial weights that go with them."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from iris_cli.nn.dropout import SharedDropout


class MLP(nn.Sequential):
    """(..., widths[0]) -> (..., widths[-1]).

    Args:
        widths: of the input, the hidden layers and the output.
        activates_output: whether SiLU (and dropout) follow the last layer too.
        dropout: after each activation.
        orthogonal: draw weights orthogonal instead of uniform.
    """

    def __init__(
        self, widths: Sequence[int], *, activates_output: bool = False, dropout: float = 0.0, orthogonal: bool = False
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            activates = activates_output or i < len(widths) - 1
            layers[f"linear{i}"] = linear = nn.Linear(before, after)
            init_silu(linear, activates=activates, orthogonal=orthogonal)
            if activates:
                layers[f"silu{i}"] = nn.SiLU()
                layers[f"dropout{i}"] = SharedDropout(dropout)
        super().__init__(layers)


def init_silu(layer: nn.Linear | nn.Conv2d, *, activates: bool, orthogonal: bool = False) -> None:
    """Weights of variance gain^2 / fan_in with gain sqrt(2) where an activation follows and 1 elsewhere; biases 0.

    Source: fact sheet of TWM, section 1.
    """
    gain = math.sqrt(2) if activates else 1.0
    if orthogonal:
        nn.init.orthogonal_(layer.weight, gain)
    else:
        bound = math.sqrt(3 / layer.weight[0].numel()) * gain
        nn.init.uniform_(layer.weight, -bound, bound)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
