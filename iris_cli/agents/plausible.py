"""Whether settings that others wrote can be those of the weights beside them, before anything of their size is made.

A file of a few bytes may say that a network has a billion layers. The weights cannot lie about how many they are.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from iris_cli.agents import build
from iris_cli.errors import ConfigError

MAX_COUNT = 1 << 24  # of whatever a setting counts: more would be no network but an attack on the memory
MAX_ACTIONS = 1024
_SPARE = 1 << 20  # numbers that an agent may have beside those that are kept, such as masks


def check_plausible(
    agent: str, config: Any, num_actions: int, sizes: Sequence[int], *, where: Path | None = None
) -> None:
    """Go on only with settings of an agent that is about as large as its weights.

    Args:
        agent, config, num_actions: who it is to be.
        sizes: numbers in each tensor of the file.
        where: the settings are written, for errors.

    Raises:
        ConfigError: if a number is too large for a setting, or the agent for the weights.
    """
    if not 0 < num_actions <= MAX_ACTIONS:
        raise ConfigError(f"there cannot be {str(num_actions)[:20]} actions", where=where)
    networks = {name: section for name, section in asdict(config).items() if name != "schedule"}
    _refuse_large_counts(networks, where)
    _refuse_deep(networks, len(sizes), where)
    try:
        with torch.device("meta"):  # shapes alone
            wanted = sum(tensor.numel() for tensor in build(agent, config, num_actions).state_dict().values())
    except RuntimeError:  # more bytes than can be counted
        raise ConfigError("the settings are of no agent that could be made", where=where) from None
    if wanted > 2 * sum(sizes) + _SPARE:
        raise ConfigError(
            f"the settings are of an agent of {wanted:,} numbers, but the weights are {sum(sizes):,}", where=where
        )


def _refuse_large_counts(settings: Any, where: Path | None) -> None:
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) > MAX_COUNT:
            raise ConfigError(f"the number {str(value)[:40]} is too large for a setting", where=where)


def _refuse_deep(settings: dict[str, Any], tensors: int, where: Path | None) -> None:
    """No network has more layers than tensors."""
    for section in settings.values():
        for name, value in section.items() if isinstance(section, dict) else ():
            if name.endswith(("layers", "res_blocks")) and isinstance(value, int) and value > tensors:
                raise ConfigError(f"{name} is {value:,}, but there are {tensors} tensors", where=where)
