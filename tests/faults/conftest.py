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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tier out, unless -m asks for it."""
    if "soak" not in config.option.markexpr:
        here = Path(__file__).parent
        left_out = [item for item in items if item.path.is_relative_to(here) and item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
