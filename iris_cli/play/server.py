"""The page's server: files, one socket per session, and the clock of each. The only file that knows aiohttp.

Who may come in: the address holds a token that is drawn at the start and printed; the Host header has to be a number,
localhost or the host that was asked for (a name of somebody else's that leads here is refused: DNS rebinding); the
Origin header has to be this server. Nothing is served but the page's own three files and films saved by this server.

Who comes in cannot harm others: a few sessions at most, messages of 2 KB at most and so many a second, orders wait in a
short queue, each session has one thread and one answer under way, and who does not read is sent nothing more.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from iris_cli import console, interrupts
from iris_cli.errors import ConfigError, IrisError, PlayError
from iris_cli.play.moment import MAX_FILM_FRAMES, Moment, film_of
from iris_cli.play.protocol import MAX_BYTES, MAX_FPS, Order, moment_bytes, read_order, start_of
from iris_cli.play.session import Session, Start
from iris_cli.render import write_media

try:
    from aiohttp import WSCloseCode, WSMsgType, web
except ModuleNotFoundError:  # an extra
    web = None  # type: ignore[assignment]

T = TypeVar("T")

QUEUE = 32  # orders that wait
RATE = 120  # messages a second
BURST = 240
PATIENCE = 2000  # messages too many, before the socket is closed
SEND_SECONDS = 15.0  # that a page may take to read one answer
MAX_FILMS = 200  # that one server writes
POLL_SECONDS = 0.2  # between two looks for Ctrl-C
PAGE = {"/": "index.html", "/play.js": "play.js", "/play.css": "play.css"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".mp4": "video/mp4", ".gif": "image/gif"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the server listens, and how many it lets in."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    most_sessions: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"the port is {self.port}, but must lie in 0 to 65535", where="--port")
        if not (_is_address(self.host) or re.fullmatch(r"[A-Za-z0-9.-]+", self.host)):
            raise ConfigError(f"'{self.host}' is no host", where="--host", fix="Name one such as 127.0.0.1.")

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        return _is_address(self.host) and ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, kw_only=True)
class Game:
    """What is played at the page, and how a session of it is made."""

    title: str  # "MsPacman"
    subtitle: str  # the run, or what there is instead
    open_session: Callable[[], Session]  # called in a session's thread
    first: Start  # what every session begins with
    media: Path  # folder of saved films
    episodes: int = 0  # stored, to dream from
    collecting: Callable[[], str] | None = None  # words on how the collection goes, if play becomes data
    is_full: Callable[[], bool] = lambda: False  # whether enough was collected
    fps: int = 15


def serve(game: Game, door: Door, *, opened: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, or until enough is collected.

    Args:
        opened: told the address once it can be opened.

    Raises:
        ConfigError: if aiohttp is missing, or the port cannot be had.
    """
    if web is None:
        raise ConfigError("the page needs aiohttp, an extra", fix="Install it: pip install 'iris-wm[play]'")
    asyncio.run(_Server(game, door).run(opened))


class _Server:
    """The page and its sessions."""

    def __init__(self, game: Game, door: Door) -> None:
        self.game, self.door = game, door
        self.token = secrets.token_urlsafe(24)
        self.saved: dict[str, Path] = {}  # films of this server, by the name they are fetched by
        self.written = 0
        self.guests: set[_Guest] = set()
        self.films = ThreadPoolExecutor(1, "films")  # drawn one after the other

    async def run(self, opened: Callable[[str], None]) -> None:
        app = web.Application(middlewares=[self._guarded], client_max_size=1024)
        for path in PAGE:
            app.router.add_get(path, self._page)
        app.router.add_get("/socket", self._socket)
        app.router.add_get("/films/{name}", self._film)
        runner = web.AppRunner(app, access_log=None, logger=_silence(), handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        listening = _listen(self.door)
        try:
            await web.SockSite(runner, listening).start()
            port = listening.getsockname()[1]
            opened(f"http://{_as_written(self.door.host)}:{port}/?token={self.token}")
            while not interrupts.requested() and not self.game.is_full():
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for guest in list(self.guests):
                await guest.leave("the server stops")
            await runner.cleanup()
            self.films.shutdown()

    @property
    def _guarded(self) -> Any:
        @web.middleware
        async def guarded(request: Any, handler: Any) -> Any:
            if not self._is_ours(request.headers.get("Host", "")):
                return _refusal(403, "This server does not answer to that name.")
            origin = request.headers.get("Origin")
            if origin is not None and origin != f"http://{request.headers['Host']}":
                return _refusal(403, "Another page may not talk to this server.")
            if request.path not in ("/play.js", "/play.css") and not self._knows(request.query.get("token", "")):
                return _refusal(403, "The address lacks the token that `iris play` printed. Open that address.")
            try:
                response = await handler(request)
            except web.HTTPException as error:
                return _refusal(error.status, error.reason)
            except Exception as error:  # a mistake of ours
                console.warn(f"a request failed: {type(error).__name__}: {error}")
                return _refusal(500, "Something went wrong here.")
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return guarded

    def _is_ours(self, host: str) -> bool:
        """A number cannot be rebound to lead here; a name can, so only localhost and the one asked for will do."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name in ("localhost", self.door.host) or _is_address(name.strip("[]"))

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())

    async def _page(self, request: Any) -> Any:
        name = PAGE[request.path]
        text = files("iris_cli.play").joinpath("page", name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=TYPES[Path(name).suffix])

    async def _film(self, request: Any) -> Any:
        path = self.saved.get(request.match_info["name"])  # names of ours alone: nothing of the request is a path
        if path is None or not path.is_file():
            return _refusal(404, "There is no such film.")
        return web.FileResponse(path, headers={**HEADERS, "Content-Type": TYPES[path.suffix]})

    async def _socket(self, request: Any) -> Any:
        channel = web.WebSocketResponse(max_msg_size=MAX_BYTES, heartbeat=20.0, compress=False)
        await channel.prepare(request)
        if len(self.guests) >= self.door.most_sessions:
            text = f"There are {len(self.guests)} sessions already, as many as are let in. Close another page."
            await channel.send_json({"kind": "error", "text": text, "fatal": True})
            await channel.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return channel
        guest = _Guest(self, channel)
        self.guests.add(guest)
        try:
            await guest.stay()
        finally:
            self.guests.discard(guest)
            await guest.leave("goodbye")
            guest.dismiss()
        return channel


class _Guest:
    """One page: its session, the thread that it computes in, its clock and its queue."""

    def __init__(self, server: _Server, channel: Any) -> None:
        self._server, self._channel = server, channel
        self._worker = ThreadPoolExecutor(1, "session")
        self._orders: asyncio.Queue[Order] = asyncio.Queue(QUEUE)
        self._session: Session | None = None
        self._held: tuple[str, ...] = ()
        self._playing = False
        self._fps, self._measured = server.game.fps, _Pace()
        self._saving = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def stay(self) -> None:
        """Until the page closes."""
        try:
            self._session = await self._work(self._server.game.open_session)
            await self._tell("hello", **self._hello())
            await self._show(await self._work(self._session.start, self._server.game.first))
        except IrisError as error:
            await self._tell("error", text=str(error), fatal=True)
            return
        except (ConnectionError, TimeoutError):  # gone already
            return
        clock = asyncio.create_task(self._clock())
        try:
            await self._listen()
        finally:
            clock.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await clock

    async def leave(self, why: str) -> None:
        """Close the socket and the session. May be called again."""
        with suppress(ConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(self._channel.close(code=WSCloseCode.GOING_AWAY, message=why.encode()), 2.0)
        session, self._session = self._session, None
        if session is not None:
            try:
                await self._work(session.close)
            except IrisError as error:  # where play becomes data, its last steps
                console.warn(str(error))

    def dismiss(self) -> None:
        """Let go of the session's thread, once nothing is left to do."""
        self._worker.shutdown(wait=False)

    # -- hearing -----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        allowance = _Allowance()
        async for message in self._channel:
            if not allowance.take():
                if allowance.refused == 1:
                    await self._tell("error", text=f"More than {RATE} messages a second: some are dropped.")
                if allowance.refused > PATIENCE:
                    await self._channel.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
                    return
                continue
            if message.type != WSMsgType.TEXT:
                await self._tell("error", text="the message is no text.")
                continue
            try:
                self._take(read_order(message.data))
            except PlayError as error:
                await self._tell("error", text=str(error))

    def _take(self, order: Order) -> None:
        if order.op == "keys":  # for the next step; nothing waits for it
            self._held = order.values["held"]
            return
        try:
            self._orders.put_nowait(order)
        except asyncio.QueueFull:
            raise PlayError(f"{QUEUE} orders wait already", fix="Wait a moment.") from None

    # -- doing -------------------------------------------------------------------------------------------------------

    async def _clock(self) -> None:
        """Orders as they come, and a step whenever one is due."""
        due = time.monotonic()
        while not self._channel.closed:
            wait = max(0.0, due - time.monotonic()) if self._playing else None
            try:
                order = self._orders.get_nowait() if wait == 0.0 and not self._orders.empty() else None
                order = order or await asyncio.wait_for(self._orders.get(), wait)
            except TimeoutError:
                order = None
            try:
                if order is not None:
                    await self._obey(order)
                if self._playing and time.monotonic() >= due:
                    due = max(due + 1 / self._fps, time.monotonic() - 1 / self._fps)
                    await self._advance()
            except IrisError as error:
                self._playing = False
                await self._tell("error", text=str(error))
                await self._tell("state", **self._state())
            except (ConnectionError, TimeoutError):
                await self._channel.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the page does not read")
                return
            except Exception as error:  # a mistake of ours in one session is to end no other
                console.warn(f"a session failed: {type(error).__name__}: {error}")
                self._playing = False
                await self._tell("error", text=f"something went wrong here ({type(error).__name__}). Start again.")

    async def _advance(self) -> None:
        session = self._here()
        was_over = session.present.over
        moment = await self._work(session.advance, self._held)
        if moment.over and not was_over:  # who plays on in a dream that says so, may
            self._playing = False
        self._measured.tick()
        await self._show(moment)
        if session.recording is not None and session.recording >= MAX_FILM_FRAMES:
            self._save("mp4", None)

    async def _obey(self, order: Order) -> None:
        session, values = self._here(), order.values
        match order.op:
            case "start":
                if (session.recording or 0) > 1:
                    self._save("mp4", None)
                self._playing = False
                await self._show(await self._work(session.start, start_of(order)))
            case "play":
                self._playing = True
                self._measured = _Pace()
                await self._tell("state", **self._state())
            case "pause":
                self._playing = False
                await self._tell("state", **self._state())
            case "step":
                self._playing = False
                await self._show(await self._work(session.advance, self._held))
            case "speed":
                self._fps = min(values["fps"], MAX_FPS)
                self._measured = _Pace()
                await self._tell("state", **self._state())
            case "control":
                session.hand_to(values["who"])
                await self._tell("state", **self._state())
            case "rewind":
                self._playing = False
                await self._show(session.rewind(values["to"]))
            case "branch":
                self._playing = False
                await self._show(session.take_branch(values["number"]))
            case "along":
                session.dreams_along = values["on"] and session.can_dream
                await self._tell("state", **self._state())
            case "dream":
                await self._show(await self._work(session.dream_from_here))
            case "record":
                session.record()
                await self._tell("state", **self._state())
            case "save":
                self._save(values["kind"], values["name"])
                await self._tell("state", **self._state())
            case "drop":
                with suppress(PlayError):
                    session.recorded()
                await self._tell("state", **self._state())

    def _save(self, kind: str, name: str | None) -> None:
        """Draw and write what was recorded, beside the session's own work."""
        if self._saving >= 2:
            raise PlayError("two films are being written already", fix="Wait a moment.")
        if self._server.written >= MAX_FILMS:
            raise PlayError(f"{MAX_FILMS} films were written, and that is all", fix="Start the server again.")
        moments = self._here().recorded()
        self._saving += 1
        self._server.written += 1
        file = f"{name or time.strftime('play-%Y%m%d-%H%M%S')}.{kind}"
        task = asyncio.create_task(self._write(moments, self._here().action_meanings, file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, moments: list[Moment], meanings: list[str], file: str) -> None:
        server = self._server
        try:
            path = await asyncio.get_running_loop().run_in_executor(
                server.films, _write_film, moments, meanings, server.game.media / file, server.game.fps
            )
            server.saved[path.name] = path
            await self._tell("saved", name=path.name, path=str(path), frames=len(moments))
        except IrisError as error:
            await self._tell("error", text=str(error))
        finally:
            self._saving -= 1

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _show(self, moment: Moment) -> None:
        data = moment_bytes(moment, self._state())
        await asyncio.wait_for(self._channel.send_bytes(data), SEND_SECONDS)

    async def _tell(self, kind: str, **facts: Any) -> None:
        with suppress(ConnectionError):
            await asyncio.wait_for(self._channel.send_str(json.dumps({"kind": kind, **facts})), SEND_SECONDS)

    def _hello(self) -> dict[str, Any]:
        game, session = self._server.game, self._here()
        return {
            "title": game.title,
            "subtitle": game.subtitle,
            "layout": session.keyboard.layout(),
            "can_dream": session.can_dream and game.collecting is None,
            "tokens_of": session.tokens_of,
            "episodes": game.episodes,
            "collecting": game.collecting is not None,
            "first": {"world": game.first.world, "seed": game.first.seed},
        }

    def _state(self) -> dict[str, Any]:
        session, game = self._here(), self._server.game
        line = session.line
        return {
            "playing": self._playing,
            "world": session.world,
            "control": session.control,
            "controls": session.controls(),
            "first": line[0].step if line else 0,
            "last": line[-1].step if line else 0,
            "branches": [moment.step for moment in session.branches],
            "along": session.dreams_along,
            "recording": session.recording,
            "fps": self._fps,
            "measured": self._measured.fps if self._playing else None,
            "collected": None if game.collecting is None else game.collecting(),
        }

    def _here(self) -> Session:
        if self._session is None:
            raise PlayError("the session is closed")
        return self._session

    async def _work(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)


class _Allowance:
    """So many messages a second, and a reserve for bursts."""

    def __init__(self) -> None:
        self._left, self._then = float(BURST), time.monotonic()
        self.refused = 0  # in a row

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._then) * RATE)
        self._then = now
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        if self._left > BURST / 2:
            self.refused = 0
        return True


class _Pace:
    """Steps a second, over the last second or two."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        self._times = [*self._times[-30:], time.monotonic()]

    @property
    def fps(self) -> float | None:
        if len(self._times) < 3:
            return None
        return round((len(self._times) - 1) / (self._times[-1] - self._times[0]), 1)


def _write_film(moments: list[Moment], meanings: list[str], wanted: Path, fps: float) -> Path:
    """Write a film, under a name like the one that is wanted if that is taken."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_stem(f"{wanted.stem}-{number}")
    return write_media(film_of(moments, meanings), path, fps=fps)


def _listen(door: Door) -> socket.socket:
    """A socket that listens where it should.

    Raises:
        ConfigError: if it cannot.
    """
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((door.host, door.port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the page cannot be served ({reason})",
            where=f"{door.host}:{door.port}",
            fix="Name another --port or --host.",
        ) from None
    return listening


def _silence() -> logging.Logger:
    """A log that keeps to itself: what is no request at all is refused, and no news to the person at the terminal."""
    quiet = logging.getLogger(f"{__name__}.requests")
    quiet.setLevel(logging.CRITICAL + 1)
    return quiet


def _refusal(status: int, text: str) -> Any:
    return web.Response(status=status, text=text + "\n", headers=HEADERS)


def _as_written(host: str) -> str:
    """A host that listens, as it is written in an address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # those mean every address of this machine
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
