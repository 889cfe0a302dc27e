"""Checks that settings of agents make of themselves. Knows no torch, so that settings can be read without it."""

from collections.abc import Iterable

from iris_cli.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16")  # auto: bfloat16 where the processor multiplies it


def one_of(where: str, value: str, allowed: Iterable[str]) -> None:
    """Go on only with an allowed word.

    Raises:
        ConfigError: for another one.
    """
    if value not in allowed:
        raise ConfigError(f"{value!r} is not one of {', '.join(allowed)}", where=where)


def positive(section: str, config: object, names: Iterable[str]) -> None:
    """Go on only if these fields of a section are above 0.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name} is {getattr(config, name)}, but must be positive", where=f"{section}.{name}")


def between(section: str, config: object, names: Iterable[str], low: float, high: float) -> None:
    """Go on only if these fields of a section lie in [low, high].

    Raises:
        ConfigError: naming the first that does not.
    """
    for name in names:
        if not low <= getattr(config, name) <= high:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, but must lie in {low:g} to {high:g}", where=f"{section}.{name}"
            )
