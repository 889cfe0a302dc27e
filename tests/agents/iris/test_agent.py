"""The agent as a whole against the published numbers: acting, imagining, learning in imagination."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents import build, config_for, presets_for, section_presets_for
from iris_cli.agents.iris.actor_critic import ActorCriticOutput, Memory
from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import PRESETS, IrisConfig
from iris_cli.agents.iris.world import IrisDream
from iris_cli.errors import ConfigError, ShapeError
from iris_cli.learn.actor_critic import Rollout, actor_critic_loss, lambda_returns
from iris_cli.learn.imagination import imagine
from iris_cli.nn.sampling import sample
from iris_cli.replay.segments import Segments

CLOSE = {"atol": 3e-4, "rtol": 0}


@pytest.fixture(scope="module")
def segments(agent: Agent, golden: dict[str, Tensor]) -> Segments:
    frames = golden["in.imagine.observations"]  # (2, 4, 3, 64, 64)
    return Segments(
        frames=None,
        actions=torch.zeros(2, 4, dtype=torch.int64),
        rewards=torch.zeros(2, 4),
        ends=torch.zeros(2, 4, dtype=torch.bool),
        mask=golden["in.imagine.mask_padding"],
        tokens=agent.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, (2, 4)),
    )


class Recorded(nn.Module):
    """A policy that keeps what it said, and the tokens and cache that it was asked at."""

    def __init__(self, policy: nn.Module, dream: IrisDream) -> None:
        super().__init__()
        self.policy, self.dream = policy, dream
        self.outputs: list[ActorCriticOutput] = []
        self.tokens: list[Tensor] = []
        self.cache_sizes: list[int] = []

    def forward(self, views: Tensor, memory: Memory) -> ActorCriticOutput:
        self.tokens.append(self.dream.tokens)
        self.cache_sizes.append(self.dream.cache.length)
        self.outputs.append(self.policy(views, memory))
        return self.outputs[-1]


def dream_as_published(
    agent: Agent, memory: Memory, dream: IrisDream, generator: torch.Generator | None, *, greedy: bool
) -> tuple[Rollout, dict[str, Tensor]]:
    """Imagine, then take the last step too: the published loop does, though nothing learns from it."""
    policy = Recorded(agent.actor_critic, dream)
    rollout = imagine(dream, policy, memory, 6, generator, greedy=greedy)
    last_logits = policy.outputs[-1].logits_actions
    last_action = last_logits.argmax(-1) if greedy else sample(last_logits, generator)
    last = dream.step(last_action, next_view=False)
    return rollout, {
        "actions": torch.cat([rollout.actions, last_action[:, None]], 1),
        "rewards": torch.cat([rollout.rewards, last.rewards[:, None]], 1),
        "ends": torch.cat([rollout.ends, last.ends[:, None]], 1),
        "obs_tokens": torch.stack(policy.tokens, 1),
        "cache_size_after_call": torch.tensor([*policy.cache_sizes, dream.cache.length]),
        "logits_actions": torch.stack([output.logits_actions for output in policy.outputs], 1),
        "values": torch.stack([output.values for output in policy.outputs], 1),
    }


@pytest.fixture(scope="module")
def greedy(agent: Agent, segments: Segments) -> tuple[Rollout, dict[str, Tensor]]:
    """The golden greedy imagination; its graph is kept."""
    memory, _ = agent.actor_critic_start(segments)
    dream = agent.begin_dream(None, segments.tokens[:, -1:], segments.actions[:, :0], greedy=True)
    return dream_as_published(agent, memory, dream, None, greedy=True)


def loss_of(agent: Agent, rollout: Rollout):
    config = agent.config.actor_critic
    return actor_critic_loss(rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight)


@pytest.mark.parity
@torch.no_grad()
def test_acting_on_frames_gives_the_published_actions(agent: Agent, golden: dict[str, Tensor]) -> None:
    memory = None
    for t in range(3):
        output = agent.actor_critic(agent.see(golden["in.actor_critic.observations"][:, t]), memory)
        memory = output.memory

        torch.testing.assert_close(output.logits_actions, golden["out.act.logits_actions"][:, t], **CLOSE)
        assert torch.equal(output.logits_actions.argmax(-1), golden["out.act.actions_greedy"][:, t])


@pytest.mark.parity
def test_greedy_imagination_is_the_published_one(agent: Agent, golden: dict[str, Tensor], greedy: tuple) -> None:
    rollout, dreamt = greedy

    for name in ("actions", "rewards", "ends", "obs_tokens", "cache_size_after_call"):
        assert torch.equal(dreamt[name], golden[f"out.imagine_greedy.{name}"]), name
    for name in ("logits_actions", "values"):
        torch.testing.assert_close(dreamt[name].detach(), golden[f"out.imagine_greedy.{name}"], **CLOSE)
    parts = loss_of(agent, rollout).parts
    for name in ("loss_actions", "loss_values", "loss_entropy"):
        torch.testing.assert_close(parts[name], golden[f"out.imagine_greedy.{name}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parity
def test_sampled_imagination_is_the_published_one_for_its_seed(
    agent: Agent, golden: dict[str, Tensor], golden_config: dict, segments: Segments
) -> None:
    generator = torch.Generator().manual_seed(golden_config["sampled_imagination_seed"])
    memory, dream = agent.actor_critic_start(segments, generator)

    _, dreamt = dream_as_published(agent, memory, dream, generator, greedy=False)

    for name in ("actions", "rewards", "ends", "obs_tokens"):
        assert torch.equal(dreamt[name], golden[f"out.imagine_sampled.{name}"]), name
    for name in ("logits_actions", "values"):
        torch.testing.assert_close(dreamt[name], golden[f"out.imagine_sampled.{name}"], **CLOSE)


@pytest.mark.parity
def test_imagination_gives_the_policy_the_published_gradients(
    agent: Agent, golden: dict[str, Tensor], greedy: tuple
) -> None:
    names, parameters = zip(*agent.actor_critic.named_parameters(), strict=True)

    gradients = torch.autograd.grad(loss_of(agent, greedy[0]).total, parameters, retain_graph=True)

    total = golden["out.grad_norm.actor_critic.total"]
    torch.testing.assert_close(nn.utils.get_total_norm(gradients), total, rtol=1e-3, atol=0)
    for part, _ in agent.actor_critic.named_children():
        own = [gradient for name, gradient in zip(names, gradients, strict=True) if name.startswith(f"{part}.")]
        expected = golden[f"out.grad_norm.actor_critic.total.{part}"]
        torch.testing.assert_close(nn.utils.get_total_norm(own), expected, rtol=1e-3, atol=0)


@pytest.mark.parity
def test_each_loss_alone_has_the_published_gradient_norm(
    agent: Agent, golden: dict[str, Tensor], greedy: tuple
) -> None:
    rollout, config = greedy[0], agent.config.actor_critic
    settings = {"gamma": config.gamma, "lam": config.lam}
    without_values = dataclasses.replace(rollout, values=rollout.values.detach())
    without_policy = dataclasses.replace(rollout, logits_actions=rollout.logits_actions.detach())
    losses = {
        "loss_actions": actor_critic_loss(without_values, entropy_weight=0.0, **settings).total,
        "loss_values": actor_critic_loss(without_policy, entropy_weight=0.0, **settings).total,
        "loss_entropy": loss_of(agent, rollout).total
        - actor_critic_loss(rollout, entropy_weight=0.0, **settings).total,
    }
    for name, loss in losses.items():
        gradients = torch.autograd.grad(
            loss, list(agent.actor_critic.parameters()), retain_graph=True, materialize_grads=True
        )
        expected = golden[f"out.grad_norm.actor_critic.{name}"]
        torch.testing.assert_close(nn.utils.get_total_norm(gradients), expected, rtol=1e-3, atol=0)


@pytest.mark.parity
def test_lambda_returns_are_the_published_ones(agent: Agent, golden: dict[str, Tensor]) -> None:
    config = agent.config.actor_critic
    rewards, values, ends = (golden[f"in.lambda_returns.{name}"] for name in ("rewards", "values", "ends"))
    discounts = config.gamma * (~ends).float()

    returns = lambda_returns(
        rewards[:, :-1], discounts[:, :-1], values[:, :-1], bootstrap=values[:, -1], lam=config.lam
    )

    torch.testing.assert_close(returns, golden["out.lambda_returns"][:, :-1], atol=1e-5, rtol=0)
    assert torch.equal(values[:, -1], golden["out.lambda_returns"][:, -1])


@pytest.mark.parity
def test_losses_and_gradients_on_given_arrays_are_the_published_ones(agent: Agent, golden: dict[str, Tensor]) -> None:
    logits = golden["in.ac_loss.logits_actions"].clone().requires_grad_()
    values = golden["in.lambda_returns.values"].clone().requires_grad_()
    rollout = Rollout(
        logits_actions=logits[:, :-1],
        actions=golden["in.ac_loss.actions"][:, :-1],
        values=values[:, :-1],
        rewards=golden["in.lambda_returns.rewards"][:, :-1],
        ends=golden["in.lambda_returns.ends"][:, :-1],
        bootstrap=values[:, -1],
    )

    losses = loss_of(agent, rollout)
    losses.total.backward()

    for name in ("loss_actions", "loss_values", "loss_entropy"):
        torch.testing.assert_close(losses.parts[name], golden[f"out.ac_loss.{name}"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.total.detach(), golden["out.ac_loss.loss_total"], rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.grad, golden["out.ac_loss.grad_logits_actions"], atol=1e-6, rtol=0)
    torch.testing.assert_close(values.grad, golden["out.ac_loss.grad_values"], atol=1e-6, rtol=0)


def test_a_dream_from_frames_is_the_dream_from_their_tokens(agent: Agent, golden: dict[str, Tensor]) -> None:
    frames = golden["in.imagine.observations"]
    actions = torch.tensor([[0, 1, 2], [3, 2, 1]])
    tokens = agent.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, (2, 4))

    dreams = [agent.begin_dream(*start, actions, greedy=True) for start in ((frames, None), (None, tokens))]

    assert torch.equal(dreams[0].view, dreams[1].view)
    assert torch.equal(dreams[0].view, agent.see(frames[:, -1]))


def test_what_cannot_begin_a_dream_is_refused(agent: Agent, segments: Segments) -> None:
    with pytest.raises(ShapeError, match="neither"):
        agent.begin_dream(None, None, torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ShapeError, match="tokens"):
        agent.actor_critic_start(dataclasses.replace(segments, tokens=None))


def test_new_settings_of_learning_keep_every_weight_and_all_random_states() -> None:
    agent = build("iris", PRESETS["tiny"], 3).eval()
    before, state = {name: value.clone() for name, value in agent.state_dict().items()}, torch.get_rng_state()
    dynamics = dataclasses.replace(PRESETS["tiny"].dynamics, residual_dropout=0.5, gradient_checkpointing=True)
    config = dataclasses.replace(PRESETS["tiny"], dynamics=dynamics)

    agent.configure(config)

    assert agent.config == config
    assert agent.dynamics.transformer.gradient_checkpointing
    assert agent.dynamics.transformer.blocks[0].mlp[-1].p == 0.5
    assert not agent.dynamics.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())


def test_settings_are_found_by_the_agents_name() -> None:
    assert config_for("iris") == IrisConfig()
    assert presets_for("iris") is PRESETS
    assert section_presets_for("iris")["tokenizer"]["published"] == IrisConfig().tokenizer


@pytest.mark.parametrize("call", [config_for, presets_for, section_presets_for, lambda name: build(name, None, 3)])
def test_an_unknown_agent_is_refused(call) -> None:
    with pytest.raises(ConfigError, match=r"no agent 'irs'\. .* Did you mean iris"):
        call("irs")


def test_the_attention_of_a_segment_is_that_of_its_last_action_by_step_and_place(
    agent: Agent, segments: Segments
) -> None:
    assert segments.tokens is not None
    tokens, actions = segments.tokens[0], segments.actions[0]

    weights = agent.attended(tokens, actions)

    config = agent.config.dynamics
    assert weights.shape == (config.layers, config.heads, 4, 17)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(config.layers, config.heads))
    embedded = agent.dynamics.embed(tokens[None], actions[None])
    whole = agent.dynamics.transformer.attention(embedded)
    torch.testing.assert_close(weights[1, 0, 2, 5], whole[1, 0, 0, -1, 2 * 17 + 5])
