"""How this process was started: alone, or as one of several by torchrun. Knows no torch, for quick commands."""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

WAIT_SECONDS = float(os.environ.get("IRIS_WAIT_SECONDS", "300"))  # that processes wait for each other
_ELSEWHERE = "192.0.2.1"  # an address of nobody (RFC 5737), which the default route leads to
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


class Launch(NamedTuple):
    """One process among those that train together.

    Attributes:
        processes: on all machines; 1: this one is alone.
        rank: of this one, from 0. The first writes and prints, the others do neither.
        local_rank: of this one on its machine.
        local_processes: on its machine.
    """

    processes: int = 1
    rank: int = 0
    local_rank: int = 0
    local_processes: int = 1

    @property
    def program(self) -> list[str]:
        """What to type before a command, to have it carried out so."""
        if self.processes == 1:
            return ["iris"]
        machines, each = self.processes // self.local_processes, str(self.local_processes)
        nodes = [] if machines == 1 else ["--nnodes", str(machines)]
        # Behind the two dashes nothing is taken for an option of torchrun, as --run would be.
        return ["torchrun", *nodes, "--nproc-per-node", each, "-m", "iris_cli", "--"]


def launch() -> Launch:
    """What torchrun, or another program that sets the same four variables, says of this process."""
    found = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    return Launch(*map(int, found)) if all(map(str.isdecimal, found)) else Launch()


def choose_network() -> None:
    """Let gloo use the network that leads to the first process: it goes by host names, which often are loopback's."""
    interface = _interface_to(os.environ.get("MASTER_ADDR", ""))
    if interface is None and launch().processes > launch().local_processes:
        interface = _interface_to(_ELSEWHERE)  # the first process itself, whose own name is loopback's on many systems
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _interface_to(host: str) -> str | None:
    """The network interface that leads to a host, such as eth0; None where that is this machine alone, or not known."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((host, 9))  # sends nothing
            own = asking.getsockname()[0]
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # one without an address
                    answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                    if socket.inet_ntoa(answer[20:24]) == own and not own.startswith("127."):
                        return name
    except OSError:
        pass
    return None
