"""trackio: a local database in its own directory (TRACKIO_DIR), shown by `trackio show --project iris`."""

import os
from pathlib import Path

import trackio

from iris_cli.loggers.records import Logger, Origin, Record


def begin(directory: Path, origin: Origin) -> Logger:
    """Goes on with the run of the same name; the first digits of its id keep runs of one name apart."""
    project = os.environ.get("TRACKIO_PROJECT", "iris")
    trackio.init(
        project=project, name=f"{origin.name}-{origin.id[:8]}", resume="allow", config=origin.settings, embed=False
    )
    return _Trackio()


class _Trackio:
    def write(self, records: list[Record]) -> None:
        for record in records:
            named = {f"{record.stage}/{name}": value for name, value in record.values.items()}
            trackio.log({**named, f"{record.stage}/step": float(record.step)}, step=record.number)

    def close(self) -> None:
        trackio.finish()
