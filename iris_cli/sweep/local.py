"""The engine without a cluster: a few runs at a time on this machine, each in a process of its own."""

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass

import torch

from iris_cli.errors import ConfigError
from iris_cli.machine import cores
from iris_cli.sweep.engine import Ended
from iris_cli.sweep.manifest import Sweep
from iris_cli.sweep.process import spawn

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Place:
    """Where one run at a time may be: on some GPUs, or on none."""

    gpus: str | None  # for CUDA_VISIBLE_DEVICES; None: as they are

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}


class Local:
    """Runs as children of this process.

    Args:
        sweep: whose runs.

    Raises:
        ConfigError: if there are fewer GPUs than a run is to have.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._free = places(sweep, visible_gpus(sweep))
        self._under_way: dict[str, tuple[subprocess.Popen[bytes], _Place]] = {}
        self.room: int | None = len(self._free)
        self.words = f"on this machine, {self.room} at a time"

    def start(self, name: str) -> None:
        place = self._free.pop(0)
        process = spawn(
            self._sweep.directory, name, root=self._sweep.root, threads=self._sweep.wanted.cpus_per_run,
            environment=place.environment,
        )  # fmt: skip
        self._under_way[name] = process, place

    def ended(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while not (over := [name for name, (process, _) in self._under_way.items() if process.poll() is not None]):
            if time.monotonic() >= until:
                return []
            time.sleep(_POLL_SECONDS)
        found = []
        for name in over:
            process, place = self._under_way.pop(name)
            self._free.append(place)
            found.append(Ended(name, process.returncode))
        return found

    def close(self) -> None:
        for process, _ in self._under_way.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


def places(sweep: Sweep, gpus: list[str]) -> list[_Place]:
    """One for each run that there is room for at a time.

    Args:
        sweep: of whose runs.
        gpus: as CUDA_VISIBLE_DEVICES names them; none: the runs are on the CPU.

    Raises:
        ConfigError: if there are fewer GPUs than a run is to have.
    """
    wanted, asked = sweep.placement.gpus_per_run, sweep.placement.parallel
    if wanted and len(gpus) < wanted:
        raise ConfigError(f"a run is to have {wanted:g} GPUs, but there are {len(gpus)}", where="--gpus-per-run")
    share = wanted if wanted is not None else (1.0 if gpus else 0.0)
    if not share:
        room = asked or max(1, cores() // sweep.wanted.cpus_per_run)
        return [_Place(None)] * room
    if share < 1:
        found = [_Place(gpu) for _ in range(int(1 / share + 1e-9)) for gpu in gpus]
    else:
        size = int(share)
        found = [_Place(",".join(gpus[at : at + size])) for at in range(0, len(gpus) - size + 1, size)]
    return found[:asked]


def visible_gpus(sweep: Sweep) -> list[str]:
    """The GPUs of this machine that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if sweep.wanted.device == "cpu" or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
