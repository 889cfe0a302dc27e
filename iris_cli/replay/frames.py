"""Where the frames of a replay lie: on the training device, in the host's memory, or on disk. All three give the same.

A frame has 12,288 bytes, so that 100,000 take 1.2 GB and 10 million 123 GB. The first place with room for them is
taken, and left for the next one when it runs out. Rows are those of a replay: 0 is padding, step n is row n + 1.
"""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from iris_cli.replay.dataset import Dataset
from iris_cli.replay.windows import take_rows

Shape = tuple[int, int, int]

GROWTH = 1.5  # of the room on the device, so that copies stay rare
SLAB = 2048  # steps read at once; bounds the memory of the host, and small reads are the fastest
MEMORY_BLOCK = 65536  # steps of a block in memory, which is never copied to grow
DISK_BLOCK = 64  # steps of a block read from disk: a chunk of the dataset
CACHE_BYTES = 2**28  # of blocks from disk that are kept at hand
ALWAYS_FIT = 2**28  # bytes of frames for which there is room in any case
KEPT_FREE = 0.25  # of all the memory of a place, for networks, activations and whatever else lives there


class Frames(Protocol):
    """Frames of the first steps of a dataset."""

    @property
    def place(self) -> str:
        """device, memory or disk."""

    @property
    def frame_bytes(self) -> int:
        """What a frame takes, wherever it lies."""

    def fits(self, steps: int) -> bool:
        """Whether there is room for so many, those that are here included."""

    def extend(self, dataset: Dataset, known: int) -> None:
        """Take in all steps of the dataset, of which the first `known` are here already.

        Raises:
            DatasetError: if frames cannot be read.
        """

    def take(self, rows: Tensor) -> Tensor:
        """Frames (..., 64, 64, C) uint8 on the device, of rows (...) int64 on the CPU; zeros for row 0.

        Raises:
            DatasetError: if frames cannot be read.
        """


class OnDevice:
    """In one tensor on the device: a draw is one gather. While room is made, the old and the new one are there."""

    place = "device"

    def __init__(self, device: torch.device, shape: Shape) -> None:
        self._frames = torch.zeros(1, *shape, dtype=torch.uint8, device=device)
        self.frame_bytes = math.prod(shape)

    def fits(self, steps: int) -> bool:
        room = self._room(steps)
        size = room * self._frames[0].nbytes
        return room <= len(self._frames) or size <= ALWAYS_FIT or has_room(size, self._frames.device)

    def extend(self, dataset: Dataset, known: int) -> None:
        room = self._room(dataset.num_steps)
        if room > len(self._frames):
            grown = self._frames.new_empty(room, *self._frames.shape[1:])
            grown[: known + 1] = self._frames[: known + 1]
            self._frames = grown
        for start, frames in _read(dataset, known):
            self._frames[start + 1 : start + 1 + len(frames)] = frames.to(self._frames.device)

    def take(self, rows: Tensor) -> Tensor:
        return take_rows(self._frames, rows.to(self._frames.device))

    def _room(self, steps: int) -> int:
        """Rows to make room for."""
        if steps < len(self._frames):
            return len(self._frames)
        return 1 + (int(steps * GROWTH) if len(self._frames) > 1 else steps)


class InMemory:
    """In blocks in the host's memory, which stay where they are; what is drawn crosses to the device."""

    place = "memory"

    def __init__(self, device: torch.device, shape: Shape) -> None:
        self._device, self._shape, self.frame_bytes = device, shape, math.prod(shape)
        self._blocks: list[Tensor] = []
        self._steps = 0

    def fits(self, steps: int) -> bool:
        size = math.prod(self._shape)
        return steps * size <= ALWAYS_FIT or has_room((steps - self._steps) * size, torch.device("cpu"))

    def extend(self, dataset: Dataset, known: int) -> None:
        for start, frames in _read(dataset, known):
            index, place = divmod(start, MEMORY_BLOCK)
            if index == len(self._blocks):
                self._blocks.append(torch.empty(MEMORY_BLOCK, *self._shape, dtype=torch.uint8))
            self._blocks[index][place : place + len(frames)] = frames
        self._steps = dataset.num_steps

    def take(self, rows: Tensor) -> Tensor:
        return _take(rows, self._shape, MEMORY_BLOCK, self._blocks.__getitem__, self._device)


class OnDisk:
    """Left in the dataset, and read by blocks when they are drawn; the blocks drawn last are kept at hand."""

    place = "disk"

    def __init__(self, device: torch.device, shape: Shape) -> None:
        self._device, self._shape, self.frame_bytes = device, shape, math.prod(shape)
        self._dataset: Dataset | None = None
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()  # the one drawn last comes last

    def fits(self, steps: int) -> bool:
        return True

    def extend(self, dataset: Dataset, known: int) -> None:
        self._dataset = dataset
        self._blocks.pop(known // DISK_BLOCK, None)  # was not full yet

    def take(self, rows: Tensor) -> Tensor:
        return _take(rows, self._shape, DISK_BLOCK, self._block, self._device)

    def _block(self, index: int) -> Tensor:
        if index in self._blocks:
            self._blocks.move_to_end(index)
        else:
            assert self._dataset is not None
            start = index * DISK_BLOCK
            stop = min(start + DISK_BLOCK, self._dataset.num_steps)
            self._blocks[index] = torch.from_numpy(self._dataset.read("observations", start, stop))
            if len(self._blocks) * DISK_BLOCK * math.prod(self._shape) > CACHE_BYTES:
                self._blocks.popitem(last=False)
        return self._blocks[index]


KINDS: dict[str, type[OnDevice] | type[InMemory] | type[OnDisk]] = {
    kind.place: kind for kind in (OnDevice, InMemory, OnDisk)
}


def _read(dataset: Dataset, known: int) -> Iterator[tuple[int, Tensor]]:
    """Frames (n, 64, 64, C) of the steps from `known` on, with the step they begin at; no slab crosses a block."""
    start = known
    while start < dataset.num_steps:
        stop = min(start - start % SLAB + SLAB, dataset.num_steps)
        yield start, torch.from_numpy(dataset.read("observations", start, stop))
        start = stop


def _take(rows: Tensor, shape: Shape, size: int, block_of: Callable[[int], Tensor], device: torch.device) -> Tensor:
    """Frames (..., *shape) of rows, from blocks of `size` steps; each block is asked for once."""
    crosses = device.type == "cuda"
    steps = rows.flatten() - 1
    frames = torch.zeros(len(steps), *shape, dtype=torch.uint8, pin_memory=crosses)
    blocks = steps.div(size, rounding_mode="floor")  # -1 for padding
    for index in blocks.unique().tolist():
        if index >= 0:
            here = (blocks == index).nonzero()[:, 0]
            frames[here] = block_of(index)[steps[here] - index * size]
    return frames.to(device, non_blocking=crosses).unflatten(0, rows.shape)


def has_room(needed: int, device: torch.device) -> bool:
    """Whether so many bytes more leave a part of a device's memory free, or of the host's for any but CUDA."""
    free, total = cuda_memory(device) if device.type == "cuda" else host_memory()
    return needed <= free - KEPT_FREE * total


def cuda_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a CUDA device: free, what torch holds without need included; and in all."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def host_memory() -> tuple[int, int]:
    """Bytes of this process's machine, or of the container it runs in: free, and in all.

    Where the system does not tell, half of all is taken to be free; where it tells nothing, there is no end of it.
    """
    try:
        kibibytes = dict(re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
        free, total = int(kibibytes["MemAvailable"]) * 1024, int(kibibytes["MemTotal"]) * 1024
    except (OSError, KeyError):
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            total = 2**62
        free = total // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no such group, or one without a limit
        return free, total
    return min(free, limit - used + int(cached[1] if cached else 0)), min(total, limit)
