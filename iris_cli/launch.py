"""How this process was started: alone, or as one of several by torchrun. Knows no torch, for quick commands."""

import os
from typing import NamedTuple

WAIT_SECONDS = float(os.environ.get("IRIS_WAIT_SECONDS", "300"))  # that processes wait for each other


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
