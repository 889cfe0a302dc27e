"""Feeding a logger from metrics.jsonl: from where it stood, up to what a checkpoint knows of, and never twice."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from iris_cli.config import nearest
from iris_cli.errors import DAMAGE, ConfigError, IrisError
from iris_cli.files import write_atomically
from iris_cli.loggers.records import Counters, Logger, Origin, records_of
from iris_cli.metrics import read_metrics

LOGGERS = ("tensorboard", "wandb", "trackio")

Begin = Callable[[Path, Origin], Logger]


def check_names(names: tuple[str, ...], *, where: str) -> None:
    """Go on only with loggers that there are.

    Raises:
        ConfigError: for another name.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"there is no logger '{name}'", where=where, fix=nearest(name, LOGGERS))


class Feed:
    """One logger of one run, and where it stands.

    Args:
        directory: of the run.
        name: of the logger.
        origin: whose records these are.
        warn: told in a sentence if the logger fails; it then gets nothing more, and training goes on.

    Raises:
        IrisError: if its package is not installed.
    """

    def __init__(
        self, directory: Path, name: str, origin: Origin, *, warn: Callable[[str], None], begin: Begin | None = None
    ) -> None:
        self._directory, self._name, self._origin, self._warn = directory, name, origin, warn
        self._position = directory / name / "position.json"
        self._bytes, self._counters = _read_position(self._position)
        self._logger: Logger | None = None  # begun when there is something to write
        self._is_over = False
        try:
            self._begin = begin or import_module(f"iris_cli.loggers.{name}").begin
        except ImportError:
            raise IrisError(f"{name} is not installed", fix=f"Install it: pip install 'iris-wm[{name}]'") from None

    def saved(self, metrics_bytes: int) -> None:
        """Feed the lines up to that length of metrics.jsonl, which a checkpoint knows of."""
        if self._is_over or metrics_bytes == self._bytes:
            return
        end = metrics_bytes
        if metrics_bytes < self._bytes:  # somebody went back to an older checkpoint
            self._warn(
                f"{self._name} holds points of work that was taken back; to have it drawn anew, remove "
                f"{self._position.parent}"
            )
            before = read_metrics(self._directory / "metrics.jsonl", stop=metrics_bytes)
            self._counters = Counters()
            list(records_of(before.lines, self._counters))
        else:
            found = read_metrics(self._directory / "metrics.jsonl", self._bytes, metrics_bytes)
            try:
                if self._logger is None:
                    self._position.parent.mkdir(parents=True, exist_ok=True)
                    self._logger = self._begin(self._position.parent, self._origin)
                self._logger.write(list(records_of(found.lines, self._counters)))
                end = found.end
            except Exception as error:  # whatever a foreign package raises must not end the training
                reason = (str(error) or type(error).__name__).splitlines()[0]
                self._warn(f"{self._name} failed ({reason}) and gets no more points; metrics.jsonl has them all")
                self._is_over = True
                return
        self._bytes = end
        _write_position(self._position, self._bytes, self._counters)

    def close(self) -> None:
        """End the logger."""
        logger, self._logger, self._is_over = self._logger, None, True
        if logger is not None:
            try:
                logger.close()
            except Exception as error:  # as above
                self._warn(f"{self._name} did not end well ({type(error).__name__}); metrics.jsonl has all points")


def _read_position(path: Path) -> tuple[int, Counters]:
    """Where a logger stands; at the start if it never got anything."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["bytes"]), Counters(int(content["lines"]), int(content["steps"]))
    except FileNotFoundError:
        return 0, Counters()
    except DAMAGE as error:
        raise ConfigError(
            f"it cannot be read how far the logger was fed ({error})", where=path, fix=f"Remove {path.parent}."
        ) from None


def _write_position(path: Path, end: int, counters: Counters) -> None:
    content: Mapping[str, int] = {"bytes": end, "lines": counters.lines, "steps": counters.steps}
    write_atomically(path, json.dumps(content) + "\n")
