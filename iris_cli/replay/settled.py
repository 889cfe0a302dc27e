"""Zarr on an object store, so that of a write that failed nothing arrives later.

Zarr makes several requests at once. When one fails, it says so and lets go of the others, which go on: seconds later
they may put old bytes over those of the next try. Here a write that failed is over before anybody hears of it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.storage import ObjectStore

T = TypeVar("T")


class _Write:
    """The requests of one write that are under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._has_failed = False

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        with self._changed:
            if self._has_failed:
                raise InterruptedError("another request of this write has failed")
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def fail(self) -> None:
        """Begin no further request, and wait for those under way."""
        with self._changed:
            self._has_failed = True
            self._changed.wait_for(lambda: not self._under_way)


_WRITE: ContextVar[_Write | None] = ContextVar("write", default=None)  # zarr's tasks inherit it from who calls zarr


if TYPE_CHECKING:
    _Store = ObjectStore[Any]
else:  # the oldest zarr that we allow has a store without arguments
    _Store = ObjectStore


class SettledStore(_Store):
    """An object store whose changes `settled` waits for."""

    async def set(self, key: str, value: Any) -> None:
        with _request():
            await super().set(key, value)

    async def delete(self, key: str) -> None:
        with _request():
            await super().delete(key)


def settled(write: Callable[[], T]) -> T:
    """What a write by zarr gives; if it fails, all its requests have ended by then."""
    begun = _Write()
    token = _WRITE.set(begun)
    try:
        return write()
    except BaseException:
        begun.fail()
        raise
    finally:
        _WRITE.reset(token)


def _request() -> contextlib.AbstractContextManager[None]:
    write = _WRITE.get()
    return write.request() if write is not None else contextlib.nullcontext()
