"""How much work a computation is, and how much a processor can do: the two sides of a roofline."""

import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Work:
    """What a computation costs.

    Attributes:
        operations: of products and convolutions, a multiply-add as two.
        bytes: read and written by all operators, each by itself, as if nothing stayed in a cache.
    """

    operations: float
    bytes: float

    def __mul__(self, factor: float) -> "Work":
        return Work(self.operations * factor, self.bytes * factor)

    def __truediv__(self, divisor: float) -> "Work":
        return self * (1 / divisor)


def counted(work: Callable[[], object]) -> Work:
    """Do it once, and count."""
    with _Counter() as counter:
        work()
    return Work(counter.operations, counter.bytes)


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Within it, counts the bytes that autograd keeps for backward passes: activations, each piece of memory once.

    Args:
        modules: whose weights do not count.

    Attributes:
        peak: bytes, the most that were kept at a time.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(self._pack, lambda held: held.tensor)
        self.peak = self._now = 0
        self._holders: Counter[int] = Counter()
        self._weights = {
            tensor.untyped_storage().data_ptr()
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }

    def __enter__(self) -> "Kept":  # type: ignore[override]
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> "_Held":
        held, storage = _Held(tensor.detach()), tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._weights:
            if not self._holders[place]:
                self._now += size
                self.peak = max(self.peak, self._now)
            self._holders[place] += 1
            weakref.finalize(held, self._release, place, size)
        return held

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            self._now -= size


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=result)
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def peaks(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of a large product, and bytes per second of a large copy, as measured now."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    product, copy = _best(lambda: a @ b, device), _best(lambda: target.copy_(source), device)
    return 2 * side**3 / product, 2 * source.numel() * source.element_size() / copy


def _best(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times)
