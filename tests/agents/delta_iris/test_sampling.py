"""Segments and chances of episodes against the published numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from iris_cli.learn.actor_critic import lambda_returns, until_first_end
from iris_cli.learn.visits import priorities
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay

from .conftest import Golden, assert_close

WINDOWS = ("0_5", "m2_3", "1_9", "4_8", "m3_8")


@pytest.fixture
def replay(golden: Golden, tmp_path: Path) -> Iterator[Replay]:
    """The golden episode of five steps."""
    actions, ends = golden["in.segment.actions"].numpy(), golden["in.segment.ends"].bool().numpy()
    with Dataset.create(tmp_path / "toy.zarr", environment={"id": "x"}, action_meanings=["NOOP"] * 9) as dataset:
        dataset.append(
            observations=np.zeros((5, 64, 64, 3), np.uint8), actions=actions, rewards=np.zeros(5, np.float32),
            terminations=ends, truncations=np.zeros(5, bool), episode_lengths=[5], episode_ids=[0], writer="run",
        )  # fmt: skip
        replay = Replay(torch.device("cpu"))
        replay.refresh(dataset)
        yield replay


@pytest.mark.parity
@pytest.mark.parametrize("alpha", [1, 5])
def test_chances_of_episodes_are_the_published_ones(golden: Golden, alpha: int) -> None:
    chances = priorities(golden["in.sampler.counts"], alpha)

    torch.testing.assert_close(chances, golden[f"out.sampler.probabilities_alpha{alpha}"], rtol=1e-12, atol=0)


@pytest.mark.parity
@pytest.mark.parametrize("window", WINDOWS)
def test_padded_segments_are_the_published_ones(golden: Golden, replay: Replay, window: str) -> None:
    start, stop = (int(bound.replace("m", "-")) for bound in window.split("_"))
    expected = golden.below(f"out.segment.{window}.")

    segments = replay.around(400, stop - start, torch.Generator().manual_seed(0))

    rows = (segments.actions == expected["actions"]).all(1) & (segments.mask == expected["mask"]).all(1)
    assert rows.any()
    assert (segments.ends[rows] == expected["ends"].bool()).all()


@pytest.mark.parity
def test_discounted_returns_and_the_mask_after_an_end_are_the_published_ones(golden: Golden) -> None:
    given = golden.below("in.lambda.")
    rewards = given["rewards"]

    returns = lambda_returns(rewards, torch.full_like(rewards, 0.99), given["values"], torch.zeros(4), lam=1.0)

    assert_close(returns, golden["out.discounted_returns_g099"])
    assert torch.equal(until_first_end(given["ends"].bool()), golden["out.lambda.mask_after_first_done"])
