"""Settings between YAML, the command line and dataclasses: strict keys, conversion by field type, places in every
error.

Knows no stage and no agent. PyYAML reads `1e-4` as a string, so numbers are converted by the field's type, not by
YAML's.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from iris_cli.errors import ConfigError, reason_of
from iris_cli.object_store import Location, StoreURL, located, on_this_machine

MAX_VALUES = 20_000  # of a file; an alias counts as all that it stands for, as often as it stands there

T = TypeVar("T")
Where = Callable[..., str]  # keys of a setting -> the place to name in an error


@dataclasses.dataclass(frozen=True)
class Document:
    """A YAML file with the line of every key.

    Attributes:
        data: plain dicts, lists and scalars.
        path: the file.
        lines: keys from the root -> 1-based line.
    """

    data: Any
    path: Path
    lines: dict[tuple[str | int, ...], int]

    def where(self, *keys: str | int) -> str:
        """`file:line` of a key, or of the nearest one above it."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.lines:
                return f"{self.path}:{self.lines[keys[:length]]}"
        return str(self.path)


def load_yaml(path: Path) -> Document:
    """Read a YAML file of plain values; tags that would build objects are refused.

    Raises:
        ConfigError: if the file is missing, not YAML, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=path, fix="Pipelines lie in pipelines/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file cannot be read ({reason_of(error)})", where=path) from None
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _plain(node, path, lines, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else path
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"this is not valid YAML: {problem}", where=place) from None
    except RecursionError:
        raise ConfigError("this is nested too deeply", where=path) from None
    return Document(data, path, lines)


def dump_yaml(data: Any) -> str:
    """Plain values as YAML, keys in the order given."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def nearest(name: str, options: Iterable[str]) -> str:
    """`Did you mean 'steps'?`, or the whole list where nothing is near."""
    options = list(options)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known are: {', '.join(options)}."


def shown(value: Any) -> str:
    """A value for an error: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or levels, than can be written
        return "too much to show"
    return text if len(text) <= 200 else f"{text[:200]}..."


def updated(config: T, changes: Mapping[str, Any], *, where: Where, presets: Mapping[str, Mapping[str, Any]]) -> T:
    """A copy of a (nested) settings dataclass with some fields changed.

    Args:
        config: the dataclass instance to start from.
        changes: field -> value, nested for sections; strings are converted by the field's type.
        where: from keys to the place an error names.
        presets: section name -> preset name -> settings; a section's `preset` replaces it before its other changes.

    Raises:
        ConfigError: for an unknown field or a value of the wrong type.
    """
    return _updated(config, changes, where, presets, ())


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: Where, called: str) -> T:
    """Build a flat settings dataclass from plain values; see `updated` for conversion and errors."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{called} takes settings like {{steps: 200}}, not {shown(mapping)}", where=where())
    fields = _fields(cls)
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            raise ConfigError(f"unknown setting '{key}' of {called}", where=where(key), fix=nearest(key, fields))
        values[key] = convert(value, fields[key], where=where(key), name=f"{called}.{key}")
    try:
        return cls(**values)
    except ConfigError as error:  # a value that is out of range
        raise ConfigError(error.what, where=where(), fix=error.fix) from None


def to_mapping(config: Any) -> dict[str, Any]:
    """A settings dataclass as plain values for YAML and JSON: tuples as lists, paths as strings."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, PurePath) else value

    return plain(config)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["a.b=c", "d=1"]` -> `{"a": {"b": "c"}, "d": "1"}`.

    Raises:
        ConfigError: for one without `=` or with an empty key.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise ConfigError(
                f"'{assignment}' is not of the form name=value", where="--set", fix="Example: --set a.b=3"
            )
        branch = tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"'{key}' is set both as a value and as a section", where="--set")
        branch[names[-1]] = value.strip()
    return tree


def convert(value: Any, kind: Any, *, where: str, name: str) -> Any:
    """Turn a plain value into a field's type: int, float, bool, str, Path, tuple of ints, or one of these or None.

    Raises:
        ConfigError: naming the setting, the value and the type it should have.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType) and kind != Location:
        if value is None or value in ("none", "null"):
            return None
        kind = Location if StoreURL in arguments else next(one for one in arguments if one is not type(None))
        return convert(value, kind, where=where, name=name)
    try:
        if origin is tuple:
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, list | tuple) or (... not in arguments and len(items) != len(arguments)):
                raise ValueError
            return tuple(convert(item, arguments[0], where=where, name=name) for item in items)
        return _CONVERSIONS[kind](value)
    except (ValueError, TypeError, OverflowError):
        count = "" if ... in arguments else f"{len(arguments)} "
        wanted = f"a list of {count}whole numbers" if origin is tuple else _NAMES[kind]
        raise ConfigError(f"{name} is {shown(value)}, but must be {wanted}", where=where) from None


def _updated(config: T, changes: Mapping[str, Any], where: Where, presets: Mapping, path: tuple[str, ...]) -> T:
    section = ".".join(path) or "the settings"
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{section} takes settings like {{name: value}}, not {shown(changes)}", where=where(*path))
    fields = _fields(type(config))
    if "preset" in changes and section in presets:
        known, name = presets[section], changes["preset"]
        if not isinstance(name, str) or name not in known:
            raise ConfigError(
                f"{shown(name)} is no preset of {section}", where=where(*path, "preset"), fix=nearest(str(name), known)
            )
        config = known[name]
    values = {}
    for key, value in changes.items():
        here = (*path, key)
        if key not in fields:
            raise ConfigError(f"unknown setting '{key}' of {section}", where=where(*here), fix=nearest(key, fields))
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            values[key] = _updated(current, value, where, presets, here)
        else:
            values[key] = convert(value, fields[key], where=where(*here), name=".".join(here))
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except ConfigError as error:  # a value that is out of range
        raise ConfigError(error.what, where=where(*str(error.where).split(".")), fix=error.fix) from None


def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _plain(node: yaml.Node, path: Path, lines: dict, keys: tuple[str | int, ...]) -> Any:
    lines.setdefault(keys, node.start_mark.line + 1)
    here = f"{path}:{node.start_mark.line + 1}"
    if len(lines) > MAX_VALUES:
        raise ConfigError(f"there are more than {MAX_VALUES:,} values in it", where=here)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == node.tag or kind.startswith("python"):
        raise ConfigError(f"tags like {node.tag} are not allowed", where=here)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a key must be a plain word", where=f"{path}:{line}")
            if key in result:
                raise ConfigError(f"'{key}' is given twice", where=f"{path}:{line}")
            lines[(*keys, key)] = line
            result[key] = _plain(value_node, path, lines, (*keys, key))
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, path, lines, (*keys, index)) for index, item in enumerate(node.value)]
    if kind == "timestamp" and node.value[:1].isdigit():  # no setting is of that kind, but a name may look like one
        return node.value
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):  # of words such as !!int ""
        raise ConfigError(f"'{node.value[:60]}' is no {kind}", where=here) from None
    if not isinstance(value, str | int | float | None):
        raise ConfigError(f"'{node.value[:60]}' is tagged as {kind}, which no setting is", where=here)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ConfigError(f"'{node.value[:60]}' has more than 64 bits", where=here)
    return value


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return value.lower() in ("true", "yes", "on")
    raise ValueError


def _to_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    number = float(value.replace("_", "").replace(",", "")) if isinstance(value, str) else value
    if not isinstance(number, int | float) or number != int(number) or abs(number) >= 1 << 63:
        raise ValueError
    return int(number)


def _to_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: lambda value: on_this_machine(_to_str(value)),
    Location: lambda value: located(_to_str(value)),
}
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Location: "a path",
}
