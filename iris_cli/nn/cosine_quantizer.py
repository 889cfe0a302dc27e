"""A codebook of directions: vectors to the code with the largest cosine, codes to the mean direction of their vectors.

The codes are no parameters. They move by a moving average, and codes that are hardly used are drawn anew from the
batch while the use of the book is uneven. Members are named as in the published state dict of Δ-IRIS.

Source: fact sheet of Δ-IRIS, section 2.1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.nn import data_parallel

CODE_DECAY = 0.99  # of the codes, per update
USE_DECAY = 0.98  # of the frequencies of their use, per update
COLLAPSED = 1.0  # bits; below this entropy of use, codes are revived whatever the limit
EXPIRED = 0.1  # of even use; a code below it is revived


@dataclass(frozen=True)
class Quantized:
    """What the codebook makes of vectors.

    Attributes:
        vectors: (..., D) the codes, projected back; gradients go straight through to the vectors given.
        tokens: (...) int64 in [0, V).
        distance: () mean squared difference to the codes, over every element; its gradient moves the vectors.
    """

    vectors: Tensor
    tokens: Tensor
    distance: Tensor


class CosineQuantizer(nn.Module):
    """Vectors of width D to V codes of width E and back.

    In training mode, `forward` takes note of what it was given and `update_codebook`, called once per update, acts on
    it; an update may thus consist of several forward passes.

    Attributes:
        codebook: (V, E); of unit length from the first update on.
        codewords_freqs: (V,) moving average of each code's share of the vectors.
        num_codebook_updates: () int64.
    """

    codebook: Tensor
    codewords_freqs: Tensor
    num_codebook_updates: Tensor

    def __init__(self, codes: int, code_width: int, *, width: int) -> None:
        super().__init__()
        self.register_buffer("num_codebook_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("codebook", torch.empty(codes, code_width).uniform_(-1 / codes, 1 / codes))
        self.register_buffer("codewords_freqs", torch.full((codes,), 1 / codes))
        self.pre_quant_proj = nn.Linear(width, code_width)
        self.post_quant_proj = nn.Linear(code_width, width)
        self._noted: list[tuple[Tensor, Tensor]] = []  # (M, E) unit vectors and (M,) their codes

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantize vectors (..., D)."""
        units = self.directions(vectors)
        tokens = self._nearest(units)
        codes = self.codebook[tokens]  # (..., E)
        if self.training:
            self._noted.append((units.detach().float().flatten(0, -2), tokens.flatten()))
        straight = codes + (units - units.detach())
        return Quantized(self.post_quant_proj(straight), tokens, F.mse_loss(units, codes))

    def tokens(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (...) int64: the code that points most nearly the same way, the first of equals."""
        return self._nearest(self.directions(vectors))

    def lookup(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., D)."""
        return self.post_quant_proj(F.embedding(tokens, self.codebook))

    def directions(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., E) of unit length."""
        return F.normalize(self.pre_quant_proj(vectors), dim=-1)

    def entropy(self) -> Tensor:
        """() in bits, of the moving average of use; it need not sum to 1 after a revival."""
        return torch.special.entr(self.codewords_freqs).sum() / math.log(2)

    @torch.no_grad()
    def update_codebook(self, *, revival_updates: int | None) -> Tensor:
        """Move the codes towards the mean direction of their vectors, and draw hardly used ones anew.

        Vectors of other processes that share the batch count like those seen here. Waits for the device once. Draws
        from torch's global generator, if it revives.

        Args:
            revival_updates: up to this many updates, codes are revived while use is uneven; None: always. A collapsed
                book is revived in any case.

        Returns:
            () int64, codes found to be expired.
        """
        revived = torch.zeros((), dtype=torch.int64, device=self.codebook.device)
        if not self._noted:
            return revived
        units, tokens = (data_parallel.gathered(torch.cat(parts)) for parts in zip(*self._noted, strict=True))
        self._noted.clear()
        codes = len(self.codebook)
        counts = torch.zeros_like(self.codewords_freqs).index_add_(0, tokens, torch.ones_like(units[:, 0]))
        sums = torch.zeros_like(self.codebook).index_add_(0, tokens, units)
        means = F.normalize(sums / counts.clamp_min(1).unsqueeze(1), dim=-1)  # zero for codes without vectors
        self.codebook.lerp_(means, 1 - CODE_DECAY)
        self.codewords_freqs.lerp_(counts / len(units), 1 - USE_DECAY)
        entropy = self.entropy()
        allowed = entropy < COLLAPSED
        if revival_updates is None:
            allowed = torch.ones_like(allowed)
        else:
            allowed = allowed | (self.num_codebook_updates < revival_updates)
        if allowed & (entropy < math.floor(math.log2(codes)) - 2):
            revived = self._revive(units)
        self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        self.num_codebook_updates.add_(1)
        return revived

    def _nearest(self, units: Tensor) -> Tensor:
        with torch.autocast(units.device.type, enabled=False):  # near codes need float32 to tell apart
            return (units.detach().float() @ self.codebook.T).argmax(-1)

    def _revive(self, units: Tensor) -> Tensor:
        """Replace hardly used codes by distinct vectors of the batch (M, E), as far as these reach."""
        even = 1 / len(self.codebook)
        expired = (self.codewords_freqs < EXPIRED * even).nonzero().flatten()
        chosen = expired[torch.randperm(len(expired), device=expired.device)][: len(units)]
        self.codebook[chosen] = units[torch.randperm(len(units), device=units.device)[: len(chosen)]]
        self.codewords_freqs[chosen] = even
        return torch.tensor(len(expired), device=units.device)
