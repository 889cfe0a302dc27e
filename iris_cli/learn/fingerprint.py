"""Sixteen hex digits that tell networks apart."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from torch import Tensor


def fingerprint(settings: Mapping[str, object], weights: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits that change with any of these settings (JSON-safe) and any bit of these weights, by name."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in weights:
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
