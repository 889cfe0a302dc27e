"""Keys and values of the tokens a transformer has read, in memory that is allocated once."""

import torch
from torch import Tensor


class KVCache:
    """A static cache: tokens are appended in place, and `length` says how many there are.

    Attributes:
        memory: (layers, 2, B, heads, max_tokens, head_dim) keys and values.
        length: tokens read so far, a Python int, so that no step waits for the device.
        max_tokens: how many there is room for.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        heads: int,
        max_tokens: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.memory = torch.zeros(layers, 2, batch, heads, max_tokens, head_dim, device=device, dtype=dtype)
        self.max_tokens = max_tokens
        self.length = 0

    def reset(self) -> None:
        """Forget everything; the memory is written over by what comes next."""
        self.length = 0

    def save(self) -> Tensor:
        """A copy of what was read, for `restore`: (layers, 2, B, heads, length, head_dim)."""
        return self.memory[:, :, :, :, : self.length].clone()

    def restore(self, saved: Tensor) -> None:
        """Hold just what `save` of this cache gave."""
        self.length = saved.shape[4]
        self.memory[:, :, :, :, : self.length] = saved

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's keys and values behind `length`, and return all of that layer's, these included.

        `length` stays; `advance` moves it once every layer has written.

        Args:
            layer: its index.
            keys: (B, heads, n, head_dim), and so are the values.
            values: as the keys.

        Returns:
            Keys and values, each (B, heads, length + n, head_dim), views of the memory.
        """
        stop = self.length + keys.shape[2]
        all_keys, all_values = self.memory[layer, :, :, :, :stop].unbind(0)
        all_keys[:, :, self.length :] = keys
        all_values[:, :, self.length :] = values
        return all_keys, all_values

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as read."""
        self.length += tokens
