"""Ctrl-C (and SIGTERM) as a request: the first finishes the update and saves, a second stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_requested = False


def requested() -> bool:
    """Whether a stop was asked for. Loops look at it once per update or step."""
    return _requested


@contextmanager
def graceful(notify: Callable[[str], None]) -> Iterator[None]:
    """Within it, the first SIGINT or SIGTERM sets the flag and tells the user; the second raises KeyboardInterrupt."""
    global _requested
    _requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        global _requested
        if _requested:
            raise KeyboardInterrupt
        _requested = True
        with suppress(RuntimeError):  # the signal came in the middle of a print, which cannot be entered twice
            notify("Stopping. Press Ctrl-C again to stop at once (what is not saved is then lost).")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested = False
