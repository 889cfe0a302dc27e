"""The policy and value on latents, and how they learn, against the published numbers."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.actor_critic import ActorCritic, step_weights
from iris_cli.agents.twm.config import ActorCriticConfig, TwmConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import Rollout, lambda_returns
from iris_cli.learn.fit import learners_of
from iris_cli.learn.optimizers import make_optimizer

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def actor_critic(weights_of, golden_config: TwmConfig) -> ActorCritic:
    return filled(golden_config.actor_critic, weights_of)


def filled(config: ActorCriticConfig, weights_of) -> ActorCritic:
    actor_critic = ActorCritic(config, latent_width=20, hidden_width=24, num_actions=6)
    actor_critic.load_state_dict(weights_of("ac."))
    return actor_critic


@pytest.fixture
def rollout(actor_critic: ActorCritic, golden: dict[str, Tensor]) -> Rollout:
    output = actor_critic(golden["in.acopt.z"])
    return Rollout(
        logits_actions=output.logits_actions[:, :-1], actions=golden["in.acopt.a"], values=output.values[:, :-1],
        rewards=golden["in.acopt.r"], ends=golden["in.acopt.d"], bootstrap=output.values[:, -1].detach(),
        discounts=golden["in.acopt.g"],
    )  # fmt: skip


@pytest.mark.parametrize("actions", [4, 18])
def test_the_default_networks_have_1312768_parameters_and_513_per_action(actions: int) -> None:
    networks = ActorCritic(ActorCriticConfig(), latent_width=1024, hidden_width=256, num_actions=actions)

    assert sum(p.numel() for p in networks.actor_model.parameters()) == 1_312_768 + 513 * actions
    assert sum(p.numel() for p in networks.critic_model.parameters()) == 1_313_281


@pytest.mark.parity
@torch.no_grad()
def test_policy_and_values_are_the_published_ones(actor_critic: ActorCritic, golden: dict[str, Tensor]) -> None:
    output = actor_critic(golden["in.policy.z"])
    logits = output.logits_actions.log_softmax(-1)
    entropy = -(logits.exp() * logits).sum(-1) / math.log(6)

    torch.testing.assert_close(logits, golden["out.policy.logits"].log_softmax(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.exp(), golden["out.policy.probs"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.values, golden["out.policy.values"], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, golden["out.policy.norm_entropy"], atol=1e-5, rtol=0)
    assert torch.equal(logits.argmax(-1), golden["out.policy.argmax"])


@pytest.mark.parity
@pytest.mark.parametrize("cut", [True, False])
def test_lambda_returns_are_values_plus_the_published_advantages(golden: dict[str, Tensor], cut: bool) -> None:
    values, discounts = golden["in.gae.values"], golden["in.gae.g"]
    discounts = discounts * (~golden["in.gae.d"]).float() if cut else discounts

    returns = lambda_returns(golden["in.gae.r"], discounts, values[:, :-1], values[:, -1], lam=0.95)

    theirs = golden["out.gae.advantages" if cut else "out.gae.advantages_nodone"]
    torch.testing.assert_close(returns - values[:, :-1], theirs, atol=1e-5, rtol=0)
    if cut:
        torch.testing.assert_close(returns, golden["out.gae.returns"], atol=1e-5, rtol=0)


@pytest.mark.parity
def test_a_dream_s_weights_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    weights = step_weights(golden["out.imag.g"], golden["out.imag.d"])

    torch.testing.assert_close(weights, golden["out.imag.weights"], atol=1e-6, rtol=0)
    assert (weights[:, 1:][golden["out.imag.d"][:, :-1]] == 1).all()


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.9])
def test_the_policy_loss_is_the_published_one(golden: dict[str, Tensor], golden_config, threshold: float) -> None:
    """Advantages are the golden ones, by returns that equal them and values of zero."""
    config = dataclasses.replace(golden_config.actor_critic, entropy_threshold=threshold, lam=0.0)
    actor_critic = ActorCritic(config, latent_width=20, hidden_width=24, num_actions=6)
    shape = golden["in.aent.a"].shape
    rollout = Rollout(
        logits_actions=golden["in.aent.logits"], actions=golden["in.aent.a"], values=torch.zeros(shape),
        rewards=golden["in.aent.advantages"], ends=torch.zeros(shape, dtype=torch.bool),
        bootstrap=torch.zeros(shape[0]), discounts=torch.ones(shape),
    )  # fmt: skip

    parts = actor_critic.loss(rollout, golden["in.aent.weights"]).parts

    torch.testing.assert_close(-parts["loss_actions"], golden["out.aent.reinforce"], **CLOSE)
    torch.testing.assert_close(parts["entropy"], golden["out.aent.norm_entropy"], **CLOSE)
    total = parts["loss_actions"] + parts["loss_entropy"]
    torch.testing.assert_close(total, golden[f"out.aent.loss.{threshold}"], **CLOSE)
    penalty = parts["loss_entropy"] / config.entropy_weight
    torch.testing.assert_close(penalty, golden[f"out.aent.penalty_unscaled.{threshold}"], **CLOSE)


@pytest.mark.parity
def test_the_value_loss_is_the_published_one(actor_critic: ActorCritic, golden: dict[str, Tensor]) -> None:
    values, returns = golden["in.critic_loss.values"], golden["in.critic_loss.returns"]
    actor_critic.config = dataclasses.replace(actor_critic.config, lam=1.0)
    rollout = Rollout(
        logits_actions=torch.zeros(5, 6, 6), actions=torch.zeros(5, 6, dtype=torch.int64), values=values,
        rewards=returns, ends=torch.ones(5, 6, dtype=torch.bool), bootstrap=torch.zeros(5), discounts=torch.ones(5, 6),
    )  # fmt: skip

    loss = actor_critic.loss(rollout, golden["in.aent.weights"]).parts["loss_values"]

    torch.testing.assert_close(loss, golden["out.critic_loss.loss"], **CLOSE)


@pytest.mark.parity
def test_a_real_update_is_the_published_one(
    actor_critic: ActorCritic, rollout: Rollout, golden: dict[str, Tensor], one_update
) -> None:
    optimizer = make_optimizer(actor_critic, actor_critic.config)
    returns = actor_critic._returns(rollout)

    losses = actor_critic.loss(rollout, golden["in.acopt.weights"])
    norms = one_update(losses, learners_of(actor_critic, optimizer, actor_critic.config.clip_norm))

    def close(ours: Tensor, name: str) -> None:
        torch.testing.assert_close(ours, golden[f"out.acopt.{name}"], **CLOSE)

    parts = losses.parts
    torch.testing.assert_close(returns, golden["out.acopt.returns"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        returns - rollout.values.detach(), golden["out.acopt.advantages"], atol=1e-5, rtol=0
    )  # fmt: skip
    close(parts["loss_actions"] + parts["loss_entropy"], "metric.actor_loss")
    close(-parts["loss_actions"], "metric.reinforce")
    close(parts["loss_values"], "metric.critic_loss")
    close(parts["entropy"], "metric.norm_ent")
    close(parts["returns"], "metric.returns")
    close(parts["values"], "metric.critic")
    close(parts["value_error"], "metric.critic_mae")
    assert round(parts["ends"].item() * rollout.ends.numel()) == golden["out.acopt.metric.num_dones"]
    close(norms["gradient_norm_actor"], "actor_grad_norm")
    close(norms["gradient_norm_critic"], "critic_grad_norm")
    for name, weights in actor_critic.state_dict().items():
        torch.testing.assert_close(weights, golden[f"out.acopt.state.ac.{name}"], atol=1e-6, rtol=0)


@pytest.mark.parity
def test_pretraining_is_the_published_one(
    actor_critic: ActorCritic, rollout: Rollout, golden: dict[str, Tensor], one_update
) -> None:
    last_logits = actor_critic(golden["in.acopt.z"][:, -1]).logits_actions

    losses = actor_critic.pretraining_loss(rollout, last_logits)
    norms = one_update(losses, learners_of(actor_critic, make_optimizer(actor_critic, actor_critic.config), 1.0))

    for ours, theirs in (
        (losses.parts["loss_entropy"], "metric.actor_loss"),
        (losses.parts["loss_values"], "metric.critic_loss"),
        (losses.parts["entropy"], "metric.norm_ent"),
        (losses.parts["returns"], "metric.returns"),
        (losses.parts["values"], "metric.critic"),
        (losses.parts["value_error"], "metric.critic_mae"),
        (norms["gradient_norm_actor"], "actor_grad_norm"),
        (norms["gradient_norm_critic"], "critic_grad_norm"),
    ):
        torch.testing.assert_close(ours, golden[f"out.preac.{theirs}"], rtol=1e-4, atol=1e-7)


def test_weights_are_products_of_discounts_that_begin_anew_after_an_end() -> None:
    discounts = torch.tensor([[0.5, 0.1, 0.9, 0.8]])
    ends = torch.tensor([[False, True, False, False]])

    torch.testing.assert_close(step_weights(discounts, ends), torch.tensor([[1.0, 0.5, 1.0, 0.9]]))


def test_the_critic_learns_at_its_own_rate() -> None:
    actor_critic = ActorCritic(ActorCriticConfig(), latent_width=20, hidden_width=24, num_actions=3)

    groups = make_optimizer(actor_critic, actor_critic.config).param_groups

    assert [group["lr"] for group in groups] == [1e-4, 1e-5]
    assert all((group["eps"], group["weight_decay"]) == (1e-5, 1e-6) for group in groups)


def test_latents_of_another_width_are_refused(actor_critic: ActorCritic) -> None:
    with pytest.raises(ShapeError, match=r"\(..., 20\). Got \(2, 21\)"):
        actor_critic(torch.zeros(2, 21))


def test_with_a_threshold_of_1_the_entropy_always_earns(golden: dict[str, Tensor], golden_config) -> None:
    """The ablation without threshold: the loss is minus the weighted entropy, but for a constant."""
    config = dataclasses.replace(golden_config.actor_critic, entropy_threshold=1.0)
    actor_critic = ActorCritic(config, latent_width=20, hidden_width=24, num_actions=6)
    weights, shape = golden["in.aent.weights"], golden["in.aent.a"].shape
    gradients = []
    for always in (False, True):
        logits = golden["in.aent.logits"].clone().requires_grad_()
        rollout = Rollout(
            logits_actions=logits, actions=golden["in.aent.a"], values=torch.zeros(shape), rewards=torch.zeros(shape),
            ends=torch.zeros(shape, dtype=torch.bool), bootstrap=torch.zeros(shape[0]), discounts=torch.ones(shape),
        )  # fmt: skip
        entropy = (weights * torch.distributions.Categorical(logits=logits).entropy()).mean() / math.log(6)
        loss = -config.entropy_weight * entropy if always else actor_critic.loss(rollout, weights).total
        loss.backward()
        gradients.append(logits.grad)

    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_a_policy_that_reads_thoughts_looks_at_both() -> None:
    config = dataclasses.replace(ActorCriticConfig(), actor_widths=(8,), critic_widths=(8,), reads_hidden=True)
    actor_critic = ActorCritic(config, latent_width=20, hidden_width=24, num_actions=3)

    assert actor_critic(torch.zeros(2, 44)).logits_actions.shape == (2, 3)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 44\)"):
        actor_critic(torch.zeros(2, 20))
