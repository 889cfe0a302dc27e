"""Lets tests import the harness, which lies beside them, and shares one zygote among them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from trials import Zygote  # noqa: E402 (found by the line above)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Carries out commands in forks."""
    with Zygote(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote
