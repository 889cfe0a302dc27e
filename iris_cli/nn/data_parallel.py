"""Several processes that learn as one: what each takes of a batch, and what they tell each other.

Every process draws the same batch from the same random stream, takes its share of the rows and differentiates the loss
of that share, weighted so that the sums of gradients and metrics over all processes are those of the whole batch. They
are added up before the gradient is clipped, so clipping, optimizer and weights are the same, bit for bit, in each, and
a checkpoint is one process's. What else an update takes from a batch (statistics of codebooks, the mean image) is added
up or gathered in the order of the batch. Alone, every function here gives back what it was given.

Not torch's DistributedDataParallel: it hooks into one `forward` of one module, while ours learn by `loss` methods, some
in several passes per update; the codebooks and metrics would need all of this beside it; and the one thing it adds, the
exchange of gradients during the backward pass, hides at most 60 MB per update.

Random draws: on a CPU dropout draws the masks of the whole batch and takes its share, so that results equal those of
one process. On a GPU, where kernels draw, each process drops by a stream of its own, and equality needs dropout 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from iris_cli.errors import ConfigError, ProcessError

_BUCKET = 2**23  # numbers that travel at once
_SAID = "iris/said"  # key in the store: how many processes told the user of an error
_SAY_SECONDS = 3.0  # that the others leave the first process to tell of it


class Share(NamedTuple):
    """Rows of a batch that one process computes.

    Attributes:
        start, stop: of its rows.
        whole: rows of the batch.
        times: how many processes compute these rows.
    """

    start: int
    stop: int
    whole: int
    times: int = 1

    @property
    def portion(self) -> float:
        """What its loss counts in that of the batch, in (0, 1]."""
        return (self.stop - self.start) / self.whole / self.times

    @property
    def rows(self) -> slice:
        """Where they are in the batch."""
        return slice(self.start, self.stop)

    def place(self, size: int) -> tuple[slice, int]:
        """Where `size` numbers, equally many of each row, lie among those of the batch, and how many these are."""
        each = size // (self.stop - self.start)
        return slice(self.start * each, self.stop * each), self.whole * each


class _Group(NamedTuple):
    rank: int
    processes: int
    store: dist.Store
    seconds: float


_group: _Group | None = None
_share = Share(0, 1, 1)


def join(device: torch.device, seconds: float) -> None:
    """Meet the other processes that the environment tells of; does nothing if they have met.

    Args:
        device: where this one computes; on CUDA one of its own.
        seconds: that any of them may keep the others waiting, now and later.

    Raises:
        ProcessError: if they do not come.
    """
    global _group
    if _group is not None:
        return
    limit = timedelta(seconds=seconds)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, processes = next(rendezvous("env://", timeout=limit))
        dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise _lost(error, seconds) from None
    _group = _Group(rank, processes, store, seconds)


def leave() -> None:
    """Part from the others; what follows, this process does alone."""
    global _group
    if _group is not None:
        _group = None
        dist.destroy_process_group()


def processes() -> int:
    """How many learn as one."""
    return 1 if _group is None else _group.processes


def is_first() -> bool:
    """Whether this is the process that writes."""
    return _group is None or _group.rank == 0


@contextmanager
def share(rows: int, device: torch.device, *, repeats: bool = False) -> Iterator[Share]:
    """This process's share of a batch. Within it, compute and differentiate the loss: dropout asks for it.

    Args:
        rows: of the batch.
        device: where it is.
        repeats: whether each process may compute all of it where there are fewer rows than processes; not for
            codebooks, which count what they see.

    Raises:
        ConfigError: if there are fewer rows than processes, and they may not.
    """
    global _share
    if _group is None:
        yield Share(0, rows, rows)
        return
    rank, count = _group.rank, _group.processes
    few = rows < count
    if few and not repeats:
        raise ConfigError(
            f"{rows} rows of a batch cannot be shared by {count} processes", where="batch_size",
            fix="Start fewer processes, or make the batch larger.",
        )  # fmt: skip
    mine = Share(0, rows, rows, count) if few else Share(rank * rows // count, (rank + 1) * rows // count, rows)
    before, _share = _share, mine
    try:
        with _own_stream(device, _group):
            yield _share
    finally:
        _share = before


def current() -> Share:
    """The share whose loss is being computed."""
    return _share


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace float32 tensors of one device, in place, by their sums over all processes: the same bits in each."""
    if _group is None or not tensors:
        return
    sent = []
    with _talking(_group), torch.no_grad():
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in sent:
            work.wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))


def gathered(rows: Tensor) -> Tensor:
    """Rows (m, ...) of all processes, those of the first share first; m may differ."""
    if _group is None:
        return rows
    with _talking(_group):
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(_group.processes)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def anywhere(flag: bool) -> bool:
    """Whether any process says so. Waits for all of them, but not for a GPU."""
    if _group is None:
        return flag
    flags = torch.tensor([int(flag)])
    with _talking(_group):
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def alike(number: int) -> bool:
    """Whether all processes have the same number."""
    if _group is None:
        return True
    ends = torch.tensor([number, -number])
    with _talking(_group):
        dist.all_reduce(ends, dist.ReduceOp.MAX)
    return int(ends[0]) == -int(ends[1])


def of_the_first(number: int) -> int:
    """The number that the first process has."""
    if _group is None:
        return number
    said = torch.tensor([number])
    with _talking(_group):
        dist.broadcast(said, 0)
    return int(said)


def is_to_say(*, otherwise: bool) -> bool:
    """Whether this process tells the user of the error that it ends with: one of all does.

    The first one, unless it is silent for three seconds: then an error of another one is news, or it is gone.

    Args:
        otherwise: the answer where they have not met.
    """
    if _group is None:
        return otherwise
    try:
        if _group.rank:
            _group.store.wait([_SAID], timedelta(seconds=_SAY_SECONDS))
            return False
    except RuntimeError:  # nobody has said anything, or the store is gone
        pass
    try:
        return _group.store.add(_SAID, 1) == 1
    except RuntimeError:
        return True


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of about so many numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def _own_stream(device: torch.device, group: _Group) -> Iterator[None]:
    """Within it, on a GPU, torch's global stream is one of this process alone; then all go on from the same place."""
    if device.type != "cuda":
        yield
        return
    state = torch.cuda.get_rng_state(device)
    number = int.from_bytes(bytes(state.tolist()), "little") * group.processes + group.rank
    torch.cuda.manual_seed(number % (2**63 - 25))
    try:
        yield
    finally:
        torch.cuda.set_rng_state(state, device)
        torch.rand((), device=device)


@contextmanager
def _talking(group: _Group) -> Iterator[None]:
    """Within it, a process that does not answer is an error of ours."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error, group.seconds) from None


def _lost(error: Exception, seconds: float) -> ProcessError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = said.partition("] ")[2] if said.startswith("[") else said  # without the place in torch's own source
    return ProcessError(
        f"another process of this training ended, or did not answer for {seconds:g} s ({reason[:200]})",
        fix="The last checkpoint stands; the same command goes on from it, with any number of processes.",
    )
