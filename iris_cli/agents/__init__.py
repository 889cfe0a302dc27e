"""The agents, by name. Each lies in its own folder and knows none of the others."""

import difflib
from types import ModuleType
from typing import Any

from iris_cli.agents.iris import config as iris_config
from iris_cli.agents.twm import config as twm_config
from iris_cli.errors import ConfigError

AGENTS = ("iris", "twm")
TRAINABLE = ("iris",)  # those that the stages know how to train, collect for and watch; the rest can act and be read


def build(agent: str, config: Any, num_actions: int) -> Any:
    """A new agent with random weights, on the CPU, in training mode.

    Raises:
        ConfigError: for an unknown agent.
    """
    match agent:  # networks are imported here, so that settings can be read without torch
        case "iris":
            from iris_cli.agents.iris.agent import Agent as Iris

            return Iris(config, num_actions)
        case "twm":
            from iris_cli.agents.twm.agent import Agent as Twm

            return Twm(config, num_actions)
    raise _unknown(agent)


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


def check_trainable(agent: str) -> None:
    """Go on only with an agent that the stages know.

    Raises:
        ConfigError: for one that they cannot train yet.
    """
    if agent in AGENTS and agent not in TRAINABLE:
        raise ConfigError(
            f"no stage can train '{agent}' yet", where="agent", fix="An imported one can be evaluated and exported."
        )


def section_presets_for(agent: str) -> dict[str, dict[str, Any]]:
    """Section name -> preset name -> settings, for sections that have presets of their own.

    Raises:
        ConfigError: for an unknown agent.
    """
    return {"tokenizer": _settings(agent).TOKENIZER_PRESETS}


def _settings(agent: str) -> ModuleType:
    settings = {"iris": iris_config, "twm": twm_config}
    if not isinstance(agent, str) or agent not in settings:
        raise _unknown(agent)
    return settings[agent]


def _unknown(agent: str) -> ConfigError:
    near = difflib.get_close_matches(str(agent), AGENTS, n=1, cutoff=0.5)
    fix = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(AGENTS)}."
    return ConfigError(f"there is no agent '{agent}'", where="agent", fix=fix)
