"""`toy_faults:Raises`, `Hangs` and `Dies`: the toy game, whose sixth step goes wrong."""

import os
import signal
import time

import numpy as np
from toy_game import Toy


class Raises(Toy):
    """Raises an error."""

    steps = 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps == 6:
            self.fail()
        return super().step(action)

    def fail(self) -> None:
        raise ValueError("the emulator is confused")


class Hangs(Raises):
    """Does not come back."""

    def fail(self) -> None:
        time.sleep(3600)


class Dies(Raises):
    """Ends its process, as an emulator does that crashes."""

    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
