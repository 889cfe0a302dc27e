"""The engine on Ray (extra `iris-wm[cluster]`): a task for each run, which starts it. Only this file knows Ray.

Without an address a cluster of this machine alone is started and ended with the sweep: no dashboard, no usage
statistics over the network, no memory monitor that would kill runs, nothing uploaded. With one, the nodes of that
cluster must have this program installed and see the sweep's folder under the same path. Retries are the driver's.
"""

import contextlib
import functools
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from iris_cli import console, interrupts
from iris_cli.errors import ConfigError, reason_of
from iris_cli.machine import cores
from iris_cli.replay.lock import Lock, take_lock
from iris_cli.sweep.engine import Ended
from iris_cli.sweep.manifest import Sweep
from iris_cli.sweep.process import PAUSED, carry_out
from iris_cli.sweep.states import is_held, read_state

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill what waits for a run, not the run that takes the memory
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # runs without a GPU of their own see those of the machine
}
_STORE_BYTES = 80 << 20  # shared memory for objects, of which there are none; Ray asks for 75 MB at least
_REACH_SECONDS = 10.0
_POLL_SECONDS = 0.2
_LONGEST_FOLDER = 20  # characters of the system's own; 85 more follow, and a socket's path has at most 107


class OnRay:
    """Runs as tasks of a Ray cluster.

    Args:
        sweep: whose runs.

    Raises:
        ConfigError: if the cluster cannot be reached, or started, or can never take a run.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._folder: _Folder | None = None  # of a cluster of our own
        self._set: list[str] = []  # variables for it alone
        self.room: int | None = sweep.placement.parallel
        self._under_way: dict[Any, tuple[str, int]] = {}  # by its task: a run, and how often it had been begun before
        os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
        address = sweep.placement.address
        if address is not None:
            console.say(f"Connecting to the Ray cluster at {address}.")  # which takes minutes where nobody answers
        with _own_signals(), _heard() as heard:
            try:
                self._connect(address)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                self.close()
                where = address or "this machine"
                if "AuthToken" in heard():
                    raise ConfigError(
                        "the Ray cluster asks for a token, and this is not it or there is none", where=where,
                        fix="Have ~/.ray/auth_token as on its head, and set RAY_AUTH_MODE=token.",
                    ) from None  # fmt: skip
                raise ConfigError(
                    f"the Ray cluster cannot be reached ({_why(error, heard())})", where=where,
                    fix="Look at it with: ray status. Or go without: --engine local",
                ) from None  # fmt: skip
        gpus = sweep.placement.gpus_per_run
        if gpus is None:
            gpus = 1.0 if sweep.wanted.device != "cpu" and ray.cluster_resources().get("GPU") else 0.0
        self._check_room(gpus)
        self._task = ray.remote(num_cpus=sweep.wanted.cpus_per_run, num_gpus=gpus, max_retries=0)(carry_out)
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        share = f", {gpus:g} of a GPU each" if gpus else ""
        self.words = f"on a Ray cluster of {nodes} node{'s' if nodes > 1 else ''}{share}"

    def start(self, name: str) -> None:
        settings = {key: value for key, value in os.environ.items() if key.startswith("IRIS_")}
        sweep = self._sweep
        before = read_state(sweep, sweep.entry(name))
        task = self._task.remote(str(sweep.directory), name, str(sweep.root), sweep.wanted.cpus_per_run, settings)
        self._under_way[task] = name, before.starts if before else 0

    def ended(self, seconds: float) -> list[Ended]:
        if not self._under_way:
            return []
        if self._folder is not None and interrupts.requested():
            return self._left(seconds)
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=seconds)
        if ready:  # others may have ended as well
            ready, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        lost = [] if interrupts.requested() else self._lost()
        return [self._outcome(reference) for reference in ready] + lost

    def close(self) -> None:
        with _own_signals():
            ray.shutdown()
        for name in self._set:
            os.environ.pop(name, None)
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _connect(self, address: str | None) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is not None:
            if address != "auto":  # Ray itself would try for minutes, and then end this process
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
            ray.init(address=address, **quiet)
            return
        self._folder = _Folder()
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys():
            # Else Ray makes a token in the user's home, for all clusters from then on.
            os.environ["RAY_AUTH_TOKEN"] = _token()
            self._set += ["RAY_AUTH_TOKEN", "RAY_AUTH_MODE"]  # the second by Ray
        each = self._sweep.wanted.cpus_per_run
        room = (self._sweep.placement.parallel or max(1, cores() // each)) * each
        ray.init(
            address="local", num_cpus=room, include_dashboard=False, object_store_memory=_STORE_BYTES,
            _temp_dir=f"{self._folder.path}/r", **quiet,  # what Ray makes is open to all; ours around it is not
        )  # fmt: skip

    def _check_room(self, gpus: float) -> None:
        """Say, or refuse, what no node can do."""
        cpus = self._sweep.wanted.cpus_per_run
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            return
        words = f"no node of the cluster has the {cpus} CPUs and {gpus:g} GPUs that a run is to have"
        if self._sweep.placement.address is None:
            self.close()
            raise ConfigError(words, where="--cpus-per-run, --gpus-per-run")
        console.warn(f"{words}; the runs wait for one")  # a cluster may grow

    def _left(self, seconds: float) -> list[Ended]:
        """Runs that nobody works on any more, by their locks: a cluster of our own may have got our signal, too."""
        time.sleep(min(seconds, _POLL_SECONDS))
        sweep = self._sweep
        over = [task for task, (name, _) in self._under_way.items() if not is_held(sweep, sweep.entry(name))]
        return [Ended(self._under_way.pop(task)[0], PAUSED) for task in over]

    def _lost(self) -> list[Ended]:
        """Runs on machines that are gone without a word, for which Ray itself waits minutes: they are given up."""
        nodes = ray.nodes()
        gone = {node["NodeManagerHostname"] for node in nodes if not node["Alive"]}
        gone -= {node["NodeManagerHostname"] for node in nodes if node["Alive"]}
        lost = []
        for task, (name, starts) in list(self._under_way.items()) if gone else ():
            state = read_state(self._sweep, self._sweep.entry(name))
            if state is not None and state.starts > starts and state.node in gone:
                del self._under_way[task]
                lost.append(Ended(name, None, f"{state.node} is gone"))
        return lost

    def _outcome(self, reference: Any) -> Ended:
        name, _ = self._under_way.pop(reference)
        try:
            return Ended(name, ray.get(reference))
        except ray.exceptions.RayTaskError as error:  # our own few lines failed there, such as a missing folder
            return Ended(name, 1, f"it could not be started: {_last_line(error)}")
        except ray.exceptions.RayError as error:
            return Ended(name, None, type(error).__name__)


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """What this process's standard error gets within it, of Ray's C++ too, is kept back; it can be asked for."""
    with tempfile.TemporaryFile("w+", errors="replace") as file, contextlib.ExitStack() as back:
        kept = os.dup(2)
        back.callback(os.close, kept)
        back.callback(os.dup2, kept, 2)
        os.dup2(file.fileno(), 2)

        def heard() -> str:
            file.seek(0)
            return file.read()

        yield heard


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; afterwards it is ours again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Folder:
    """A new folder for a cluster of our own, whose sockets have paths that the system takes.

    It is locked while it is in use; those that killed processes left are removed.
    """

    def __init__(self) -> None:
        usual = tempfile.gettempdir()
        place = Path(usual if len(usual) <= _LONGEST_FOLDER else "/tmp")
        for left in place.glob("iris-ray-*/lock"):  # folders of other people are passed over
            with contextlib.suppress(ConfigError):  # somebody uses it
                lock = _locked(left)
                shutil.rmtree(left.parent, ignore_errors=True)
                lock.release()
        self.path = Path(tempfile.mkdtemp(prefix="iris-ray-", dir=place))
        self._lock = _locked(self.path / "making")
        (self.path / "making").rename(self.path / "lock")

    def remove(self) -> None:
        """When nobody uses it any more."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _locked(file: Path) -> Lock:
    return take_lock(file, what="folder", where=file.parent, error=ConfigError)


@functools.cache
def _token() -> str:
    """For all clusters of this process's own: Ray remembers the first."""
    return secrets.token_hex(32)


def _why(error: Exception, heard: str) -> str:
    """An error of Ray's in a line, and the last that it said before."""
    last = re.sub(r"^\[.*?\] ", "", (heard.strip().splitlines() or [""])[-1])
    return "; ".join(filter(None, [reason_of(error), last[:200]]))


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
