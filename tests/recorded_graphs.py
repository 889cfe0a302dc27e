"""Graphs for tests without a GPU: a capture is a tape of the operators it made, with the very tensors they had."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iris_cli.nn.graphs import Graphs


class RecordedGraphs(Graphs):
    """As on CUDA, a replay runs no Python of the function: only its operators again, on the memory of the capture.

    Attributes:
        said: what was done, in order.
    """

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.captures, self.generator = True, torch.Generator()
        self.said: list[str] = []

    def _global_generator(self) -> torch.Generator:
        return torch.default_generator

    def _warm_up(self, function: Callable[[], None]) -> None:
        self.said.append("warm up")
        function()

    def _captured(self, function: Callable[[], None]) -> Callable[[], None]:
        self.said.append("capture")
        with _Recorder() as tape:
            function()
        return lambda: (self.said.append("replay"), tape.play())[1]


class _Recorder(TorchDispatchMode):
    """Notes operators, and undoes what they did to memory and generators: on CUDA a capture runs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._written: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            self._generators.append((generator, generator.get_state()))
        if func._schema.is_mutable:
            self._written += [
                (value, value.clone())
                for value, argument in zip(args, func._schema.arguments, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
        result = func(*args, **kwargs)
        if not func.is_view:
            self._calls.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for generator, state in reversed(self._generators):
            generator.set_state(state)
        for tensor, before in reversed(self._written):
            tensor.copy_(before)

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)
