"""The published numbers of updates, from the published budgets."""

import dataclasses

import torch

from iris_cli.agents.twm.config import PRESETS, ScheduleConfig, TwmConfig
from iris_cli.agents.twm.schedule import pretraining_samples, stack_batches, start_batches, updates_due


def test_joint_updates_come_in_the_published_pattern() -> None:
    due = updates_due(TwmConfig())

    assert due[:20] == [1, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1, 2]
    assert (len(due), due.count(1), due.count(2), sum(due)) == (95_000, 65_001, 29_999, 124_999)


def test_small_presets_learn_about_once_a_step() -> None:
    for preset in ("small", "tiny"):
        due = updates_due(PRESETS[preset])

        assert 0.3 < sum(due) / len(due) < 1.5


def test_pretraining_has_both_readings_of_the_released_program() -> None:
    released = pretraining_samples(ScheduleConfig())
    meant = pretraining_samples(dataclasses.replace(ScheduleConfig(), actor_critic_share=0.1))

    assert list(released.values()) == [30_000_000, 15_000_000, 35_000_000]
    assert meant["actor_critic"] == 5_000_000


def test_the_tokenizer_s_passes_are_24000_updates() -> None:
    batches = stack_batches(5_000, 1_600)

    assert [len(batch) for batch in batches] == [1_600, 1_600, 1_600, 200]
    assert sorted(torch.cat(batches).tolist()) == list(range(5_000))
    assert pretraining_samples(ScheduleConfig())["tokenizer"] / 5_000 * len(batches) == 24_000


def test_windows_of_a_pass_do_not_overlap_and_begin_at_any_offset() -> None:
    generator, offsets = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        batches = start_batches(5_000, length=16, batch=100, generator=generator)
        starts = torch.cat(batches).sort().values

        assert [len(batch) for batch in batches] in ([100, 100, 100, 11], [100, 100, 100, 12])
        assert (starts.diff() == 16).all()
        assert starts[-1] + 16 <= 5_000 < starts[-1] + 32
        offsets.add(int(starts[0]))

    assert offsets == set(range(16))


def test_passes_over_the_prefill_make_about_the_published_updates() -> None:
    for length, batch, samples, updates in ((16, 100, 15_000_000, 12_038), (15, 400, 35_000_000, 7_022)):
        generator = torch.Generator().manual_seed(1)
        passes = [start_batches(5_000, length=length, batch=batch, generator=generator) for _ in range(500)]
        read = sum(len(starts) * length for each in passes for starts in each)

        assert abs(samples / read * sum(map(len, passes)) / updates - 1) < 0.001
