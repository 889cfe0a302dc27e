"""What a policy with an LSTM remembers and answers, and what it may be asked. Shared by agents that look at frames."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iris_cli.errors import ShapeError


class Memory(NamedTuple):
    """The LSTM's state, a value that is passed in and out.

    Attributes:
        hidden: (B, W)
        cell: (B, W)
    """

    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True)
class ActorCriticOutput:
    """What the actor-critic makes of B frames.

    Attributes:
        logits_actions: (B, A), before any temperature.
        values: (B,) expected discounted return.
        memory: to hand in with the next frames.
        logits_values: (B, buckets) of the distribution that the values are the means of, or None where values are
            scalars.
    """

    logits_actions: Tensor
    values: Tensor
    memory: Memory
    logits_values: Tensor | None = None


def check_frames(frames: Tensor, memory: Memory | None, *, image_size: int, width: int) -> None:
    """Refuse frames that are not (B, 3, S, S) float32, and memory that is not two parts (B, W).

    Raises:
        ShapeError: naming what does not fit.
    """
    expected = (3, image_size, image_size)
    if frames.shape[1:] != expected or frames.dtype != torch.float32:
        raise ShapeError(
            f"frames must have shape (B, 3, {image_size}, {image_size}) and be float32 in [0, 1]. "
            f"Got {tuple(frames.shape)} {frames.dtype}"
        )
    for part in memory or ():
        if part.shape != (len(frames), width):
            raise ShapeError(
                f"memory must have two parts of shape (B, W)=({len(frames)}, {width}). Got {tuple(part.shape)}"
            )


def check_burn_in(frames: Tensor, mask: Tensor) -> None:
    """Refuse frames that are not (B, T, 3, S, S), or a mask that is not (B, T) bool.

    Raises:
        ShapeError: with what was given.
    """
    if frames.dim() != 5 or mask.shape != frames.shape[:2] or mask.dtype != torch.bool:
        raise ShapeError(
            "frames must have shape (B, T, 3, 64, 64) and mask (B, T) bool. "
            f"Got {tuple(frames.shape)} and {tuple(mask.shape)} {mask.dtype}"
        )
