"""What a person typed, for those who keep a record of it: the command line of the command under way."""

import shlex
from collections.abc import Sequence

_typed: str | None = None


def note(arguments: Sequence[str] | None) -> None:
    """Remember the arguments of `iris`; None when the command is over."""
    global _typed
    _typed = None if arguments is None else shlex.join(["iris", *arguments])


def typed() -> str | None:
    """The command under way, as one would type it; None in a Python program."""
    return _typed
