"""The dynamics against the published numbers, and what those do not pin."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import PRESETS, DynamicsConfig
from iris_cli.agents.iris.dynamics import Dynamics, labels_of
from iris_cli.errors import ShapeError
from iris_cli.replay.segments import Segments

CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture
def blocks(golden: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens (3, 4, 16) and actions (3, 4)."""
    sequence = golden["in.world_model.tokens"].unflatten(1, (4, 17))
    return sequence[..., :16], sequence[..., 16]


@pytest.fixture
def segments(golden: dict[str, Tensor]) -> Segments:
    return Segments(
        frames=None,
        actions=golden["in.wm_loss.actions"],
        rewards=golden["in.wm_loss.rewards"],
        ends=golden["in.wm_loss.ends"].bool(),
        mask=golden["in.wm_loss.mask_padding"],
        tokens=golden["out.wm_loss.obs_tokens"],
    )


@pytest.mark.parity
@torch.no_grad()
def test_a_full_pass_gives_the_published_outputs(agent: Agent, golden: dict[str, Tensor], blocks: tuple) -> None:
    output = agent.dynamics(*blocks)
    sequence = agent.dynamics.transformer(agent.dynamics.embed(*blocks))

    torch.testing.assert_close(sequence, golden["out.world_model.output_sequence"], **CLOSE)
    torch.testing.assert_close(output.logits_tokens, golden["out.world_model.logits_observations"], **CLOSE)
    torch.testing.assert_close(output.logits_rewards, golden["out.world_model.logits_rewards"], **CLOSE)
    torch.testing.assert_close(output.logits_ends, golden["out.world_model.logits_ends"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_one_token_at_a_time_gives_the_published_outputs(
    agent: Agent, golden: dict[str, Tensor], blocks: tuple
) -> None:
    dynamics = agent.dynamics
    cache = dynamics.transformer.new_cache(3)
    pieces = dynamics.embed(*blocks).split(1, 1)

    hidden = [dynamics.transformer(piece, cache) for piece in pieces]

    reads = golden["out.world_model.step.num_observation_logits_per_token"].bool().tolist()
    assert reads == [position % 17 != 15 for position in range(68)]
    predicting = torch.cat([x for x, read in zip(hidden, reads, strict=True) if read], 1)
    after_action = torch.cat(hidden[16::17], 1)
    expected = {name: golden[f"out.world_model.step.logits_{name}"] for name in ("observations", "rewards", "ends")}
    torch.testing.assert_close(dynamics.head_tokens(predicting), expected["observations"], **CLOSE)
    torch.testing.assert_close(dynamics.head_rewards(after_action), expected["rewards"], **CLOSE)
    torch.testing.assert_close(dynamics.head_ends(after_action), expected["ends"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_block_causal_attention_gives_the_published_outputs(
    agent: Agent, golden: dict[str, Tensor], blocks: tuple
) -> None:
    config = dataclasses.replace(agent.config.dynamics, attention="block-causal")
    dynamics = Dynamics(config, codes=32, num_actions=4).eval()
    dynamics.load_state_dict(agent.dynamics.state_dict())

    output = dynamics(*blocks)

    expected = golden["out.world_model.block_causal.logits_observations"]
    torch.testing.assert_close(output.logits_tokens, expected, **CLOSE)


@pytest.mark.parity
def test_labels_are_the_published_ones(golden: dict[str, Tensor], segments: Segments) -> None:
    labels = labels_of(segments.tokens, segments.rewards, segments.ends, segments.mask)

    for name, values in zip(("observations", "rewards", "ends"), labels, strict=True):
        assert torch.equal(values, golden[f"out.wm_loss.labels_{name}"])


@pytest.mark.parity
def test_tokens_of_the_segments_are_the_published_ones(agent: Agent, golden: dict[str, Tensor]) -> None:
    tokens = agent.tokenizer.encode(golden["in.wm_loss.observations"].flatten(0, 1))

    assert torch.equal(tokens, golden["out.wm_loss.obs_tokens"].flatten(0, 1))


@pytest.mark.parity
@torch.no_grad()
def test_losses_are_the_published_ones(agent: Agent, golden: dict[str, Tensor], segments: Segments) -> None:
    losses = agent.dynamics.loss(segments)

    expected = {name: golden[f"out.wm_loss.loss_{name}"] for name in ("obs", "rewards", "ends", "total")}
    torch.testing.assert_close(losses.parts["loss_tokens"], expected["obs"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.parts["loss_rewards"], expected["rewards"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.parts["loss_ends"], expected["ends"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.total, expected["total"], rtol=1e-5, atol=0)


@pytest.mark.parity
def test_gradients_have_the_published_norms(agent: Agent, golden: dict[str, Tensor], segments: Segments) -> None:
    dynamics = copy.deepcopy(agent.dynamics)
    dynamics.loss(segments).total.backward()

    parts = {
        "transformer": [*dynamics.transformer.blocks.parameters(), *dynamics.transformer.ln_f.parameters()],
        "pos_emb": [dynamics.transformer.positions.weight],
        "embedder": [dynamics.embed_actions.weight, dynamics.embed_tokens.weight],
        "head_observations": list(dynamics.head_tokens.parameters()),
        "head_rewards": list(dynamics.head_rewards.parameters()),
        "head_ends": list(dynamics.head_ends.parameters()),
    }
    for name, parameters in parts.items():
        expected = golden[f"out.grad_norm.world_model.total.{name}"]
        torch.testing.assert_close(norm(parameters), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        norm(dynamics.parameters()), golden["out.grad_norm.world_model.total"], rtol=1e-4, atol=0
    )


@pytest.mark.parity
@pytest.mark.parametrize(("name", "index"), [("loss_obs", 0), ("loss_rewards", 1), ("loss_ends", 2)])
def test_each_loss_alone_has_the_published_gradient_norm(
    agent: Agent, golden: dict[str, Tensor], segments: Segments, name: str, index: int
) -> None:
    dynamics = copy.deepcopy(agent.dynamics)
    output = dynamics(segments.tokens, segments.actions)
    logits = (output.logits_tokens[:, :-1], output.logits_rewards, output.logits_ends)[index].flatten(0, 1)
    labels = labels_of(segments.tokens, segments.rewards, segments.ends, segments.mask)[index]

    torch.nn.functional.cross_entropy(logits, labels).backward()

    torch.testing.assert_close(
        norm(dynamics.parameters()), golden[f"out.grad_norm.world_model.{name}"], rtol=1e-4, atol=0
    )


@torch.no_grad()
def test_tokens_of_padding_do_not_matter(agent: Agent, segments: Segments) -> None:
    noise = torch.randint(32, segments.tokens.shape)
    other = dataclasses.replace(segments, tokens=torch.where(segments.mask[..., None], segments.tokens, noise))

    assert torch.equal(agent.dynamics.loss(other).total, agent.dynamics.loss(segments).total)


@torch.no_grad()
def test_accuracy_is_the_share_of_right_guesses_among_what_is_real(agent: Agent, segments: Segments) -> None:
    guesses = agent.dynamics(segments.tokens, segments.actions).logits_tokens.argmax(-1)[:, :-1]
    real = segments.mask.repeat_interleave(16, 1)[:, 1:]

    accuracy = agent.dynamics.loss(segments).parts["token_accuracy"]

    assert accuracy == (guesses == segments.tokens.flatten(1)[:, 1:])[real].float().mean()


@pytest.mark.parametrize("actions", [4, 18])
def test_the_published_size_has_the_published_number_of_parameters(actions: int) -> None:
    with torch.device("meta"):
        dynamics = Dynamics(DynamicsConfig(), codes=512, num_actions=actions)

    assert sum(parameter.numel() for parameter in dynamics.parameters()) == 8_446_469 + 256 * actions


@pytest.mark.parametrize(("settings", "std"), [({}, 0.02), ({"init_std": 0.1}, 0.1)])
def test_all_first_weights_have_the_std_of_the_settings(settings: dict[str, float], std: float) -> None:
    torch.manual_seed(0)
    dynamics = Dynamics(DynamicsConfig(layers=1, width=64, **settings), codes=64, num_actions=18)

    weights = {name: p for name, p in dynamics.named_parameters() if p.dim() == 2}
    assert {name.split(".")[0] for name in weights} == {
        "transformer", "embed_actions", "embed_tokens", "head_tokens", "head_rewards", "head_ends"
    }  # fmt: skip
    for name, weight in weights.items():
        assert weight.std().item() == pytest.approx(std, rel=0.2), name
    assert not any(p.any() for name, p in dynamics.named_parameters() if name.endswith("bias"))


def test_a_few_updates_lower_the_loss() -> None:
    torch.manual_seed(0)
    dynamics = Dynamics(PRESETS["tiny"].dynamics, codes=8, num_actions=3)
    segments = Segments(
        frames=None,
        actions=torch.randint(3, (4, 5)),
        rewards=torch.randn(4, 5),
        ends=torch.zeros(4, 5, dtype=torch.bool),
        mask=torch.ones(4, 5, dtype=torch.bool),
        tokens=torch.randint(8, (4, 5, 16)),
    )
    optimizer = torch.optim.AdamW(dynamics.parameters(), lr=1e-2)
    first = dynamics.loss(segments).total.item()
    for _ in range(10):
        optimizer.zero_grad()
        dynamics.loss(segments).total.backward()
        optimizer.step()

    assert dynamics.loss(segments).total.item() < 0.9 * first


@pytest.mark.parametrize(
    ("tokens", "actions", "message"),
    [
        (torch.zeros(2, 4, 17, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64), r"Got \(2, 4, 17\)"),
        (torch.zeros(2, 5, 16, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64), r"T <= 4"),
        (torch.zeros(2, 4, 16, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), r"actions must have shape"),
        (torch.zeros(2, 4, 16), torch.zeros(2, 4, dtype=torch.int64), r"tokens must be int64"),
    ],
)
def test_wrong_arguments_say_what_was_expected(agent: Agent, tokens: Tensor, actions: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        agent.dynamics(tokens, actions)


def test_segments_without_tokens_are_refused(agent: Agent, segments: Segments) -> None:
    with pytest.raises(ShapeError, match="tokens"):
        agent.dynamics.loss(dataclasses.replace(segments, tokens=None))


def norm(parameters) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
