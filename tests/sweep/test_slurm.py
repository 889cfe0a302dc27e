"""A sweep on a real Slurm: a controller and two nodes of one CPU each, as processes of this machine.

Needs root and Debian's slurm-wlm and munge; skipped without them.
"""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Command = Callable[..., Result]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=6
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster: what it says of its jobs, and how to lose one of its nodes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, place: Any) -> None:
        """Start it, and wait until both nodes are there."""
        with ExitStack() as stack:
            free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            ports = [one.getsockname()[1] for one in free]
        configuration = self._folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=self._folder, ports=ports))
        os.environ["SLURM_CONF"] = str(configuration)
        munge = self._folder / "munge"
        for folder in (munge, self._folder / "state", self._folder / "spool"):
            folder.mkdir(mode=0o755)
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        files = [f"--{what}-file={munge / what}" for what in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        place.wait((munge / "socket").exists)
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-N", "one")
        self._start("slurmd", "-D", "-N", "two")
        place.wait(lambda: asked("sinfo", "--noheader", "--format=%t %D") == ["idle 2"])

    def lose(self, place: Any, node: str) -> None:
        """Kill a node with all that it carries out, below daemons of Slurm's that are no children of it."""
        place.kill_all(self._daemons[node].pid)
        for process in place.processes():
            if variables_of(process).get("SLURMD_NODENAME") == node:
                stepping = [one for one in place.ancestors(process) if "slurmstepd" in command_of(one)]
                for one in [*stepping, process]:
                    place.kill_all(one)

    def end(self) -> None:
        """Stop all of it."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()

    def _start(self, *command: str) -> None:
        log = self._folder / f"{len(self._daemons)}.log"
        with log.open("wb") as file:
            self._daemons[command[-1]] = subprocess.Popen(command, stdout=file, stderr=file)


def asked(*command: str) -> list[str]:
    """The lines that a command of Slurm's prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[:-1]


def at_once(script: str) -> None:
    """Let a job queue again however little time it had, where it would want a minute."""
    text = Path(script).read_text()
    assert '"$SECONDS" -ge 60' in text
    Path(script).write_text(text.replace('"$SECONDS" -ge 60', '"$SECONDS" -ge 0'))


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def variables_of(process: int) -> dict[str, str]:
    try:
        parts = Path(f"/proc/{process}/environ").read_text().split("\0")
    except OSError:
        return {}
    return dict(part.split("=", 1) for part in parts if "=" in part)


@pytest.fixture
def slurm(place: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Two idle nodes."""
    if os.geteuid() != 0 or not all(shutil.which(program) for program in PROGRAMS):
        pytest.skip("needs root, slurm-wlm and munge")
    monkeypatch.setenv("SLURM_CONF", "")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    folder.chmod(0o755)  # munge must trust it
    cluster = Slurm(folder)
    try:
        cluster.begin(place)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder)


@pytest.mark.pipeline
def test_on_slurm_a_node_is_lost_and_a_job_s_time_ends_and_every_run_ends_the_same(
    place: Any, slurm: Slurm, command: Command
) -> None:
    place.write("quick")
    arguments = (
        "sweep",
        "tiny.yaml",
        "--games",
        "Pong,Qbert",
        "--seeds",
        "0,1",
        "--device",
        "cpu",
        "--engine",
        "slurm",
    )
    written = command(*arguments)
    submission = shlex.split(next(line for line in written.output.splitlines() if line.startswith("sbatch")))

    at_once(submission[-1])
    subprocess.run(submission, check=True, stdout=subprocess.DEVNULL)
    name, process = place.wait(place.under_way).popitem()
    told = variables_of(process)["SLURM_JOB_ID"]
    telling = subprocess.Popen(["scancel", "--batch", "--signal=USR1", told])  # as two minutes before its time ends
    place.wait(lambda: place.states()[name].state == "stopped")
    telling.kill()  # it would ask the job, which is over, again and again
    telling.wait()
    lost, process = place.wait(place.under_way).popitem()
    slurm.lose(place, variables_of(process)["SLURMD_NODENAME"])
    place.wait(lambda: not asked("squeue", "--noheader"))
    again = command(*arguments)

    assert {run for run, state in place.states().items() if state.starts > 1} == {name, lost}
    place.assert_end("pong-0", "pong-1", "qbert-0", "qbert-1")
    assert again.exit_code == 0, again.output
    assert "4 runs, 4 done" in again.output
    assert (place.folder / "report.html").stat().st_size > 0


@pytest.mark.pipeline
def test_a_job_of_slurm_that_is_stopped_or_cancelled_does_not_come_again(
    place: Any, slurm: Slurm, command: Command
) -> None:
    place.write("quick")
    arguments = ("sweep", "tiny.yaml", "--seeds", "2", "--device", "cpu", "--engine", "slurm")
    written = command(*arguments)
    submission = shlex.split(next(line for line in written.output.splitlines() if line.startswith("sbatch")))

    at_once(submission[-1])
    subprocess.run(submission, check=True, stdout=subprocess.DEVNULL)
    place.wait(lambda: len(place.under_way()) == 2)
    first = variables_of(place.under_way().popitem()[1])["SLURM_JOB_ID"]
    telling = subprocess.Popen(["scancel", "--batch", "--signal=USR1", first])
    time.sleep(0.5)
    telling.kill()
    telling.wait()
    subprocess.run(["scancel", first], check=True)
    command("sweep", "stop", place.folder)
    place.wait(lambda: not asked("squeue", "--noheader"))

    assert [state.state for state in place.states().values()] == ["stopped"] * 2, place.said()
