"""The agents, by name. Each lies in its own folder and knows none of the others."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from iris_cli.agents.delta_iris import config as delta_iris_config
from iris_cli.agents.iris import config as iris_config
from iris_cli.errors import CheckpointError, ConfigError

AGENTS = ("iris", "delta-iris")


def build(agent: str, config: Any, num_actions: int) -> Any:
    """A new agent with random weights, on the CPU, in training mode.

    Raises:
        ConfigError: for an unknown agent.
    """
    match agent:  # networks are imported here, so that settings can be read without torch
        case "iris":
            from iris_cli.agents.iris.agent import Agent

            return Agent(config, num_actions)
        case "delta-iris":
            from iris_cli.agents.delta_iris.agent import Agent as DeltaIrisAgent

            return DeltaIrisAgent(config, num_actions)
    raise _unknown(agent)


def published_format(agent: str) -> ModuleType:
    """How an agent's published checkpoints map to it: config_from_state_dict, load_published, to_published.

    Raises:
        ConfigError: for an unknown agent.
    """
    match agent:  # networks are imported here, so that settings can be read without torch
        case "iris":
            from iris_cli.agents.iris import checkpoint

            return checkpoint
        case "delta-iris":
            from iris_cli.agents.delta_iris import checkpoint as delta_iris_checkpoint

            return delta_iris_checkpoint
    raise _unknown(agent)


def read_published(path: Path) -> tuple[str, dict[str, Any]]:
    """The agent that a published checkpoint is of, by the names in it, and its state dict.

    Raises:
        CheckpointError: if the file is missing, damaged, holds code, or is no state dict of an agent.
    """
    from iris_cli.nn.state_dict import read_state_dict  # torch is not needed to read settings

    fix = "It should be the last.pt of a published IRIS or Δ-IRIS agent."
    state = read_state_dict(path, fix=fix)
    agent = _recognised(state)
    try:
        published_format(agent).config_from_state_dict(state)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=path, fix=fix) from None
    return agent, state


def _recognised(state: Mapping[str, Any]) -> str:
    """The agent whose names these are; the first if they are nobody's."""
    return "delta-iris" if "tokenizer.quantizer.codebook" in state else "iris"


def config_for(agent: str) -> Any:
    """The published settings of an agent.

    Raises:
        ConfigError: for an unknown agent.
    """
    return presets_for(agent)["published"]


def presets_for(agent: str) -> dict[str, Any]:
    """Settings of whole agents by preset name, "published" among them.

    Raises:
        ConfigError: for an unknown agent.
    """
    return _settings(agent).PRESETS


def section_presets_for(agent: str) -> dict[str, dict[str, Any]]:
    """Section name -> preset name -> settings, for sections that have presets of their own.

    Raises:
        ConfigError: for an unknown agent.
    """
    return _settings(agent).SECTION_PRESETS


def _settings(agent: str) -> ModuleType:
    settings = {"iris": iris_config, "delta-iris": delta_iris_config}
    if not isinstance(agent, str) or agent not in settings:
        raise _unknown(agent)
    return settings[agent]


def _unknown(agent: str) -> ConfigError:
    nearest = difflib.get_close_matches(str(agent), AGENTS, n=1, cutoff=0.0)
    return ConfigError(f"there is no agent '{agent}'", where="agent", fix=f"Did you mean {nearest[0]}?")
