"""What a person typed, for those who keep a record of it: the command line of the command under way."""

import shlex
from collections.abc import Sequence

from iris_cli.launch import launch

_typed: list[str] | None = None


def note(arguments: Sequence[str] | None) -> None:
    """Remember the arguments of `iris`; None when the command is over."""
    global _typed
    _typed = None if arguments is None else list(arguments)


def typed() -> str | None:
    """The command under way, as one would type it; None in a Python program."""
    return None if _typed is None else shlex.join([*launch().program, *_typed])
