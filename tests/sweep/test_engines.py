"""Whichever engine carries out a sweep and whoever is killed on the way, its runs end as if nothing had happened.

Real processes on real games, with the tiny preset. All that a test starts carries a mark in its environment.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.replay.dataset import Dataset
from iris_cli.sweep import drive
from iris_cli.sweep.manifest import is_sweep, read_sweep
from iris_cli.sweep.states import DONE, RUNNING, State, is_held, read_state

Command = Callable[..., Result]
Undisturbed = Callable[..., dict[str, Any]]

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = """
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
STAGES = ["collect", "train-tokenizer", "train-dynamics", "train-actor-critic"] * 2 + ["evaluate"]
QUICK = """
preset: tiny
game: Pong
dataset: data/{game}-{seed}.zarr
run: runs/{game}-{seed}
rounds: 16
round: [{collect: {steps: 20}}]
then: [{evaluate: {episodes: 1, max_steps: 10, measured_steps: 0}}]
"""
QUICK_STAGES = ["collect"] * 16 + ["evaluate"]  # about two seconds, so that they can be met under way


GAMES, SEEDS = ("Pong", "Qbert", "Boxing"), (0, 1)


class Place:
    """A directory in which sweeps are made and disturbed."""

    def __init__(self, root: Path, mark: str) -> None:
        self.root, self._mark = root, mark
        self.folder = root / "runs" / "sweeps" / "tiny"

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
            if ended and "evaluate" not in ended and (not among or set(among) & set(ancestors(state.process))):
                found[entry.name] = state.process
        return found

    def wait(self, what: Callable[[], Any], *, seconds: float = 120) -> Any:
        """Until something is so; what that is."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return found

    def said(self) -> str:
        """The logs of all runs."""
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self.folder.glob("logs/*.log")))


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def ancestors(process: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        while process > 1:
            process = parent_of(process)
            found.append(process)
    return found


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What a game and seed come to in this process, where nothing disturbs them: with one thread, as in a sweep."""
    known = dict[tuple[str, int, str], dict[str, Any]]()

    def alone(game: str, seed: int, text: str = FILE) -> dict[str, Any]:
        if (game, seed, text) not in known:
            place, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
            torch.set_num_threads(1)
            with contextlib.chdir(place):
                Path("tiny.yaml").write_text(text)
                execute(make_plan(Path("tiny.yaml"), game=game, seed=seed), device="cpu")
            torch.set_num_threads(threads)
            known[game, seed, text] = outcome(place, f"{game.lower()}-{seed}")
            assert known[game, seed, text]["stages"] == (STAGES if text == FILE else QUICK_STAGES)
        return known[game, seed, text]

    return alone


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The current directory, with tiny.yaml; whatever is started from here is dead afterwards."""
    mark, folder = uuid.uuid4().hex, tempfile.mkdtemp(prefix="it", dir="/tmp")  # for what a killed driver leaves
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drive, "PICTURED", 0)
    for name, value in {
        "IRIS_TEST_MARK": mark, "PYTHONPATH": str(ROOT), "IRIS_SAVE_SECONDS": "0.05", "COLUMNS": "200",
        "TMPDIR": folder,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny.yaml").write_text(FILE)
    place = Place(tmp_path, mark)
    yield place
    for process in place.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    place.wait(lambda: not place.processes(), seconds=20)
    shutil.rmtree(folder)


def assert_end(place: Place, undisturbed: Undisturbed, games: tuple[str, ...] = GAMES, text: str = FILE) -> None:
    """Every run is done, went through every stage once, and is what it is alone."""
    for game in games:
        for seed in SEEDS:
            name = f"{game.lower()}-{seed}"
            assert place.states()[name].state == DONE
            got, expected = outcome(place.root, name), undisturbed(game, seed, text)
            assert [key for key in expected if got[key] != expected[key]] == [], name


@pytest.fixture
def two_nodes(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[str, list[int]]]]:
    """Starts a Ray cluster of two nodes with room for one run each; its address, and the raylets, the head first."""
    pytest.importorskip("ray", reason="an extra")
    from ray.cluster_utils import Cluster

    folder, clusters = tempfile.mkdtemp(prefix="iris-ray-", dir="/tmp"), []
    monkeypatch.setenv("RAY_TMPDIR", folder)  # or it leaves its address in /tmp/ray
    (Path(folder) / "ray").mkdir()
    patience = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}

    def begun() -> tuple[str, list[int]]:
        head = {**options, "_system_config": patience, "temp_dir": folder}
        clusters.append(Cluster(initialize_head=True, head_node_args=head))
        nodes = [clusters[0].head_node, clusters[0].add_node(**options)]
        return clusters[0].address, [node.all_processes["raylet"][0].process.pid for node in nodes]

    terminated = signal.getsignal(signal.SIGTERM)
    yield begun
    signal.signal(signal.SIGTERM, terminated)  # which the first node took for itself
    for cluster in clusters:
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def kill_node(process: int, nodes: list[int]) -> None:
    """Kill the one of some nodes, by their raylets, that a process is on, with all that is below it."""
    [raylet] = set(nodes) & set(ancestors(process))
    everything = [path.name for path in Path("/proc").glob("[0-9]*") if raylet in ancestors(int(path.name))]
    for victim in [raylet, *map(int, everything)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


@contextlib.contextmanager
def meanwhile(disturb: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread beside the body; what goes wrong there is raised at the end."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(disturb)
        yield
        done.result()


@pytest.mark.pipeline
def test_on_ray_a_worker_the_driver_and_a_node_are_killed_and_every_run_ends_once_and_the_same(
    place: Place, undisturbed: Undisturbed, command: Command, two_nodes: Callable[[], tuple[str, list[int]]]
) -> None:
    driver = place.start(
        "sweep",
        "tiny.yaml",
        "--games",
        ",".join(GAMES),
        "--seeds",
        str(len(SEEDS)),
        "--device",
        "cpu",
        "--parallel",
        "2",
    )
    name, process = place.wait(lambda: next(iter(place.under_way().items()), None))
    os.kill(parent_of(process), signal.SIGKILL)  # the Ray worker; the run below it notices, saves and ends
    place.wait(lambda: any(state.state == DONE for state in place.states().values()))
    place.wait(place.under_way)
    driver.kill()
    said, _ = driver.communicate()
    before = {run: state for run, state in place.states().items() if state.state == DONE}

    address, nodes = two_nodes()
    with meanwhile(lambda: kill_node(place.wait(lambda: place.under_way(among=nodes[1:])).popitem()[1], nodes)):
        resumed = command("sweep", "resume", place.folder, "--address", address)

    assert f"{name}: its worker or node died (WorkerCrashedError); it goes on (retry 1 of 3)." in said
    assert 0 < len(before) < len(GAMES) * len(SEEDS)
    assert resumed.exit_code == 0, resumed.output
    assert "on a Ray cluster of 2 nodes" in resumed.output
    assert re.search(r"its worker or node died \(\w+\); it goes on", resumed.output)
    assert {run: place.states()[run] for run in before} == before  # nothing was done twice
    assert_end(place, undisturbed)


@pytest.mark.pipeline
def test_on_this_machine_ctrl_c_saves_all_and_a_killed_run_goes_on(
    place: Place, undisturbed: Undisturbed, command: Command
) -> None:
    Path("tiny.yaml").write_text(QUICK)
    arguments = ("sweep", "tiny.yaml", "--games", "Pong", "--seeds", "0,1", "--device", "cpu", "--engine", "local")
    driver = place.start(*arguments, "--parallel", "2")
    place.wait(place.under_way)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=60)
    stopped = command("sweep", "status", place.folder)

    with meanwhile(lambda: os.kill(place.wait(place.under_way).popitem()[1], signal.SIGKILL)):
        again = command(*arguments, "--parallel", "2")

    assert driver.returncode == 130, said
    assert "Stopped, with all work saved" in said
    assert "Traceback" not in said + place.said()
    assert "2 runs, " in stopped.output
    assert "stopped" in stopped.output
    assert again.exit_code == 0, again.output + place.said()
    assert "its process was killed by signal 9; it goes on (retry 1 of 3)." in again.output
    assert "2 runs, 2 done" in again.output
    assert "were cut short, so it is left out" in again.output  # iris scores has been asked
    assert (place.folder / "report.html").stat().st_size > 0
    assert_end(place, undisturbed, games=("Pong",), text=QUICK)


@pytest.mark.pipeline
def test_a_slurm_array_task_carries_out_its_run(place: Place, undisturbed: Undisturbed, command: Command) -> None:
    Path("tiny.yaml").write_text(QUICK)
    written = command(
        "sweep", "tiny.yaml", "--games", "Boxing,Pong", "--seeds", "0,1", "--device", "cpu", "--engine", "slurm",
        "--dir", "sw eep's",
    )  # fmt: skip
    place.folder = place.root / "sw eep's"
    line = shlex.split(next(line for line in written.output.splitlines() if line.startswith("sbatch")))

    task = subprocess.run(["bash", line[-1]], env={**os.environ, "SLURM_ARRAY_TASK_ID": "2"}, cwd="/")

    assert task.returncode == 0, place.said()
    assert {run: state.state for run, state in place.states().items()} == {"pong-0": DONE}
    assert outcome(place.root, "pong-0") == undisturbed("Pong", 0, QUICK)


def test_the_runs_of_a_slurm_task_are_told_when_its_time_ends_and_their_worst_code_is_its_own(
    place: Place, command: Command
) -> None:
    stub = place.root / "stub"  # instead of Python: notes its run, and ends with 130 once it is told to
    stub.write_text(
        "#!/usr/bin/env bash\n[ $6 = pong-3 ] && trap '' TERM && touch $5/$6.begun && exit 0\n"
        "trap 'touch $5/$6.told; exit 130' TERM\ntouch $5/$6.begun\nwhile :; do sleep 0.05; done\n"
    )
    stub.chmod(0o755)
    command(
        "sweep", "tiny.yaml", "--seeds", "5", "--device", "cpu", "--engine", "slurm", "--gpus-per-run", "0.5"
    )  # fmt: skip
    script = place.folder / "array.sh"
    script.write_text(script.read_text().replace(sys.executable, str(stub)))

    task = subprocess.Popen(["bash", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"})
    place.wait(lambda: (place.folder / "pong-2.begun").exists() and (place.folder / "pong-3.begun").exists())
    task.send_signal(signal.SIGTERM)

    assert task.wait(20) == 130
    assert sorted(path.name for path in place.folder.glob("pong-*")) == ["pong-2.begun", "pong-2.told", "pong-3.begun"]
