"""Dreams that a person can be in: they go back exactly, and say what they expect without a change."""

from typing import Any

import numpy as np
import pytest
import torch

from iris_cli.play.worlds import DreamWorld, picture_of
from iris_cli.run import Run

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
STACKS = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 4), np.uint8)  # as TWM sees
AGENTS = ["iris", "twm", pytest.param("delta-iris", marks=pytest.mark.pipeline)]  # seconds longer
ACTIONS = [3, 1, 5, 0, 2] * 3  # longer than the tiny networks' positions: the dream forgets and reads anew on the way


def dream(run: Run, seed: int = 0) -> DreamWorld:
    frames = STACKS if run.agent_name == "twm" else FRAMES
    return DreamWorld(run.agent, frames, [1, 2, 3], [0.0, 1.0, 0.0], seed=seed)


def dreamt(world: DreamWorld, actions: list[int]) -> list[Any]:
    steps = [world.step(action) for action in actions]
    return [(step.picture.tobytes(), step.tokens, step.reward, step.end, step.expected) for step in steps]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("before", [0, 4])
def test_a_dream_goes_on_from_a_saved_moment_as_it_did(runs: dict[str, Run], agent: str, before: int) -> None:
    world = dream(runs[agent])
    dreamt(world, ACTIONS[:before])
    saved, view, tokens = world.save(), world.view.clone(), world.tokens
    first = dreamt(world, ACTIONS)

    world.restore(saved)
    assert torch.equal(world.view, view)
    assert world.tokens == tokens
    again = dreamt(world, ACTIONS)
    world.restore(saved)
    other = dreamt(world, [5 - action for action in ACTIONS])

    assert first == again
    assert first != other


@pytest.mark.parametrize("agent", AGENTS)
def test_asking_what_is_expected_changes_nothing(runs: dict[str, Run], agent: str) -> None:
    asked, silent = dream(runs[agent]), dream(runs[agent])
    silent._dream.foretell = lambda actions: asked._dream.foretell(actions)  # asks the other one twice instead

    with_it = [step[:4] for step in dreamt(asked, ACTIONS)]
    without = [step[:4] for step in dreamt(silent, ACTIONS)]

    assert with_it == without


@pytest.mark.parametrize("agent", [agent for agent in AGENTS if agent != "twm"])
def test_what_is_expected_is_what_is_then_drawn_from(
    runs: dict[str, Run], agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    world = dream(runs[agent])
    work = world._dream._work
    draw = work.draw
    monkeypatch.setattr(work, "draw", lambda logits: drawn.append(logits.softmax(-1)) or draw(logits))

    for action in ACTIONS:
        drawn.clear()
        expected = world.step(action).expected
        ends = next(chances for chances in drawn if chances.shape[-1] == 2)
        assert expected.end == pytest.approx(float(ends[0, 1]), abs=1e-6)
        signs = [chances for chances in drawn if chances.shape[-1] == 3]
        if signs:
            assert expected.signs == pytest.approx(signs[0][0].tolist(), abs=1e-6)
            assert expected.reward == pytest.approx(expected.signs[2] - expected.signs[0], abs=1e-6)


def test_what_twm_expects_is_what_it_is_paid(runs: dict[str, Run]) -> None:
    steps = [dream(runs["twm"]).step(action) for action in ACTIONS]

    for step in steps:
        assert step.reward == round(step.expected.reward, 2)
        assert 0 <= step.expected.end <= 1
        assert step.expected.signs is None
        assert not step.end
    assert len({step.expected.reward for step in steps}) > 1


def test_twm_begins_with_what_was_earned_before(runs: dict[str, Run]) -> None:
    agent = runs["twm"].agent
    poor, rich = (DreamWorld(agent, STACKS, [1, 2, 3], [0.0, reward, 0.0], seed=0) for reward in (0.0, 5.0))

    assert poor.step(2).expected != rich.step(2).expected


def test_people_see_the_newest_of_grey_frames() -> None:
    stack = np.stack([np.full((64, 64), shade, np.uint8) for shade in (1, 2, 3, 4)], 2)

    assert picture_of(stack).shape == (64, 64, 3)
    assert (picture_of(stack) == 4).all()
