"""The dynamics: the published numbers with and without memory, beyond the window, without rewards; its losses."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents.twm.config import PRESETS, DynamicsConfig, TwmConfig
from iris_cli.agents.twm.dynamics import Dynamics, Past, reach
from iris_cli.errors import ConfigError, ShapeError

CLOSE = {"atol": 1e-5, "rtol": 0}
PREFIX = "wm.dyn_model.prediction_net."


@pytest.fixture
def published(weights_of, golden_config: TwmConfig) -> Dynamics:
    return filled(golden_config.dynamics, weights_of(PREFIX))


def filled(config: DynamicsConfig, weights: dict[str, Tensor]) -> Dynamics:
    dynamics = Dynamics(config, categoricals=4, categories=5, num_actions=6).eval()
    weights = {name: value for name, value in weights.items() if name != "transformer.pos_enc.encodings"}
    if not config.reads_rewards:
        weights = {name: value for name, value in weights.items() if not name.startswith("embeds.r.")}
    dynamics.load_state_dict(weights)
    return dynamics


def inputs(golden: dict[str, Tensor], group: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    latents, actions, rewards, ends = (golden[f"in.{group}.{name}"] for name in "zard")
    steps = latents.shape[1] - 1
    return latents, actions, rewards[:, :steps], ends[:, :steps]


@torch.no_grad()
def stepwise(dynamics: Dynamics, sequence: tuple[Tensor, ...], chunk: int = 1) -> tuple[Tensor, Past]:
    """Read `chunk` steps at a time behind a past; what was thought after each, (B, T, E)."""
    latents, actions, rewards, ends = sequence
    past, hidden = dynamics.new_past(len(latents), chunk=chunk), []
    for t in range(0, latents.shape[1], chunk):
        before = slice(max(t - 1, 0), min(t + chunk, latents.shape[1]) - 1)
        now = slice(t, t + chunk)
        hidden.append(dynamics.extend(past, latents[:, now], actions[:, now], rewards[:, before], ends[:, before]))
    return torch.cat(hidden, 1), past


@pytest.mark.parametrize("actions", [4, 18])
def test_the_default_network_has_10777858_parameters_and_256_per_action(actions: int) -> None:
    dynamics = Dynamics(DynamicsConfig(), categoricals=32, categories=32, num_actions=actions)

    assert sum(p.numel() for p in dynamics.parameters()) == 10_777_858 + 256 * actions


@pytest.mark.parity
@torch.no_grad()
def test_predictions_are_the_published_ones(published: Dynamics, golden: dict[str, Tensor]) -> None:
    latents, actions, rewards, ends = inputs(golden, "dyn")
    output = published(latents, actions, rewards, ends)

    def close(name: str, ours: Tensor) -> None:
        torch.testing.assert_close(ours, golden[f"out.dyn.{name}"], **CLOSE)

    close("embed_z", published.embeds["z"](latents))
    close("embed_a", published.embeds["a"](actions))
    close("embed_r", published.embeds["r"](rewards[..., None]))
    close("h", output.hidden)
    close("z_head", published.out_heads["z"](nn.functional.silu(output.hidden)))
    close("z_logits", output.logits_latents)
    close("r", output.rewards)
    close("g_logit", output.logits_discounts)
    close("g", output.logits_discounts.sigmoid())
    close("consistency_z_hat_probs", output.logits_latents[:, :-1].exp())


@pytest.mark.parity
@torch.no_grad()
def test_attention_and_its_masks_are_the_published_ones(published: Dynamics, golden: dict[str, Tensor]) -> None:
    weights: list[Tensor] = []
    published(*inputs(golden, "dyn"), weights=weights)

    attention = torch.stack(weights).permute(3, 4, 1, 0, 2)  # (queries, keys, B, layers, heads)
    torch.testing.assert_close(attention[1::3], golden["out.dyn.attn"], **CLOSE)
    assert torch.equal(attention[..., 0, 0] == 0, golden["out.dyn.mask_blocked"])
    assert torch.equal(~reach(17, 5, 3), golden["out.dyn.base_mask_blocked"])
    assert torch.equal(~reach(23, 2, 3), golden["out.win.base_mask_blocked"])


@pytest.mark.parity
@torch.no_grad()
def test_without_ends_everything_is_seen(published: Dynamics, golden: dict[str, Tensor]) -> None:
    latents, actions, rewards, ends = inputs(golden, "dyn")

    hidden = published(latents, actions, rewards, torch.zeros_like(ends)).hidden

    torch.testing.assert_close(hidden, golden["out.dyn_nostop.h"], **CLOSE)


@pytest.mark.parity
@pytest.mark.parametrize("chunk", [1, 2])
def test_the_past_gives_the_published_numbers(published: Dynamics, golden: dict[str, Tensor], chunk: int) -> None:
    hidden, past = stepwise(published, inputs(golden, "dyn"), chunk)
    output = published.predict(hidden)

    torch.testing.assert_close(hidden, golden["out.mem.h"], **CLOSE)
    torch.testing.assert_close(output.logits_latents, golden["out.mem.z_logits"], **CLOSE)
    torch.testing.assert_close(output.rewards, golden["out.mem.r"], **CLOSE)
    torch.testing.assert_close(output.logits_discounts.sigmoid(), golden["out.mem.g"], **CLOSE)
    holds_memories(published, past, [golden[f"out.dyn.mems.{i}"] for i in range(2)])


@torch.no_grad()
def holds_memories(dynamics: Dynamics, past: Past, memories: list[Tensor]) -> None:
    """Published memories are the inputs of each layer, (tokens, B, E): the cache holds their keys and values."""
    for layer, memory in enumerate(memories):
        projected = dynamics.transformer.layers[layer].self_attn.qkv_proj(memory.transpose(0, 1))
        expected = projected.unflatten(-1, (3, 3, 10))[:, :, 1:].permute(2, 0, 3, 1, 4)  # (2, B, heads, n, 10)
        kept = past.cache.memory[layer, :, :, :, past.cache.length - len(memory) : past.cache.length]
        torch.testing.assert_close(kept, expected, **CLOSE)


@pytest.mark.parity
def test_beyond_the_window_the_past_forgets_as_published(published: Dynamics, golden: dict[str, Tensor]) -> None:
    hidden, past = stepwise(published, inputs(golden, "memlong"))
    output = published.predict(hidden)

    torch.testing.assert_close(hidden, golden["out.memlong.h"], **CLOSE)
    torch.testing.assert_close(output.rewards, golden["out.memlong.r"], **CLOSE)
    torch.testing.assert_close(output.logits_discounts.sigmoid(), golden["out.memlong.g"], **CLOSE)
    holds_memories(published, past, [golden[f"out.memlong.final_mems.{i}"] for i in range(2)])
    assert past.cache.max_tokens == 17 + 3


@pytest.mark.parity
@torch.no_grad()
def test_the_window_is_the_published_one(
    weights_of, golden_config: TwmConfig, golden: dict[str, Tensor], golden_notes: dict
) -> None:
    config = dataclasses.replace(golden_config.dynamics, memory=golden_notes["win"]["wm_memory_length"])
    dynamics, sequence = filled(config, weights_of(PREFIX)), inputs(golden, "win")
    weights: list[Tensor] = []

    at_once = dynamics(*sequence, weights=weights).hidden
    in_steps, _ = stepwise(dynamics, sequence)

    torch.testing.assert_close(at_once, golden["out.win.h"], **CLOSE)
    torch.testing.assert_close(in_steps, golden["out.win.h_mem"], **CLOSE)
    assert torch.equal((weights[0][:, 0] == 0).permute(1, 2, 0), golden["out.win.mask_blocked"])


@pytest.mark.parity
@torch.no_grad()
def test_without_rewards_the_hidden_states_are_the_published_ones(
    weights_of, golden_config: TwmConfig, golden: dict[str, Tensor]
) -> None:
    dynamics = filled(dataclasses.replace(golden_config.dynamics, reads_rewards=False), weights_of(PREFIX))
    sequence = inputs(golden, "dyn")

    torch.testing.assert_close(dynamics(*sequence).hidden, golden["out.norew.h"], **CLOSE)
    torch.testing.assert_close(stepwise(dynamics, sequence)[0], golden["out.norew.h"], **CLOSE)
    torch.testing.assert_close(stepwise(dynamics, sequence, 3)[0], golden["out.norew.h"], **CLOSE)


@pytest.mark.parity
def test_the_loss_on_stored_latents_is_the_published_one(
    weights_of, golden_config: TwmConfig, golden: dict[str, Tensor]
) -> None:
    config = dataclasses.replace(golden_config.dynamics, dropout=0.0)
    dynamics = filled(config, weights_of(PREFIX)).train()
    terminations, truncations = golden["in.predyn.terminated"], golden["in.predyn.truncated"]
    rewards, ends = golden["in.predyn.r"], terminations | truncations

    output = dynamics(golden["in.predyn.z"], golden["in.predyn.a"], rewards[:, :-1], ends[:, :-1])
    losses = dynamics.loss(
        output.at(slice(1, None)), targets=golden["in.predyn.target_logits"], rewards=rewards[:, 1:],
        terminations=terminations[:, 1:], ends=ends[:, 1:],
    )  # fmt: skip
    losses.total.backward()

    for ours, theirs in (
        (losses.total.detach(), "dyn_loss"),
        (losses.parts["loss_latents"], "z_pred_loss"),
        (losses.parts["loss_rewards"], "reward_loss"),
        (losses.parts["loss_discounts"], "discount_loss"),
        (nn.utils.clip_grad_norm_(dynamics.parameters(), 100.0), "grad_norm"),
    ):
        torch.testing.assert_close(ours, golden[f"out.predyn.{theirs}"], rtol=1e-4, atol=0)


def test_nothing_after_an_end_depends_on_what_came_before(published: Dynamics, golden: dict[str, Tensor]) -> None:
    latents, actions, rewards, ends = (x[:1].clone() for x in inputs(golden, "dyn"))
    ends[:] = False
    ends[:, 2] = True
    rewards.requires_grad_()

    published(latents, actions, rewards, ends).hidden[:, 3:].sum().backward()

    assert rewards.grad is not None
    assert not rewards.grad[:, :3].any()
    assert rewards.grad[:, 3:].all()


def test_the_discount_head_begins_at_a_logit_of_099() -> None:
    tiny = PRESETS["tiny"]
    dynamics = Dynamics(tiny.dynamics, categoricals=4, categories=5, num_actions=3)

    assert dynamics.out_heads["g"].linear2.bias.item() == pytest.approx(0.99)
    assert dynamics.out_heads["r"].linear2.bias.item() == 0


def test_other_shapes_and_settings_are_refused(published: Dynamics, golden: dict[str, Tensor]) -> None:
    latents, actions, rewards, ends = inputs(golden, "dyn")

    with pytest.raises(ShapeError, match="latents must have shape"):
        published(latents[..., :-1], actions, rewards, ends)
    with pytest.raises(ShapeError, match="actions must be int64"):
        published(latents, actions[:, 1:], rewards, ends)
    with pytest.raises(ShapeError, match=r"rewards must have shape \(B, S\)=\(3, 5\). Got \(3, 4\)"):
        published(latents, actions, rewards[:, 1:], ends)
    with pytest.raises(ShapeError, match="ends bool"):
        published(latents, actions, rewards, ends.long())
    with pytest.raises(ConfigError, match="sines"):
        DynamicsConfig(width=255)
