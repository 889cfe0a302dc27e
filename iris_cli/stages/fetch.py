"""`iris fetch lpips`: the weights of the perceptual loss. The only code that downloads; every file has a checksum."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from iris_cli.errors import CheckpointError
from iris_cli.files import replacing
from iris_cli.nn.lpips import load_lpips

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known


@dataclass(frozen=True)
class Download:
    """A file elsewhere.

    Attributes:
        algorithm, digest: of hashlib, hexadecimal.
        most: bytes that it may have; whatever sends more is not listened to any longer.
    """

    url: str
    algorithm: str
    digest: str
    most: int = 1 << 30

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


VGG16 = Download(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "sha256",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
HEADS = Download(
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
    "md5",
    "d507d7349b931f0638a25a48a722f98a",
    most=1 << 20,
)

_BLOCK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without an answer
_BY_HAND = "Download the files on another machine and run: iris fetch lpips --source DIRECTORY"


def default_lpips_path() -> Path:
    """Where the weights are kept: lpips.safetensors in $IRIS_CACHE, or in ~/.cache/iris."""
    return Path(os.environ.get("IRIS_CACHE") or Path.home() / ".cache" / "iris") / "lpips.safetensors"


def fetch_lpips(
    out: Path | None = None,
    *,
    source: Path | None = None,
    downloads: tuple[Download, ...] = (VGG16, HEADS),
    progress: Progress = lambda name, done, total: None,
) -> Path:
    """Write the LPIPS weights, 59 MB, as one file that cannot run code.

    Args:
        out: the file to write; None: `default_lpips_path()`.
        source: a local file or directory to take the weights from, in any form that `load_lpips` reads; None
            downloads them (528 MB, most of it layers that are not needed).
        downloads: the files that together hold the weights.
        progress: called as the bytes come in.

    Returns:
        The file written.

    Raises:
        CheckpointError: if a file cannot be had, or is not what its checksum says, or holds other weights. `out` is
            then as it was.
    """
    out = default_lpips_path() if out is None else out
    if source is not None:
        return _write(out, [source])
    with tempfile.TemporaryDirectory(prefix="iris-") as directory:
        return _write(out, [_download(item, Path(directory), progress) for item in downloads])


def _write(out: Path, sources: list[Path]) -> Path:
    weights = load_lpips(*sources).state_dict()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as draft:
        save_file(weights, draft)
    return out


def _download(item: Download, directory: Path, progress: Progress) -> Path:
    path, digest, done = directory / item.name, hashlib.new(item.algorithm), 0
    try:
        with urllib.request.urlopen(item.url, timeout=_TIMEOUT) as answer, path.open("wb") as file:
            size = answer.length  # None where the server does not tell
            while block := answer.read(_BLOCK):
                done += len(block)
                if done > item.most:
                    raise CheckpointError(
                        f"{item.name} has more than the {item.most:,} bytes that it may", where=item.url, fix=_BY_HAND
                    )
                file.write(block)
                digest.update(block)
                progress(item.name, done, size)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(f"{item.name} could not be downloaded ({error})", where=item.url, fix=_BY_HAND) from error
    if size is not None and done != size:
        raise CheckpointError(
            f"{item.name} broke off after {done:,} of {size:,} bytes", where=item.url, fix="Try again."
        )
    if digest.hexdigest() != item.digest:
        raise CheckpointError(
            f"{item.name} is not the file that was expected: its {item.algorithm} is {digest.hexdigest()}, "
            f"not {item.digest}", where=item.url, fix=_BY_HAND,
        )  # fmt: skip
    return path
