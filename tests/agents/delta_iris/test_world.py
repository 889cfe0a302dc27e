"""Dreams and learning in them against the published numbers; the cache, the refresh, the context."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import PRESETS
from iris_cli.agents.delta_iris.world import DeltaIrisDream
from iris_cli.errors import ShapeError
from iris_cli.learn import imagination
from iris_cli.learn.actor_critic import Rollout
from iris_cli.learn.losses import Losses
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.replay.segments import Segments

from .conftest import Golden, assert_close, assert_same_frames

Draw = Callable[[Tensor], Tensor]


class Recorded:
    """Draws what the golden file drew, and keeps the logits that it was asked with."""

    def __init__(self, dream: DeltaIrisDream, rewards: Tensor | None, ends: Tensor, tokens: Tensor) -> None:
        """Reward classes (B, H) where rewards are drawn, ends (B, H), tokens (B, H, 4)."""
        drawn = (
            [ends[..., None].long(), tokens]
            if rewards is None
            else [rewards[..., None], ends[..., None].long(), tokens]
        )
        self._values = list(torch.cat(drawn, -1).flatten(1).unbind(1))
        self.logits: list[Tensor] = []
        dream._work.draw = self

    def __call__(self, logits: Tensor) -> Tensor:
        self.logits.append(logits)
        return self._values.pop(0)


def feed(agent: Agent, dream: DeltaIrisDream, frames: Tensor) -> None:
    """Make these frames the present ones: a pixel that was rounded the other way would spread."""
    dream.frames, dream.view = frames, agent.see(frames)
    dream._work.show(frames)


@pytest.fixture
def generation(agent: Agent, golden: Golden) -> tuple[DeltaIrisDream, Recorded]:
    """The golden generation, freshly begun."""
    given = golden.below("in.generate.")
    dream = agent.begin_dream(given["burn_in_observations_u8"], None, given["burn_in_actions"])
    draws = Recorded(dream, given.get("sampled_reward_class"), given["sampled_ends"], given["tokens"])
    return dream, draws


@pytest.mark.parity
@pytest.mark.parametrize("forced", [True, False], ids=["frames fed back as recorded", "free"])
@torch.no_grad()
def test_generation_is_the_published_one_past_the_refresh(
    agent: Agent, golden: Golden, generation: tuple, forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dream, draws = generation
    given, expected = golden.below("in.generate."), golden.below("out.generate.")
    assert torch.equal(dream.tokens, expected["burn_in_tokens"][:, -1])
    sizes: list[int] = []
    first_inputs: list[int] = []
    outputs: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        sizes.append(inputs[1].length)  # after the call
        outputs.append(output)

    agent.dynamics.transformer.register_forward_hook(note)
    for t in range(9):
        draws.logits.clear()
        sizes.clear()
        outputs.clear()
        before = dream.cache.length

        outcome = dream.step(given["actions"][:, t])

        assert before == expected["kv_size_before_step"][t]
        assert dream.cache.length == expected["kv_size_after_step"][t]
        first_inputs.append(outputs[0].shape[1])
        *heads, end = draws.logits[: 1 + (not golden.is_symlog)]
        assert_close(end, expected["logits_ends"][:, t], atol=1e-4)
        if heads:
            assert_close(heads[0], expected["logits_rewards"][:, t], atol=1e-4)
        assert_close(torch.stack(draws.logits[-4:], 1), expected["logits_latents"][:, t], atol=1e-4)
        assert_close(agent.dynamics.head_rewards(outputs[0][:, -1]), expected["logits_rewards"][:, t], atol=1e-4)
        assert_close(outcome.rewards, expected["rewards"][:, t], rtol=1e-3, atol=1e-4)
        assert torch.equal(outcome.ends, given["sampled_ends"][:, t])
        assert_same_frames(dream.frames, expected["frames_u8"][:, t])
        assert torch.equal(outcome.view, dream.frames.float() / 255)
        if forced:
            feed(agent, dream, expected["frames_u8"][:, t])
    assert first_inputs == expected["first_call_num_inputs"].tolist()
    assert_close(torch.cat(outputs, 1), expected["last_step_output_sequence"], atol=1e-4)


@pytest.mark.parity
@torch.no_grad()
def test_the_context_is_read_as_published(agent: Agent, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    given, outputs = golden.below("in.generate."), []
    agent.dynamics.transformer.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    agent.begin_dream(given["burn_in_observations_u8"], None, given["burn_in_actions"])

    assert len(outputs) == 1
    assert_close(outputs[0], golden["out.generate.burn_in_output_sequence"], atol=1e-4)


@pytest.fixture
def learned(agent: Agent, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> tuple[Losses, Rollout, list[Tensor]]:
    """The golden loss in imagination, with the file's draws and frames; its rollout, and the frames (H) dreamt."""
    given = golden.below("in.imagine.")
    segments = Segments(
        frames=given["observations_u8"],
        actions=given["actions_past"],
        rewards=torch.zeros(3, 3),
        ends=torch.zeros(3, 3, dtype=torch.bool),
        mask=given["mask_padding"],
        tokens=None,
    )
    actions = list(given["sampled_actions"].unbind(1))
    monkeypatch.setattr(imagination, "sample", lambda logits, generator: actions.pop(0))
    begin, rollouts, frames = agent.begin_dream, [], []

    def begun(*arguments: object, **options: object) -> DeltaIrisDream:
        dream = begin(*arguments, **options)
        classes = None if golden.is_symlog else golden["out.imagine.rewards"].long() + 1
        Recorded(dream, classes, given["sampled_ends"], given["sampled_tokens"])
        return dream

    def imagined(dream: DeltaIrisDream, *arguments: object, **options: object) -> Rollout:
        step = dream.step

        def stepped(action: Tensor) -> object:
            outcome = step(action)
            frames.append(dream.frames)
            feed(agent, dream, golden["out.imagine.frames_u8"][:, len(frames) - 1])
            return outcome

        dream.step = stepped
        rollouts.append(imagination.imagine(dream, *arguments, **options))
        return rollouts[-1]

    monkeypatch.setattr(agent, "begin_dream", begun)
    monkeypatch.setattr("iris_cli.agents.delta_iris.agent.imagine", imagined)
    losses = agent.actor_critic_loss(segments)
    return losses, rollouts[0], frames


@pytest.mark.parity
def test_learning_in_imagination_is_the_published_one(agent: Agent, golden: Golden, learned: tuple) -> None:
    losses, rollout, frames = learned
    expected = golden.below("out.imagine.")

    assert_same_frames(torch.stack(frames, 1), expected["frames_u8"])
    assert_close(rollout.rewards, expected["rewards"], rtol=1e-4)
    assert_close(rollout.logits_actions, expected["logits_actions"])
    values = rollout.logits_values if golden.is_symlog else rollout.values
    assert_close(values, expected["logits_values"], atol=1e-4)
    assert_close(rollout.baselines, expected["target_values"], rtol=1e-4)
    assert_close(rollout.bootstrap, expected["value_bootstrap"], rtol=1e-4)
    for name in ("loss_actions", "loss_values", "loss_entropy"):
        assert_close(losses.parts[name], expected[f"loss.{name}"], rtol=1e-4)
    assert_close(losses.total, expected["loss.total"], rtol=1e-4)
    assert_close(losses.parts["entropy"], expected["policy_entropy"])


@pytest.mark.parity
def test_its_gradients_and_both_networks_afterwards_are_the_published_ones(
    agent: Agent, golden: Golden, learned: tuple
) -> None:
    actor_critic = agent.actor_critic
    for name, value in golden.below("out.imagine.target_after_update.").items():
        assert_close(actor_critic.get_parameter(f"target_model.{name}"), value, atol=1e-6)
    optimizer = make_optimizer(actor_critic, agent.config.actor_critic)

    learned[0].total.backward()

    gradients = golden.below("out.imagine.grad.")
    assert len(gradients) >= 4
    for name, gradient in gradients.items():
        assert_close(actor_critic.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-4)
    norm = nn.utils.clip_grad_norm_(actor_critic.parameters(), agent.config.actor_critic.clip_norm)
    assert_close(norm, golden["out.imagine.grad_norm"], rtol=1e-4)
    optimizer.step()
    after = golden.below("out.imagine.after_step.")
    assert len(after) >= 3
    for name, value in after.items():
        parameter = actor_critic.get_parameter(name)
        sure = parameter.grad.abs() > 1e-6  # Adam's first step is the sign of the gradient
        assert sure.any()
        assert_close(parameter[sure], value[sure], atol=1e-6)


@pytest.fixture
def tiny() -> Agent:
    torch.manual_seed(0)
    return Agent(PRESETS["tiny"], 4).eval()


def past(steps: int) -> tuple[Tensor, Tensor]:
    """Frames (2, steps, 3, 64, 64) and the actions between them."""
    draws = torch.Generator().manual_seed(steps)
    frames = torch.randint(0, 256, (2, steps, 3, 64, 64), generator=draws).to(torch.uint8)
    return frames, torch.randint(4, (2, steps - 1), generator=draws)


ACTION = torch.tensor([1, 3])


def test_a_greedy_dream_is_what_the_full_pass_predicts(tiny: Agent) -> None:
    frames, actions = past(2)
    dream = tiny.begin_dream(frames, None, actions, greedy=True)
    seen, between, tokens, outcomes = [*frames.unbind(1)], [*actions.unbind(1)], [dream.tokens], []

    for _ in range(3):
        outcomes.append(dream.step(ACTION))
        seen.append(dream.frames)
        between.append(ACTION)
        tokens.append(dream.tokens)

    with torch.no_grad():
        output = tiny.dynamics(torch.stack(seen[:-1], 1), torch.stack(between, 1), torch.stack(tokens, 1))
    assert torch.equal(output.logits_tokens.argmax(-1)[:, 4:], torch.cat(tokens[1:], 1))
    for t, outcome in enumerate(outcomes):
        assert torch.equal(outcome.rewards, output.logits_rewards[:, t + 1].argmax(-1) - 1.0)
        assert torch.equal(outcome.ends, output.logits_ends[:, t + 1].argmax(-1).bool())


@torch.no_grad()
def test_what_would_overrun_the_positions_makes_it_forget_all_but_the_present_frame(tiny: Agent) -> None:
    frames, actions = past(6)
    dream = tiny.begin_dream(frames, None, actions)
    dream.step(ACTION)  # 35 of 42 positions
    dream.step(ACTION)
    assert dream.cache.length == 41
    present = dream.frames

    draws = [list(torch.randint(2, (6, 2), generator=torch.Generator().manual_seed(1))) for _ in range(2)]
    dream._work.draw = lambda logits: draws[0].pop(0)
    dream.step(ACTION)

    fresh = tiny.begin_dream(present[:, None], None, actions[:, :0])
    fresh._work.draw = lambda logits: draws[1].pop(0)
    fresh.step(ACTION)
    assert dream.cache.length == fresh.cache.length == 5
    torch.testing.assert_close(dream.cache.memory[..., :5, :], fresh.cache.memory[..., :5, :])
    assert torch.equal(dream.frames, fresh.frames)


def test_positions_that_real_steps_fill_are_refreshed_too(tiny: Agent) -> None:
    frames, actions = past(7)  # 37 of 42 positions

    dream = tiny.begin_dream(frames, None, actions)
    dream.step(ACTION)

    assert dream.cache.length == 5


@pytest.mark.parametrize(("blocks", "lengths"), [(1, [5, 5, 5]), (2, [5, 11, 5]), (7, [11, 17, 23])])
def test_a_dream_fills_as_many_blocks_as_it_may(tiny: Agent, blocks: int, lengths: list[int]) -> None:
    config = dataclasses.replace(tiny.config, dynamics=dataclasses.replace(tiny.config.dynamics, dream_blocks=blocks))
    tiny.configure(config)
    frames, actions = past(2)
    dream = tiny.begin_dream(frames, None, actions)

    for length in lengths:
        expected = dream.foretell(ACTION)
        outcome = dream.step(ACTION)
        assert dream.cache.length == length
        assert bool(((expected.ends >= 0) & (expected.ends <= 1)).all())
        assert outcome.view is not None


def test_a_dream_can_keep_its_last_frames_and_what_lies_between_them(tiny: Agent) -> None:
    frames, actions = past(7)
    tokens = tiny.begin_dream(frames, None, actions).tokens

    dream = tiny.begin_dream(frames, None, actions, greedy=True, keep=2)
    dream.step(ACTION)

    fresh = tiny.begin_dream(frames[:, -2:], tokens[:, None], actions[:, -1:], greedy=True)
    fresh.step(ACTION)
    assert dream.cache.length == fresh.cache.length == 11
    torch.testing.assert_close(dream.cache.memory[..., :11, :], fresh.cache.memory[..., :11, :])
    assert torch.equal(dream.tokens, fresh.tokens)


def test_imagined_frames_have_8_bits(tiny: Agent) -> None:
    frames, actions = past(1)
    dream = tiny.begin_dream(frames, None, actions)

    assert torch.equal(dream.view, frames[:, 0].float() / 255)
    view = dream.step(ACTION).view

    assert torch.equal((view * 255).round() / 255, view)
    assert (view.shape, view.dtype, view.requires_grad) == ((2, 3, 64, 64), torch.float32, False)


def test_the_generator_determines_the_dream(tiny: Agent) -> None:
    frames, actions = past(2)
    dreams = [tiny.begin_dream(frames, None, actions, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    for dream in dreams:
        for _ in range(3):
            dream.step(ACTION)

    assert torch.equal(dreams[0].frames, dreams[1].frames)
    assert not torch.equal(dreams[0].frames, dreams[2].frames)


def test_a_last_step_without_view_is_one_pass(tiny: Agent) -> None:
    frames, actions = past(2)
    dream = tiny.begin_dream(frames, None, actions)

    outcome = dream.step(ACTION, next_view=False)

    assert dream.cache.length == 8
    assert outcome.view is None


def test_a_dream_refuses_networks_in_training_mode(tiny: Agent) -> None:
    frames, actions = past(2)

    with pytest.raises(AssertionError):
        tiny.train().begin_dream(frames, None, actions)


def test_wrong_beginnings_say_what_was_expected(tiny: Agent) -> None:
    frames, actions = past(8)
    tokens = torch.zeros(2, 7, 4, dtype=torch.int64)

    with pytest.raises(ShapeError, match=r"C <= 7"):
        tiny.begin_dream(frames, tokens, actions)
    with pytest.raises(ShapeError, match=r"\(2, 5\). Got \(2, 6\)"):
        tiny.begin_dream(frames[:, :6], tokens[:, :5], actions[:, :6])
    with pytest.raises(ShapeError, match=r"\(2, 5, 4\). Got \(2, 7, 4\)"):
        tiny.begin_dream(frames[:, :6], tokens, actions[:, :5])
