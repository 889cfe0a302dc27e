"""The messages between page and server, each checked. Pure: knows no socket.

From the page: JSON objects with `op`, and what the op needs.

    keys       held: codes of the keys that are held now, the oldest first
    start      world: real | dream, seed, and to dream from a stored episode: episode, at
    play, pause, step
    speed      fps: 1 to 60
    control    who: you | agent | stored
    rewind     to: step
    branch     number
    along      on: whether the next real game has a dream along
    dream      a dream begins at the present real frame
    record     from now on
    save       kind: mp4 | gif, name: optional; ends the recording
    drop       ends the recording, and nothing is saved

To the page: JSON objects with `kind` (hello, state, error, saved), and moments as bytes: 4 bytes (big-endian) that say
how long the JSON is, the JSON, and the pictures it lists, 64 x 64 x 3 bytes each, row by row.
"""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from iris_cli.errors import PlayError
from iris_cli.play.keys import CONTROLS, MAX_HELD
from iris_cli.play.moment import Moment
from iris_cli.play.session import MAX_SEED, WORLDS, Start

MAX_BYTES = 2048  # of a message from the page
MAX_NUMBER = 10**9
MAX_FPS = 60
KINDS = ("mp4", "gif")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_CODE = re.compile(r"[A-Za-z0-9]{1,24}")


@dataclass(frozen=True)
class Order:
    """A message of the page, checked."""

    op: str
    values: dict[str, Any] = field(default_factory=dict)


def read_order(text: str) -> Order:
    """What the page wants.

    Raises:
        PlayError: if it is not a message of ours; says what is wrong.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise PlayError("the message is no JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise PlayError("the message is no object with an op")
    op = message.pop("op")
    if op not in _FIELDS:
        raise PlayError(f"there is no op '{op[:30]}'", fix=f"There is {', '.join(_FIELDS)}.")
    unknown = message.keys() - _FIELDS[op].keys()
    if unknown:
        raise PlayError(f"{op} knows no '{min(unknown)[:30]}'")
    values = {}
    for name, check in _FIELDS[op].items():
        try:
            values[name] = check(message.get(name))
        except (TypeError, ValueError) as error:
            raise PlayError(f"{name} of {op} {error}") from None
    return Order(op, values)


def start_of(order: Order) -> Start:
    """Where a `start` begins."""
    values = order.values
    return Start(world=values["world"], episode=values["episode"], at=values["at"] or 0, seed=values["seed"] or 0)


def moment_bytes(moment: Moment, state: dict[str, Any]) -> bytes:
    """A moment for the page, with the session's state."""
    look, expected = moment.look, moment.expected
    facts = {
        "kind": "moment",
        "step": moment.step,
        "action": moment.action,
        "who": moment.who,
        "reward": moment.reward,
        "score": moment.score,
        "over": moment.over,
        "tokens": moment.tokens,
        "value": None if look is None else round(look.value, 4),
        "chances": None if look is None else [round(chance, 4) for chance in look.chances],
        "expected": None
        if expected is None
        else {
            "reward": round(expected.reward, 4),
            "end": round(expected.end, 5),
            "signs": None if expected.signs is None else [round(chance, 5) for chance in expected.signs],
        },
        "panels": [
            {"label": label, "reward": panel.reward, "end": panel.end} for label, panel in moment.panels.items()
        ],
        **state,
    }
    text = json.dumps(facts).encode()
    pictures = [panel.picture.tobytes() for panel in moment.panels.values()]
    return b"".join([struct.pack(">I", len(text)), text, *pictures])


def _one_of(*known: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return str(value)

    return check


def _number(low: int, high: int, *, needed: bool = True) -> Callable[[Any], int | None]:
    def check(value: Any) -> int | None:
        if value is None and not needed:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _on(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _held(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_HELD:
        raise ValueError(f"must be a list of {MAX_HELD} keys at most")
    if not all(isinstance(key, str) and _CODE.fullmatch(key) for key in value):
        raise ValueError("must hold names of keys, such as ArrowUp")
    return tuple(dict.fromkeys(value))


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be letters, digits, - and _, at most 60, and begin with a letter or digit")
    return value


_FIELDS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "keys": {"held": _held},
    "start": {
        "world": _one_of(*WORLDS),
        "seed": _number(0, MAX_SEED, needed=False),
        "episode": _number(0, MAX_NUMBER, needed=False),
        "at": _number(0, MAX_NUMBER, needed=False),
    },
    "play": {},
    "pause": {},
    "step": {},
    "speed": {"fps": _number(1, MAX_FPS)},
    "control": {"who": _one_of(*CONTROLS)},
    "rewind": {"to": _number(0, MAX_NUMBER)},
    "branch": {"number": _number(0, MAX_NUMBER)},
    "along": {"on": _on},
    "dream": {},
    "record": {},
    "save": {"kind": _one_of(*KINDS), "name": _name},
    "drop": {},
}
