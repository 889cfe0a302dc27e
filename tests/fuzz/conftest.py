"""Puts the harness on the path, and keeps what targets prepare for all tests of this folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import Sandbox


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def sandbox(root: Path) -> Iterator[Sandbox]:
    with Sandbox(root) as sandbox:
        yield sandbox
