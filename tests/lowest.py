"""The oldest versions that pyproject.toml allows, one `name==version` a line: what `make test-lowest` installs.

    python tests/lowest.py dev --without torch > lowest.txt
    pip install --constraint lowest.txt -e ".[dev]"

A requirement `name>=version` becomes `name==version`; an exact one stays; one without a version is left to pip. Extras
that an extra names (`iris-wm[plot]`) count too. Nothing but the standard library, as it runs before anything is there.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?\s*(?:(>=|==)\s*([\w.+]+))?(?:\s*,.*)?")


def lowest(project: Mapping[str, Any], extras: Sequence[str] = (), *, without: Sequence[str] = ()) -> list[str]:
    """`name==version` of all requirements of a project that name a lowest version.

    Args:
        project: the table of that name in pyproject.toml.
        extras: whose requirements count too.
        without: names that are left away.

    Raises:
        ValueError: for a requirement that is written in another way, or a package with two lowest versions.
    """
    versions: dict[str, str] = {}
    for name, version in _requirements(project, extras):
        if name in without or not version:
            continue
        if versions.setdefault(name, version) != version:
            raise ValueError(f"{name} has two lowest versions, {versions[name]} and {version}")
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _requirements(project: Mapping[str, Any], extras: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    for text in texts:
        found = _REQUIREMENT.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is not of the form name>=version")
        name, inner, _, version = found.groups()
        if name == project["name"]:
            yield from _requirements({**project, "dependencies": []}, inner.split(","))
        else:
            yield name.lower().replace("_", "-"), version


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", action="append", default=[])
    given = parser.parse_args()
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(lowest(project, given.extras, without=given.without)))


if __name__ == "__main__":
    main()
