"""The golden file: weights, inputs and outputs of the published networks at tiny size (widths of 32)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import Tensor

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.checkpoint import load_published
from iris_cli.agents.iris.config import ActorCriticConfig, DynamicsConfig, IrisConfig, TokenizerConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "iris_tiny.safetensors"


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Every tensor of the file by name, the floating ones as float32 (some are stored in fewer bits). Read only."""
    with safe_open(GOLDEN, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="session")
def golden_config() -> dict:
    """What the file says about itself: sizes, seeds, recipes."""
    with safe_open(GOLDEN, framework="pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="session")
def golden_agent_config(golden_config: dict) -> IrisConfig:
    """The settings of the golden agent in our words."""
    tokenizer, dynamics = golden_config["tokenizer"], golden_config["world_model"]
    return IrisConfig(
        preset="golden",
        tokenizer=TokenizerConfig(
            codes=tokenizer["vocab_size"],
            code_width=tokenizer["embed_dim"],
            latent_channels=tokenizer["z_channels"],
            base_channels=tokenizer["ch"],
            channel_multipliers=tuple(tokenizer["ch_mult"]),
            res_blocks=tokenizer["num_res_blocks"],
            attention_resolutions=tuple(tokenizer["attn_resolutions"]),
            dropout=tokenizer["dropout"],
        ),
        dynamics=DynamicsConfig(
            layers=dynamics["num_layers"],
            heads=dynamics["num_heads"],
            width=dynamics["embed_dim"],
            max_blocks=dynamics["max_blocks"],
            attention=dynamics["attention"],
            embedding_dropout=dynamics["embed_pdrop"],
            attention_dropout=dynamics["attn_pdrop"],
            residual_dropout=dynamics["resid_pdrop"],
            segment_length=dynamics["max_blocks"],
        ),
        actor_critic=ActorCriticConfig(
            horizon=golden_config["imagine_horizon"],
            burn_in=golden_config["imagine_burn_in"],
            gamma=golden_config["gamma"],
            lam=golden_config["lambda_"],
            entropy_weight=golden_config["entropy_weight"],
        ),
    )


def with_precision(config: IrisConfig, precision: str) -> IrisConfig:
    """The same settings, to compute in another precision."""
    names = ("tokenizer", "dynamics", "actor_critic")
    return replace(config, **{name: replace(getattr(config, name), precision=precision) for name in names})


@pytest.fixture(scope="session")
def in_precision() -> Callable[[IrisConfig, str], IrisConfig]:
    return with_precision


@pytest.fixture(scope="module")
def agent(golden: dict[str, Tensor], golden_agent_config: IrisConfig) -> Agent:
    """The golden network, in eval mode."""
    agent = Agent(with_precision(golden_agent_config, "float32"), num_actions=4).eval()
    load_published(agent, {name: value for name, value in golden.items() if not name.startswith(("in.", "out."))})
    return agent
