"""A game that is put back to a saved moment goes on exactly as it did."""

from pathlib import Path

import numpy as np
import pytest

from iris_cli.envs.rewindable import GameStep, Rewindable
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.errors import EnvironmentError_

SPECS = {
    "whole games": training_spec("Pong").for_testing(),
    "lives, short": EnvSpec(id="ALE/Breakout-v5", kind="atari", max_frames=100),
    "grey stacks": training_spec("Breakout").as_grey_stacks(),
    "no emulator": training_spec("Catch-v0"),
}


@pytest.fixture(autouse=True)
def _toy_game(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)


def played(game: Rewindable, actions: list[int]) -> list[tuple[bytes, float, bool, bool]]:
    """What the actions give; an episode that ends is followed by another, seeded by its step."""
    found = []
    for number, action in enumerate(actions):
        step = game.step(action % len(game.action_meanings))
        found.append((step.frame.tobytes(), step.reward, step.terminated, step.truncated))
        if step.terminated or step.truncated:
            found.append((game.reset(number).tobytes(), 0.0, False, False))
    return found


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_game_goes_on_from_a_saved_moment_as_it_did(spec: EnvSpec) -> None:
    draws = np.random.default_rng(0)
    before, after = draws.integers(18, size=15).tolist(), draws.integers(18, size=40).tolist()
    game = Rewindable(spec)
    game.reset(3)
    played(game, before)
    saved = game.save()
    first = played(game, after)

    game.restore(saved)
    again = played(game, after)
    game.restore(saved)
    other = played(game, [action + 1 for action in after])
    game.close()

    assert first == again
    assert first != other


@pytest.mark.pipeline
def test_a_save_outlives_other_games_and_later_saves() -> None:
    game = Rewindable(SPECS["lives, short"])
    game.reset(0)
    saved = game.save()
    first = played(game, [1, 2, 3] * 8)
    game.reset(99)
    played(game, [2] * 10)
    game.save()

    game.restore(saved)

    assert played(game, [1, 2, 3] * 8) == first
    game.close()


def test_achievements_are_told_of() -> None:
    game = Rewindable(training_spec("toy_game:Builder"))
    game.reset(0)

    steps: list[GameStep] = [game.step(action) for action in (2, 3)]

    assert game.achievements == ["be_odd", "fifth_thrice"]
    assert [step.achievements for step in steps] == [(False, False), (True, False)]
    game.close()


def test_what_an_environment_raises_names_it() -> None:
    game = Rewindable(SPECS["whole games"])
    game.reset(0)
    with pytest.raises(EnvironmentError_, match=r"raised .* In ALE/Pong-v5"):
        game.step(99)
    game.close()
