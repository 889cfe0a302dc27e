"""A training stage under way, with its random streams: what a checkpoint needs to go on with it bit for bit."""

import base64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Progress:
    """A training stage under way: enough to go on after a kill, bit for bit.

    Attributes:
        stage: its name.
        done, total: updates.
        draws: CPU generator of batches, so that draws do not depend on the device.
        dreams: generator of imagined samples, on the training device.
    """

    stage: str
    done: int
    total: int
    draws: torch.Generator
    dreams: torch.Generator

    @classmethod
    def started(cls, stage: str, total: int, seeds: list[int], device: torch.device) -> "Progress":
        """At update 0, with fresh streams from three seeds: of batches, dreams and layers (torch's global one)."""
        draws, dreams, layers = seeds
        torch.manual_seed(layers)
        on_device = torch.Generator(device=device).manual_seed(dreams)
        return cls(stage, 0, total, torch.Generator().manual_seed(draws), on_device)

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device) -> "Progress":
        """As it was when `state` was taken, torch's global streams included."""
        progress = cls(state["stage"], state["done"], state["total"], torch.Generator(), torch.Generator(device=device))
        progress.draws.set_state(_decoded(state["draws"]))
        progress.dreams.set_state(_decoded(state["dreams"]))
        torch.set_rng_state(_decoded(state["torch"]))
        if device.type == "cuda":
            torch.cuda.set_rng_state(_decoded(state["cuda"]), device)
        return progress

    def state(self) -> dict[str, Any]:
        """Plain values for JSON, torch's global streams included."""
        state = {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "draws": _encoded(self.draws.get_state()),
            "dreams": _encoded(self.dreams.get_state()),
            "torch": _encoded(torch.get_rng_state()),
        }
        if self.dreams.device.type == "cuda":
            state["cuda"] = _encoded(torch.cuda.get_rng_state(self.dreams.device))
        return state


def _encoded(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decoded(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
