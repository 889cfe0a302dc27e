"""A codebook: latents to the nearest of V codes.

Published IRIS learns the codes by gradient (van den Oord et al. 2017). Two options help where that leaves codes
unused: a moving average of the latents assigned to a code (same paper, appendix A.1), and the revival of idle codes
from those latents of the update that the codebook serves worst.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.nn import data_parallel

_SAME = 0.01  # share of the latents' variance; codes that differ by less are one code twice


@dataclass(frozen=True)
class Quantized:
    """What the codebook makes of latents.

    Attributes:
        latents: (N, E, h, w) their codes; the gradient goes straight through to the latents given.
        tokens: (N, h, w) int64 in [0, V).
        loss: () codebook and commitment terms, means over every element.
    """

    latents: Tensor
    tokens: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """V codes of width E, the rows of `weight`.

    In training mode, `forward` takes note of what is used and `update_codebook`, called once per update, acts on it;
    an update may thus consist of several forward passes.

    Args:
        commitment_weight: of the pull of the latents to their codes.
        ema_decay: per update; None: the codes learn by gradient.
        revive_after: updates that a code may go unused before it is drawn anew; 0: never.
    """

    weight: Tensor
    average_count: Tensor
    average_sum: Tensor
    idle: Tensor
    parked: Tensor
    _count: Tensor
    _sum: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        commitment_weight: float = 1.0,
        ema_decay: float | None = None,
        revive_after: int = 0,
    ) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        self.ema_decay = ema_decay
        self.revive_after = revive_after
        weight = torch.empty(codes, width).uniform_(-1 / codes, 1 / codes)
        if ema_decay is None:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("average_count", torch.ones(codes))
            self.register_buffer("average_sum", weight.clone())
            self.register_buffer("_sum", torch.zeros(codes, width), persistent=False)
        if revive_after > 0:  # all count as idle at first, so that the first update draws the codes from its latents
            self.register_buffer("idle", torch.full((codes,), revive_after))
            self.register_buffer("parked", torch.zeros(codes, dtype=torch.bool))
        if self._adapts:
            self.register_buffer("_count", torch.zeros(codes), persistent=False)
        self._last: tuple[Tensor, Tensor] | None = None  # (M, E) latents and (M,) their squared distances

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents (N, E, h, w)."""
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2).float()  # (N*h*w, E), row-major over the grid
        indices, distances = self._nearest(flat.detach())
        tokens = indices.view(latents.shape[0], *latents.shape[2:])
        codes = self.lookup(tokens)
        loss = self.commitment_weight * F.mse_loss(latents, codes.detach())
        if self.ema_decay is None:
            loss = loss + F.mse_loss(codes, latents.detach())
        if self.training and self._adapts:
            self._note(flat.detach(), indices, distances)
        return Quantized(latents + (codes - latents).detach(), tokens, loss)

    def tokens(self, latents: Tensor) -> Tensor:
        """(N, E, h, w) -> (N, h, w) int64: the nearest code of each latent, the first of equals."""
        indices, _ = self._nearest(latents.permute(0, 2, 3, 1).flatten(0, 2).float())
        return indices.view(latents.shape[0], *latents.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        """(N, h, w) int64 -> (N, E, h, w)."""
        return F.embedding(tokens, self.weight).permute(0, 3, 1, 2)

    @torch.no_grad()
    def update_codebook(self) -> None:
        """Move the codes to the average of their latents, and draw idle ones anew, as configured.

        Latents of other processes that share the batch count like those seen here.
        """
        if self._last is None:
            return
        data_parallel.add_up([self._count])
        if self.ema_decay is not None:
            data_parallel.add_up([self._sum])
            self.average_count.lerp_(self._count, 1 - self.ema_decay)
            self.average_sum.lerp_(self._sum, 1 - self.ema_decay)
            means = self.average_sum / self.average_count.clamp_min(1e-12).unsqueeze(1)
            self.weight.copy_(torch.where((self._count > 0).unsqueeze(1), means, self.weight))
            self._sum.zero_()
        if self.revive_after > 0:
            self._revive(*(data_parallel.gathered(rows) for rows in self._last))
        self._count.zero_()
        self._last = None

    @property
    def _adapts(self) -> bool:
        return self.ema_decay is not None or self.revive_after > 0

    def _nearest(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(flat.device.type, enabled=False):  # near codes need float32 to tell apart
            weight = self.weight.detach()
            squares = flat.square().sum(1, keepdim=True) + weight.square().sum(1)
            if self.revive_after > 0:
                squares = squares.masked_fill(self.parked, math.inf)
            distances, indices = torch.addmm(squares, flat, weight.T, alpha=-2).min(dim=1)  # (M, V) -> (M,)
        return indices, distances

    @torch.no_grad()
    def _note(self, flat: Tensor, indices: Tensor, distances: Tensor) -> None:
        self._count.index_add_(0, indices, torch.ones_like(distances))
        if self.ema_decay is not None:
            self._sum.index_add_(0, indices, flat)
        self._last = flat, distances

    @torch.no_grad()
    def _revive(self, latents: Tensor, distances: Tensor) -> None:
        """Draw a latent for each idle code, in proportion to its squared distance (as k-means++ does).

        Of two codes that are nearer to each other than `limit`, chance decides which one a latent gets; to whatever
        predicts tokens, that is noise. So the later of the two counts as idle, and one that finds no place of its own
        is parked: no latent gets it until it is drawn anew.
        """
        limit = torch.maximum(distances.mean(), _SAME * latents.var(0, correction=0).sum())
        crowded = (self._near(limit) & ~self.parked).tril(-1).any(1)
        self.idle.add_(1).masked_fill_((self._count > 0) & ~crowded, 0)
        dead = self.idle > self.revive_after
        drawn = latents[torch.multinomial(distances.clamp_min(1e-12), len(self.idle), replacement=True)]
        self.weight.copy_(torch.where(dead.unsqueeze(1), drawn, self.weight))
        self.idle.masked_fill_(dead, 0)
        taken = (~dead & ~self.parked) | dead.expand(len(dead), -1).tril(-1)  # (V, V): the living, and earlier drawn
        self.parked.copy_(torch.where(dead, (self._near(limit) & taken).any(1), self.parked))
        if self.ema_decay is not None:
            self.average_count.masked_fill_(dead, 1.0)
            self.average_sum.copy_(torch.where(dead.unsqueeze(1), drawn, self.average_sum))

    def _near(self, limit: Tensor) -> Tensor:
        """(V, V) bool: pairs of codes whose squared distance is below `limit`."""
        squares = self.weight.square().sum(1)
        return squares[:, None] + squares - 2 * self.weight @ self.weight.T < limit
