"""Work that is captured once as CUDA graphs and replayed; on a CPU the same functions are simply called.

A small network is launch-bound: its kernels finish sooner than the next one is asked for. A graph asks once for all
of them. What is captured sees Python only once, so it may wait for nothing, branch on no tensor, and read and write
only tensors that stay where they are.

Source: PyTorch, "CUDA semantics: CUDA Graphs" (warm-up on a side stream, private pools, registered generators).
"""

from collections.abc import Callable, Hashable

import torch
from torch import nn


class Graphs:
    """Functions of no arguments and no result, by name, each captured on its own; all share one pool of memory.

    On CUDA the first call of a name is made as it stands, on a side stream: that loads kernels and chooses algorithms,
    which no capture may. The second call captures, and it and all later ones replay. What the functions leave for
    others must lie in tensors that were made outside of them: the pool's memory is every graph's.

    Args:
        device: of everything that the functions touch.
        capture: whether to; without, or on a CPU, every call is a call.

    Attributes:
        generator: what a function must draw from while it runs. On CUDA one of its own, which every graph knows, with
            the state of the generator that `run` is given moved in and out, so that draws are those of an eager call.
    """

    def __init__(self, device: torch.device, *, capture: bool = True) -> None:
        self.device = device
        self.captures = capture and device.type == "cuda"
        self.generator: torch.Generator | None = None
        if self.captures:
            self.generator = torch.Generator(device)
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._warm: set[Hashable] = set()
        self._replays: dict[Hashable, Callable[[], None]] = {}

    def run(self, name: Hashable, function: Callable[[], None], generator: torch.Generator | None = None) -> None:
        """Do what the function does.

        Args:
            name: of the function; the same name must always mean the same work.
            function: takes nothing, returns nothing. Python state that it changes must be set by the caller too.
            generator: whose draws it makes; None is the device's global one.
        """
        if not self.captures:
            self.generator = generator
            function()
            return
        assert self.generator is not None
        outer = self._global_generator() if generator is None else generator
        self.generator.set_state(outer.get_state())  # both lie on the host: nothing waits for the device
        if name not in self._warm:
            self._warm_up(function)
            self._warm.add(name)
        else:
            if name not in self._replays:
                self._replays[name] = self._captured(function)
            self._replays[name]()
        outer.set_state(self.generator.get_state())

    @property
    def captured(self) -> int:
        """How many functions there are graphs of."""
        return len(self._replays)

    def _global_generator(self) -> torch.Generator:
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return torch.cuda.default_generators[index]

    def _warm_up(self, function: Callable[[], None]) -> None:
        present = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            function()
        present.wait_stream(self._stream)

    def _captured(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            function()
        return graph.replay


def identity(*modules: nn.Module) -> tuple[object, ...]:
    """What a capture keeps of networks: equal as long as a replay computes what a call would.

    Weights that learn in place stay what they are; new tensors, another precision or another way to multiply do not.
    """
    exactness = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    weights = [
        (tensor.data_ptr(), tensor.dtype) for module in modules for tensor in (*module.parameters(), *module.buffers())
    ]
    return (*map(id, modules), *exactness, *weights)
