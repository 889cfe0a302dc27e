from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iris_cli.learn.acting import Actor

ACTIONS = 5


class Memory(NamedTuple):
    steps: Tensor  # (B, 1) how many frames were seen
    brightness: Tensor  # (B, 1) of the last


class Output(NamedTuple):
    logits_actions: Tensor
    memory: Memory


class Counting(nn.Module):
    """A policy that is sure of one action: the number of frames it has seen, modulo 5."""

    def forward(self, views: Tensor, memory: Memory | None) -> Output:
        self.rows = len(views)
        steps = torch.zeros(len(views), 1) if memory is None else memory.steps
        logits = 100.0 * nn.functional.one_hot(steps[:, 0].long() % ACTIONS, ACTIONS)
        return Output(logits, Memory(steps + 1, views.mean((1, 2, 3))[:, None]))

    def burn_in(self, views: Tensor, mask: Tensor) -> Memory:
        return Memory(mask.sum(1, keepdim=True).float(), views[:, -1].mean((1, 2, 3))[:, None])


class Player(nn.Module):
    num_actions = ACTIONS

    def __init__(self) -> None:
        super().__init__()
        self.actor_critic = Counting()
        self.unused = nn.Parameter(torch.zeros(1))

    def see(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8
        assert frames.shape[1:] == (3, 64, 64)
        return frames / 255


def actor(envs: int, *, temperature: float = 1.0, epsilon: float = 0.0, seeds: tuple[int, ...] = (0,)) -> Actor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return Actor(Player(), envs, temperature=temperature, epsilon=epsilon, generators=generators)


def frames(envs: int) -> np.ndarray:
    return np.full((envs, 64, 64, 3), 255, np.uint8)


def test_the_memory_is_kept_between_steps() -> None:
    player = actor(2)

    actions = [player.act(frames(2)).tolist() for _ in range(6)]

    assert actions == [[step % ACTIONS] * 2 for step in range(6)]


def test_an_environment_that_starts_anew_is_forgotten_alone() -> None:
    player = actor(3)
    player.act(frames(3))
    player.act(frames(3))

    player.forget(np.array([False, True, False]))

    assert player.act(frames(3)).tolist() == [2, 0, 2]


def test_environments_that_rest_cost_nothing_and_keep_their_memory() -> None:
    player = actor(3)
    player.act(frames(3))

    actions = player.act(frames(3), np.array([True, False, True]))

    assert actions.tolist() == [1, 0, 1]
    assert player._agent.actor_critic.rows == 2
    assert player.act(frames(3)).tolist() == [2, 1, 2]


def test_the_memory_begins_with_what_was_seen_before() -> None:
    player = actor(2)
    seen = np.zeros((2, 4, 64, 64, 3), np.uint8)
    mask = np.array([[False, True, True, True], [False, False, False, True]])

    player.burn_in(seen, mask, np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float32))

    assert player.act(frames(2)).tolist() == [3, 1]


def test_a_high_temperature_makes_it_uniform_and_a_low_one_sure() -> None:
    hot, cold = actor(2000, temperature=1e6), actor(2000, temperature=1e-3)

    counts = np.bincount(hot.act(frames(2000)), minlength=ACTIONS)

    assert counts.min() > 300
    assert set(cold.act(frames(2000))) == {0}


def test_with_draws_in_common_one_draw_of_epsilon_replaces_all_actions() -> None:
    player = actor(200, epsilon=0.5)

    replaced = [bool((player.act(frames(200)) != step % ACTIONS).any()) for step in range(40)]
    shares = [np.mean(actor(200, epsilon=1.0).act(frames(200)) != 0) for _ in range(2)]

    assert 10 < sum(replaced) < 30
    assert shares[0] == shares[1] == pytest.approx(0.8, abs=0.1)


def test_with_draws_of_its_own_an_environment_does_the_same_among_others() -> None:
    alone = actor(1, temperature=1e6, epsilon=0.3, seeds=(7,))
    among = actor(3, temperature=1e6, epsilon=0.3, seeds=(5, 7, 9))

    ones = [alone.act(frames(1))[0] for _ in range(20)]
    others = [among.act(frames(3), np.array([step % 2 == 0, True, True]))[1] for step in range(20)]

    assert ones == others


def test_the_same_seed_gives_the_same_actions() -> None:
    first, second = (actor(4, temperature=100.0, epsilon=0.2) for _ in range(2))

    for _ in range(10):
        assert first.act(frames(4)).tolist() == second.act(frames(4)).tolist()
