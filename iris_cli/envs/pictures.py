"""Pictures of any size as frames of 64x64 RGB pixels: which of their axes is which, and the published resize."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iris_cli.envs.spec import FRAME_SHAPE

MAX_PIXELS = 2**25  # of a picture; 8K video has 33 million


def layout_of(shape: Sequence[int]) -> str | None:
    """How a picture of this shape lies in memory: "hw" (grey), "hwc" or "chw" (1 or 3 channels); None if it is none.

    A shape such as (3, 64, 3), which could be either of the last two, is none.
    """
    if len(shape) == 2:
        return "hw"
    if len(shape) != 3 or (shape[0] in (1, 3)) == (shape[2] in (1, 3)):
        return None
    return "hwc" if shape[2] in (1, 3) else "chw"


def frame_of(image: NDArray[np.uint8], layout: str) -> NDArray[np.uint8]:
    """A picture of that layout -> (64, 64, 3) uint8; grey becomes RGB."""
    if layout == "chw":
        image = image.transpose(1, 2, 0)
    return resize(image.squeeze(2) if image.shape[2:] == (1,) else image)


def resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) or (H, W) grey -> (64, 64, 3), by Pillow's bilinear filter, which averages over what it shrinks."""
    picture = Image.fromarray(image).convert("RGB")
    return np.asarray(picture.resize(FRAME_SHAPE[:2], Image.Resampling.BILINEAR))
