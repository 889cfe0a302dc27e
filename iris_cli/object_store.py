"""Object stores: what the URL s3://bucket/name leads to, and every request to it. The only file that knows obstore.

The server and who asks it are what the variables AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN and AWS_REGION say; without keys, the role of the machine. An object appears whole or not at all. A
request that fails for a reason that may pass is made again for `IRIS_STORE_SECONDS` (60 by default), with a note.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from iris_cli.errors import ConfigError, IrisError, StoreError
from iris_cli.files import replacing

T = TypeVar("T")
_THREAD = threading.local()

AT_ONCE = 8  # requests under way
PIECE = 16 << 20  # bytes of one request of a large object
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds before a request is made again
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.DOTALL)
_PASSING = (408, 429)  # of the statuses below 500: too slow, too many
_UNQUOTING: set[tuple[str | None, ...]] = set()  # servers to which a tag in quotes is never the object's: Ceph 16
_ANSWERS = ("AlreadyExistsError", "PreconditionError", "NotSupportedError")  # of obstore, that are no failures


class StoreURL(PurePosixPath):
    """A place in an object store: s3://bucket/name. Joined and taken apart like a path; no file of this machine."""

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __repr__(self) -> str:
        return f"StoreURL('{self}')"

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no file of this machine")

    @property
    def bucket(self) -> str:
        """The part after s3://."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """What follows the bucket."""
        return "/".join(self.parts[2:])

    def exists(self) -> bool:
        """Whether there is an object of this name, or any below it."""
        client = _client(self)
        pages = patiently(lambda: _obstore().list_with_delimiter(client, self.key), self)
        if pages["objects"] or pages["common_prefixes"]:
            return True
        return look(self) is not None

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def resolve(self) -> "StoreURL":
        """There is nothing to resolve."""
        return self

    def read_bytes(self) -> bytes:
        """The object of this name.

        Raises:
            FileNotFoundError: if there is none.
            StoreError: if the store does not answer, or refuses.
        """
        return patiently(lambda: bytes(_obstore().get(_client(self), self.key).bytes()), self)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The object of this name as text; errors as `read_bytes`."""
        return self.read_bytes().decode(encoding, errors)


Location = Path | StoreURL  # of a dataset or a run


class Stored(NamedTuple):
    """What an object store says of an object."""

    size: int  # bytes
    tag: str  # changes with the content
    modified: datetime


def located(text: str | PurePath) -> Location:
    """The place that a path or URL names; file:///home/me/data is a path.

    Raises:
        ConfigError: for a URL of another kind, or one without bucket and name.
    """
    if isinstance(text, StoreURL):
        return text
    found = _SCHEME.fullmatch(str(text))
    if found is None or (len(found["slashes"]) < 2 and found["scheme"] != "s3"):  # Path("s3://x") is s3:/x
        return Path(text)
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme == "file" and len(found["slashes"]) > 2:
        return Path("/" + unquote(rest))
    if scheme != "s3":
        raise ConfigError(
            f"{scheme}:// is no kind of place that is known", where=str(text), fix="Name a path or s3://bucket/name."
        )
    url = StoreURL("s3:/" + rest)
    if len(url.parts) < 3 or ".." in url.parts:
        raise ConfigError(
            "a URL names a bucket and a place in it", where=str(text), fix="Such as s3://bucket/runs/pong."
        )
    return url


def on_this_machine(text: str | PurePath) -> Path:
    """The path that a text names; file:///home/me/film.mp4 is one.

    Raises:
        ConfigError: for a URL.
    """
    place = located(text)
    if isinstance(place, StoreURL):
        raise ConfigError("datasets and runs may be in an object store, but this must be a path", where=str(text))
    return place


def lock_file(url: StoreURL) -> Path:
    """The file that locks a place for all processes of this machine; one for each server."""
    server = os.environ.get("AWS_ENDPOINT_URL", "")
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{sha256(f'{server} {url}'.encode()).hexdigest()[:16]}.lock"


def cache_folder() -> Path:
    """Where this program keeps what can be made again: IRIS_CACHE, or ~/.cache/iris."""
    return Path(os.environ.get("IRIS_CACHE") or Path.home() / ".cache" / "iris")


# -- requests --------------------------------------------------------------------------------------------------------


def client_of(url: StoreURL) -> Any:
    """The obstore client whose root is this place, for libraries that make requests of their own."""
    return _client_for(url.bucket, url.key, _server())


def look(url: StoreURL) -> Stored | None:
    """The object of this name; None where there is none."""
    try:
        return _stored(patiently(lambda: _obstore().head(_client(url), url.key), url))
    except FileNotFoundError:
        return None


def listing(url: StoreURL) -> dict[str, Stored]:
    """All objects below a place, by what follows it in their names."""
    client, start = _client(url), url.key + "/"
    found = patiently(lambda: _obstore().list(client, prefix=url.key).collect(), url)
    return {one["path"].removeprefix(start): _stored(one) for one in found if one["path"].startswith(start)}


def put(url: StoreURL, content: bytes | Path, *, replacing: str | None = None, new: bool = False) -> str:
    """Write an object whole; its new tag.

    Args:
        url: its name.
        content: of it, or a file that has it.
        replacing: the tag it must have until then.
        new: there must be none of that name until then.

    Raises:
        StoreError: if the store does not answer or refuses, or somebody else wrote the object meanwhile.
    """
    client, obstore, server = _client(url), _obstore(), _server()
    if replacing is not None and server in _UNQUOTING:
        replacing = replacing.strip('"')
    mode = "create" if new else "overwrite" if replacing is None else {"e_tag": replacing}

    def attempt(mode: Any) -> str:
        return patiently(lambda: obstore.put(client, url.key, content, mode=mode), url)["e_tag"]

    try:
        return attempt(mode)
    except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
        there, ours = look(url), content if isinstance(content, bytes) else content.read_bytes()
        if replacing is not None and there is not None and there.tag == replacing:  # so it was not known by its quotes
            try:
                tag = attempt({"e_tag": replacing.strip('"')})
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                there = look(url)  # somebody else wrote it just now
            else:
                _UNQUOTING.add(server)
                return tag
        if there is not None and url.read_bytes() == ours:  # it had arrived, and only the answer was lost
            return there.tag
        raise StoreError(
            "somebody else wrote here meanwhile", where=url, fix="Let one process at a time write to it."
        ) from None
    except obstore.exceptions.NotSupportedError:  # AWS_CONDITIONAL_PUT=disabled, for servers that cannot
        return put(url, content)


def download(url: StoreURL, stored: Stored, path: Path) -> None:
    """Write an object into a file, which appears whole or not at all.

    Args:
        url: its name.
        stored: what the store said of it.
        path: of the file.

    Raises:
        FileNotFoundError: if the object has gone or changed since.
        StoreError: if the store does not answer or refuses.
    """
    client, obstore = _client(url), _obstore()

    def piece(start: int) -> Any:
        options = {"if_match": stored.tag, "range": (start, min(start + PIECE, stored.size))}
        try:
            return obstore.get(client, url.key, options=options).bytes()
        except obstore.exceptions.PreconditionError:
            raise FileNotFoundError(f"{url} has changed") from None

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft, draft.open("wb") as file:
        for start in range(0, stored.size, PIECE):
            file.write(patiently(partial(piece, start), url))


def upload(folder: Path, url: StoreURL, *, last: str) -> None:
    """Write all files of a folder as objects below a place, and one of them when all the others are there.

    Raises:
        StoreError: if the store refuses or does not answer; that one is then not there.
    """
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    together([partial(put, url / name, folder / name) for name in names if name != last], url)
    put(url / last, folder / last)


def remove(urls: Iterable[StoreURL]) -> None:
    """Remove objects; those that are not there are passed over."""
    for url in urls:
        patiently(partial(_obstore().delete, _client(url), url.key), url)


def together(calls: Sequence[Callable[[], T]], where: Location) -> list[T]:
    """What several calls give, made a few at once. Those that fail are made again as `patiently` says, with one note.

    Raises:
        StoreError: as `patiently`.
        Exception: the first of whatever else they raise.
    """
    given: dict[int, T] = {}

    def attempt() -> None:
        with ThreadPoolExecutor(AT_ONCE, initializer=_leave_waiting_to_others) as pool:
            left = {index: pool.submit(call) for index, call in enumerate(calls) if index not in given}
        given.update({index: future.result() for index, future in left.items() if future.exception() is None})
        for future in left.values():
            future.result()

    patiently(attempt, where)
    return [given[index] for index in range(len(calls))]


def patiently(request: Callable[[], T], where: Location) -> T:
    """What a request gives that can be made again; it is, with a note, while the store fails in ways that may pass.

    Raises:
        StoreError: if the store refuses, or does not answer for too long.
        Exception: whatever else the request raises.
    """
    if isinstance(where, Path) or getattr(_THREAD, "waits_not", False):
        return request()
    failed, pause = 0.0, FIRST_PAUSE
    while True:
        try:
            return request()
        except Exception as error:
            refusal = _refusal(error, where)
            if refusal is not None:
                raise refusal from None
            reason = _passing_reason(error)
            if reason is None:
                raise
            failed = failed or time.monotonic()  # the first time
            if time.monotonic() - failed + pause > _patience():
                raise StoreError(
                    f"the object store does not answer ({reason})", where=where,
                    fix="What was saved before stands; once the store is back, the same command goes on.",
                ) from None  # fmt: skip
        _warn(f"{where}: {reason}; trying again in {pause:g} s")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _leave_waiting_to_others() -> None:
    """In a thread of `together`, which waits itself."""
    _THREAD.waits_not = True


def _patience() -> float:
    text = os.environ.get("IRIS_STORE_SECONDS", "60")
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"'{text}' is no number of seconds", where="IRIS_STORE_SECONDS") from None


def _warn(text: str) -> None:
    from iris_cli import console  # rich takes a while to import, and mostly there is nothing to say

    console.warn(text)


def _refusal(error: Exception, where: Location) -> StoreError | None:
    """The error of a store that will go on failing in this way; None for others, which may pass or be no failure."""
    text = str(error)
    if "NoSuchBucket" in text:
        return StoreError("there is no such bucket", where=where)
    if not _is_of_obstore(error) or type(error).__name__ in _ANSWERS:
        return None
    if "169.254.169.254" in text or "AccessKey" in text:  # the first is where machines in a cloud ask who they are
        return StoreError(
            "there are no credentials for the object store", where=where,
            fix="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL if it is not Amazon's.",
        )  # fmt: skip
    status = _status(text)
    if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return StoreError("the object store denies access", where=where, fix="Look at AWS_ACCESS_KEY_ID and so on.")
    if status is not None and status < 500 and status not in _PASSING:
        return StoreError(f"the object store refuses ({_words(text)})", where=where)
    return None


def _passing_reason(error: Exception) -> str | None:
    """Why a request failed that may succeed later; None if it is none of those."""
    if isinstance(error, ConnectionError | TimeoutError):
        return "no connection"
    if not _is_of_obstore(error) or type(error).__name__ in _ANSWERS:
        return None
    status = _status(str(error))
    return f"status {status}" if status is not None else _words(str(error))


def _words(text: str) -> str:
    """What obstore says went wrong, in short."""
    if "kind: Connect" in text:
        return "no connection"
    return " ".join(text.split("\n\n")[0].rpartition(" - ")[2].split())[:200]


def _status(text: str) -> int | None:
    found = re.search(r"status code: (\d{3})", text)
    return None if found is None else int(found[1])


def _is_of_obstore(error: Exception) -> bool:
    return type(error).__module__.startswith("obstore")


def _stored(meta: Any) -> Stored:
    return Stored(meta["size"], meta["e_tag"] or "", meta["last_modified"])


def _server() -> tuple[str | None, ...]:
    """What a client was made for, so that another environment gets another one."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION")
    return tuple(os.environ.get(name) for name in names)


def _client(url: StoreURL) -> Any:
    return _client_for(url.bucket, "", _server())


@lru_cache(maxsize=32)
def _client_for(bucket: str, key: str, server: tuple[str | None, ...]) -> Any:
    obstore, where = _obstore(), StoreURL(f"s3:/{bucket}/{key}")
    try:
        return obstore.store.S3Store(
            bucket,
            prefix=key or None,
            client_options={
                "allow_http": any((name or "").startswith("http://") for name in server[:2]),
                "connect_timeout": "5s",
                "timeout": "60s",
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},  # then `patiently`, which says so
        )
    except obstore.exceptions.BaseError as error:
        refusal = _refusal(error, where) or StoreError(f"the object store cannot be used ({_words(str(error))})")
        raise refusal from None


def _obstore() -> Any:
    try:
        import obstore  # an extra
        import obstore.store
    except ImportError:
        raise IrisError(
            "obstore, which knows object stores, is not installed", fix="Install it: pip install 'iris-wm[s3]'"
        ) from None
    return obstore
