"""What an engine is: it starts runs of a sweep as processes somewhere, and says how these ended. It decides nothing."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Ended:
    """A process that carried out a run has ended.

    Attributes:
        name: of the run.
        code: its exit code, negative for a signal; None: it is not known, as its worker or node died.
        how: in words, where the code is not known.
    """

    name: str
    code: int | None
    how: str = ""


class Engine(Protocol):
    """Starts runs.

    Attributes:
        room: how many may be under way at once; None: any number, the engine keeps those that must wait.
        words: where it starts them, for people.
    """

    room: int | None
    words: str

    def start(self, name: str) -> None:
        """Begin a run, or go on with it."""

    def ended(self, seconds: float) -> list[Ended]:
        """Those that have ended since the last call; waits for one for at most so many seconds."""

    def close(self) -> None:
        """Nothing goes on after this: what is still under way is asked to save and end."""
