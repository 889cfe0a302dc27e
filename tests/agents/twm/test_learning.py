"""Joint updates of the world against the published ones, down to the weights after real optimizer steps."""

import dataclasses

import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import DynamicsConfig, TwmConfig
from iris_cli.agents.twm.learning import WorldLosses, learned_rewards, world_losses
from iris_cli.errors import ShapeError
from iris_cli.learn.fit import learners_of
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.nn.categorical import cross_entropies, entropies, normalised_entropies
from iris_cli.replay.windows import Windows

TOKENIZER, DYNAMICS = "wm.obs_model.", "wm.dyn_model.prediction_net."
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def agent(weights_of, golden_config: TwmConfig) -> Agent:
    """The golden agent in training mode, without dropout, as the golden updates were made."""
    config = dataclasses.replace(golden_config, dynamics=dataclasses.replace(golden_config.dynamics, dropout=0.0))
    return filled(Agent(config, 6), weights_of)


def filled(agent: Agent, weights_of) -> Agent:
    agent.tokenizer.load_state_dict(weights_of(TOKENIZER))
    dynamics = weights_of(DYNAMICS)
    del dynamics["transformer.pos_enc.encodings"]
    agent.dynamics.load_state_dict(dynamics)
    return agent.train()


@pytest.fixture
def windows(golden: dict[str, Tensor]) -> Windows:
    names = {"stacks": "o_u8", "actions": "a", "rewards": "r", "terminations": "terminated", "truncations": "truncated"}
    return Windows(**{ours: golden[f"in.wmopt.{theirs}"] for ours, theirs in names.items()})


def losses_of(agent: Agent, windows: Windows, latents: Tensor) -> WorldLosses:
    return world_losses(agent.tokenizer, agent.dynamics, windows, lambda logits: latents)


def is_published(losses: WorldLosses, golden: dict[str, Tensor], group: str) -> None:
    ours = {
        **losses.tokenizer.parts,
        **losses.dynamics.parts,
        "obs_loss": losses.tokenizer.total.detach(),
        "dyn_loss": losses.dynamics.total.detach(),
    }
    names = {
        "obs_loss": "obs_loss",
        "loss_reconstruction": "dec_loss",
        "loss_latent_entropy": "z_entropy_loss",
        "loss_consistency": "enc_prior_loss",
        "pixel_error": "recon_mae",
        "dyn_loss": "dyn_loss",
        "loss_latents": "z_pred_loss",
        "cross_entropy": "z_pred_ce",
        "loss_rewards": "reward_loss",
        "loss_discounts": "discount_loss",
        "reward_error": "reward_mae",
        "discount_error": "discount_mae",
        "latent_entropy": "z_norm_ent",
        "predicted_entropy": "z_pred_ent",
    }
    for name, theirs in names.items():
        torch.testing.assert_close(ours[name], golden[f"out.{group}.metric.{theirs}"], **CLOSE)


@pytest.mark.parity
def test_each_loss_is_the_published_one(agent: Agent, windows: Windows, golden: dict[str, Tensor]) -> None:
    losses = losses_of(agent, windows, golden["in.wmopt.z"])

    is_published(losses, golden, "wmopt")
    parts = losses.tokenizer.parts | losses.dynamics.parts
    for ours, theirs in (
        (losses.tokenizer.total.detach(), "obs_total"),
        (parts["loss_reconstruction"], "decoder"),
        (parts["loss_latent_entropy"], "entropy"),
        (parts["loss_consistency"], "consistency"),
        (losses.dynamics.total.detach(), "dyn_total"),
        (parts["loss_latents"], "z_pred"),
        (parts["loss_rewards"], "reward"),
        (parts["loss_discounts"], "discount"),
    ):
        torch.testing.assert_close(ours, golden[f"out.loss.{theirs}"], **CLOSE)


@pytest.mark.parity
def test_what_goes_into_the_losses_is_as_published(agent: Agent, windows: Windows, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        logits = agent.tokenizer(windows.stacks)
        output = agent.dynamics(golden["in.wmopt.z"], windows.actions, windows.rewards[:, :-1], windows.ends[:, :-1])
    reconstructions = agent.tokenizer.decode(golden["in.wmopt.z"][:, 1])

    torch.testing.assert_close(logits[:, 2:], golden["out.loss.target_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.hidden, golden["out.wmopt.h"], atol=1e-5, rtol=0)
    torch.testing.assert_close(reconstructions, golden["out.loss.recon_first"], atol=1e-5, rtol=0)
    gammas = DynamicsConfig().gamma * (~windows.terminations[:, 1:]).float()
    torch.testing.assert_close(gammas, golden["out.loss.target_g"])
    torch.testing.assert_close((~windows.ends[:, 1:]).float(), golden["out.loss.target_weights"])
    discounts = DynamicsConfig().gamma * (~golden["in.disc.terminated"]).float()
    torch.testing.assert_close(discounts, golden["out.disc.g"])
    metrics = {name.removeprefix("out.wmopt.metric."): value for name, value in golden.items() if ".wmopt.m" in name}
    means = {
        "h_norm": output.hidden.norm(dim=-1),
        "reward": output.rewards[:, 1:],
        "discount": output.logits_discounts[:, 1:].sigmoid(),
        "z_ent": entropies(logits[:, 1:-1]).sum(-1),
        "z_norm_ent": normalised_entropies(logits[:, 1:-1]),
        "z_pred_ent": entropies(output.logits_latents[:, 1:]).sum(-1),
        "enc_prior_ce": cross_entropies(output.logits_latents[:, :-1], logits[:, 1:-1]),
    }
    kl = cross_entropies(logits[:, 2:], output.logits_latents[:, 1:]) - entropies(logits[:, 2:]).sum(-1)
    means["z_kl"] = kl / 20  # theirs is a mean over all classes too
    for name, values in means.items():
        torch.testing.assert_close(values.mean(), metrics[name], **CLOSE, msg=lambda m, n=name: n + m)


@pytest.mark.parity
def test_gradients_and_two_optimizer_steps_are_the_published_ones(
    agent: Agent, windows: Windows, golden: dict[str, Tensor], golden_notes: dict, one_update
) -> None:
    config = agent.config
    learners = [
        *learners_of(agent.tokenizer, make_optimizer(agent.tokenizer, config.tokenizer), 100.0, "obs"),
        *learners_of(agent.dynamics, make_optimizer(agent.dynamics, config.dynamics), 100.0, "dyn"),
    ]
    components = {"obs": (TOKENIZER, agent.tokenizer), "dyn": (DYNAMICS, agent.dynamics)}

    for group in ("wmopt", "wmopt2"):
        losses = losses_of(agent, windows, golden[f"in.{group}.z"])
        is_published(losses, golden, group)
        agent.zero_grad()
        losses.both.total.backward(retain_graph=True)
        gradients = {
            prefix + name: parameter.grad.clone()
            for prefix, component in components.values()
            for name, parameter in component.named_parameters()
        }
        norms = one_update(losses.both, learners)
        for name in ("obs", "dyn"):
            torch.testing.assert_close(norms[name], golden[f"out.{group}.{name}_grad_norm"], **CLOSE)
        if group == "wmopt":
            for name, names in golden_notes["wmopt_grad_names"].items():
                norms = torch.stack([gradients[each].norm() for each in names])
                torch.testing.assert_close(
                    norms, golden[f"out.wmopt.{name}_grad_norms_per_param"], rtol=1e-4, atol=1e-5
                )
            for name, value in golden.items():
                if name.startswith("out.wmopt.grad."):
                    ours = gradients[name.removeprefix("out.wmopt.grad.")]
                    torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-5)
            _has_published_weights(components, golden)


def _has_published_weights(components: dict, golden: dict[str, Tensor]) -> None:
    for prefix, component in components.values():
        for name, weights in component.state_dict().items():
            if f"out.wmopt.state.{prefix}{name}" in golden:
                stepped = golden[f"out.wmopt.state.{prefix}{name}"]
                torch.testing.assert_close(weights, stepped, atol=1e-6, rtol=0)


@pytest.mark.parity
def test_without_the_latent_loss_it_is_the_released_program(
    weights_of, golden_config: TwmConfig, windows: Windows, golden: dict[str, Tensor], golden_notes: dict
) -> None:
    dynamics = dataclasses.replace(golden_config.dynamics, dropout=0.0, latent_weight=0.0)
    agent = filled(Agent(dataclasses.replace(golden_config, dynamics=dynamics), 6), weights_of)

    losses = losses_of(agent, windows, golden["in.wmopt.z"])
    (losses.tokenizer.total + losses.dynamics.total).backward()

    torch.testing.assert_close(losses.dynamics.total.detach(), golden["out.wmopt_released.dyn_loss"], **CLOSE)
    torch.testing.assert_close(losses.dynamics.total.detach(), golden["out.loss_released.dyn_total"], **CLOSE)
    torch.testing.assert_close(losses.tokenizer.total.detach(), golden["out.wmopt_released.obs_loss"], **CLOSE)
    unlearned = [DYNAMICS + n for n, p in agent.dynamics.named_parameters() if not p.grad.any()]
    assert unlearned == golden_notes["wmopt_released_no_grad"]
    for component, name in ((agent.dynamics, "dyn"), (agent.tokenizer, "obs")):
        norm = torch.nn.utils.clip_grad_norm_(component.parameters(), 100.0)
        torch.testing.assert_close(norm, golden[f"out.wmopt_released.{name}_grad_norm"], **CLOSE)


def test_neither_loss_reaches_the_other_component(agent: Agent, windows: Windows, golden: dict[str, Tensor]) -> None:
    losses = losses_of(agent, windows, golden["in.wmopt.z"])

    losses.tokenizer.total.backward()
    assert all(parameter.grad is None for parameter in agent.dynamics.parameters())
    agent.zero_grad()
    losses.dynamics.total.backward()
    assert all(parameter.grad is None for parameter in agent.tokenizer.parameters())
    assert not losses.latents.requires_grad


def test_rewards_are_squashed() -> None:
    torch.testing.assert_close(learned_rewards(torch.tensor([0.0, 1.0, -400.0])), torch.tensor([0.0, 0.7615942, -1.0]))


def test_windows_without_stacks_are_refused(agent: Agent, windows: Windows) -> None:
    with pytest.raises(ShapeError, match="stacks"):
        losses_of(agent, dataclasses.replace(windows, stacks=None), torch.zeros(0))
