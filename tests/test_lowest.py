"""The lowest versions are those of pyproject.toml, written so that pip can install just them."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lowest import PYPROJECT, lowest

PROJECT = {
    "name": "mine",
    "dependencies": ["torch>=2.6", "numpy>=2.0", "plain"],
    "optional-dependencies": {
        "plot": ["matplotlib>=3.9, <4"],
        "dev": ["mine[plot]", "pytest==8.0", "minari[hdf5]>=0.5.4", "My_Package>=1"],
    },
}


def test_ranges_become_their_lowest_version() -> None:
    assert lowest(PROJECT, ["dev"], without=["torch"]) == [
        "matplotlib==3.9", "minari==0.5.4", "my-package==1", "numpy==2.0", "pytest==8.0",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["numpy~=2.0", "numpy>2", "numpy>=2.0; python_version<'3.12'", "numpy @ https://x"])
def test_a_requirement_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="form"):
        lowest({**PROJECT, "dependencies": [text]})


def test_two_lowest_versions_of_one_package_are_refused() -> None:
    with pytest.raises(ValueError, match="two lowest versions"):
        lowest({**PROJECT, "dependencies": ["numpy>=1", "numpy>=2"]})


def test_every_requirement_of_ours_has_a_lowest_version() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    everything = [
        *project["dependencies"],
        *(text for group in project["optional-dependencies"].values() for text in group),
    ]

    named = {line.partition("==")[0] for line in lowest(project, list(project["optional-dependencies"]))}

    bare = {re.split(r"[\[>=]", text)[0].lower().replace("_", "-") for text in everything}
    assert bare - named <= {"iris-wm", "types-pyyaml"}  # ourselves, and stubs that follow their package


def test_the_makefile_names_the_lowest_torch_with_the_golden_draws() -> None:
    """Older ones are allowed, and draw other numbers from the same seed; pyproject says so."""
    makefile = (PYPROJECT.parent / "Makefile").read_text(encoding="utf-8")
    [tested] = re.findall(r"^TORCH_LOWEST \?= torch==(\d+\.\d+)\.0$", makefile, re.MULTILINE)
    [allowed] = re.findall(r'"torch>=\d+\.\d+", +# .* before (\d+\.\d+) the same seed', PYPROJECT.read_text())

    assert tested == allowed
