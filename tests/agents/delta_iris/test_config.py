"""Both published presets as tabulated in the fact sheet, and what a network cannot be."""

import dataclasses

import pytest

from iris_cli.agents import config_for, presets_for, section_presets_for
from iris_cli.agents.delta_iris.config import PRESETS, ActorCriticConfig, DynamicsConfig, TokenizerConfig
from iris_cli.errors import ConfigError

TABLE = [  # section, field, Crafter, Atari
    ("tokenizer", "latent_channels", 64, 64),
    ("tokenizer", "base_channels", 64, 64),
    ("tokenizer", "past_base_channels", 64, 32),
    ("tokenizer", "past_channels", 8, 16),
    ("tokenizer", "action_channels", 4, 4),
    ("tokenizer", "codes", 1024, 1024),
    ("tokenizer", "code_width", 64, 64),
    ("tokenizer", "revival_updates", 0, 400),
    ("tokenizer", "l1_weight", 0.1, 0.1),
    ("tokenizer", "l2_weight", 1.0, 1.0),
    ("tokenizer", "max_pixel_weight", 0.01, 0.01),
    ("tokenizer", "commitment_weight", 0.02, 0.02),
    ("tokenizer", "weight_decay", 0.01, 0.0),
    ("tokenizer", "segment_length", 21, 21),
    ("tokenizer", "batch_size", 32, 16),
    ("dynamics", "layers", 3, 3),
    ("dynamics", "heads", 8, 4),
    ("dynamics", "width", 512, 256),
    ("dynamics", "max_blocks", 21, 26),
    ("dynamics", "rewards", "symlog", "sign"),
    ("dynamics", "tokens_weight", 1.0, 0.1),
    ("dynamics", "rewards_weight", 1.0, 1.0),
    ("dynamics", "ends_weight", 1.0, 0.1),
    ("dynamics", "weight_decay", 0.01, 0.01),
    ("dynamics", "segment_length", 21, 26),
    ("dynamics", "batch_size", 32, 64),
    ("actor_critic", "lstm_width", 512, 512),
    ("actor_critic", "latent_channels", 16, 16),
    ("actor_critic", "values", "symlog", "scalar"),
    ("actor_critic", "burn_in", 5, 5),
    ("actor_critic", "horizon", 15, 20),
    ("actor_critic", "gamma", 0.997, 0.995),
    ("actor_critic", "lam", 0.95, 0.95),
    ("actor_critic", "entropy_weight", 0.001, 0.002),
    ("actor_critic", "target_decay", 0.995, 0.995),
    ("actor_critic", "batch_size", 86, 64),
    *((section, "priority", 5.0, 1.0) for section in ("tokenizer", "dynamics", "actor_critic")),
    *((section, "learning_rate", 1e-4, 1e-4) for section in ("tokenizer", "dynamics", "actor_critic")),
    *((section, "clip_norm", 10.0, 10.0) for section in ("tokenizer", "dynamics", "actor_critic")),
    *((section, "patch", 1, 1) for section in ("tokenizer", "dynamics", "actor_critic")),
    *(
        (section, "channel_multipliers", *2 * [(1, 1, 2, 2, 4)])
        for section in ("tokenizer", "dynamics", "actor_critic")
    ),
    *((section, "halvings", *2 * [(1, 0, 1, 1, 0)]) for section in ("tokenizer", "dynamics", "actor_critic")),
]


@pytest.mark.parametrize(("section", "field", "crafter", "atari"), TABLE)
def test_presets_are_the_published_ones(section: str, field: str, crafter: object, atari: object) -> None:
    assert getattr(getattr(PRESETS["crafter"], section), field) == crafter
    assert getattr(getattr(PRESETS["atari"], section), field) == atari


def test_the_agent_is_known_by_name() -> None:
    assert config_for("delta-iris") == presets_for("delta-iris")["atari"]
    assert {"published", "atari", "crafter", "small", "tiny"} == presets_for("delta-iris").keys()
    assert section_presets_for("delta-iris") == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_whole_rollout_fits_into_the_positions(preset: str) -> None:
    config = PRESETS[preset]

    assert config.dynamics.max_blocks >= config.actor_critic.burn_in + config.actor_critic.horizon + 1


@pytest.mark.parametrize("preset", ["atari", "crafter", "small"])
def test_a_whole_rollout_fits_into_the_blocks_whose_tokens_are_learned(preset: str) -> None:
    config = PRESETS[preset]

    # The last block of a segment has no transition, so that its place never learns tokens.
    assert config.dynamics.segment_length - 1 >= config.actor_critic.burn_in + config.actor_critic.horizon


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenizerConfig(base_channels=48), "multiples of 32"),
        (lambda: TokenizerConfig(halvings=(1, 0)), "5 multipliers and 2 halvings"),
        (lambda: TokenizerConfig(halvings=(1, 1, 1, 1, 1)), "leave 4 pixels"),
        (lambda: TokenizerConfig(patch=3), "patch is 3"),
        (lambda: TokenizerConfig(segment_length=1), "needs 2 frames"),
        (lambda: DynamicsConfig(width=100), "multiple of the 64 pixels"),
        (lambda: DynamicsConfig(heads=3), "not a multiple of heads"),
        (lambda: DynamicsConfig(segment_length=27), "reach 26 blocks"),
        (lambda: DynamicsConfig(dream_blocks=27), "must be 1 to max_blocks, 26"),
        (lambda: DynamicsConfig(dream_blocks=0), "must be 1 to max_blocks, 26"),
        (lambda: DynamicsConfig(rewards="two-hot"), "sign, symlog"),
        (lambda: ActorCriticConfig(horizon=0), "horizon is 0"),
        (lambda: ActorCriticConfig(gamma=1.5), "0 to 1"),
        (
            lambda: dataclasses.replace(PRESETS["tiny"], actor_critic=ActorCriticConfig(burn_in=7)),
            "burn_in is 7, but with the step after it the positions reach 7 blocks",
        ),
    ],
)
def test_what_a_network_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
