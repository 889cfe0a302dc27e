"""The state dict that the published trainer writes as `last.pt`, to our networks and back.

Its 434 entries (Crafter) are our weights, most of them under our names. In the transformer query, key and value lie
apart; the file also holds attention masks and the positions each head reads, which follow from the sizes.

Source: fact sheet of Δ-IRIS, section 10.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import (
    PRESETS,
    TOKENS_PER_BLOCK,
    TOKENS_PER_TRANSITION,
    ActorCriticConfig,
    DeltaIrisConfig,
    DynamicsConfig,
    TokenizerConfig,
)
from iris_cli.agents.delta_iris.dynamics import ACTION, REWARD_BUCKETS, Dynamics
from iris_cli.errors import CheckpointError, ConfigError
from iris_cli.nn.foreign import check_state_dict, count_named

HEADS = {256: 4, 512: 8}  # of the published widths; the number of heads is not in the file
_CONSTANTS = (".mask", ".indices")  # how their names end
_FIX = "It should be the last.pt of a published Δ-IRIS agent."


def config_from_published(state: Mapping[str, Tensor], *, heads: int | None = None) -> tuple[DeltaIrisConfig, int]:
    """The settings and the number of actions that a published state dict was made with, as far as its shapes tell.

    How the components learn is not in the file: those settings are the published ones, of Crafter where rewards are
    two-hot and of Atari where they are signs.

    Args:
        state: the state dict.
        heads: of the attention; they leave no trace in the file. None takes those of the published widths, or one for
            each 64.

    Raises:
        CheckpointError: if it is no state dict of a Δ-IRIS agent.
    """
    check_state_dict(state)
    try:
        two_hot = len(state["world_model.head_rewards.head_module.2.bias"]) == REWARD_BUCKETS
        learning = PRESETS["crafter" if two_hot else "atari"]
        config = DeltaIrisConfig(
            preset="imported",
            tokenizer=_tokenizer_config(state, learning.tokenizer),
            dynamics=_dynamics_config(state, learning.dynamics, heads),
            actor_critic=_actor_critic_config(state, learning.actor_critic),
        )
        return config, len(state["actor_critic.model.actor_linear.weight"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"it lacks {error} or has it in another shape", fix=_FIX) from None
    except (ConfigError, ZeroDivisionError) as error:
        raise CheckpointError(f"its sizes are not those of a Δ-IRIS agent ({error})", fix=_FIX) from None


@torch.no_grad()
def load_published(agent: Agent, state: Mapping[str, Tensor]) -> None:
    """Fill an agent with published weights. Masks and positions may be missing.

    Raises:
        CheckpointError: if names, shapes or masks are not the agent's; it then stays as it was.
    """
    ours = _published_views(agent)
    missing = {name for name in ours.keys() - state.keys() if not name.endswith(_CONSTANTS)}
    for names, problem in ((missing, "lacks"), (state.keys() - ours.keys(), "has an unknown")):
        if names:
            raise CheckpointError(f"the state dict {problem} {min(names)} ({len(names)} such)", fix=_FIX)
    for name, theirs in state.items():
        if theirs.shape != ours[name].shape:
            raise CheckpointError(
                f"{name} must have shape {tuple(ours[name].shape)}. Got {tuple(theirs.shape)}", fix=_FIX
            )
        if name.endswith(_CONSTANTS) and not torch.equal(theirs.to(ours[name]), ours[name]):
            raise CheckpointError(f"{name} is not what it is in a Δ-IRIS agent", fix=_FIX)
    for name, theirs in state.items():
        ours[name].copy_(theirs)


@torch.no_grad()
def to_published(agent: Agent) -> OrderedDict[str, Tensor]:
    """A copy of the agent's weights as the published trainer would write them, on the CPU.

    Raises:
        CheckpointError: if its tokenizer is a Transformer, or its networks fold pixels into channels.
    """
    if agent.config.tokenizer.variant != "convolutional":
        raise CheckpointError(
            f"the published format has no place for a {agent.config.tokenizer.variant} tokenizer",
            fix="Only agents with tokenizer.variant convolutional can be exported.",
        )
    if any(
        section.patch != 1 for section in (agent.config.tokenizer, agent.config.dynamics, agent.config.actor_critic)
    ):
        raise CheckpointError(
            "the published format has no place for networks that fold patches of pixels into channels",
            fix="Only agents with patch 1 can be exported.",
        )
    return OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in _published_views(agent).items())


def _published_views(agent: Agent) -> dict[str, Tensor]:
    """Every published entry: views of our weights, so that writing to them fills the agent."""
    return {
        **{f"tokenizer.{name}": tensor for name, tensor in _own(agent.tokenizer)},
        **{f"world_model.{name}": tensor for name, tensor in _dynamics_views(agent.dynamics)},
        **{f"actor_critic.{name}": tensor for name, tensor in _own(agent.actor_critic)},
    }


def _own(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What a module's state dict holds, under its own names below a prefix."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        yield prefix + name, tensor


def _dynamics_views(dynamics: Dynamics) -> Iterator[tuple[str, Tensor]]:
    transformer = dynamics.transformer
    yield "transformer.pos_emb.weight", transformer.positions.weight
    yield from _own(transformer.ln_f, "transformer.ln.")
    for i, block in enumerate(transformer.blocks):
        name = f"transformer.blocks.{i}"
        yield f"{name}.sa.mask", transformer.mask
        yield from _own(block.get_submodule("ln1"), f"{name}.sa.ln.")
        thirds = {kind: qkv.chunk(3) for kind, qkv in block.get_submodule("attn.qkv").named_parameters()}
        for third, part in enumerate(("query", "key", "value")):
            for kind in ("weight", "bias"):
                yield f"{name}.sa.{part}.{kind}", thirds[kind][third]
        yield from _own(block.get_submodule("attn.proj"), f"{name}.sa.attention.proj.")
        yield from _own(block.get_submodule("ln2"), f"{name}.mlp.ln.")
        yield from _own(block.get_submodule("mlp"), f"{name}.mlp.mlp.")
    yield from _own(dynamics.frame_cnn, "frame_cnn.0.")
    yield from _own(dynamics.frame_norm, "frame_cnn.2.")
    yield "act_emb.weight", dynamics.embed_actions.weight
    yield "latents_emb.weight", dynamics.embed_tokens.weight
    positions = torch.arange(transformer.max_tokens)
    in_block = positions % TOKENS_PER_BLOCK
    predicts = (in_block >= ACTION) & (in_block < ACTION + TOKENS_PER_TRANSITION)
    for head, module, reads in (
        ("head_latents", dynamics.head_tokens, predicts),
        ("head_rewards", dynamics.head_rewards, in_block == ACTION),
        ("head_ends", dynamics.head_ends, in_block == ACTION),
    ):
        yield f"{head}.indices", positions[reads]
        yield from _own(module, f"{head}.head_module.")


def _tokenizer_config(state: Mapping[str, Tensor], learning: TokenizerConfig) -> TokenizerConfig:
    multipliers, halvings = _levels(state, "tokenizer.encoder.encoder")
    codes, code_width = state["tokenizer.quantizer.codebook"].shape
    latent_channels = _channels_out(state, "tokenizer.encoder.encoder")
    past_channels = _channels_out(state, "tokenizer.frame_cnn.encoder")
    return dataclasses.replace(
        learning,
        latent_channels=latent_channels,
        base_channels=len(state["tokenizer.encoder.encoder.0.weight"]),
        channel_multipliers=multipliers,
        halvings=halvings,
        past_channels=past_channels,
        past_base_channels=len(state["tokenizer.frame_cnn.encoder.0.weight"]),
        action_channels=state["tokenizer.decoder.decoder.0.weight"].shape[1] - past_channels - latent_channels,
        codes=codes,
        code_width=code_width,
    )


def _dynamics_config(state: Mapping[str, Tensor], learning: DynamicsConfig, heads: int | None) -> DynamicsConfig:
    multipliers, halvings = _levels(state, "world_model.frame_cnn.0.encoder")
    positions, width = state["world_model.transformer.pos_emb.weight"].shape
    blocks = positions // TOKENS_PER_BLOCK
    return dataclasses.replace(
        learning,
        base_channels=len(state["world_model.frame_cnn.0.encoder.0.weight"]),
        channel_multipliers=multipliers,
        halvings=halvings,
        layers=count_named(state, "world_model.transformer.blocks.{}.sa.ln.weight"),
        heads=heads or HEADS.get(width) or max(1, width // 64),
        width=width,
        max_blocks=blocks,
        segment_length=min(learning.segment_length, blocks),
    )


def _actor_critic_config(state: Mapping[str, Tensor], learning: ActorCriticConfig) -> ActorCriticConfig:
    multipliers, halvings = _levels(state, "actor_critic.model.cnn.0.encoder")
    return dataclasses.replace(
        learning,
        latent_channels=_channels_out(state, "actor_critic.model.cnn.0.encoder"),
        base_channels=len(state["actor_critic.model.cnn.0.encoder.0.weight"]),
        channel_multipliers=multipliers,
        halvings=halvings,
        lstm_width=state["actor_critic.model.lstm.weight_hh"].shape[1],
        values="scalar" if len(state["actor_critic.model.critic_linear.bias"]) == 1 else "symlog",
    )


def _levels(state: Mapping[str, Tensor], encoder: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Multipliers and halvings of an encoder: its layers are a convolution, the levels, a norm, SiLU, a convolution."""
    base, multipliers, halvings = len(state[f"{encoder}.0.weight"]), [], []
    layer = 1
    while f"{encoder}.{layer}.f.2.weight" in state:
        multipliers.append(len(state[f"{encoder}.{layer}.f.2.weight"]) // base)
        halvings.append(int(f"{encoder}.{layer + 1}.conv.weight" in state))
        layer += 1 + halvings[-1]
    return tuple(multipliers), tuple(halvings)


def _channels_out(state: Mapping[str, Tensor], encoder: str) -> int:
    multipliers, halvings = _levels(state, encoder)
    return len(state[f"{encoder}.{1 + len(multipliers) + sum(halvings) + 2}.weight"])
