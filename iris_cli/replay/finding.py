"""What a look at some part of a dataset or a run found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One part that was looked at.

    Attributes:
        part: its name: an array, a file.
        found: in words.
        is_wrong: whether something was lost or changed; leftovers of a process that was killed are not wrong.
    """

    part: str
    found: str
    is_wrong: bool = False
