"""Names that people type, and specs as plain data."""

import subprocess
import sys

import gymnasium
import pytest

from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.errors import ConfigError, EnvironmentError_


@pytest.mark.parametrize(
    ("name", "id"),
    [
        *((name, "ALE/Pong-v5") for name in ("Pong", "pong", "ALE/Pong-v5", "PongNoFrameskip-v4", "Pong-v4")),
        *((name, "ALE/MsPacman-v5") for name in ("MsPacman", "ms_pacman", "mspacman", "MsPacmanNoFrameskip-v4")),
        ("Qbert", "ALE/Qbert-v5"),
        ("tic_tac_toe_3d", "ALE/TicTacToe3D-v5"),
    ],
)
def test_every_spelling_of_a_game_means_the_same_training_settings(name, id):
    assert training_spec(name) == EnvSpec(id=id, kind="atari")


def test_every_registered_atari_game_is_found_again_by_its_name():
    games = [id for id in gymnasium.registry if id.startswith("ALE/")] or pytest.fail("no games")

    assert [training_spec(training_spec(id).name).id for id in games] == games


def test_other_ids_and_classes_are_taken_without_the_atari_wrappers():
    spec = training_spec("CartPole-v1")

    assert (spec.kind, spec.frame_skip, spec.noop_max, spec.max_frames) == ("gymnasium", 1, 0, None)
    assert (spec.name, spec.stem) == ("CartPole-v1", "cartpole_v1")
    assert spec.for_testing() == spec
    assert training_spec("games.mine:Maze").stem == "games_mine_maze"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("Pnog", "Pong"), ("ms_pacmn", "MsPacman"), ("ALE/Qbrt-v5", "Qbert"), ("CartPol-v1", "CartPole-v1")],
)
def test_a_wrong_name_lists_the_nearest(wrong, nearest):
    with pytest.raises(EnvironmentError_, match=f"'{wrong}'.*Did you mean.*{nearest}"):
        training_spec(wrong)


def test_a_name_like_no_other_says_how_many_games_there_are():
    with pytest.raises(EnvironmentError_, match=r"\d+ Atari games"):
        training_spec("xyzzy")


def test_the_test_settings_are_the_published_ones():
    spec = training_spec("Pong").for_testing()

    assert (spec.max_frames, spec.noop_max, spec.life_loss_ends, spec.clip_rewards) == (108_000, 1, False, False)


def test_a_spec_survives_its_mapping():
    spec = training_spec("Breakout").for_testing()

    assert EnvSpec.from_mapping(spec.to_mapping()) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sticky": 0.25}, "unknown: sticky"),
        ({"kind": "dos"}, "dos"),
        ({"resize": "cv2"}, "cv2"),
        ({"frame_skip": 0}, "frame_skip 0"),
        ({"kind": "gymnasium"}, "for Atari"),
    ],
)
def test_a_mapping_that_is_not_a_spec_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        EnvSpec.from_mapping(training_spec("Pong").to_mapping() | changes)


def test_a_mapping_without_an_id_is_refused():
    with pytest.raises(ConfigError, match="missing: id"):
        EnvSpec.from_mapping({"kind": "atari"})


def test_specs_load_no_gymnasium_and_workers_no_torch():
    code = "import sys, iris_cli.envs.spec; print('gymnasium' in sys.modules)"
    code += "; import iris_cli.envs.vector; print('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\nFalse\n"
