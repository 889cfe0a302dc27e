"""Held keys become the game's actions, and scripts become presses or an error that names its line."""

from pathlib import Path

import pytest

from iris_cli.errors import ConfigError
from iris_cli.play.keys import MAX_SCRIPT_STEPS, Keyboard, Press, read_script

PONG = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
PACMAN = ["NOOP", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"]
ALL = [
    *PACMAN[:1], "FIRE", *PACMAN[1:], "UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE",
    "DOWNRIGHTFIRE", "DOWNLEFTFIRE",
]  # fmt: skip
CRAFTER = ["NOOP", "MOVE_LEFT", "MOVE_RIGHT", "MOVE_UP", "MOVE_DOWN", "DO", "SLEEP", "PLACE_STONE"]


@pytest.mark.parametrize(
    ("game", "held", "meaning"),
    [
        (ALL, [], "NOOP"),
        (ALL, ["ArrowUp", "ArrowRight", "Space"], "UPRIGHTFIRE"),
        (ALL, ["KeyS", "KeyA"], "DOWNLEFT"),
        (ALL, ["ArrowLeft", "ArrowRight"], "RIGHT"),  # the later of two opposite ones
        (ALL, ["ArrowRight", "ArrowUp", "KeyA"], "UPLEFT"),
        (PACMAN, ["Space"], "NOOP"),  # the game knows no FIRE
        (PACMAN, ["Space", "ArrowDown"], "DOWN"),
        (PONG, ["ArrowUp"], "RIGHT"),  # one axis only
        (PONG, ["ArrowDown", "Space"], "LEFTFIRE"),
        (PONG, ["ArrowUp", "ArrowDown"], "LEFT"),
        (["NOOP", "FIRE", "UP"], ["ArrowUp", "Space"], "FIRE"),  # no UPFIRE: the later
        (["NOOP", "FIRE", "UP"], ["Space", "ArrowUp"], "UP"),
        (CRAFTER, ["KeyW"], "MOVE_UP"),
        (CRAFTER, ["Space"], "DO"),
        (CRAFTER, ["Digit2"], "PLACE_STONE"),
        (["LEFT", "NOOP", "RIGHT"], [], "NOOP"),
        (["0", "1"], ["Digit1"], "1"),
        (["0", "1"], [], "0"),
        (ALL, ["KeyP", "F5", "__proto__"], "NOOP"),
    ],
)
def test_held_keys_are_the_action_that_a_person_means(game: list[str], held: list[str], meaning: str) -> None:
    assert game[Keyboard(game).action(held)] == meaning


def test_every_action_of_an_atari_game_can_be_played() -> None:
    keys = {"UP": "ArrowUp", "DOWN": "ArrowDown", "LEFT": "ArrowLeft", "RIGHT": "ArrowRight", "FIRE": "Space"}
    for meaning in ALL:
        held = [code for part, code in keys.items() if part in meaning and meaning != "NOOP"]
        assert ALL[Keyboard(ALL).action(held)] == meaning


def test_every_action_of_crafter_has_a_key_of_its_own() -> None:
    layout = Keyboard(CRAFTER).layout()

    assert layout["extras"] == {"Digit1": "SLEEP", "Digit2": "PLACE_STONE"}
    assert layout["pad"]["KeyW"] == "UP"


def test_a_script_is_presses_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# serve\n\nFire\nup+fire 3   # hold\nnoop 2\nleft\nAgent 5\nstored\n")

    assert read_script(path, Keyboard(PONG)) == [
        Press("you", 1, 1), Press("you", 4, 3), Press("you", 0, 2), Press("you", 3, 1), Press("agent", None, 5),
        Press("stored", None, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fier 3", r"the game knows no 'fier'. In {path}:2. Did you mean fire\?"),
        (
            "xyz",
            r"the game knows no 'xyz'. In {path}:2. It knows down, fire, left, leftfire, noop, right",
        ),
        ("fire 0", "'0' is no number of steps. In {path}:2"),
        ("fire x", "'x' is no number of steps. In {path}:2"),
        ("fire -3", "'-3' is no number of steps"),
        ("fire 3 4", r"keys joined by \+, and how many steps they are held. In {path}:2"),
        ("left+right", r"the game has no action 'left\+right'. In {path}:2"),
        (f"noop {MAX_SCRIPT_STEPS}", "steps long, but"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"noop\n{line}\n")

    with pytest.raises(ConfigError, match=said.format(path=path)):
        read_script(path, Keyboard(PONG))


@pytest.mark.parametrize(
    ("content", "said"), [(b"# nothing\n", "no line with keys"), (b"\xff\xfe", "no text in UTF-8")]
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        read_script(path, Keyboard(PONG))


def test_a_missing_script_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_script(tmp_path / "none.txt", Keyboard(PONG))
