"""The dynamics against the published numbers, and what those do not pin."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import PRESETS, DeltaIrisConfig
from iris_cli.agents.delta_iris.dynamics import Dynamics
from iris_cli.errors import ShapeError
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.nn.two_hot import TwoHotSymlog, symexp, symlog
from iris_cli.replay.segments import Segments

from .conftest import Golden, assert_close

NAMES = {  # published name of a parameter -> ours
    "act_emb.weight": "embed_actions.weight",
    "frame_cnn.0.encoder.0.bias": "frame_cnn.encoder.0.bias",
    "frame_cnn.2.weight": "frame_norm.weight",
    "head_ends.head_module.2.bias": "head_ends.2.bias",
    "head_ends.head_module.2.weight": "head_ends.2.weight",
    "head_latents.head_module.2.bias": "head_tokens.2.bias",
    "head_rewards.head_module.2.bias": "head_rewards.2.bias",
    "transformer.ln.weight": "transformer.ln_f.weight",
}
QUERY = "transformer.blocks.0.sa.query.bias"  # the first third of transformer.blocks.0.attn.qkv.bias
# GroupNorm of black padding amplifies rounding: the float64 gradient is 5e-4 from the golden one and 7e-4 from ours.
BLACK = "frame_cnn.0.encoder.0.bias"


@pytest.fixture
def segments(agent: Agent, batch: Segments) -> Segments:
    return agent.with_tokens(batch)


@pytest.mark.parametrize(
    ("preset", "codes", "actions", "parameters"),
    [("crafter", 1024, 17, 11_948_457), ("atari", 1024, 18, 3_580_841), ("atari", 1024, 4, 3_577_257)],
)
def test_the_published_networks_have_as_many_parameters_as_published(
    preset: str, codes: int, actions: int, parameters: int
) -> None:
    dynamics = Dynamics(PRESETS[preset].dynamics, codes=codes, num_actions=actions)

    assert sum(p.numel() for p in dynamics.parameters()) == parameters


@pytest.mark.parametrize(("settings", "std"), [({}, 0.02), ({"init_std": 0.1}, 0.1)])
def test_linear_layers_and_embeddings_begin_with_the_std_of_the_settings(
    settings: dict[str, float], std: float
) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(PRESETS["tiny"].dynamics, **settings)
    dynamics = Dynamics(config, codes=32, num_actions=18)

    layers = {name: m for name, m in dynamics.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    assert {name.split(".")[0] for name in layers} == {
        "transformer", "embed_actions", "embed_tokens", "head_tokens", "head_rewards", "head_ends"
    }  # fmt: skip
    for name, layer in layers.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.2), name


@pytest.mark.parity
@torch.no_grad()
def test_a_full_pass_gives_the_published_outputs(agent: Agent, golden: Golden, segments: Segments) -> None:
    dynamics, expected = agent.dynamics, golden.below("out.world_model.")
    inputs = segments.frames, segments.actions, segments.tokens

    sequence = dynamics.embed(*inputs)
    output = dynamics(*inputs)

    frames = dynamics.embed_frames(segments.frames.flatten(0, 1))
    assert_close(frames, expected["frame_embeddings"].flatten(0, 2))
    assert_close(sequence, expected["input_sequence"])
    assert_close(dynamics.transformer(sequence), expected["output_sequence"], atol=1e-4)
    assert_close(output.logits_tokens, expected["logits_latents"], atol=1e-4)
    assert_close(output.logits_rewards, expected["logits_rewards"], atol=1e-4)
    assert_close(output.logits_ends, expected["logits_ends"], atol=1e-4)


def gradient_of(dynamics: Dynamics, published: str) -> Tensor:
    """By the published name."""
    if published == QUERY:
        return dynamics.get_parameter("transformer.blocks.0.attn.qkv.bias").grad.chunk(3)[0]
    return dynamics.get_parameter(NAMES[published]).grad


@pytest.mark.parity
def test_losses_and_gradients_equal_the_published_ones(agent: Agent, golden: Golden, segments: Segments) -> None:
    dynamics, expected = agent.dynamics, golden.below("out.world_model.")

    losses = dynamics.loss(segments)
    losses.total.backward()

    assert_close(losses.total, expected["loss.total"])
    for ours, theirs in (("tokens", "latents"), ("rewards", "rewards"), ("ends", "ends")):
        assert_close(losses.parts[f"loss_{ours}"], expected[f"loss.loss_{theirs}"])
    assert_close(losses.parts["token_accuracy"], expected["latent_accuracy"])
    gradients = golden.below("out.world_model.grad.")
    assert len(gradients) >= 7
    for name, gradient in gradients.items():
        assert_close(gradient_of(dynamics, name), gradient, atol=1e-3 if name == BLACK else 1e-5)
    norm = nn.utils.get_total_norm([p.grad for p in dynamics.parameters()])
    assert_close(norm, expected["grad_norm"], rtol=1e-4)


@pytest.mark.parity
def test_the_first_optimizer_step_is_the_published_one(
    agent: Agent, golden: Golden, golden_config: DeltaIrisConfig, segments: Segments
) -> None:
    dynamics = agent.dynamics
    optimizer = make_optimizer(dynamics, golden_config.dynamics)
    dynamics.loss(segments).total.backward()
    nn.utils.clip_grad_norm_(dynamics.parameters(), golden_config.dynamics.clip_norm)

    optimizer.step()

    after = golden.below("out.world_model.after_step.")
    assert len(after) >= 5
    for name, expected in after.items():
        parameter = dynamics.get_parameter(NAMES[name])
        sure = parameter.grad.abs() > 1e-6  # Adam's first step is the sign of the gradient
        assert sure.any()
        assert_close(parameter[sure], expected[sure], atol=1e-6)


@pytest.mark.parity
def test_two_hot_and_symlog_are_the_published_ones(golden: Golden) -> None:
    two_hot = TwoHotSymlog()

    assert torch.equal(two_hot.buckets, golden["out.two_hot.buckets"])
    assert_close(two_hot.weights(golden["in.two_hot.x"]), golden["out.two_hot.encoding"])
    assert_close(two_hot.probabilities(golden["in.symlog.x"]), golden["out.symlog_two_hot"])
    logits = golden["in.two_hot.logits"]
    assert_close((logits.softmax(-1) * two_hot.buckets).sum(-1), golden["out.two_hot.expectation"])
    assert_close(two_hot.expectation(logits), golden["out.two_hot.symexp_expectation"])
    assert_close(symlog(golden["in.symlog.x"]), golden["out.symlog"])
    assert_close(symexp(golden["in.symexp.x"]), golden["out.symexp"])
    assert_close(symexp(symlog(golden["in.symlog.x"])), golden["out.symexp_of_symlog"])


@torch.no_grad()
def test_nothing_depends_on_the_tokens_of_the_last_transition(agent: Agent, segments: Segments) -> None:
    other = segments.tokens.clone()
    other[:, -1] = 31

    before, after = (agent.dynamics(segments.frames, segments.actions, tokens) for tokens in (segments.tokens, other))

    for name in ("logits_rewards", "logits_ends"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.equal(before.logits_tokens[:, :-3], after.logits_tokens[:, :-3])


@torch.no_grad()
def test_what_is_padded_counts_in_no_loss(agent: Agent, segments: Segments) -> None:
    padding = ~segments.mask
    rewards, ends = segments.rewards.clone(), segments.ends | padding
    rewards[padding] = 77.0
    other = dataclasses.replace(segments, rewards=rewards, ends=ends)

    assert torch.equal(agent.dynamics.loss(segments).total, agent.dynamics.loss(other).total)


@torch.no_grad()
def test_a_transition_out_of_a_real_step_into_padding_is_learned(agent: Agent, segments: Segments) -> None:
    row, step = 1, 3  # the last real one, before padding on the right
    assert segments.mask[row, step]
    assert not segments.mask[row, step + 1]
    tokens = segments.tokens.clone()
    tokens[row, step, 3] = (tokens[row, step, 3] + 1) % 32

    losses = [
        agent.dynamics.loss(dataclasses.replace(segments, tokens=tokens)).parts["loss_tokens"]
        for tokens in (segments.tokens, tokens)
    ]

    assert losses[0] != losses[1]


def test_wrong_arguments_say_what_was_expected(agent: Agent, segments: Segments) -> None:
    frames, actions, tokens = segments.frames, segments.actions, segments.tokens

    with pytest.raises(ShapeError, match=r"T <= 7"):
        agent.dynamics(frames.repeat(1, 2, 1, 1, 1), actions, tokens)
    with pytest.raises(ShapeError, match=r"uint8"):
        agent.dynamics(frames.float(), actions, tokens)
    with pytest.raises(ShapeError, match=r"\(3, 7\). Got \(3, 6\)"):
        agent.dynamics(frames, actions[:, 1:], tokens)
    with pytest.raises(ShapeError, match=r"\(3, 7, 4\). Got \(3, 6, 4\)"):
        agent.dynamics(frames, actions, tokens[:, 1:])
    with pytest.raises(ShapeError, match="tokens must be int64"):
        agent.dynamics(frames, actions, tokens.int())
    with pytest.raises(ShapeError, match="frames and tokens"):
        agent.dynamics.loss(dataclasses.replace(segments, tokens=None))
