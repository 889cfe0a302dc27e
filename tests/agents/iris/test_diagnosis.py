"""IRIS measured on episodes whose truth is known, with heads whose answers are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris import diagnosis
from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import PRESETS
from iris_cli.agents.iris.world import IrisDream
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.hints import hints
from iris_cli.learn.measuring import differing, discounted_returns
from iris_cli.learn.world import Outcome
from iris_cli.replay.segments import Segments

COMPONENTS = ("tokenizer", "dynamics", "actor_critic")
ACTIONS = 6
BLOCKS = 6  # of the preset tiny
CODES = 32


@pytest.fixture
def agent() -> Agent:
    """Tiny, with random weights, and codes apart enough that frames differ in their tokens."""
    torch.manual_seed(0)
    agent = Agent(PRESETS["tiny"], ACTIONS).eval().requires_grad_(False)
    frames = torch.from_numpy(episode(32).frames).permute(0, 3, 1, 2)
    agent.tokenizer.train()
    agent.tokenizer.loss(frames, perceptual=None)
    agent.tokenizer.update_codebook()
    return agent.eval()


def episode(length: int, *, seed: int = 0, ends: bool = True, moves: bool = True) -> Episode:
    """A square that wanders over grey; rewards of -1, 0 and 2."""
    draws = np.random.default_rng(seed)
    frames = np.full((length, 64, 64, 3), 60 + 20 * seed, np.uint8)
    for step in range(length):
        row, column = draws.integers(0, 56, 2) if moves else (10, 20)
        frames[step, row : row + 8, column : column + 8] = (250, 120, 10)
    over = np.zeros(length, bool)
    over[-1] = ends
    rewards = draws.choice([-1, 0, 2], length).astype(np.float32)
    return Episode(frames=frames, actions=draws.integers(0, ACTIONS, length), rewards=rewards, ends=over)


def measure(agent: Agent, episodes: Sequence[Episode], **changes: Any) -> Diagnosis:
    return agent.diagnose(episodes, **{"trained": COMPONENTS, "horizon": 3, "seed": 0, **changes})


def always(head: torch.nn.Sequential, probabilities: Tensor) -> None:
    """Let a head answer the same, whatever it is asked."""
    head[-1].weight.zero_()
    head[-1].bias.copy_(probabilities.log())


def segments_of(agent: Agent, episodes: Sequence[Episode]) -> Segments:
    """Segments of `BLOCKS` steps through each episode, as one batch, padded on the right."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("actions", "rewards", "ends", "mask", "tokens")}
    for one in episodes:
        tokens = agent.tokenizer.encode(torch.from_numpy(one.frames).permute(0, 3, 1, 2))
        for start in range(0, len(one), BLOCKS):
            stop = min(start + BLOCKS, len(one))
            for name, values in (
                ("actions", torch.from_numpy(one.actions)), ("rewards", torch.from_numpy(one.rewards)),
                ("ends", torch.from_numpy(one.ends)), ("mask", torch.ones(len(one), dtype=torch.bool)),
                ("tokens", tokens),
            ):  # fmt: skip
                row = values[start:stop]
                rows[name].append(torch.cat([row, row.new_zeros(BLOCKS - len(row), *row.shape[1:])]))
    return Segments(frames=None, **{name: torch.stack(values) for name, values in rows.items()})


@pytest.mark.parametrize("lengths", [[6], [4], [6, 6], [15, 7, 1, 6, 2]])
def test_teacher_forced_figures_are_the_loss_on_the_same_segments(agent: Agent, lengths: list[int]) -> None:
    episodes = [episode(length, seed=index) for index, length in enumerate(lengths)]

    found = measure(agent, episodes)
    losses = agent.dynamics.loss(segments_of(agent, episodes)).parts

    assert found.dynamics is not None
    assert found.rewards is not None
    assert found.ends is not None
    # One batch of several segments has tokens of padding predict nothing, but a real mean over all: as here.
    assert found.dynamics.cross_entropy == pytest.approx(losses["loss_tokens"].item(), rel=1e-5)
    assert found.dynamics.accuracy == pytest.approx(losses["token_accuracy"].item(), abs=1e-6)
    assert found.rewards.cross_entropy == pytest.approx(losses["loss_rewards"].item(), rel=1e-5)
    assert found.rewards.accuracy == pytest.approx(losses["reward_accuracy"].item(), abs=1e-6)
    assert found.ends.cross_entropy == pytest.approx(losses["loss_ends"].item(), rel=1e-5)


def test_a_dynamics_of_known_answers_has_known_figures(agent: Agent) -> None:
    one = episode(5)
    tokens = agent.tokenizer.encode(torch.from_numpy(one.frames).permute(0, 3, 1, 2))
    assert len(tokens.unique()) > 3
    probabilities = torch.arange(1.0, CODES + 1) / sum(range(1, CODES + 1))
    favourite = int(tokens.flatten().mode().values)
    probabilities = probabilities.roll(favourite + 1)  # the largest goes to the favourite
    always(agent.dynamics.head_tokens, probabilities)
    always(agent.dynamics.head_rewards, torch.tensor([0.2, 0.3, 0.5]))
    always(agent.dynamics.head_ends, torch.tensor([0.9, 0.1]))

    found = measure(agent, [one])

    assert found.dynamics is not None
    assert found.rewards is not None
    assert found.ends is not None
    costs = -probabilities.log()[tokens]
    assert found.dynamics.cross_entropy == pytest.approx(float(costs.flatten()[1:].mean()), rel=1e-5)
    assert found.dynamics.position_cross_entropy == pytest.approx(costs[1:].mean(0).tolist(), rel=1e-5)
    assert found.dynamics.position_accuracy == pytest.approx((tokens[1:] == favourite).float().mean(0).tolist())
    changed = tokens[1:] != tokens[:-1]
    assert found.dynamics.changed == int(changed.sum())
    assert found.dynamics.copy_accuracy == pytest.approx(1 - float(changed.float().mean()))
    counts = {"-1": (one.rewards < 0).sum(), "0": (one.rewards == 0).sum(), "+1": (one.rewards > 0).sum()}
    assert {name: figures.count for name, figures in found.rewards.classes.items()} == counts
    assert found.rewards.classes["+1"].recall == 1.0
    assert found.rewards.classes["+1"].precision == pytest.approx(counts["+1"] / 5)
    assert found.rewards.classes["-1"].mean_probability == pytest.approx(0.2)
    assert (found.ends.classes["ends"].count, found.ends.classes["ends"].mean_probability) == (1, pytest.approx(0.1))


def test_reconstructions_are_compared_pixel_by_pixel(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_BLOCK", 4)  # so that episodes consist of several
    episodes = [episode(9), episode(5, seed=1)]

    found = measure(agent, episodes).tokenizer

    assert found is not None
    frames = [torch.from_numpy(one.frames).permute(0, 3, 1, 2) for one in episodes]
    real = torch.cat(frames).float() / 255
    images = agent.tokenizer.decode(agent.tokenizer.encode(torch.cat(frames)))
    still = torch.zeros(1, 64, 64, dtype=torch.bool)
    moving = torch.cat([torch.cat([still, differing(one[1:], one[:-1])]) for one in frames])
    apart, blind = (images - real).abs(), (real.mean(0, keepdim=True) - real).abs()
    where = moving[:, None].expand_as(apart)
    assert found.reconstruction.absolute == pytest.approx(float(apart.mean()), rel=1e-5)
    assert found.reconstruction.moving_absolute == pytest.approx(float(apart[where].mean()), rel=1e-5)
    assert found.mean_image.absolute == pytest.approx(float(blind.mean()), rel=1e-5)
    assert found.mean_image.moving_squared == pytest.approx(float(blind[where].square().mean()), rel=1e-5)
    assert found.moving_share == pytest.approx(float(moving.float().mean()))
    mean = real.mean(0, keepdim=True)
    things = moving & differing(torch.cat(frames), (mean * 255).round().to(torch.uint8).expand(14, -1, -1, -1))
    shown = things[:, None].expand_as(apart)
    assert found.kept == pytest.approx(1 - float(apart[shown].sum() / blind[shown].sum()), rel=1e-5)
    assert (found.small_kept, found.small_pixels) == (None, 0)  # the square has 64 pixels


def test_a_lost_ball_is_noticed_beside_a_paddle_that_is_kept(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    one = episode(20, moves=False)
    paddle = np.full_like(one.frames, 60)
    for step in range(len(one)):
        row = 8 * (step % 7)
        paddle[step, row : row + 8, 20:28] = (250, 120, 10)
    ball = paddle.copy()
    for step in range(len(one)):
        row = 2 + (9 * step) % 60
        ball[step, row : row + 2, 60:62] = 255
    real = torch.from_numpy(paddle).permute(0, 3, 1, 2).float() / 255  # all but the ball
    monkeypatch.setattr(agent.tokenizer, "decode", lambda tokens: real[: len(tokens)])

    found = measure(agent, [replace(one, frames=ball)], trained=["tokenizer"])

    assert found.tokenizer is not None
    assert found.tokenizer.small_pixels == 19 * 4  # the first frame of an episode has none that move
    assert found.tokenizer.kept > 0.8
    assert found.tokenizer.small_kept < 0.1
    assert any("such as a ball, are lost" in hint.text for hint in hints(found))


def test_figures_do_not_depend_on_how_many_frames_are_looked_at_at_once(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [episode(9), episode(5, seed=1)]
    whole = measure(agent, episodes)
    monkeypatch.setattr(diagnosis, "_BLOCK", 4)

    parts = measure(agent, episodes)

    assert whole.tokenizer is not None
    assert parts.tokenizer is not None
    assert parts.tokenizer.still_changed == whole.tokenizer.still_changed
    assert parts.tokenizer.kept == pytest.approx(whole.tokenizer.kept)
    assert replace(parts, tokenizer=None) == replace(whole, tokenizer=None)


def test_nothing_moves_or_changes_from_one_episode_to_the_next(agent: Agent) -> None:
    found = measure(agent, [episode(3, seed=0, moves=False), episode(4, seed=2, moves=False)])

    assert found.tokenizer is not None
    assert found.dynamics is not None
    assert found.tokenizer.codes_used > 1
    assert (found.tokenizer.moving_share, found.tokenizer.still_changed) == (0.0, 0.0)
    assert (found.dynamics.changed, found.dynamics.copy_accuracy) == (0, 1.0)


def test_flickering_tokens_are_noticed(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_BLOCK", 4)
    one = episode(8, moves=False)
    faint = one.frames.copy()
    faint[4:, :, :, 2] += 12  # once, from block to block: no pixel moves by as much, but tokens tell it apart
    images = torch.from_numpy(faint[3:5]).permute(0, 3, 1, 2).float() / 127.5 - 1
    agent.tokenizer.embedding.parked.fill_(False)
    agent.tokenizer.embedding.weight.copy_(agent.tokenizer._latents(images).permute(0, 2, 3, 1).flatten(0, 2))

    found = measure(agent, [replace(one, frames=faint)]).tokenizer

    assert found is not None
    assert found.still_changed == pytest.approx(1 / 7)
    assert found.moving_share == 0


def test_a_collapsed_codebook_is_measured_and_named(agent: Agent) -> None:
    agent.tokenizer.embedding.weight.copy_(agent.tokenizer.embedding.weight[:1].expand(CODES, -1))

    found = measure(agent, [episode(8)])

    assert found.tokenizer is not None
    assert (found.tokenizer.codes_used, found.tokenizer.perplexity) == (1, 1.0)
    texts = [hint.text for hint in hints(found)]
    assert texts[0].startswith("Collapsed codebook: 1 of 32 codes")
    assert texts[1].startswith("What moves is lost in the reconstructions")


class Known(IrisDream):
    """A dream that remembers what it was told."""

    made: list["Known"]

    def __init__(self, tokenizer: Any, dynamics: Any, tokens: Tensor, actions: Tensor, **options: Any) -> None:
        super().__init__(tokenizer, dynamics, tokens, actions, **options)
        self.told = (tokens, actions, options["greedy"], options["keep"])
        self.taken: list[Tensor] = []
        Known.made.append(self)

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        self.taken.append(actions)
        return super().step(actions, next_view=next_view)


def test_dreams_read_what_was_and_act_as_was_acted(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    Known.made = []
    monkeypatch.setattr(diagnosis, "IrisDream", Known)
    one, horizon = episode(11), 7
    tokens = agent.tokenizer.encode(torch.from_numpy(one.frames).permute(0, 3, 1, 2))

    found = measure(agent, [episode(10, seed=1), one], horizon=horizon).dream  # the first is one step too short

    assert found is not None
    assert (found.starts, found.context, found.horizon) == (1, 4, horizon)
    assert [dream.told[2] for dream in Known.made] == [False, True]
    for dream in Known.made:
        assert torch.equal(dream.told[0], tokens[None, :4])
        assert dream.told[3] == 4  # where positions run out
        assert dream.told[1].tolist() == [one.actions[:3].tolist()]
        assert torch.cat(dream.taken).tolist() == one.actions[3:10].tolist()
    assert found.real_rewards == np.count_nonzero(one.rewards[3:10])


def test_a_dream_of_known_answers_has_a_known_curve(agent: Agent) -> None:
    certain = torch.full((CODES,), 1e-12)
    certain[7] = 1.0
    always(agent.dynamics.head_tokens, certain)
    always(agent.dynamics.head_rewards, torch.tensor([1e-12, 1e-12, 1.0]))
    always(agent.dynamics.head_ends, torch.tensor([1e-12, 1.0]))
    one, horizon = episode(7), 3

    found = measure(agent, [one], horizon=horizon).dream

    assert found is not None
    frames = torch.from_numpy(one.frames).permute(0, 3, 1, 2)
    real = frames.float() / 255
    seven = agent.tokenizer.decode(torch.full((1, 16), 7))
    seen = agent.tokenizer.decode(agent.tokenizer.encode(frames))
    after = range(4, 7)  # steps; the dream begins at step 3
    moved = [differing(frames[step : step + 1], frames[3:4])[:, None].expand(-1, 3, -1, -1) for step in after]
    for curve, images in (
        (found.sampled, [seven[0]] * 3), (found.greedy, [seven[0]] * 3), (found.copy, [real[3]] * 3),
        (found.copy_reconstruction, [seen[3]] * 3), (found.reconstruction, [seen[step] for step in after]),
    ):  # fmt: skip
        apart = [(image - real[step]).abs() for image, step in zip(images, after, strict=True)]
        assert curve.error == pytest.approx([float(x.mean()) for x in apart], rel=1e-5)
        moving = [float(x[None][where].mean()) for x, where in zip(apart, moved, strict=True)]
        assert curve.moving == pytest.approx(moving, rel=1e-5)
    assert (found.dreamt_rewards, found.dreamt_ends) == (horizon, horizon)


def test_dreams_may_be_longer_than_the_positions_reach(agent: Agent) -> None:
    found = measure(agent, [episode(13)], horizon=9).dream

    assert found is not None
    assert len(found.sampled.error) == 9 > BLOCKS
    assert np.isfinite(found.sampled.error).all()


def test_a_policy_of_known_answers_has_known_figures(agent: Agent) -> None:
    agent.actor_critic.actor_linear.weight.zero_()
    agent.actor_critic.actor_linear.bias.copy_(torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).log())
    agent.actor_critic.critic_linear.weight.zero_()
    agent.actor_critic.critic_linear.bias.fill_(0.25)
    over, unfinished = episode(3), episode(4, seed=1, ends=False)

    found = measure(agent, [over, unfinished]).policy

    assert found is not None
    entropy = -(0.5 * math.log(0.5) + 0.5 * math.log(0.1))
    assert (found.entropy, found.entropy_share) == (pytest.approx(entropy), pytest.approx(entropy / math.log(6)))
    assert (found.most_frequent_action, found.most_frequent_share) == (0, pytest.approx(0.5))
    assert (found.mean_value, found.value_correlation) == (pytest.approx(0.25), None)
    gamma, (a, b, c) = agent.config.actor_critic.gamma, np.sign(over.rewards)
    returns = [a + gamma * (b + gamma * c), b + gamma * c, c]
    assert found.mean_return == pytest.approx(np.mean(returns))


def test_values_are_matched_with_the_returns_of_their_own_steps(agent: Agent) -> None:
    unfinished, over = episode(4, ends=False), episode(9, seed=1)
    memory, values = None, []
    for image in agent.see(torch.from_numpy(over.frames).permute(0, 3, 1, 2)).split(1):
        output = agent.actor_critic(image, memory)
        memory = output.memory
        values.append(output.values.item())
    returns = discounted_returns(np.sign(over.rewards), agent.config.actor_critic.gamma)

    found = measure(agent, [unfinished, over]).policy

    assert found is not None
    assert found.value_correlation == pytest.approx(np.corrcoef(values, returns)[0, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("trained", "measured"),
    [
        ((), set()),
        (("dynamics", "actor_critic"), set()),
        (("tokenizer",), {"tokenizer"}),
        (("tokenizer", "actor_critic"), {"tokenizer", "policy"}),
        (("tokenizer", "dynamics"), {"tokenizer", "dynamics", "rewards", "ends", "dream"}),
    ],
)
def test_what_was_never_trained_is_not_measured(agent: Agent, trained: tuple[str, ...], measured: set[str]) -> None:
    found = measure(agent, [episode(9)], trained=trained)

    parts = {"tokenizer", "dynamics", "rewards", "ends", "dream", "policy"}
    assert {part for part in parts if getattr(found, part) is not None} == measured
    assert found.skipped.keys() == parts - measured
    assert all(reason.endswith("never trained") for reason in found.skipped.values())


def test_episodes_too_short_for_a_dream_leave_the_rest(agent: Agent) -> None:
    found = measure(agent, [episode(6)], horizon=3)

    assert found.dream is None
    assert found.skipped == {"dream": "no episode has the 7 steps in a row that a dream is compared with"}


def test_measuring_repeats_itself_and_leaves_the_global_stream_alone(agent: Agent) -> None:
    episodes = [episode(10), episode(9, seed=1)]
    before = torch.get_rng_state()

    first, again, other = (measure(agent, episodes, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first.dream != other.dream
    assert torch.equal(torch.get_rng_state(), before)


def test_whoever_watches_sees_every_frame_and_may_stop(agent: Agent) -> None:
    seen: list[int] = []
    measure(agent, [episode(9), episode(4)], watch=seen.append)
    assert sum(seen) == 13
    stop: Callable[[int], None] = lambda frames: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        measure(agent, [episode(9)], watch=stop)
