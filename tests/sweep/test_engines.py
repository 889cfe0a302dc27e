"""Whichever engine carries out a sweep and whoever is killed on the way, its runs end as if nothing had happened."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from iris_cli.sweep.states import DONE

Command = Callable[..., Result]

GAMES, SEEDS = ("Pong", "Qbert", "Boxing"), (0, 1)


@pytest.fixture
def two_nodes(place: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[str, list[int]]]]:
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


def kill_node(place: Any, process: int, nodes: list[int]) -> None:
    """Kill the one of some nodes, by their raylets, that a process is on, with all that is below it."""
    [raylet] = set(nodes) & set(place.ancestors(process))
    place.kill_all(raylet)


@contextlib.contextmanager
def meanwhile(disturb: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread beside the body; what goes wrong there is raised at the end."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(disturb)
        yield
        done.result()


@pytest.mark.pipeline
def test_on_ray_a_worker_the_driver_and_a_node_are_killed_and_every_run_ends_once_and_the_same(
    place: Any, command: Command, two_nodes: Callable[[], tuple[str, list[int]]]
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
    os.kill(place.parent_of(process), signal.SIGKILL)  # the Ray worker; the run below it notices, saves and ends
    place.wait(lambda: any(state.state == DONE for state in place.states().values()))
    place.wait(place.under_way)
    driver.kill()
    said, _ = driver.communicate()
    before = {run: state for run, state in place.states().items() if state.state == DONE}

    address, nodes = two_nodes()
    with meanwhile(lambda: kill_node(place, place.wait(lambda: place.under_way(among=nodes[1:])).popitem()[1], nodes)):
        resumed = command("sweep", "resume", place.folder, "--address", address)

    assert f"{name}: its worker or node died (WorkerCrashedError); it goes on (retry 1 of 3)." in said
    assert 0 < len(before) < len(GAMES) * len(SEEDS)
    [left] = Path(os.environ["TMPDIR"]).glob("iris-ray-*/lock")
    assert left.read_text().startswith(f"{driver.pid}\n")
    assert resumed.exit_code == 0, resumed.output
    assert "on a Ray cluster of 2 nodes" in resumed.output
    assert re.search(r"its worker or node died \(\w+\); it goes on", resumed.output)
    assert {run: place.states()[run] for run in before} == before  # nothing was done twice
    place.assert_end(*(f"{game.lower()}-{seed}" for game in GAMES for seed in SEEDS))


@pytest.mark.pipeline
def test_on_ray_a_signal_to_all_processes_saves_all(place: Any) -> None:
    """As `timeout` and schedulers send it; Ray's own end by it at once, and nothing answers any more."""
    pytest.importorskip("ray", reason="an extra")
    place.write("long")
    driver = place.start("sweep", "tiny.yaml", "--seeds", "2", "--device", "cpu", "--parallel", "2")
    place.wait(place.under_way)

    os.killpg(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=50)

    assert driver.returncode == 130, said
    assert "Stopped, with all work saved" in said
    assert "GCS" not in said
    assert "stopped" in {state.state for state in place.states().values()} <= {"stopped", DONE}


def test_what_a_killed_driver_left_is_removed_and_what_others_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="an extra")
    from iris_cli.sweep import on_ray

    monkeypatch.setattr(on_ray.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(on_ray, "_LONGEST_FOLDER", 1000)
    for name in ("over", "another"):
        (tmp_path / f"iris-ray-{name}" / "r").mkdir(parents=True)
    (tmp_path / "iris-ray-over" / "lock").write_text("4711\nhost\niris sweep\nthen\n")  # of a process that is over
    used = on_ray._Folder()

    made = on_ray._Folder()

    assert sorted(tmp_path.iterdir()) == sorted([made.path, tmp_path / "iris-ray-another", used.path])
    made.remove()
    assert not made.path.exists()
    used.remove()


@pytest.mark.pipeline
def test_on_this_machine_ctrl_c_saves_all_and_a_killed_run_goes_on(place: Any, command: Command) -> None:
    place.write("quick")
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
    place.assert_end("pong-0", "pong-1")


@pytest.mark.pipeline
def test_a_slurm_array_task_carries_out_its_run(place: Any, command: Command) -> None:
    place.write("quick")
    written = command(
        "sweep", "tiny.yaml", "--games", "Boxing,Pong", "--seeds", "0,1", "--device", "cpu", "--engine", "slurm",
        "--dir", "sw eep's",
    )  # fmt: skip
    place.folder = place.root / "sw eep's"
    line = shlex.split(next(line for line in written.output.splitlines() if line.startswith("sbatch")))

    task = subprocess.run(["bash", line[-1]], env={**os.environ, "SLURM_ARRAY_TASK_ID": "2"}, cwd="/")

    assert task.returncode == 0, place.said()
    assert {run: state.state for run, state in place.states().items()} == {"pong-0": DONE}
    place.assert_end("pong-0")


@pytest.mark.parametrize(
    ("asked", "least", "is_to_stop", "queued"),
    [
        ((signal.SIGTERM,), 0, False, ""),
        ((signal.SIGUSR1,), 0, False, "requeue 7_1\n"),
        ((signal.SIGUSR1,), 0, True, ""),
        ((signal.SIGUSR1,), 60, False, ""),
        ((signal.SIGUSR1, signal.SIGTERM), 0, False, ""),
    ],
    ids=["cancelled", "its time ends", "stopped", "too little time", "cancelled while its time ends"],
)
def test_the_runs_of_a_slurm_task_are_told_when_it_is_to_end_and_their_worst_code_is_its_own(
    place: Any, command: Command, asked: tuple[signal.Signals, ...], least: int, is_to_stop: bool, queued: str
) -> None:
    stub = place.root / "stub"  # instead of Python: notes its run, and ends with 130 a while after it is told to
    stub.write_text(
        "#!/usr/bin/env bash\n[ $6 = pong-3 ] && trap '' TERM && touch $5/$6.begun && exit 0\n"
        "trap 'touch $5/$6.told' TERM\ntouch $5/$6.begun\nwhile [ ! -e $5/$6.told ]; do sleep 0.05; done\n"
        "sleep 1; exit 130\n"
    )
    control = place.root / "scontrol"
    control.write_text(f'#!/usr/bin/env bash\necho "$*" >>{place.root}/queued\n')
    for program in (stub, control):
        program.chmod(0o755)
    command(
        "sweep", "tiny.yaml", "--seeds", "5", "--device", "cpu", "--engine", "slurm", "--gpus-per-run", "0.5"
    )  # fmt: skip
    script = place.folder / "array.sh"
    text = script.read_text()
    assert '"$SECONDS" -ge 60' in text
    script.write_text(text.replace(sys.executable, str(stub)).replace("-ge 60", f"-ge {least}"))
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PATH": f"{place.root}:{os.environ['PATH']}"}

    task = subprocess.Popen(["bash", script], env={**os.environ, **variables})
    place.wait(lambda: (place.folder / "pong-2.begun").exists() and (place.folder / "pong-3.begun").exists())
    (place.folder / "stop").touch() if is_to_stop else None
    for one in asked:
        task.send_signal(one)
        place.wait((place.folder / "pong-2.told").exists)

    assert task.wait(20) == 130
    assert sorted(path.name for path in place.folder.glob("pong-*")) == ["pong-2.begun", "pong-2.told", "pong-3.begun"]
    assert (place.root / "queued").read_text() == queued if queued else not (place.root / "queued").exists()
