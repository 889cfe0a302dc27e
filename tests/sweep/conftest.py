"""A place in which sweeps are made and disturbed, and what their runs come to where nothing disturbs them.

Real processes on real games, with the tiny preset. All that a test starts carries a mark in its environment.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.replay.dataset import Dataset
from iris_cli.sweep import drive
from iris_cli.sweep.manifest import is_sweep, read_sweep
from iris_cli.sweep.states import DONE, RUNNING, State, is_held, read_state

Alone = Callable[[str, str, int], dict[str, Any]]

ROOT = Path(__file__).resolve().parent.parent.parent
ALL_STAGES = """
preset: tiny
game: Pong
dataset: data/{game}-{seed}.zarr
run: runs/{game}-{seed}
rounds: 2
round:
  - collect: {steps: 20}
  - train-tokenizer: {updates: 5}
  - train-dynamics: {updates: 5}
  - train-actor-critic: {updates: 2}
then:
  - evaluate: {episodes: 1, max_steps: 10, measured_steps: 0}
"""
ROUNDS = """
preset: tiny
game: Pong
dataset: data/{game}-{seed}.zarr
run: runs/{game}-{seed}
rounds: %d
round: [{collect: {steps: 20}}]
then: [{evaluate: {episodes: 1, max_steps: 10, measured_steps: 0}}]
"""
FILES = {  # by what they are for: every stage; many short ones, so that they can be met under way
    "all": (ALL_STAGES, ["collect", "train-tokenizer", "train-dynamics", "train-actor-critic"] * 2 + ["evaluate"]),
    "quick": (ROUNDS % 16, ["collect"] * 16 + ["evaluate"]),  # about two seconds
    "long": (ROUNDS % 60, ["collect"] * 60 + ["evaluate"]),  # about seven
}


class Place:
    """A directory in which sweeps are made and disturbed."""

    def __init__(self, root: Path, mark: str, alone: Alone) -> None:
        self.root, self._mark, self._alone = root, mark, alone
        self.folder = root / "runs" / "sweeps" / "tiny"
        self._kind = "all"

    def write(self, kind: str) -> None:
        """Write tiny.yaml, of one of the kinds in FILES."""
        self._kind = kind
        (self.root / "tiny.yaml").write_text(FILES[kind][0])

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`iris ...` as a process of its own; all that it starts carries our mark."""
        return subprocess.Popen(
            [sys.executable, "-m", "iris_cli", *arguments], cwd=self.root, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def processes(self) -> list[int]:
        """All that carry our mark, but this one."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"IRIS_TEST_MARK={self._mark}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return [process for process in found if process != os.getpid()]

    def states(self) -> dict[str, State]:
        """Of the runs that were begun."""
        sweep = read_sweep(self.folder)
        found = {entry.name: read_state(sweep, entry) for entry in sweep.entries}
        return {name: state for name, state in found.items() if state is not None}

    def under_way(self, *, among: Sequence[int] = ()) -> dict[str, int]:
        """Runs that somebody works on, that have ended some stages but not all, with the process at work.

        With `among`, those whose process is below one of these.
        """
        found = {}
        if not is_sweep(self.folder):
            return found
        sweep = read_sweep(self.folder)
        for entry in sweep.entries:
            state = read_state(sweep, entry)
            if state is None or state.state != RUNNING or not is_held(sweep, entry):
                continue
            ended = stages_of(self.root / entry.run)
            if ended and "evaluate" not in ended and (not among or set(among) & set(self.ancestors(state.process))):
                found[entry.name] = state.process
        return found

    def wait(self, what: Callable[[], Any], *, seconds: float = 120) -> Any:
        """Until something is so; what that is."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return found

    def assert_end(self, *names: str) -> None:
        """These runs are done, went through every stage once, and are what they are alone."""
        for name in names:
            game, _, seed = name.partition("-")
            assert self.states()[name].state == DONE
            got, expected = outcome(self.root, name), self._alone(self._kind, game.capitalize(), int(seed))
            assert [key for key in expected if got[key] != expected[key]] == [], name

    @staticmethod
    def parent_of(process: int) -> int:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])

    @classmethod
    def ancestors(cls, process: int) -> list[int]:
        """Its parent first; none of a process that is over."""
        found = []
        with contextlib.suppress(OSError):
            while process > 1:
                process = cls.parent_of(process)
                found.append(process)
        return found

    @classmethod
    def kill_all(cls, process: int) -> None:
        """Kill a process and all that is below it."""
        everything = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        for victim in [process, *(one for one in everything if process in cls.ancestors(one))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def said(self) -> str:
        """The logs of all runs."""
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self.folder.glob("logs/*.log")))


def stages_of(run: Path) -> list[str]:
    """The stages that a run has ended, in order."""
    try:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):  # not yet, or half a line
        return []
    return [line["stage"] for line in lines if line.get("event") == "stage"]


def outcome(root: Path, name: str) -> dict[str, Any]:
    """All that a run must come to, however often it was disturbed."""
    run = root / "runs" / name
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    state = json.loads((checkpoint / "state.json").read_text())
    dataset = Dataset.open(root / "data" / f"{name}.zarr")
    report = json.loads((run / "reports" / "evaluate-then.json").read_text())
    return {
        "weights": {
            key: value.numpy().tobytes() for key, value in load_file(checkpoint / "weights.safetensors").items()
        },
        **{
            key: state[key] for key in ("updates", "invocations", "progress", "cursor", "collected", "visits", "passes")
        },
        **{field: dataset.read(field).tobytes() for field in ("observations", "actions", "rewards")},
        "scores": (report["scores"], report["lengths"], report["fingerprint"]),
        "stages": stages_of(run),
    }


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """What a run of a kind, game and seed comes to in this process, where nothing disturbs it: with one thread."""
    known = dict[tuple[str, str, int], dict[str, Any]]()

    def carried_out(kind: str, game: str, seed: int) -> dict[str, Any]:
        if (kind, game, seed) not in known:
            place, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
            torch.set_num_threads(1)
            text, stages = FILES[kind]
            with contextlib.chdir(place):
                Path("tiny.yaml").write_text(text)
                execute(make_plan(Path("tiny.yaml"), game=game, seed=seed), device="cpu")
            torch.set_num_threads(threads)
            known[kind, game, seed] = outcome(place, f"{game.lower()}-{seed}")
            assert known[kind, game, seed]["stages"] == stages
        return known[kind, game, seed]

    return carried_out


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Alone) -> Iterator[Place]:
    """The current directory, with tiny.yaml; whatever is started from here is dead afterwards."""
    mark, folder = uuid.uuid4().hex, tempfile.mkdtemp(prefix="it", dir="/tmp")  # for what a killed driver leaves
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drive, "PICTURED", 0)
    for name, value in {
        "IRIS_TEST_MARK": mark, "PYTHONPATH": str(ROOT), "IRIS_SAVE_SECONDS": "0.05", "COLUMNS": "200",
        "TMPDIR": folder,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    place = Place(tmp_path, mark, alone)
    place.write("all")
    yield place
    for process in place.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    place.wait(lambda: not place.processes(), seconds=20)
    shutil.rmtree(folder)
