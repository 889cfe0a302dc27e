"""Several environments at once equal single ones, can be rebuilt, and never hang."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import RESET, VectorEnv
from iris_cli.errors import EnvironmentError_

BREAKOUT = EnvSpec(id="ALE/Breakout-v5", kind="atari", max_frames=240)
TOY = """
import gymnasium, numpy
class Toy(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), numpy.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return numpy.zeros((64, 64, 3), numpy.uint8), {}
    def step(self, action):
        if action == 1:
            raise ValueError("out of paint")
        return numpy.zeros((64, 64, 3), numpy.uint8), 0.0, False, False, {}
"""


def play(env, steps, *, first=0, seed=0, columns=slice(None)):
    """Act with the given columns of three environments' fixed actions, reset what ends; every frame and number seen."""
    actions = np.random.default_rng(seed).integers(0, 4, (first + steps, 3))[first:, columns]
    seen = []
    for t, action in enumerate(actions, start=first):
        made = env.step(action)
        ended = made.terminations | made.truncations
        frames = env.reset([t if end else None for end in ended])
        seen.append((made.frames.copy(), made.rewards, made.terminations, made.truncations, frames.copy()))
    return [np.stack(column) for column in zip(*seen, strict=True)]


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def workers():
    with VectorEnv(BREAKOUT, 3) as env:
        yield env


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A game that costs nothing, and whose action 1 is an error."""
    (tmp_path / "painted_game.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    return training_spec("painted_game:Toy")


@pytest.fixture
def started():
    """The processes that a test has started and not ended."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def test_three_workers_equal_three_single_environments(workers):
    workers.reset([10, 11, 12])
    together = play(workers, 70)

    for e in range(3):
        with VectorEnv(BREAKOUT, 1) as single:
            single.reset([10 + e])
            assert_equal(play(single, 70, columns=slice(e, e + 1)), [part[:, e : e + 1] for part in together])
    assert together[2].any()  # lost lives
    assert together[3].any()  # time limits


def test_restored_states_go_on_like_the_originals_in_workers(workers):
    workers.reset([1, 2, 3])
    frames = play(workers, 40)[-1][-1]
    states = json.loads(json.dumps(workers.state()))
    rest = play(workers, 30, first=40)

    restored = workers.restore(states)

    assert any(RESET in state["actions"] for state in states)
    np.testing.assert_array_equal(restored, frames)
    assert workers.state() == states
    assert_equal(play(workers, 30, first=40), rest)


@pytest.mark.parametrize("stop", ["before the reset after a lost life", "in mid-life"])
def test_a_restored_state_goes_on_like_the_original_in_process(stop):
    with VectorEnv(BREAKOUT, 1) as env, VectorEnv(BREAKOUT, 1) as other:
        env.reset([7])
        play(env, 62, columns=slice(1))  # more than one real reset
        while stop.startswith("before") and not env.step(np.array([1])).terminations[0]:
            pass

        np.testing.assert_array_equal(other.restore(env.state()), env.reset([None]))
        np.testing.assert_array_equal(other.reset([5]), env.reset([5]))
        assert_equal(play(other, 20, columns=slice(1)), play(env, 20, columns=slice(1)))


def test_a_state_from_before_the_first_reset_can_be_restored():
    with VectorEnv(BREAKOUT, 1) as env:
        assert env.restore(env.state()).max() == 0
        assert env.state() == [{"seed": None, "actions": []}]


def test_inactive_environments_keep_their_frame(workers):
    before = workers.reset([1, 2, 3])

    made = workers.step(np.array([1, 1, 1]), active=np.array([True, False, True]))

    np.testing.assert_array_equal(made.frames[1], before[1])
    assert [len(state["actions"]) for state in workers.state()] == [1, 0, 1]


def test_actions_have_the_words_of_the_game(workers):
    assert workers.num_actions == 4
    assert workers.action_meanings == ["NOOP", "FIRE", "RIGHT", "LEFT"]


def test_ctrl_c_does_not_reach_the_workers(toy, started):
    with VectorEnv(toy, 2) as env:
        for process in started():
            os.kill(process.pid, signal.SIGINT)

        assert env.reset([1, 2]).shape == (2, 64, 64, 3)


@pytest.mark.timeout(30)
def test_a_worker_that_dies_is_an_error_and_not_a_hang(toy, started):
    with VectorEnv(toy, 2) as env:
        started().pop().kill()

        with pytest.raises(EnvironmentError_, match=r"process of an environment ended \(exit code"):
            env.reset([1, 2])
        assert not started()
        with pytest.raises(EnvironmentError_, match="closed"):
            env.reset([1, 2])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_whatever_an_environment_raises_is_one_error(toy, started, num_envs):
    with VectorEnv(toy, num_envs) as env:
        env.reset([0] * num_envs)

        with pytest.raises(EnvironmentError_, match=r"ValueError: out of paint. In painted_game:Toy"):
            env.step(np.ones(num_envs, int))

    assert not started()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_environment_that_cannot_be_made_is_an_error_at_the_start(started, num_envs):
    with pytest.raises(EnvironmentError_, match="only Discrete"):
        VectorEnv(training_spec("Pendulum-v1"), num_envs)

    assert not started()


def test_closing_twice_ends_every_process(toy, started):
    env = VectorEnv(toy, 2)
    assert len(started()) == 2

    env.close()
    env.close()

    assert not started()
