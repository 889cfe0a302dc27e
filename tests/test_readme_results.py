"""Figures in the README are those of the results files beside them."""

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from readme_results import check, count  # noqa: E402

ABOUT = {"date": "2026-11-21", "commit": "abcdef0", "device": "AMD EPYC"}
RESULTS = {
    **ABOUT,
    "hours": 2462.0,
    "scores": [0.975, 1.0],
    "stages": {
        "imagination": {"throughput": 30.63, "ratio": 2.665, "share": 0.4621},
        "collect": {"throughput": 14.48, "ratio": 1.055},
    },
}
TEXT = """Some words.

Full size, an AMD EPYC: 2,462 hours, scores 0.98
and 1.00.
<!-- results: r.json hours=2,462 scores.0=0.98 scores.1=1.00 device="AMD EPYC" -->

<!-- table: r.json stages.{row} throughput ratio share% -->
| stage | throughput | x plain | roofline |
|---|---:|---:|---:|
| imagination | 30.63 imagined frames/s | 2.67 | 46% |
| collect | 14.48 steps/s | 1.06 |  |

The end.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    return tmp_path


def test_what_agrees_is_no_problem(root: Path) -> None:
    assert count(TEXT) == 2
    assert check(TEXT, root) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2,462 hours", "2,463 hours", "does not say 2,462"),
        ("hours=2,462", "hours=2,463", "hours is 2462, not 2,463"),
        ("0.98", "0.96", "scores.0 is 0.975, not 0.96"),
        ("an AMD EPYC", "an EPYC", "does not say AMD EPYC"),
        ("30.63 imagined", "30.7 imagined", "imagination.throughput is 30.63, not 30.7"),
        ("| 2.67 |", "| 2.68 |", "imagination.ratio is 2.665, not 2.68"),
        ("46%", "47%", "imagination.share is 46.21, not 47%"),
        ("46%", "0.46", "in another unit"),
        ("hours=2,462", "hours/24=2,462", "hours/24 is 102.58"),
        ("| 1.06 |  |", "| 1.06 | 3% |", "says '3%' of share, which is None"),
        ("| 1.06 |  |", "|  |  |", "says 'nothing' of ratio"),
        ("| collect |", "| evaluate |", "has nothing like that (KeyError('evaluate'))"),
        ("| 46% |", "| 46% | 3 |", "has 4 figures"),
        ("hours=2,462", "days=2,462", "KeyError('days')"),
        ("r.json hours", "gone.json hours", "there are no results gone.json"),
        ("| stage |", "stage", "there is no table"),
    ],
)
def test_what_disagrees_is_named(root: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT

    problems = check(TEXT.replace(old, new), root)

    assert any(message in str(problem) for problem in problems), [str(problem) for problem in problems]


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_results_say_when_of_what_and_where(root: Path, name: str) -> None:
    (root / "r.json").write_text(json.dumps({key: value for key, value in RESULTS.items() if key != name}))

    assert f"r.json does not say its {name}" in str(check(TEXT, root)[0])


@pytest.mark.parametrize("document", ["README.md", "docs/results.md", "pipelines/README.md", "data/README.md"])
def test_the_documents_say_what_the_results_say(document: str) -> None:
    assert [str(problem) for problem in check((REPOSITORY / document).read_text(encoding="utf-8"), REPOSITORY)] == []


def test_every_results_file_says_when_of_what_and_where() -> None:
    files = [file for folder in ("tests/perf/results", "docs/results") for file in (REPOSITORY / folder).glob("*.json")]

    assert files
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert [name for name in ABOUT if not results.get(name)] == [], file.name
