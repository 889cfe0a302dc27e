"""The file that the released program writes at its end, to our agent and back: {"config": settings, "state_dict": ...}.

The state dict is ours but for the beginnings of the names and for the table of positions, which follows from the sizes.
The settings are theirs by name; those that say how long to train, how to evaluate and how to collect are not ours.

Source: fact sheet of TWM, sections 8 and 9.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import (
    IMAGE_SIZE,
    STACK,
    ActorCriticConfig,
    DynamicsConfig,
    ScheduleConfig,
    TokenizerConfig,
    TwmConfig,
)  # fmt: skip
from iris_cli.errors import CheckpointError, ConfigError
from iris_cli.nn.foreign import check_state_dict
from iris_cli.nn.transformer_xl import sinusoids

_FIX = "It should be the file that a released TWM agent was saved in."
_PREFIXES = {
    "tokenizer.": "wm.obs_model.",
    "dynamics.": "wm.dyn_model.prediction_net.",
    "actor_critic.": "ac.",
}
_POSITIONS = "wm.dyn_model.prediction_net.transformer.pos_enc.encodings"

# Section and field of ours -> their name.
_NAMES: dict[str, dict[str, str]] = {
    "tokenizer": {
        "categoricals": "z_categoricals", "categories": "z_categories", "base_channels": "obs_channels",
        "entropy_weight": "obs_entropy_coef", "entropy_threshold": "obs_entropy_threshold",
        "consistency_weight": "obs_consistency_coef", "learning_rate": "obs_lr", "adam_epsilon": "obs_eps",
        "l2_penalty": "obs_wd", "clip_norm": "obs_grad_clip",
    },
    "dynamics": {
        "layers": "dyn_num_layers", "heads": "dyn_num_heads", "head_width": "dyn_head_dim", "width": "dyn_embed_dim",
        "feedforward": "dyn_feedforward_dim", "memory": "wm_memory_length", "reads_rewards": "dyn_input_rewards",
        "latent_widths": "dyn_z_dims", "reward_widths": "dyn_reward_dims", "discount_widths": "dyn_discount_dims",
        "dropout": "dyn_dropout", "segment_length": "wm_sequence_length", "gamma": "env_discount_factor",
        "latent_weight": "dyn_z_coef", "reward_weight": "dyn_reward_coef", "discount_weight": "dyn_discount_coef",
        "sampling_temperature": "buffer_temperature", "batch_size": "wm_batch_size", "learning_rate": "dyn_lr",
        "adam_epsilon": "dyn_eps", "l2_penalty": "dyn_wd", "clip_norm": "dyn_grad_clip",
    },
    "actor_critic": {
        "actor_widths": "actor_dims", "critic_widths": "critic_dims", "horizon": "ac_horizon",
        "lam": "env_discount_lambda", "entropy_weight": "actor_entropy_coef",
        "entropy_threshold": "actor_entropy_threshold", "restart_below": "wm_discount_threshold",
        "batch_size": "ac_batch_size", "learning_rate": "actor_lr", "critic_learning_rate": "critic_lr",
        "adam_epsilon": "actor_eps", "l2_penalty": "actor_wd", "clip_norm": "actor_grad_clip",
    },
    "schedule": {
        "steps": "buffer_capacity", "prefill": "buffer_prefill", "budget": "budget",
        "pretraining_budget": "pretrain_budget", "tokenizer_share": "pretrain_obs_p",
        "dynamics_share": "pretrain_dyn_p",
    },
}  # fmt: skip

# Their settings that our networks and losses know one value of.
_FIXED: dict[str, Any] = {
    "env_frame_size": IMAGE_SIZE, "env_frame_stack": STACK, "env_grayscale": True, "env_reward_transform": "tanh",
    "obs_act": "silu", "obs_norm": "none", "obs_dropout": 0, "obs_decoder_coef": 1,
    "dyn_act": "silu", "dyn_norm": "none", "dyn_input_discounts": False,
    "ac_act": "silu", "ac_norm": "none", "ac_dropout": 0, "ac_input_h": False, "ac_h_norm": "none",
    "ac_normalize_advantages": False, "critic_target_interval": 1, "wm_train_steps": 1,
}  # fmt: skip


def config_from_published(content: Mapping[str, Any], *, heads: int | None = None) -> tuple[TwmConfig, int]:
    """The settings and the number of actions of what a file holds.

    What its settings do not name is as published; the encoder's widths are in the weights alone.

    Args:
        content: settings and a state dict.
        heads: of the attention; the file names them, so this plays no role.

    Raises:
        CheckpointError: if it is not of a TWM agent, or asks for what we have not built.
    """
    try:
        theirs, state = content["config"], content["state_dict"]
        check_state_dict(state)
        return _config(theirs, state), len(state["wm.dyn_model.prediction_net.embeds.a.weight"])
    except (KeyError, AttributeError, TypeError, IndexError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"it lacks {error} or has it in another shape", fix=_FIX) from None


def _config(theirs: Mapping[str, Any], state: Mapping[str, Tensor]) -> TwmConfig:
    """Our settings from theirs."""
    for name, value in _FIXED.items():
        found = theirs.get(name, value)
        if not isinstance(found, str | int | float) or found != value:
            raise CheckpointError(f"it has {name} {repr(found)[:40]}, and only {value!r} is known here")
    sections: dict[str, dict[str, Any]] = {
        section: {
            ours: tuple(theirs[name]) if isinstance(theirs[name], list) else theirs[name]
            for ours, name in names.items()
            if name in theirs
        }
        for section, names in _NAMES.items()
    }
    hidden = [state[f"wm.obs_model.encoder.2.linear{i}.bias"] for i in (1, 2)]
    sections["tokenizer"]["hidden_widths"] = tuple(len(bias) for bias in hidden)
    try:
        if "sampling_temperature" in sections["dynamics"]:  # infinity is a word there, and none at all here
            temperature = float(sections["dynamics"]["sampling_temperature"])
            sections["dynamics"]["sampling_temperature"] = None if temperature == math.inf else temperature
        return TwmConfig(
            preset="imported",
            tokenizer=TokenizerConfig(preset="imported", **sections["tokenizer"]),
            dynamics=DynamicsConfig(**sections["dynamics"]),
            actor_critic=ActorCriticConfig(**sections["actor_critic"]),
            schedule=ScheduleConfig(**sections["schedule"]),
        )
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"its settings are not those of a TWM agent ({error})") from None


@torch.no_grad()
def load_published(agent: Agent, content: Mapping[str, Any]) -> None:
    """Fill an agent with the weights in what a file holds.

    Raises:
        CheckpointError: if names, shapes or positions are not the agent's; it then stays as it was.
    """
    ours, state = _published_views(agent), content["state_dict"]
    for names, problem in ((ours.keys() - state.keys(), "lacks"), (state.keys() - ours.keys(), "has an unknown")):
        if names:
            raise CheckpointError(f"the state dict {problem} {min(names)} ({len(names)} such)", fix=_FIX)
    for name, tensor in ours.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name} must have shape {tuple(tensor.shape)}. Got {tuple(state[name].shape)}", fix=_FIX
            )
    if not torch.allclose(state[_POSITIONS].to(ours[_POSITIONS]), ours[_POSITIONS], atol=1e-5):
        raise CheckpointError(f"{_POSITIONS} is not what it is in a TWM agent", fix=_FIX)
    for name, tensor in ours.items():
        tensor.copy_(state[name])


@torch.no_grad()
def to_published(agent: Agent) -> dict[str, Any]:
    """The agent as the released program would write it, on the CPU: its settings in their words, and a state dict.

    Raises:
        CheckpointError: if the encoder has other layers than the released program can build, or the policy reads what
            the dynamics thinks.
    """
    widths = agent.config.tokenizer.hidden_widths
    if widths != TokenizerConfig.hidden_widths:
        raise CheckpointError(
            f"the released program has no place for an encoder with hidden widths {', '.join(map(str, widths))}",
            fix="Only agents with two hidden layers of 512 can be exported.",
        )
    if agent.config.actor_critic.reads_hidden:
        raise CheckpointError("in which order the released program shows a policy both z and h is not known here")
    config = dict(_FIXED)
    for section, names in _NAMES.items():
        for ours, name in names.items():
            value = getattr(getattr(agent.config, section), ours)
            config[name] = list(value) if isinstance(value, tuple) else value
    for name in ("eps", "wd", "grad_clip"):
        config[f"critic_{name}"] = config[f"actor_{name}"]
    if config["buffer_temperature"] is None:
        config["buffer_temperature"] = "inf"
    config["num_actions"] = agent.num_actions
    state = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in _published_views(agent).items())
    return {"config": config, "state_dict": state}


def _published_views(agent: Agent) -> dict[str, Tensor]:
    """Every published entry: our weights themselves, so that writing to them fills the agent, and the positions."""
    views = {}
    for name, tensor in agent.state_dict().items():
        prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
        views[_PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
    dynamics = agent.config.dynamics
    rows = (1 + dynamics.segment_length) * dynamics.tokens_per_step + 2
    device = agent.dynamics.transformer.u_bias.device
    views[_POSITIONS] = sinusoids(torch.arange(rows, device=device), dynamics.width)
    return views
