"""The shipped scores are whole, and each says where it comes from."""

import tomllib
from pathlib import Path

from iris_cli.learn.scores import RANDOM_AND_HUMAN
from iris_cli.published import REFERENCES, published_scores, reference_scores, sources


def test_fifteen_methods_have_scores_on_all_games() -> None:
    scores = published_scores()

    assert len(scores) == 15
    assert not set(REFERENCES) & scores.keys()
    for method, table in scores.items():
        assert table.keys() == RANDOM_AND_HUMAN.keys(), method
        assert len({len(runs) for runs in table.values()}) == 1, method


def test_every_row_of_the_file_names_its_source() -> None:
    assert sources().keys() == published_scores().keys() | reference_scores().keys()


def test_the_files_are_part_of_the_package(repository: Path) -> None:
    patterns = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["iris_cli"] for path in (repository / "iris_cli").glob(pattern)}

    assert set((repository / "iris_cli" / "published").glob("*.json")) <= shipped
