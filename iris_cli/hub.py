"""The Hugging Face hub (extra `iris-wm[hub]`): a folder goes up, known files come down. Nothing else talks to it."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from iris_cli.errors import RunError

MOST_FILES = 20  # of a run
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_repository(name: str) -> bool:
    """Whether a text is the name of a repository there: owner/name."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Put what is in a folder into a repository, which is made where there is none; its address.

    Raises:
        RunError: if the name is none, the client is missing, or the hub refuses.
    """
    _check(repository)
    client = _client()
    try:
        address = client.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        client.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Run of iris-wm")
    except Exception as error:  # the client's own errors, and those of the network below it
        raise RunError(
            f"the hub did not take it ({_first_line(error)})", where=repository,
            fix="Is the network there? Log in (`hf auth login`), or write a folder: iris push RUN --to FOLDER.",
        ) from None  # fmt: skip
    return str(address)


def download(repository: str, into: Path, *, limits: Mapping[str, int]) -> None:
    """Fetch the files of a repository that are wanted into a folder.

    Args:
        repository: owner/name.
        into: an empty folder.
        limits: file name, or pattern, -> the most bytes it may have. Nothing else is fetched, however it is called.

    Raises:
        RunError: if the name is none, the client is missing, a file is too large, or the hub does not give them.
    """
    _check(repository)
    client = _client()
    try:
        there = client.snapshot_download(repository, allow_patterns=list(limits), local_dir=str(into), dry_run=True)
        wanted = [str(file.filename) for file in there if _within(limits, repository, file)][:MOST_FILES]
        if wanted:  # no pattern at all could be taken to mean everything
            client.snapshot_download(repository, allow_patterns=wanted, local_dir=str(into))
    except RunError:
        raise
    except Exception as error:  # the client's own errors, and those of the network below it
        raise RunError(
            f"the hub did not give it ({_first_line(error)})", where=repository,
            fix="See that the name is right and the network is there; private ones need `hf auth login`.",
        ) from None  # fmt: skip


def _within(limits: Mapping[str, int], repository: str, file: Any) -> bool:
    """Whether a file there is wanted.

    Raises:
        RunError: if it is, and too large.
    """
    name, size = str(file.filename), file.file_size
    for pattern, limit in limits.items():
        # A star of the client's patterns stands for "/../" too; names that are fetched have no more folders than those.
        if fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") and _PLAIN.fullmatch(name):
            if not isinstance(size, int) or size > limit:
                raise RunError(f"{name} has {size} bytes, more than the {limit:,} that it may", where=repository)
            return True
    return False


def _check(repository: str) -> None:
    if not is_repository(repository):
        raise RunError(f"{repository!r} is no name of a repository", fix="Write OWNER/NAME.")


def _client() -> ModuleType:
    try:
        import huggingface_hub  # an extra
    except ImportError as error:
        raise RunError(
            f"the hub's client cannot be imported ({error})",
            fix="Install it: pip install 'iris-wm[hub]'; or share a folder: iris push RUN --to FOLDER.",
        ) from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
