from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from iris_cli.config import (
    convert,
    dump_yaml,
    from_mapping,
    load_yaml,
    nearest,
    parse_assignments,
    to_mapping,
    updated,
)  # fmt: skip
from iris_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Wheel:
    preset: str = "plain"
    spokes: int = 32
    tyres: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.spokes < 1:
            raise ConfigError("too few spokes", where="wheel.spokes")


@dataclass(frozen=True, kw_only=True)
class Bicycle:
    price: float = 1.0
    bell: bool = True
    notes: Path | None = None
    gears: tuple[int, int] = (3, 8)
    wheel: Wheel = field(default_factory=Wheel)


PRESETS = {"wheel": {"plain": Wheel(), "racing": Wheel(preset="racing", spokes=16)}}


def where(*keys: str) -> str:
    return "file " + ".".join(keys)


def change(**changes: Any) -> Bicycle:
    return updated(Bicycle(), changes, where=where, presets=PRESETS)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1e-4", float, 1e-4),  # which YAML takes for text
        (3, float, 3.0),
        ("10_000", int, 10_000),
        ("10,000", int, 10_000),
        ("1e3", int, 1000),
        (2.0, int, 2),
        ("yes", bool, True),
        ("False", bool, False),
        ("a/b", Path, Path("a/b")),
        ("none", int | None, None),
        (None, int | None, None),
        ("4", int | None, 4),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ([1, "2"], tuple[int, int], (1, 2)),
    ],
)
def test_plain_values_become_what_the_field_is(value: Any, kind: Any, expected: Any) -> None:
    converted = convert(value, kind, where="here", name="x")

    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("three", int, "a whole number"),
        (1.5, int, "a whole number"),
        (True, int, "a whole number"),
        ("1e999", int, "a whole number"),
        (None, int, "a whole number"),
        ("much", float, "a number"),
        ("nan", float, "a number"),
        ("inf", float, "a number"),
        (False, float, "a number"),
        ([1], float, "a number"),
        (1, bool, "true or false"),
        (1, str, "text"),
        (3, Path, "a path"),
        ("1,x", tuple[int, ...], "a whole number"),
        (3, tuple[int, ...], "a list of whole numbers"),
        ([1, 2, 3], tuple[int, int], "a list of 2 whole numbers"),
        ("many", int | None, "a whole number"),
    ],
)
def test_other_values_are_refused_by_name_value_and_type(value: Any, kind: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, kind, where="here", name="x.y")

    assert caught.value.where == "here"
    assert str(caught.value).startswith(f"x.y is {value!r}, but must be {wanted}.") or wanted in str(caught.value)


def test_a_change_reaches_into_sections_and_leaves_the_rest() -> None:
    changed = change(price="2.5", wheel={"spokes": 20})

    assert changed == Bicycle(price=2.5, wheel=Wheel(spokes=20))


def test_a_preset_of_a_section_comes_before_its_other_changes() -> None:
    assert change(wheel={"tyres": [5], "preset": "racing"}).wheel == Wheel(preset="racing", spokes=16, tyres=(5,))


@pytest.mark.parametrize(
    ("changes", "place", "said"),
    [
        ({"prise": 3}, "file prise", "'price'"),
        ({"wheel": {"spoke": 3}}, "file wheel.spoke", "unknown setting 'spoke' of wheel"),
        ({"wheel": {"spokes": "x"}}, "file wheel.spokes", "wheel.spokes is 'x'"),
        ({"wheel": {"spokes": 0}}, "file wheel.spokes", "too few"),
        ({"wheel": {"preset": "raceing"}}, "file wheel.preset", "'racing'"),
        ({"wheel": 3}, "file wheel", "{name: value}"),
    ],
)
def test_a_wrong_change_names_its_place(changes: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change(**changes)

    assert caught.value.where == place
    assert said in str(caught.value)


def test_settings_survive_yaml(tmp_path: Path) -> None:
    there = Bicycle(price=1e-7, notes=Path("a/b"), wheel=Wheel(tyres=()))
    (tmp_path / "x.yaml").write_text(dump_yaml(to_mapping(there)))

    back = updated(Bicycle(), load_yaml(tmp_path / "x.yaml").data, where=where, presets={})

    assert back == there


def test_a_flat_settings_class_takes_a_mapping_and_nothing_else() -> None:
    assert from_mapping(Wheel, {"spokes": "8"}, where=where, called="wheel") == Wheel(spokes=8)
    for wrong in ([1], "x", {"spoke": 1}, {"spokes": 0}):
        with pytest.raises(ConfigError):
            from_mapping(Wheel, wrong, where=where, called="wheel")  # type: ignore[arg-type]


def test_assignments_make_a_tree() -> None:
    tree = parse_assignments(["a.b=c", "a.d = e=f ", "g="])

    assert tree == {"a": {"b": "c", "d": "e=f"}, "g": ""}


@pytest.mark.parametrize("wrong", [["a"], ["=3"], ["a..b=3"], ["a=1", "a.b=2"]])
def test_what_is_no_assignment_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_assignments(wrong)


def test_the_nearest_name_is_suggested_or_all_are_listed() -> None:
    assert nearest("stpes", ["steps", "seed"]) == "Did you mean 'steps'?"
    assert nearest("qqq", ["steps", "seed"]) == "Known are: steps, seed."


def test_a_document_knows_the_line_of_every_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# a comment\na: 1\nb:\n  - c: {d: 2}\n  - e:\n      f: [3, 4]\n")

    document = load_yaml(path)

    assert document.data == {"a": 1, "b": [{"c": {"d": 2}}, {"e": {"f": [3, 4]}}]}
    assert document.where("a") == f"{path}:2"
    assert document.where("b", 0, "c", "d") == f"{path}:4"
    assert document.where("b", 1, "e", "f") == f"{path}:6"
    assert document.where("b", 1, "e", "unknown") == f"{path}:5"
    assert document.where("unknown") == f"{path}:2"


def test_an_empty_document_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# nothing\n")

    assert load_yaml(tmp_path / "x.yaml").data is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 2),
        ("a:\n  b: 1\n  b: 2", 3),
        ("a: [", 1),
        ("a: b: c", 1),
        ("a: 1\n? [b]\n: 2", 2),
        ("a: !!python/object/apply:os.getcwd []", 1),
        ("a: !!python/name:os.getcwd", 1),
        ("a: !mine 3", 1),
        ("a: 1\nb: !!int x", 2),
        ('a: !!int ""', 1),
        ("a: !!bool maybe", 1),
        ("a: !!timestamp x", 1),
        ("a: !!binary aaaa", 1),
        ("a: !!set x", 1),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_yaml(path)

    assert caught.value.where == f"{path}:{line}"
