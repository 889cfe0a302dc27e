"""Which device to compute on."""

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
            f"device '{name}' cannot be used ({reason})", where="--device", fix="Choose auto, cpu or cuda."
        ) from None
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device
