"""The agents, by name. Each lies in its own folder and knows none of the others."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from iris_cli.agents.delta_iris import config as delta_iris_config
from iris_cli.agents.iris import config as iris_config
from iris_cli.agents.twm import config as twm_config
from iris_cli.errors import CheckpointError, ConfigError

AGENTS = ("iris", "delta-iris", "twm")
JOINT = ("twm",)  # those whose components learn together, in train-agent


def build(agent: str, config: Any, num_actions: int) -> Any:
    """A new agent with random weights, on the CPU, in training mode.

    Raises:
        ConfigError: for an unknown agent.
    """
    match agent:  # networks are imported here, so that settings can be read without torch
        case "iris":
            from iris_cli.agents.iris.agent import Agent as Iris

            return Iris(config, num_actions)
        case "delta-iris":
            from iris_cli.agents.delta_iris.agent import Agent as DeltaIris

            return DeltaIris(config, num_actions)
        case "twm":
            from iris_cli.agents.twm.agent import Agent as Twm

            return Twm(config, num_actions)
    raise _unknown(agent)


def published_format(agent: str) -> ModuleType:
    """How an agent's published checkpoints map to it: config_from_published, load_published, to_published.

    Raises:
        ConfigError: for an unknown agent.
    """
    match agent:  # networks are imported here, so that settings can be read without torch
        case "iris":
            from iris_cli.agents.iris import checkpoint as iris_format

            return iris_format
        case "delta-iris":
            from iris_cli.agents.delta_iris import checkpoint as delta_iris_format

            return delta_iris_format
        case "twm":
            from iris_cli.agents.twm import checkpoint as twm_format

            return twm_format
    raise _unknown(agent)


def read_published(path: Path) -> tuple[str, dict[str, Any]]:
    """The agent that a published checkpoint is of, by the names in it, and what it holds.

    Raises:
        CheckpointError: if the file is missing, damaged, holds code, or is of no agent that we can be.
    """
    from iris_cli.nn.foreign import read_foreign  # torch is not needed to read settings

    fix = "It should be a published checkpoint of an IRIS, Δ-IRIS or TWM agent."
    content = read_foreign(path, fix=fix)
    agent = _recognised(content)
    try:
        published_format(agent).config_from_published(content)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=path, fix=fix) from None
    return agent, content


def _recognised(content: object) -> str:
    """The agent whose names these are; the first if they are nobody's."""
    names = content if isinstance(content, Mapping) else ()
    if "config" in names and "state_dict" in names:
        return "twm"
    return "delta-iris" if "tokenizer.quantizer.codebook" in names else "iris"


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


def view_of(agent: str) -> str:
    """What an agent sees of its environment: rgb or grey-stack.

    Raises:
        ConfigError: for an unknown agent.
    """
    return getattr(_settings(agent), "VIEW", "rgb")


def check_joint(agent: str) -> None:
    """Go on only with an agent whose components learn together.

    Raises:
        ConfigError: for another one.
    """
    if agent in AGENTS and agent not in JOINT:
        raise ConfigError(
            f"the components of '{agent}' are trained one by one, not by train-agent", where="agent",
            fix="Use train-tokenizer, train-dynamics and train-actor-critic.",
        )  # fmt: skip


def section_presets_for(agent: str) -> dict[str, dict[str, Any]]:
    """Section name -> preset name -> settings, for sections that have presets of their own.

    Raises:
        ConfigError: for an unknown agent.
    """
    return _settings(agent).SECTION_PRESETS


def _settings(agent: str) -> ModuleType:
    settings = {"iris": iris_config, "delta-iris": delta_iris_config, "twm": twm_config}
    if not isinstance(agent, str) or agent not in settings:
        raise _unknown(agent)
    return settings[agent]


def _unknown(agent: str) -> ConfigError:
    near = difflib.get_close_matches(str(agent), AGENTS, n=1, cutoff=0.5)
    fix = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(AGENTS)}."
    return ConfigError(f"there is no agent '{agent}'", where="agent", fix=fix)
