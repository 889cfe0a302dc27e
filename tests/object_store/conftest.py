"""A server of the S3 protocol, and a line to it that can be counted on and cut.

The server is moto's, on loopback, or the one that the variables IRIS_TEST_S3, IRIS_TEST_S3_KEY and IRIS_TEST_S3_SECRET
lead to, such as a Ceph that with_ceph.sh starts.
"""

import contextlib
import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from iris_cli.object_store import StoreURL

METHODS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")


class Line:
    """A TCP line to the server, which can be cut, also in the middle of a request, and joined again.

    Attributes:
        requests: first lines of all requests that went over it.
        cut_at: told the first line of each request; where it says yes, half of that gets through, and the line is cut.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._port = 0
        self._listening: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.requests: list[str] = []
        self.cut_at: Callable[[str], bool] = lambda request: False
        self.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_cut(self) -> bool:
        """Whether nobody answers."""
        return self._listening is None

    def join(self) -> None:
        """Let requests through, at the port that was known before."""
        self.cut_at = lambda request: False
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self._port))
        self._listening.listen(64)
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """From now on nobody answers; what is under way is broken off."""
        listening, self._listening = self._listening, None
        for end in [*([listening] if listening else []), *self._open]:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not an end
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(self._server)
                self._open |= {client, server}
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        cutting = False
        with contextlib.suppress(OSError):
            while content := client.recv(1 << 16):
                head = b""
                if content.startswith(METHODS):
                    request = content.split(b" HTTP/1", 1)[0].decode()
                    self.requests.append(request)
                    cutting = self.cut_at(request)
                    head = content[: content.find(b"\r\n\r\n") + 4]  # a server must see all of it to know the request
                    if cutting and head == content and not request.startswith(("GET", "HEAD", "DELETE")):
                        server.sendall(content)  # the body comes by itself
                        continue
                if cutting:
                    server.sendall(head + content[len(head) : (len(head) + len(content)) // 2])
                    self.cut()
                    return
                server.sendall(content)
        self._end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(1 << 16):
                client.sendall(content)
        self._end(server, client)

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass(frozen=True)
class Server:
    """Where a server is, and who may ask it."""

    host: str
    port: int
    key: str
    secret: str

    def make(self, bucket: str) -> None:
        """A new bucket."""
        import boto3  # slow to import, and not what is tested

        boto3.client(
            "s3", endpoint_url=f"http://{self.host}:{self.port}", region_name="us-east-1",
            aws_access_key_id=self.key, aws_secret_access_key=self.secret,
        ).create_bucket(Bucket=bucket)  # fmt: skip


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    if given := os.environ.get("IRIS_TEST_S3"):
        host, _, port = urlsplit(given).netloc.partition(":")
        yield Server(host, int(port), os.environ["IRIS_TEST_S3_KEY"], os.environ["IRIS_TEST_S3_SECRET"])
        return

    from moto.server import ThreadedMotoServer  # a second, which only those who need it should wait
    from werkzeug import serving

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.WSGIRequestHandler, "log_request", lambda *arguments: None)
        patch.setattr(serving.WSGIRequestHandler, "log", lambda *arguments: None)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        yield Server(*server.get_host_and_port(), "someone", "secret")
        server.stop()


@pytest.fixture
def line(_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Line]:
    """The line to the server that all S3 variables lead to; after a second without an answer, programs give up."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    line = Line((_server.host, _server.port))
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _server.secret)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("IRIS_STORE_SECONDS", "1")
    monkeypatch.setenv("IRIS_CACHE", str(tmp_path / "cache"))
    yield line
    line.cut()


@pytest.fixture
def bucket(line: Line, _server: Server) -> StoreURL:
    """The URL of a place in a new bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    _server.make(name)
    return StoreURL(f"s3://{name}/place")
