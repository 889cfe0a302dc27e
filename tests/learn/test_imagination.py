"""The imagination loop, with a policy and a dream of a few lines. No agent is needed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from iris_cli.learn.imagination import imagine, look_again
from iris_cli.learn.world import Outcome


class CountingDream:
    """Shows the number of steps taken, pays the action, ends at every third step."""

    def __init__(self, batch: int) -> None:
        self.steps, self.view = 0, torch.zeros(batch, 1)

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        assert next_view
        self.steps += 1
        self.view = torch.full_like(self.view, self.steps)
        return Outcome(actions.float(), torch.full_like(actions, self.steps % 3 == 0, dtype=torch.bool), self.view)


class Output(NamedTuple):
    logits_actions: Tensor
    values: Tensor
    memory: Tensor
    logits_values: Tensor | None = None


class SummingPolicy(nn.Module):
    """Its memory is the weighted sum of all views, which it also takes for the value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, views: Tensor, memory: Tensor) -> Output:
        memory = memory + self.weight * views[:, 0]
        return Output(torch.stack([memory, -memory, 0 * memory], 1), memory, memory)


def run(horizon: int = 5, seed: int = 0, **settings: bool):
    dream, policy = CountingDream(2), SummingPolicy()
    generator = torch.Generator().manual_seed(seed)
    return imagine(dream, policy, torch.zeros(2), horizon, generator, **settings), dream, policy


def test_a_horizon_of_h_views_gives_h_minus_1_transitions_and_a_bootstrap() -> None:
    rollout, dream, _ = run(horizon=5)

    assert dream.steps == 4
    assert rollout.values[0].tolist() == [0, 1, 3, 6]
    assert rollout.bootstrap.tolist() == [10, 10]
    assert rollout.ends[0].tolist() == [False, False, True, False]
    assert torch.equal(rollout.rewards, rollout.actions.float())
    assert rollout.logits_actions.shape == (2, 4, 3)


def test_gradient_flows_through_the_memory_of_all_steps() -> None:
    rollout, _, policy = run(horizon=5)

    rollout.values[0, -1].backward()

    assert policy.weight.grad == 0 + 1 + 2 + 3  # of one step alone it would be 3


def test_the_generator_determines_the_actions() -> None:
    assert torch.equal(run(seed=3)[0].actions, run(seed=3)[0].actions)


def test_greedy_takes_the_most_probable_action() -> None:
    rollout = run(greedy=True)[0]

    assert torch.equal(rollout.actions, rollout.logits_actions.argmax(-1))


def test_views_are_kept_when_asked_for_with_the_one_after_the_last_step() -> None:
    assert run(horizon=5)[0].views is None
    assert run(horizon=5, keep_views=True)[0].views[0, :, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_second_look_of_the_same_policy_says_the_same_with_gradient() -> None:
    rollout, _, policy = run(horizon=5, keep_views=True)

    again = look_again(rollout, policy, torch.zeros(2))

    assert torch.equal(again.logits_actions, rollout.logits_actions)
    assert torch.equal(again.values, rollout.values)
    assert again.rewards is rollout.rewards
    assert again.bootstrap is rollout.bootstrap
    again.values[0, -1].backward()
    assert policy.weight.grad == 0 + 1 + 2 + 3


def test_a_second_look_of_another_policy_says_what_that_one_does() -> None:
    rollout, _, policy = run(horizon=5, keep_views=True)
    with torch.no_grad():
        policy.weight.fill_(2.0)

    assert torch.equal(look_again(rollout, policy, torch.zeros(2)).values, 2 * rollout.values)


def test_a_target_looks_on_and_gives_the_baselines_and_the_bootstrap() -> None:
    dream, policy, target = CountingDream(2), SummingPolicy(), SummingPolicy()

    rollout = imagine(dream, policy, torch.zeros(2), 4, target=(target, torch.full((2,), 10.0)))
    (rollout.values.sum() + rollout.logits_actions.sum()).backward()

    assert rollout.values[0].tolist() == [0, 1, 3]
    assert rollout.baselines[0].tolist() == [10, 11, 13]
    assert rollout.bootstrap[0] == 16
    assert target.weight.grad is None


def test_distributions_of_values_are_kept() -> None:
    class Distributing(SummingPolicy):
        def forward(self, views: Tensor, memory: Tensor) -> Output:
            output = super().forward(views, memory)
            return output._replace(logits_values=output.values[:, None].expand(-1, 7))

    rollout = imagine(CountingDream(2), Distributing(), torch.zeros(2), 4)

    assert rollout.logits_values.shape == (2, 3, 7)
    assert torch.equal(rollout.logits_values[..., 0], rollout.values)
    assert run()[0].logits_values is None
