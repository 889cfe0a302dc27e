"""Of a write to an object store that failed, nothing arrives later."""

import asyncio
import time
from typing import Any

import numpy as np
import obstore.store
import pytest
import zarr
from zarr.storage import ObjectStore

from iris_cli.replay.settled import SettledStore, settled


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has got to a store where chunk 3 fails at once and all else takes its time."""
    arrived = list[str]()
    real = ObjectStore.set

    async def put(self: Any, key: str, value: Any) -> None:
        if key.endswith("c/3"):
            raise OSError("no connection")
        if "c/" in key:
            await asyncio.sleep(0.2)
        await real(self, key, value)
        arrived.append(key)

    monkeypatch.setattr(ObjectStore, "set", put)
    return arrived


def test_a_write_that_failed_is_over_when_one_hears_of_it(arrived: list[str]) -> None:
    array = zarr.create_array(SettledStore(obstore.store.MemoryStore()), shape=(40,), chunks=(1,), dtype="uint8")

    def write() -> None:
        array[:] = np.ones(40, np.uint8)

    with pytest.raises(OSError, match="no connection"):
        settled(write)
    over = list(arrived)
    time.sleep(0.5)

    assert 1 < len(over) < 40
    assert arrived == over


def test_without_it_zarr_goes_on(arrived: list[str]) -> None:
    """Else the store of our own has become needless."""
    array = zarr.create_array(ObjectStore(obstore.store.MemoryStore()), shape=(40,), chunks=(1,), dtype="uint8")

    with pytest.raises(OSError, match="no connection"):
        array[:] = np.ones(40, np.uint8)
    over = list(arrived)
    time.sleep(0.5)

    assert len(arrived) > len(over)
