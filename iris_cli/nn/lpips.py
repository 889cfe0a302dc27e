"""LPIPS (Zhang et al. 2018): a distance between images that weighs features of a VGG16, in plain torch.

Weights come from files only; `iris fetch lpips` gets them. Members are named as in the published state dict.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from iris_cli.errors import DAMAGE, CheckpointError
from iris_cli.nn.dropout import SharedDropout
from iris_cli.nn.foreign import read_foreign

_SHIFT = (-0.030, -0.088, -0.188)  # of the ImageNet statistics, for pixels in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
_WIDTHS = (64, 128, 256, 512, 512)  # channels of the five slices
_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's `features` indices
_PREFIX = "tokenizer.lpips."  # in a published IRIS checkpoint


class LPIPS(nn.Module):
    """The distance of images; its weights are frozen.

    In training mode half of the squared feature differences are dropped before the heads, as the published trainer
    does; in evaluation mode none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _VGG16()
        for i, width in enumerate(_WIDTHS):
            self.add_module(f"lin{i}", _Head(width))
        self.requires_grad_(False)

    def forward(self, target: Tensor, images: Tensor) -> Tensor:
        """Distance of each of the images from its target.

        Args:
            target: (N, 3, h, w) in [-1, 1]. Not differentiated.
            images: (N, 3, h, w), about [-1, 1].

        Returns:
            (N,) non-negative.
        """
        with torch.no_grad():
            wanted = self.net(self.scaling_layer(target))
        features = self.net(self.scaling_layer(images))
        total = torch.zeros(len(images), device=images.device)
        for i, (x, y) in enumerate(zip(wanted, features, strict=True)):
            difference = (_unit(x) - _unit(y)).square()
            total = total + self.get_submodule(f"lin{i}")(difference).mean(dim=(1, 2, 3))
        return total


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.shift) / self.scale


class _VGG16(nn.Module):
    """The convolutions of VGG16 in five slices; each gives its last map after ReLU."""

    def __init__(self) -> None:
        super().__init__()
        channels, first = 3, 0
        for number, (indices, width) in enumerate(zip(_CONVOLUTIONS, _WIDTHS, strict=True), start=1):
            layers = nn.Sequential()
            for i in range(first, indices[-1] + 2):
                if i in indices:
                    layers.add_module(str(i), nn.Conv2d(channels, width, 3, padding=1))
                    channels = width
                else:
                    pools = i == first and number > 1
                    layers.add_module(str(i), nn.MaxPool2d(2) if pools else nn.ReLU(inplace=True))
            self.add_module(f"slice{number}", layers)
            first = indices[-1] + 2

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for layers in self.children():
            images = layers(images)
            features.append(images)
        return features


class _Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(SharedDropout(0.5), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference)


def _unit(features: Tensor) -> Tensor:
    features = features.float()  # a distance is a small difference
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def load_lpips(*paths: Path) -> LPIPS:
    """An LPIPS network with weights from files, in training mode (see `LPIPS`).

    Args:
        paths: files that together hold all weights: our own `lpips.safetensors`; torchvision's `vgg16-*.pth` and the
            `vgg.pth` of LPIPS; or a published IRIS checkpoint. A directory stands for all `*.pth` in it.

    Raises:
        CheckpointError: if a file cannot be read, holds code, or weights are missing or of another shape.
    """
    where = ", ".join(map(str, paths))
    weights: dict[str, Tensor] = {}
    for path in paths:
        for file in sorted(path.glob("*.pth")) if path.is_dir() else [path]:
            weights |= _renamed(_read(file))
    lpips = LPIPS()
    missing = [name for name in lpips.state_dict() if name not in weights and "scaling_layer" not in name]
    if missing:
        raise CheckpointError(
            f"LPIPS weights are missing ({len(missing)} of them, {missing[0]} first)", where=where, fix=_FIX
        )
    try:
        lpips.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError("LPIPS weights have other shapes", where=where, fix=_FIX) from error
    return lpips


_FIX = "Get them with: iris fetch lpips"


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; pickled code is refused, never run."""
    try:
        content = load_file(file) if file.suffix == ".safetensors" else read_foreign(file, fix=_FIX)
    except (*DAMAGE, RuntimeError, SafetensorError, CheckpointError) as error:
        raise CheckpointError("not a readable file of LPIPS weights", where=file, fix=_FIX) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not a dictionary of weights", where=file, fix=_FIX)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, from any of the formats; others left out."""
    slices = {str(i): number for number, indices in enumerate(_CONVOLUTIONS, start=1) for i in indices}
    renamed = {}
    for name, value in weights.items():
        match name.split("."):
            case ["features", index, kind] if index in slices:
                renamed[f"net.slice{slices[index]}.{index}.{kind}"] = value
            case ["tokenizer", "lpips", *rest]:
                renamed[".".join(rest)] = value
            case ["net" | "scaling_layer" | "lin0" | "lin1" | "lin2" | "lin3" | "lin4", *_]:
                renamed[name] = value
    return renamed
