"""A sweep on a Ray cluster of two hosts, and training as one on both: with a network of their own that can be cut.

The hosts are namespaces of this machine: each has its own name, addresses and loopback; both see the same files.
Needs root, iproute2 and util-linux; skipped without them.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

IRIS = (sys.executable, "-m", "iris_cli")
ADDRESS = "10.77.0.1:6379"
RAY = (sys.executable, "-m", "ray.scripts.scripts")  # which is what the program ray calls


class Hosts:
    """Two hosts. A Ray cluster's head would be on the first."""

    def __init__(self, folder: Path) -> None:
        self._names = [f"it{uuid.uuid4().hex[:6]}{number}" for number in (1, 2)]
        self._folder = folder

    def name(self, number: int) -> str:
        return self._names[number - 1]

    def begin(self) -> None:
        """Make the hosts and the line between them."""
        one, two = self._names
        ip("netns", "add", one)
        ip("netns", "add", two)
        ip("link", "add", "line", "netns", one, "type", "veth", "peer", "name", "line", "netns", two)
        for number, name in enumerate(self._names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "line")
            ip("-n", name, "link", "set", "line", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def begin_ray(self) -> None:
        """A node of one CPU on each host; a node is dead for the others after three seconds of silence."""
        patience = {
            "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3", "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }  # fmt: skip
        variables = {**os.environ, **patience, "RAY_AUTH_MODE": "token"}
        usual = ("--num-cpus=1", f"--object-store-memory={80 << 20}", "--disable-usage-stats")
        head = ("--head", "--port=6379", f"--temp-dir={self._folder}/ray", "--include-dashboard=false")
        for number, more in (1, head), (2, (f"--address={ADDRESS}",)):
            started = self.start(
                number, *RAY, "start", *usual, *more, f"--node-ip-address=10.77.0.{number}", env=variables
            )
            said, _ = started.communicate()
            assert started.returncode == 0, said

    def start(self, number: int, *command: str, **more: Any) -> "subprocess.Popen[str]":
        """Start a command on a host."""
        renamed = f'hostname {self.name(number)} && exec "$@"'
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name(number), "unshare", "--uts", "sh", "-c", renamed, "sh", *command],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **more,
        )  # fmt: skip

    def lose(self, number: int) -> None:
        """A host loses its power: nothing passes the line any more, so that nobody is told, and all there is over."""
        ip("-n", self.name(number), "link", "set", "line", "down")
        for process in ip("netns", "pids", self.name(number)).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def end(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def ip(*command: str) -> str:
    return subprocess.run(["ip", *command], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts(place: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Two hosts that see each other."""
    if os.geteuid() != 0 or not all(shutil.which(program) for program in ("ip", "unshare", "hostname")):
        pytest.skip("needs root, iproute2 and util-linux")
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    hosts = Hosts(folder)
    try:
        try:
            hosts.begin()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces: {error.stderr.strip()}")
        yield hosts
    finally:
        for process in place.processes():
            place.kill_all(process)
        hosts.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.pipeline
def test_a_host_loses_its_power_and_its_run_goes_on_at_the_other(
    place: Any, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="an extra")
    hosts.begin_ray()
    place.write("long")
    sweep = ("sweep", "tiny.yaml", "--seeds", "2", "--device", "cpu", "--address", ADDRESS)
    refused, _ = hosts.start(1, *IRIS, *sweep).communicate(timeout=100)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")

    driver = hosts.start(1, *IRIS, *sweep)
    there = place.wait(lambda: [name for name in place.under_way() if place.states()[name].node == hosts.name(2)])
    hosts.lose(2)
    said, _ = driver.communicate(timeout=300)

    assert "asks for a token" in refused
    assert "RAY_AUTH_MODE=token" in refused
    assert "gcs_client" not in refused
    assert "on a Ray cluster of 2 nodes" in said
    assert f"{there[0]}: its worker or node died ({hosts.name(2)} is gone); it goes on (retry 1 of 3)." in said
    assert driver.returncode == 0, said
    assert place.states()[there[0]].node == hosts.name(1)
    assert not re.search("Traceback", said + place.said())
    place.assert_end("pong-0", "pong-1")


@pytest.mark.pipeline
def test_processes_of_two_hosts_train_as_one(place: Any, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word on which network: the hosts' names lead nowhere, or to loopback, as they do on many machines."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    hosts.start(1, *IRIS, "collect", "--env", "Pong", "--steps", "100", "--out", "pong.zarr").communicate()
    train = ("train-tokenizer", "pong.zarr", "--preset", "tiny", "--updates", "10", "--set", "tokenizer.lpips=none")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                "--master-addr=10.77.0.1", "--master-port=29500", "-m", "iris_cli", "--")  # fmt: skip

    alone, _ = hosts.start(1, *IRIS, *train, "--run", "alone").communicate()
    both = [
        hosts.start(number, *torchrun[:3], f"--node-rank={number - 1}", *torchrun[3:], *train, "--run", "both")
        for number in (1, 2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    losses = [losses_of(Path(name)) for name in ("alone", "both")]
    assert len(losses[0]) > 0, alone
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]
