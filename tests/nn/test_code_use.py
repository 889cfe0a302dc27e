"""How evenly codes are used."""

import pytest
import torch

from iris_cli.nn.code_use import code_use


@pytest.mark.parametrize(
    ("tokens", "perplexity", "used"),
    [([[3, 3], [3, 3]], 1.0, 1.0), ([[0, 1], [2, 3]], 4.0, 4.0), ([[0, 0], [0, 1]], 1.7548, 2.0)],
)
def test_perplexity_is_the_number_of_codes_that_as_even_a_use_would_take(
    tokens: list[list[int]], perplexity: float, used: float
) -> None:
    use = code_use(torch.tensor(tokens), codes=9)

    assert use["perplexity"].item() == pytest.approx(perplexity, abs=1e-4)
    assert use["codes_used"].item() == used
