"""The attributes of a dataset: one file, read and checked without zarr, whose replacement is the commit.

The layout and what each says: data/README.md. Those of earlier format versions are read as the present one, and become
it on disk with the next commit.
"""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from iris_cli.errors import DAMAGE, DatasetError, ShapeError
from iris_cli.object_store import Location
from iris_cli.version import VERSION

FORMAT = "iris-dataset"
FORMAT_VERSION = 2
_STEPS = {1: lambda attributes: attributes}  # version -> what makes it the next one; 2 brought the digest
RESERVED = (  # attributes that only `Dataset` itself writes
    "format",
    "format_version",
    "committed_steps",
    "committed_episodes",
    "rewinds",
    "created",
    "versions",
    "environment",
    "action_meanings",
    "writers",
    "tokens",
)
OPTIONAL = ("achievements", "final_observations", "digest")  # likewise, but not there in all datasets


def new_attributes(
    environment: dict[str, Any],
    action_meanings: Sequence[str],
    achievements: Sequence[str],
    others: dict[str, Any],
    *,
    keeps_finals: bool = False,
) -> dict[str, Any]:
    """Those of an empty dataset."""
    return sealed(
        own_only(others)
        | {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "committed_steps": 0,
            "committed_episodes": 0,
            "rewinds": 0,
            "created": datetime.now(UTC).isoformat(),
            "versions": _versions(),
            "environment": environment,
            "action_meanings": list(action_meanings),
            "writers": [],
            "tokens": {},
            **({"achievements": list(achievements)} if achievements else {}),
            **({"final_observations": 0} if keeps_finals else {}),
        }
    )


def read_attributes(path: Location) -> dict[str, Any]:
    """The attributes of a dataset of ours, checked.

    Raises:
        DatasetError: if it is not one.
    """
    if not path.exists():
        raise DatasetError("there is no dataset", where=path, fix="Collect one: iris collect --env Pong")
    try:
        metadata = json.loads((path / "zarr.json").read_bytes())
        if metadata["node_type"] != "group":
            raise DatasetError("this is a Zarr array, but a dataset is a Zarr group", where=path)
        attributes = metadata.get("attributes", {})
        ours = attributes.get("format") == FORMAT
    except (FileNotFoundError, NotADirectoryError):
        what = "this is a run, not a dataset" if (path / "run.yaml").exists() else "this is not a Zarr v3 group"
        raise DatasetError(what, where=path, fix="Name a dataset: data/pong.zarr") from None
    except DAMAGE:
        raise DatasetError(
            "the dataset is damaged: zarr.json is unreadable", where=path, fix="Restore it from a copy."
        ) from None
    if not ours:
        raise DatasetError("this is a Zarr group, but not a dataset of this program", where=path)
    version = attributes.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise DatasetError(
            f"the dataset has format version {version}, this program reads 1 to {FORMAT_VERSION}",
            where=path,
            fix="Use the version of the program that wrote it, or a later one.",
        )
    if not _is_complete(attributes):
        raise DatasetError("the dataset is damaged: its attributes are not whole", where=path)
    if version > 1 and attributes.get("digest") != _digest(attributes):
        raise DatasetError("the dataset is damaged: its attributes are not as they were written", where=path)
    for earlier in range(version, FORMAT_VERSION):
        attributes = _STEPS[earlier](attributes) | {"format_version": earlier + 1}
    return attributes


def sealed(attributes: dict[str, Any]) -> dict[str, Any]:
    """The same as they will be read back, with a checksum over all of them."""
    values = plain(attributes)
    return values | {"digest": _digest(values)}


def _digest(attributes: dict[str, Any]) -> str:
    others = {name: value for name, value in attributes.items() if name != "digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def own_only(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes a caller gave.

    Raises:
        ShapeError: if they are among those that say what is committed.
    """
    reserved = sorted(attributes.keys() & {*RESERVED, *OPTIONAL})
    if reserved:
        raise ShapeError(f"the attributes {reserved} belong to the dataset itself")
    return attributes


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The same as it will be read back: tuples become lists."""
    return json.loads(json.dumps(values))


def check_same(theirs: dict[str, Any], ours: dict[str, Any], *, where: Location) -> None:
    """Refuse another environment than that of a dataset, or the same one with other settings.

    Raises:
        DatasetError: naming each setting that differs.
    """
    differing = differences(theirs, ours)
    if differing:
        raise DatasetError(
            f"the dataset holds another environment: {differing}",
            where=where,
            fix="Use another dataset, or the settings of this one.",
        )


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Each setting of an environment in which two differ, in words; another game says enough. Empty: none does."""
    ours = plain(ours)
    names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    names = ["id"] if "id" in names else names
    return "; ".join(f"{name} is {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in names)


def with_writer(writers: list[dict[str, Any]], who: str, start: int) -> list[dict[str, Any]]:
    """The writers, when `who` goes on from step `start`."""
    return writers if writers and writers[-1]["who"] == who else [*writers, {"start": start, "who": who}]


def check_dropping(attributes: dict[str, Any], steps: int, who: str, *, where: Location) -> None:
    """Refuse to drop what comes after the first `steps` steps unless `who` wrote all of it.

    Raises:
        DatasetError: if someone else did, or there are fewer steps.
    """
    total, writers = attributes["committed_steps"], attributes["writers"]
    if not 0 <= steps <= total:
        raise DatasetError(
            f"the dataset has {total} steps, but {steps} are needed",
            where=where,
            fix="It is not the one this run wrote, or an older copy of it.",
        )
    stops = [later["start"] for later in writers[1:]] + [total]
    for stop, entry in zip(stops, writers, strict=False):
        if stop > steps and entry["who"] != who:
            raise DatasetError(
                f"steps after {steps} were collected by {entry['who']}, and {who} may not drop them",
                where=where,
                fix="Each run that collects needs its own dataset; if the run that made this one is gone, remove it.",
            )


def _is_complete(attributes: dict[str, Any]) -> bool:
    def is_count(value: object) -> bool:
        return type(value) is int and value >= 0

    return (
        all(name in attributes for name in RESERVED)
        and all(is_count(attributes[name]) for name in ("committed_steps", "committed_episodes", "rewinds"))
        and isinstance(attributes["created"], str)
        and isinstance(attributes["environment"], dict)
        and isinstance(attributes["action_meanings"], list)
        and isinstance(attributes["writers"], list)
        and all(
            isinstance(entry, dict) and is_count(entry.get("start")) and "who" in entry
            for entry in attributes["writers"]
        )
        and isinstance(attributes.get("achievements", []), list)
        and is_count(attributes.get("final_observations", 0))
        and isinstance(attributes["tokens"], dict)
        and all(name.isalnum() and is_count(length) for name, length in attributes["tokens"].items())
    )


def _versions() -> dict[str, str]:
    versions = {"iris-wm": VERSION}
    for package in ("zarr", "numpy", "gymnasium", "ale-py", "crafter", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
