import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from iris_cli.errors import CheckpointError
from iris_cli.nn.lpips import LPIPS, load_lpips
from iris_cli.stages.fetch import Download, default_lpips_path, fetch_lpips


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; a file whose name begins with `short` breaks off."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/short"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with weights in the two files that are fetched, of zeros but for one number each."""
    directory, lpips = tmp_path_factory.mktemp("weights"), LPIPS()
    vgg, heads = {}, {}
    for name, value in lpips.state_dict().items():
        tensor = torch.zeros(value.shape, dtype=torch.float16)
        if name.startswith("net"):
            vgg[f"features.{name.split('.', 2)[2]}"] = tensor
        elif name.startswith("lin"):
            heads[name] = tensor
    vgg["features.0.bias"][3], heads["lin4.model.1.weight"][0, 7] = 0.5, 0.25
    torch.save(vgg, directory / "vgg16.pth")
    torch.save(heads, directory / "vgg.pth")
    return directory


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(weights))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def downloads(server: str, weights: Path) -> tuple[Download, Download]:
    return (
        Download(f"{server}/vgg16.pth", "sha256", sha256(weights / "vgg16.pth")),
        Download(f"{server}/vgg.pth", "md5", hashlib.md5((weights / "vgg.pth").read_bytes()).hexdigest()),
    )


def test_two_downloads_become_one_file_that_loads(downloads: tuple[Download, Download], tmp_path: Path) -> None:
    seen = []

    path = fetch_lpips(
        tmp_path / "cache" / "lpips.safetensors", downloads=downloads, progress=lambda *a: seen.append(a)
    )

    loaded = load_lpips(path).state_dict()
    assert loaded["net.slice1.0.bias"][3] == 0.5
    assert loaded["lin4.model.1.weight"][0, 7] == 0.25
    assert [p.name for p in path.parent.iterdir()] == ["lpips.safetensors"]
    assert {name for name, done, total in seen if done == total} == {"vgg16.pth", "vgg.pth"}


def test_local_files_need_no_server(weights: Path, tmp_path: Path) -> None:
    path = fetch_lpips(tmp_path / "lpips.safetensors", source=weights)

    assert load_lpips(path).state_dict()["net.slice1.0.bias"][3] == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [("vgg.pth", "not the file that was expected"), ("short.pth", "broke off|could not"), ("none.pth", "404")],
)
def test_a_bad_download_is_refused_and_the_old_file_stays(server: str, tmp_path: Path, name: str, message: str) -> None:
    out = tmp_path / "lpips.safetensors"
    out.write_bytes(b"old")

    with pytest.raises(CheckpointError, match=message):
        fetch_lpips(out, downloads=(Download(f"{server}/{name}", "md5", "d507"),))

    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_download_that_is_too_large_is_refused_whatever_its_sum(server: str, weights: Path, tmp_path: Path) -> None:
    digest = hashlib.md5((weights / "vgg.pth").read_bytes()).hexdigest()

    with pytest.raises(CheckpointError, match="more than the 1,000 bytes"):
        fetch_lpips(tmp_path / "o", downloads=(Download(f"{server}/vgg.pth", "md5", digest, most=1000),))


def test_the_beginning_of_a_checksum_is_not_enough(server: str, weights: Path, tmp_path: Path) -> None:
    digest = hashlib.md5((weights / "vgg.pth").read_bytes()).hexdigest()

    with pytest.raises(CheckpointError, match="not the file that was expected"):
        fetch_lpips(tmp_path / "o", downloads=(Download(f"{server}/vgg.pth", "md5", digest[:8]),))


def test_without_a_network_the_error_says_how_to_go_on(tmp_path: Path) -> None:
    nobody = Download("http://127.0.0.1:9/vgg.pth", "md5", "d507")

    with pytest.raises(CheckpointError, match=r"could not be downloaded.*iris fetch lpips --source"):
        fetch_lpips(tmp_path / "lpips.safetensors", downloads=(nobody,))


def test_the_cache_directory_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IRIS_CACHE", str(tmp_path))
    assert default_lpips_path() == tmp_path / "lpips.safetensors"

    monkeypatch.delenv("IRIS_CACHE")
    assert default_lpips_path() == Path.home() / ".cache" / "iris" / "lpips.safetensors"
