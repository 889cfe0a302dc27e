"""Which device to compute on, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from iris_cli.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda"):
            raise RuntimeError("there is no such device")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device '{name}' cannot be used ({reason})",
            where="--device",
            fix="Choose auto or cpu." if name.startswith("cuda") else "Choose auto, cpu or cuda.",
        ) from None
    torch.backends.cudnn.allow_tf32 = False  # tokens and scores are exact; training asks for speed by itself
    return device


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Within it, CUDA multiplies in TF32, as the published program did."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
