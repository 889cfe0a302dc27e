"""The golden files: weights, inputs and outputs of the published networks at tiny size, once with the heads of the
Crafter preset and once with those of the Atari preset. Their images have 32 pixels."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.checkpoint import load_published
from iris_cli.agents.delta_iris.config import ActorCriticConfig, DeltaIrisConfig, DynamicsConfig, TokenizerConfig
from iris_cli.agents.delta_iris.tokenizer import Tokenizer
from iris_cli.replay.segments import Segments

FOLDER = Path(__file__).parents[2] / "golden"
FILES = ("delta_iris_tiny", "delta_iris_tiny_atari")
IMAGE_SIZE = 32


@dataclass(frozen=True)
class Golden:
    """One file. Its tensors are only read.

    Attributes:
        name: of the file.
        tensors: every tensor by name.
        about: sizes of every net, as the file says.
        info: margins, tolerances, cases.
        groups: component -> decay or no_decay -> names of parameters.
    """

    name: str
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    info: dict[str, Any]
    groups: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """What lies below a prefix, by the rest of its name."""
        return {k.removeprefix(prefix): value for k, value in self.tensors.items() if k.startswith(prefix)}

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict under the published names."""
        return {name: value for name, value in self.tensors.items() if not name.startswith(("in.", "out."))}

    @property
    def num_actions(self) -> int:
        return self.about["num_actions"]

    @property
    def is_symlog(self) -> bool:
        """Whether rewards and values are two-hot, as in Crafter."""
        return self.about["world_model"]["two_hot_rews"]


@pytest.fixture(scope="session", params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Both files in turn."""
    path = FOLDER / f"{request.param}.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about, info = (json.loads(file.metadata()[name]) for name in ("config", "info"))
    groups = json.loads((FOLDER / f"{request.param}_optimizer_groups.json").read_text(encoding="utf-8"))
    return Golden(request.param, tensors, about, info, groups)


@pytest.fixture(scope="session")
def golden_config(golden: Golden) -> DeltaIrisConfig:
    """The settings of a golden agent in our words."""
    tokenizer, world, acting = (golden.about[name] for name in ("tokenizer", "world_model", "actor_critic"))
    transformer = world["transformer"]
    return DeltaIrisConfig(
        preset="golden",
        tokenizer=TokenizerConfig(
            latent_channels=tokenizer["encoder"]["latent_dim"],
            base_channels=tokenizer["encoder"]["num_channels"],
            past_channels=tokenizer["frame_cnn"]["latent_dim"],
            past_base_channels=tokenizer["frame_cnn"]["num_channels"],
            action_channels=tokenizer["decoder_act_channels"],
            codes=tokenizer["codebook_size"],
            code_width=tokenizer["codebook_dim"],
            revival_updates=tokenizer["max_codebook_updates_with_revival"],
            weight_decay=0.01,
            **levels(tokenizer["encoder"]),
        ),
        dynamics=DynamicsConfig(
            base_channels=world["frame_cnn"]["num_channels"],
            layers=transformer["num_layers"],
            heads=transformer["num_heads"],
            width=transformer["embed_dim"],
            max_blocks=transformer["max_blocks"],
            rewards="symlog" if world["two_hot_rews"] else "sign",
            tokens_weight=world["latents_weight"],
            rewards_weight=world["rewards_weight"],
            ends_weight=world["ends_weight"],
            segment_length=transformer["max_blocks"],
            **levels(world["frame_cnn"]),
        ),
        actor_critic=ActorCriticConfig(
            latent_channels=acting["frame_encoder"]["latent_dim"],
            base_channels=acting["frame_encoder"]["num_channels"],
            lstm_width=acting["lstm_dim"],
            values="symlog" if acting["two_hot_rets"] else "scalar",
            horizon=acting["imagination_horizon"],
            burn_in=acting["burn_in_length"],
            gamma=acting["gamma"],
            lam=acting["lambda_"],
            entropy_weight=acting["entropy_weight"],
            **levels(acting["frame_encoder"]),
        ),
    )


def levels(net: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The levels of a residual network in our words."""
    return {"channel_multipliers": tuple(net["mult"]), "halvings": tuple(net["down"])}


@pytest.fixture(scope="session")
def batch(golden: Golden) -> Segments:
    """The golden training batch, padded on both sides."""
    parts = golden.below("in.batch.")
    return Segments(
        frames=parts["observations_u8"],
        actions=parts["actions"],
        rewards=parts["rewards"],
        ends=parts["ends"].bool(),
        mask=parts["mask_padding"],
        tokens=None,
    )


@pytest.fixture
def agent(golden: Golden, golden_config: DeltaIrisConfig) -> Agent:
    """The golden agent, in eval mode, the test's own."""
    agent = Agent(golden_config, golden.num_actions, image_size=IMAGE_SIZE).eval()
    load_published(agent, golden.state)
    return agent


@pytest.fixture
def tokenizer(agent: Agent) -> Tokenizer:
    """The golden tokenizer, in eval mode."""
    return agent.tokenizer


def assert_close(found: Tensor, expected: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Float32 against float32; the bounds of the golden files are wider."""
    torch.testing.assert_close(found.detach(), expected, atol=atol, rtol=rtol)


def assert_same_frames(found: Tensor, expected: Tensor) -> None:
    """Frames (uint8) but for rounding: one level on less than 0.1 % of the pixels, the bound of the golden files."""
    differences = (found.int() - expected.int()).abs()
    assert differences.max() <= 1
    assert (differences > 0).float().mean() < 1e-3
