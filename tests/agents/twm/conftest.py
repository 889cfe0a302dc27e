"""The golden file: weights, inputs and outputs of the published networks at tiny size (width 24, latents of 4 x 5)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from iris_cli.agents.twm.config import ActorCriticConfig, DynamicsConfig, TokenizerConfig, TwmConfig
from iris_cli.learn.fit import Learner, Part, fit
from iris_cli.learn.losses import Losses
from iris_cli.learn.watch import Watch

GOLDEN = Path(__file__).parents[2] / "golden" / "twm_tiny.safetensors"


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Every tensor of the file by name. Read only."""
    with safe_open(GOLDEN, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="session")
def golden_state(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights alone, under their published names."""
    return {name: value for name, value in golden.items() if not name.startswith(("in.", "out."))}


@pytest.fixture(scope="session")
def golden_notes() -> dict:
    """What the file says about its recipes."""
    with safe_open(GOLDEN, framework="pt") as file:
        return json.loads(file.metadata()["notes"])


@pytest.fixture(scope="session")
def published_config() -> dict:
    """The settings of the golden agent as the released program writes them."""
    with safe_open(GOLDEN, framework="pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="session")
def golden_config(published_config: dict) -> TwmConfig:
    """The same in our words, written down apart from the code under test."""
    theirs = published_config
    return TwmConfig(
        preset="golden",
        tokenizer=TokenizerConfig(
            categoricals=theirs["z_categoricals"],
            categories=theirs["z_categories"],
            base_channels=theirs["obs_channels"],
            entropy_threshold=theirs["obs_entropy_threshold"],
        ),
        dynamics=DynamicsConfig(
            layers=theirs["dyn_num_layers"],
            heads=theirs["dyn_num_heads"],
            head_width=theirs["dyn_head_dim"],
            width=theirs["dyn_embed_dim"],
            feedforward=theirs["dyn_feedforward_dim"],
            memory=theirs["wm_memory_length"],
            latent_widths=tuple(theirs["dyn_z_dims"]),
            reward_widths=tuple(theirs["dyn_reward_dims"]),
            discount_widths=tuple(theirs["dyn_discount_dims"]),
            dropout=theirs["dyn_dropout"],
            segment_length=theirs["wm_sequence_length"],
        ),
        actor_critic=ActorCriticConfig(
            actor_widths=tuple(theirs["actor_dims"]),
            critic_widths=tuple(theirs["critic_dims"]),
            horizon=theirs["ac_horizon"],
            entropy_threshold=theirs["actor_entropy_threshold"],
        ),
    )


@pytest.fixture(scope="session")
def one_update() -> Callable[[Losses, list[Learner]], dict[str, Tensor]]:
    """Takes one step by the loop that the stages use; the metrics, norms of gradients among them."""

    def step(losses: Losses, learners: list[Learner]) -> dict[str, Tensor]:
        means: dict[str, float] = {}
        fit(
            lambda: None, lambda _: [[Part(losses, 1.0)]], learners, start=0, updates=1, report_every=1,
            watch=Watch(lagging=False, on_growth=print), after_update=lambda: None,
            on_report=lambda done, metrics: means.update(metrics), keep_going=lambda done: True,
        )  # fmt: skip
        return {name: torch.tensor(value) for name, value in means.items()}

    return step


@pytest.fixture(scope="session")
def weights_of(golden_state: dict[str, Tensor]) -> Callable[[str], dict[str, Tensor]]:
    """The golden weights below a published name."""

    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): w for name, w in golden_state.items() if name.startswith(prefix)}

    return below
