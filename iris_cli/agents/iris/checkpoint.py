"""The state dict that the published trainer writes as `last.pt`, to our networks and back.

Its 624 entries (at published size, LPIPS included) are our weights under other names, in an order of their own. Query,
key and value lie apart there; it also holds attention masks, the positions each head reads, and the LPIPS network.

Source: fact sheet of IRIS, sections 10 and 13.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import (
    IMAGE_SIZE,
    TOKENS_PER_BLOCK,
    TOKENS_PER_FRAME,
    ActorCriticConfig,
    DynamicsConfig,
    IrisConfig,
    TokenizerConfig,
)  # fmt: skip
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.errors import CheckpointError, ConfigError
from iris_cli.nn.foreign import check_state_dict, count_named
from iris_cli.nn.lpips import LPIPS

HEAD_WIDTH = 64  # of a published attention head; the number of heads is not in the file
_LPIPS = "tokenizer.lpips."
_CONSTANTS = (".mask", ".indices")  # how their names end; they follow from the sizes
_FIX = "It should be the last.pt of a published IRIS agent."


def config_from_published(state: Mapping[str, Tensor], *, heads: int | None = None) -> tuple[IrisConfig, int]:
    """The settings and the number of actions that a published state dict was made with, as far as its shapes tell.

    How the components learn is not in the file: those settings are the published ones.

    Args:
        state: the state dict.
        heads: of the attention; they leave no trace in the file. None takes one for each 64 of the width, as published.

    Raises:
        CheckpointError: if it is no state dict of an IRIS agent.
    """
    check_state_dict(state)
    try:
        config = IrisConfig(
            preset="imported",
            tokenizer=_tokenizer_config(state),
            dynamics=_dynamics_config(state, heads),
            actor_critic=_actor_critic_config(state),
        )
        return config, len(state["actor_critic.actor_linear.weight"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"it lacks {error} or has it in another shape", fix=_FIX) from None
    except (ConfigError, ZeroDivisionError) as error:
        raise CheckpointError(f"its sizes are not those of an IRIS agent ({error})", fix=_FIX) from None


@torch.no_grad()
def load_published(agent: Agent, state: Mapping[str, Tensor]) -> None:
    """Fill an agent with published weights. LPIPS keys are left alone.

    Raises:
        CheckpointError: if names, shapes or masks are not the agent's; it then stays as it was.
    """
    ours = _published_views(agent)
    theirs = {name: value for name, value in state.items() if not name.startswith(_LPIPS)}
    for names, problem in ((ours.keys() - theirs.keys(), "lacks"), (theirs.keys() - ours.keys(), "has an unknown")):
        if names:
            raise CheckpointError(f"the state dict {problem} {min(names)} ({len(names)} such)", fix=_FIX)
    for name, tensor in ours.items():
        if theirs[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name} must have shape {tuple(tensor.shape)}. Got {tuple(theirs[name].shape)}", fix=_FIX
            )
        if name.endswith(_CONSTANTS) and not torch.equal(theirs[name].to(tensor), tensor):
            raise CheckpointError(f"{name} is not what it is in an IRIS agent", fix=_FIX)
    for name, tensor in ours.items():
        tensor.copy_(theirs[name])


@torch.no_grad()
def to_published(agent: Agent, lpips: LPIPS | None = None) -> OrderedDict[str, Tensor]:
    """A copy of the agent's weights as the published trainer would write them, on the CPU.

    Args:
        agent: with a residual tokenizer; the published program knows no other.
        lpips: the perceptual network, without which the published program cannot load the file strictly.

    Raises:
        CheckpointError: if the tokenizer is of another kind.
    """
    if agent.config.tokenizer.network != "residual":
        raise CheckpointError(
            f"the published format has no place for a {agent.config.tokenizer.network} tokenizer",
            fix="Only agents with the residual tokenizer can be exported.",
        )
    return OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in _published_views(agent, lpips).items())


def _published_views(agent: Agent, lpips: LPIPS | None = None) -> dict[str, Tensor]:
    """Every published entry in order: views of our weights, so that writing to them fills the agent."""
    return {
        **{f"tokenizer.{name}": tensor for name, tensor in _tokenizer_views(agent.tokenizer)},
        **{f"{_LPIPS}{name}": tensor for name, tensor in (lpips.state_dict() if lpips else {}).items()},
        **{f"world_model.{name}": tensor for name, tensor in _dynamics_views(agent.dynamics)},
        **{f"actor_critic.{name}": tensor for name, tensor in agent.actor_critic.named_parameters()},
    }


def _tokenizer_views(tokenizer: Tokenizer) -> Iterator[tuple[str, Tensor]]:
    yield from _named("encoder", tokenizer.encoder)
    yield from _named("pre_quant_conv", tokenizer.pre_quant_conv)
    yield "embedding.weight", tokenizer.embedding.weight
    yield from _named("post_quant_conv", tokenizer.post_quant_conv)
    yield from _named("decoder", tokenizer.decoder)


def _dynamics_views(dynamics: Dynamics) -> Iterator[tuple[str, Tensor]]:
    transformer = dynamics.transformer
    for i, block in enumerate(transformer.blocks):
        name = f"transformer.blocks.{i}"
        yield from _named(f"{name}.ln1", block.get_submodule("ln1"))
        yield from _named(f"{name}.ln2", block.get_submodule("ln2"))
        yield f"{name}.attn.mask", transformer.mask.float()
        thirds = {kind: qkv.chunk(3) for kind, qkv in block.get_submodule("attn.qkv").named_parameters()}
        for part, third in (("key", 1), ("query", 0), ("value", 2)):
            for kind in ("weight", "bias"):
                yield f"{name}.attn.{part}.{kind}", thirds[kind][third]
        yield from _named(f"{name}.attn.proj", block.get_submodule("attn.proj"))
        yield from _named(f"{name}.mlp", block.get_submodule("mlp"))
    yield from _named("transformer.ln_f", transformer.ln_f)
    yield "pos_emb.weight", transformer.positions.weight
    yield "embedder.embedding_tables.0.weight", dynamics.embed_actions.weight
    yield "embedder.embedding_tables.1.weight", dynamics.embed_tokens.weight
    positions = torch.arange(transformer.max_tokens)
    in_block = positions % TOKENS_PER_BLOCK
    acts = in_block == TOKENS_PER_FRAME
    for head, module, reads in (
        ("head_observations", dynamics.head_tokens, in_block != TOKENS_PER_FRAME - 1),
        ("head_rewards", dynamics.head_rewards, acts),
        ("head_ends", dynamics.head_ends, acts),
    ):
        yield f"{head}.indices", positions[reads]
        yield from _named(f"{head}.head_module", module)


def _named(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        yield f"{prefix}.{name}", parameter


def _tokenizer_config(state: Mapping[str, Tensor]) -> TokenizerConfig:
    codes, code_width = state["tokenizer.embedding.weight"].shape
    base = len(state["tokenizer.encoder.conv_in.weight"])
    levels = count_named(state, "tokenizer.encoder.down.{}.block.0.conv1.weight")
    widths = [len(state[f"tokenizer.encoder.down.{i}.block.0.conv1.weight"]) for i in range(levels)]
    return TokenizerConfig(
        preset="imported",
        codes=codes,
        code_width=code_width,
        latent_channels=len(state["tokenizer.encoder.conv_out.weight"]),
        base_channels=base,
        channel_multipliers=tuple(width // base for width in widths),
        res_blocks=count_named(state, "tokenizer.encoder.down.0.block.{}.conv1.weight"),
        attention_resolutions=tuple(
            sorted(IMAGE_SIZE >> i for i in range(levels) if f"tokenizer.encoder.down.{i}.attn.0.q.weight" in state)
        ),
    )


def _dynamics_config(state: Mapping[str, Tensor], heads: int | None) -> DynamicsConfig:
    positions, width = state["world_model.pos_emb.weight"].shape
    mask = state["world_model.transformer.blocks.0.attn.mask"]
    blocks = positions // TOKENS_PER_BLOCK
    return DynamicsConfig(
        layers=count_named(state, "world_model.transformer.blocks.{}.attn.mask"),
        heads=heads or max(1, width // HEAD_WIDTH),
        width=width,
        max_blocks=blocks,
        attention="block-causal" if mask[0, 1] else "causal",
        segment_length=min(DynamicsConfig.segment_length, blocks),
    )


def _actor_critic_config(state: Mapping[str, Tensor]) -> ActorCriticConfig:
    first, second, third, fourth = (len(state[f"actor_critic.conv{i}.weight"]) for i in (1, 2, 3, 4))
    return ActorCriticConfig(
        channels=(first, second, third, fourth), lstm_width=state["actor_critic.lstm.weight_hh"].shape[1]
    )
