"""The published numbers of updates, from the published budgets."""

import dataclasses

import pytest
import torch

from iris_cli.agents.twm.config import PRESETS, ScheduleConfig, TwmConfig
from iris_cli.agents.twm.schedule import planned_updates, pretraining_samples, stack_pass, start_pass, steps_per_update
from iris_cli.errors import DatasetError


def test_a_joint_update_comes_for_every_076_steps() -> None:
    assert steps_per_update(TwmConfig()) == 0.76
    assert planned_updates(TwmConfig(), "train-agent", 100_000) == 125_000


def test_small_presets_learn_about_once_a_step() -> None:
    for preset in ("small", "tiny"):
        assert 0.6 < steps_per_update(PRESETS[preset]) < 3


def test_pretraining_has_both_readings_of_the_released_program() -> None:
    released = pretraining_samples(ScheduleConfig())
    meant = pretraining_samples(dataclasses.replace(ScheduleConfig(), actor_critic_share=0.1))

    assert list(released.values()) == [30_000_000, 15_000_000, 35_000_000]
    assert meant["train-actor-critic"] == 5_000_000


@pytest.mark.parametrize(
    ("stage", "share", "updates"),
    [
        ("train-tokenizer", 0.7, 24_000), ("train-dynamics", 0.7, 12_038),
        ("train-actor-critic", 0.7, 7_022), ("train-actor-critic", 0.1, 1_004),
    ],
)  # fmt: skip
def test_pretraining_takes_about_the_published_updates(stage: str, share: float, updates: int) -> None:
    config = TwmConfig(schedule=ScheduleConfig(actor_critic_share=share))

    assert planned_updates(config, stage, 5_000) == pytest.approx(updates, rel=0.002)


def test_a_pass_of_the_tokenizer_draws_each_step_once() -> None:
    assert sorted(stack_pass(5_000).tolist()) == list(range(5_000))


def test_windows_of_a_pass_do_not_overlap_and_begin_at_any_offset() -> None:
    generator, offsets = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        starts = start_pass(5_000, 16, generator).sort().values

        assert len(starts) in (311, 312)
        assert (starts.diff() == 16).all()
        assert starts[-1] + 16 <= 5_000 < starts[-1] + 32
        offsets.add(int(starts[0]))

    assert offsets == set(range(16))


def test_too_few_steps_for_a_window_are_refused() -> None:
    assert len(start_pass(31, 16)) == 1
    with pytest.raises(DatasetError, match="windows of 16 steps need 32 steps, but there are 31"):
        start_pass(30, 16)
