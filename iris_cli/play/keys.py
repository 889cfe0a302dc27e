"""Keys and the actions they mean, and scripts of keys. Pure: knows no game but its action meanings.

An Atari action is a direction and perhaps FIRE ("UPRIGHTFIRE"), and so is a person's hand: arrows or WASD, and space.
The held keys become the action that holds most of them and nothing else; of two opposite directions the later wins.
A game that knows no up and down but left and right is played with both pairs (Pong, whose RIGHT is up). Actions
without a direction (PLACE_STONE, "3") have a key of their own.

A script is a text file, one press a line: keys joined by +, then for how many steps they are held (1 if it is not
said).

    # wait for the ball
    noop 20
    up+fire 3
    down
    agent 60      # the agent acts
    stored 10     # the actions of the stored episode that the dream began in
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris_cli.errors import ConfigError

# Names of keys are those of the browser's KeyboardEvent.code: the place on the keyboard, whatever its letter.
PAD = {
    "ArrowUp": "UP", "ArrowDown": "DOWN", "ArrowLeft": "LEFT", "ArrowRight": "RIGHT", "KeyW": "UP", "KeyS": "DOWN",
    "KeyA": "LEFT", "KeyD": "RIGHT", "Space": "FIRE",
}  # fmt: skip
OPPOSITE = {"UP": "DOWN", "DOWN": "UP", "LEFT": "RIGHT", "RIGHT": "LEFT"}
TURNED = {"UP": "RIGHT", "DOWN": "LEFT"}  # where a game has one axis only
WAITING = ("NOOP", "STAY")
# P, R, H, M, comma, full stop and Enter are the page's own.
SPARE = tuple(f"Digit{digit}" for digit in "1234567890") + tuple(f"Key{letter}" for letter in "ZXCVBNGTYUIOJKLEFQ")
AGENT, STORED, YOU = "agent", "stored", "you"  # who acts
CONTROLS = (YOU, AGENT, STORED)
MAX_HELD = 16  # keys at once
MAX_SCRIPT_STEPS = 1499  # with the first frame, what a film holds
MAX_SCRIPT_BYTES = 1 << 20


class Keyboard:
    """The keys of one game.

    Args:
        meanings: one word per action, as the environment names them.

    Attributes:
        meanings: the same.
        idle: the action for no key: NOOP, or the first where there is none.
        extras: key -> action, of actions without a direction.
    """

    def __init__(self, meanings: Sequence[str]) -> None:
        self.meanings = tuple(meanings)
        parts = [_parts(meaning) for meaning in meanings]
        self._of_parts: dict[frozenset[str], int] = {}
        for action, held in enumerate(parts):
            if held is not None:
                self._of_parts.setdefault(held, action)
        self.idle = self._of_parts.get(frozenset(), 0)
        known = frozenset[str]().union(*self._of_parts)
        self._turned = TURNED if known & {"LEFT", "RIGHT"} and not known & {"UP", "DOWN"} else {}
        self._known = known
        bare = [action for action, held in enumerate(parts) if held is None]
        spare = iter(key for key in SPARE if key.removeprefix("Digit") not in self.meanings)
        own = {f"Digit{meaning}": action for action, meaning in enumerate(self.meanings)}  # a number is its own key
        self.extras = {key: action for key, action in own.items() if action in bare and key in SPARE}
        self.extras |= dict(zip(spare, (action for action in bare if action not in self.extras.values()), strict=False))

    def action(self, held: Sequence[str]) -> int:
        """The action of the keys that are held, the oldest first; keys without a meaning are nothing."""
        extra = next((self.extras[key] for key in reversed(held) if key in self.extras), None)
        if extra is not None:
            return extra
        wanted: list[str] = []
        for key in held:
            part = PAD.get(key)
            part = self._turned.get(part, part) if part is not None else None
            if part in self._known and part not in wanted:
                wanted = [other for other in wanted if OPPOSITE.get(other) != part] + [str(part)]
        return self._nearest(wanted)

    def layout(self) -> dict[str, object]:
        """What the page needs to draw keys and to know which to send; JSON-safe."""
        pad = {key: self._turned.get(part, part) for key, part in PAD.items()}
        return {
            "pad": {key: part for key, part in pad.items() if part in self._known},
            "extras": {key: self.meanings[action] for key, action in self.extras.items()},
            "meanings": list(self.meanings),
        }

    def named(self, words: str) -> int:
        """The action that a script means: "up+fire", "noop", or an action's own name in any case.

        Raises:
            ConfigError: if it is none.
        """
        names = {meaning.lower(): action for action, meaning in enumerate(self.meanings)}
        if words.lower() in names:
            return names[words.lower()]
        if words.lower() in ("noop", "none"):
            return self.idle
        held = []
        for word in words.lower().split("+"):
            part = word.upper()
            part = self._turned.get(part, part)
            if part not in self._known:
                raise ConfigError(f"the game knows no '{word}'", fix=self._advice(word))
            held.append(part)
        if len(held) > 1 and frozenset(held) not in self._of_parts:
            raise ConfigError(f"the game has no action '{words}'", fix=self._advice(words))
        return self._nearest(held)

    def _nearest(self, wanted: list[str]) -> int:
        """The action with as many of the wanted parts as there are, the later ones first, and no others."""
        if frozenset(wanted) in self._of_parts:
            return self._of_parts[frozenset(wanted)]
        possible = [held for held in self._of_parts if held < frozenset(wanted)]
        best = max(possible, key=lambda held: (len(held), sorted(map(wanted.index, held), reverse=True)), default=None)
        return self.idle if best is None else self._of_parts[best]

    def _advice(self, word: str) -> str:
        turned = {key for key, part in self._turned.items() if part in self._known}
        known = sorted({"noop", *(name.lower() for name in (*self.meanings, *self._known, *turned))})
        near = difflib.get_close_matches(word.lower(), [*known, AGENT, STORED], n=1, cutoff=0.6)
        if near:
            return f"Did you mean {near[0]}?"
        return f"It knows {', '.join(known)}, which can be joined by +; {AGENT} lets the agent act."


@dataclass(frozen=True)
class Press:
    """A line of a script: who acts, which action if it is the person, and for how many steps."""

    who: str
    action: int | None
    steps: int


def read_script(path: Path, keyboard: Keyboard) -> list[Press]:
    """The presses of a script file.

    Raises:
        ConfigError: naming file and line, if a line is not understood; or if the file is missing, empty or too long.
    """
    try:
        if path.stat().st_size > MAX_SCRIPT_BYTES:
            raise ConfigError(f"the script has more than {MAX_SCRIPT_BYTES:,} bytes", where=path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"the script cannot be read ({error.strerror})", where=path) from None
    except UnicodeDecodeError:
        raise ConfigError("the script is no text in UTF-8", where=path) from None
    presses = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            presses.append(_press(words, keyboard, f"{path}:{number}"))
    steps = sum(press.steps for press in presses)
    if not presses:
        raise ConfigError("the script has no line with keys", where=path, fix="Write lines such as: up+fire 10")
    if steps > MAX_SCRIPT_STEPS:
        raise ConfigError(f"the script is {steps:,} steps long, but {MAX_SCRIPT_STEPS:,} is the most", where=path)
    return presses


def _press(words: list[str], keyboard: Keyboard, where: str) -> Press:
    if len(words) > 2:
        raise ConfigError("a line is keys joined by +, and how many steps they are held", where=where)
    steps = 1
    if len(words) == 2:
        if not re.fullmatch(r"[0-9]{1,6}", words[1]) or int(words[1]) < 1:
            raise ConfigError(f"'{words[1]}' is no number of steps", where=where, fix="Write a whole number from 1 on.")
        steps = int(words[1])
    if words[0].lower() in (AGENT, STORED):
        return Press(words[0].lower(), None, steps)
    try:
        return Press(YOU, keyboard.named(words[0]), steps)
    except ConfigError as error:
        raise ConfigError(error.what, where=where, fix=error.fix) from None


def _parts(meaning: str) -> frozenset[str] | None:
    """UPRIGHTFIRE -> {UP, RIGHT, FIRE}, NOOP -> {}, MOVE_LEFT -> {LEFT}, DO -> {FIRE}, anything else -> None."""
    word = meaning.upper().removeprefix("MOVE_")
    if word in WAITING:
        return frozenset()
    if word == "DO":  # Crafter: use what is in front
        return frozenset({"FIRE"})
    parts = re.fullmatch(r"(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?", word)
    return frozenset(part for part in parts.groups() if part) if parts and word else None
