"""Fixtures that several folders share: a small real dataset, and a place to run commands in."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

Iris = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _no_fetched_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never see weights that a user fetched."""
    before = os.environ.get("IRIS_CACHE")
    os.environ["IRIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("IRIS_CACHE") if before is None else os.environ.update(IRIS_CACHE=before)


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def iris(tmp_path: Path) -> Iris:
    """Runs the real command in a process of its own: `iris("info", "data/pong.zarr", cwd=...)`."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "iris_cli", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options)

    return run
