"""What a person is told in place of a path: the URL of a run whose directory is a working copy of it."""

_NAMES: dict[str, str] = {}


def alias(path: object, name: object) -> None:
    """From now on a text that holds this path holds the name instead."""
    _NAMES[str(path)] = str(name)


def named(text: str) -> str:
    """The text with names in place of the paths that have one."""
    for path, name in _NAMES.items():
        text = text.replace(path, name)
    return text
