"""How novel a view is: random network distillation. A variant, not in the paper or released code of IRIS.

A small network learns to predict what a random one makes of a view; where it still errs, the view is unlike those it
has learned from. The error is a bonus on the reward of the imagined step that led to the view.

Source: Burda et al. 2018, "Exploration by Random Network Distillation". As there: views are normalised by their
running mean and deviation and clipped to 5, the predictor has two more layers than the target, and bonuses are divided
by the running deviation of their discounted sums, without their mean. Otherwise than there: one value head learns
rewards and bonuses together, with one discount and cut at imagined ends, and all views are learned from at once.
"""

import math

import torch
from torch import Tensor, nn

from iris_cli.learn.actor_critic import Rollout, lambda_returns
from iris_cli.learn.losses import Losses

_CLIP = 5.0  # of normalised pixels


class Moments(nn.Module):
    """Running mean and variance over all values noted so far."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def note(self, values: Tensor) -> None:
        """Take in values (N, ...)."""
        self.count += len(values)
        share = (len(values) / self.count).float()
        shift = values.mean(0) - self.mean
        self.variance.lerp_(values.var(0, unbiased=False), share)
        self.variance += share * (1 - share) * shift.square()
        self.mean += share * shift


class Novelty(nn.Module):
    """Bonuses for the views of imagined steps, and the loss that makes what is known ordinary.

    Args:
        width: of the features; the convolutions have a sixteenth and an eighth of it.
        of: what a view is novel among. `imagined`: the imagined views themselves, so that the bonus fades as the
            policy goes there in dreams. `collected`: the real frames that the rollouts begin at, drawn from all of the
            dataset, so that the bonus lasts until such frames have been collected.
    """

    def __init__(self, width: int, *, of: str) -> None:
        super().__init__()
        self._of = of
        self.target = nn.Sequential(*_convolutions(width), nn.Linear(width * 2, width)).requires_grad_(False)
        self.predictor = nn.Sequential(
            *_convolutions(width), nn.Linear(width * 2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None
                nn.init.orthogonal_(module.weight, math.sqrt(2))
                nn.init.zeros_(module.bias)
        self.pixels = Moments(3, 64, 64)
        self.sums = Moments()

    def forward(self, rollout: Rollout, *, gamma: float) -> tuple[Tensor, Losses]:
        """Bonuses for the steps of a rollout, and what to learn from it. Notes its views and bonuses.

        Args:
            rollout: with views (B, H + 1, 3, 64, 64) in [0, 1]; the first is real.
            gamma: discount of the sums that bonuses are measured by.

        Returns:
            (B, H) bonuses without gradient, of about unit size in sum, and the predictor's loss, part loss_novelty;
            novelty is the mean bonus.
        """
        assert rollout.views is not None
        following = rollout.views[:, 1:]  # (B, H, 3, 64, 64), what each step led to
        known = following.flatten(0, 1) if self._of == "imagined" else rollout.views[:, 0]
        self.pixels.note(known)
        errors = self._errors(known)
        if self._of == "imagined":
            raw = errors.detach()
        else:
            with torch.no_grad():
                raw = self._errors(following.flatten(0, 1))
        raw = raw.unflatten(0, following.shape[:2])  # (B, H)
        never = torch.zeros_like(raw)
        self.sums.note(
            lambda_returns(raw, torch.full_like(raw, gamma), never, never[:, 0], lam=1.0).flatten()  # discounted sums
        )
        bonuses = raw / (self.sums.variance.sqrt() + 1e-8)
        loss = errors.mean()
        return bonuses, Losses(loss, {"loss_novelty": loss.detach(), "novelty": bonuses.mean()})

    def _errors(self, views: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N,) mean squared errors of the predicted features."""
        scale = self.pixels.variance.sqrt() + 1e-3  # a quarter of a grey level: what never changed is not divided by 0
        pixels = ((views - self.pixels.mean) / scale).clamp(-_CLIP, _CLIP)
        return (self.predictor(pixels) - self.target(pixels)).square().mean(1)


def _convolutions(width: int) -> list[nn.Module]:
    """(N, 3, 64, 64) -> (N, 2 * width), as in the paper's code but for the size of the image."""
    narrow, wide = width // 16, width // 8
    return [
        nn.Conv2d(3, narrow, 8, stride=4), nn.LeakyReLU(),  # 15 x 15
        nn.Conv2d(narrow, wide, 4, stride=2), nn.LeakyReLU(),  # 6 x 6
        nn.Conv2d(wide, wide, 3), nn.LeakyReLU(), nn.Flatten(),  # 4 x 4
    ]  # fmt: skip
