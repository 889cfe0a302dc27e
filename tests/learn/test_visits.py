"""Counts of draws. Equality with the published chances is in tests/agents/delta_iris/test_sampling.py."""

import torch

from iris_cli.learn.visits import Visits


def test_what_was_drawn_less_comes_sooner_and_new_episodes_first() -> None:
    visits = Visits([])
    visits.chances(2, 1.0)

    visits.note(torch.tensor([0, 0, 1]))
    chances = visits.chances(3, 1.0)

    assert visits.counts.tolist() == [2, 1, 0]
    torch.testing.assert_close(chances, torch.tensor([1 / 3, 1 / 2, 1.0]).double() / (11 / 6))


def test_alpha_zero_is_even() -> None:
    assert Visits([5, 0]).chances(2, 0.0).tolist() == [0.5, 0.5]


def test_a_dataset_that_was_rewound_forgets_the_counts_of_what_is_gone() -> None:
    visits = Visits([5, 3, 2])

    assert len(visits.chances(1, 1.0)) == 1
    assert visits.counts.tolist() == [5]


def test_a_pass_draws_each_step_once_then_another_one_begins() -> None:
    visits, passes = Visits([]), iter([torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])])

    drawn = [visits.next_of_pass(2, 3, lambda: next(passes)).tolist() for _ in range(3)]

    assert drawn == [[2, 0], [1], [1, 2]]
    assert visits.left.tolist() == [0]


def test_a_pass_leaves_out_what_is_gone() -> None:
    visits = Visits([], [5, 1])

    assert visits.next_of_pass(2, 4, lambda: torch.tensor([3])).tolist() == [1]
    assert visits.next_of_pass(2, 4, lambda: torch.tensor([3])).tolist() == [3]
