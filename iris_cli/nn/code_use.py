"""How evenly the codes of a codebook are used."""

import torch
from torch import Tensor

from iris_cli.nn import data_parallel


@torch.no_grad()
def code_use(tokens: Tensor, codes: int) -> dict[str, Tensor]:
    """How many of the codes these tokens (...) use, and the exponential of the entropy of their use.

    Tokens of other processes that share the batch count, too.

    Returns:
        () each: perplexity, from 1 (a single code) to `codes` (all alike), and codes_used.
    """
    flat = tokens.flatten()
    counts = torch.zeros(codes, device=tokens.device).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
    data_parallel.add_up([counts])
    shares = counts / counts.sum()
    return {"perplexity": torch.special.entr(shares).sum().exp(), "codes_used": (counts > 0).sum().float()}
