"""The real server and a real client of its socket: what it serves, what it refuses, and that nobody harms another."""

import asyncio
import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import imageio.v3 as imageio
import pytest

from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError
from iris_cli.play import server as serving
from iris_cli.play.server import Door, Game, serve
from iris_cli.play.session import Session, Start
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run


@dataclass(frozen=True)
class Site:
    """A server that is up."""

    address: str  # with the token
    media: Path

    @property
    def root(self) -> str:
        return self.address.split("/?")[0]

    @property
    def token(self) -> str:
        return self.address.split("token=")[1]


def start_server(game: Game, door: Door) -> tuple[str, Callable[[], None]]:
    """Serve in a thread; the address, and what stops it."""
    stop, up = threading.Event(), threading.Event()
    found: list[str] = []

    def opened(address: str) -> None:
        found.append(address)
        up.set()

    game = replace(game, is_full=stop.is_set)
    thread = threading.Thread(target=serve, args=(game, door), kwargs={"opened": opened})
    thread.start()
    assert up.wait(30)

    def stopped() -> None:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()

    return found[0], stopped


@pytest.fixture(scope="module")
def game(runs: dict[str, Run], stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Game:
    """Real Pong with the tiny IRIS."""
    agent = runs["iris"].agent

    def open_session() -> Session:
        return Session(
            training_spec("Pong").for_testing(), agent=agent, dataset=Dataset.open(stored), trained=COMPONENTS
        )

    media = tmp_path_factory.mktemp("site") / "media"
    return Game(
        title="Pong", subtitle="a run", open_session=open_session, first=Start(world="dream"), media=media, episodes=1
    )


@pytest.fixture(scope="module")
def site(game: Game) -> Iterator[Site]:
    """The server of most tests."""
    address, stop = start_server(game, Door(port=0, most_sessions=3))
    yield Site(address, game.media)
    stop()


@dataclass
class Page:
    """What a page hears."""

    socket: aiohttp.ClientWebSocketResponse

    async def send(self, op: str, **values: Any) -> None:
        await self.socket.send_str(json.dumps({"op": op, **values}))

    async def hear(self, kind: str, *, within: float = 20.0) -> dict[str, Any]:
        """The next message of that kind; what comes before it is dropped."""
        async with asyncio.timeout(within):
            while True:
                message = await self.socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), (message, kind)
                facts = read(message.data)
                if facts["kind"] == kind:
                    return facts


def read(data: str | bytes) -> dict[str, Any]:
    """A message of the server; of a moment, with its pictures."""
    if isinstance(data, str):
        return json.loads(data)
    [length] = struct.unpack(">I", data[:4])
    facts = json.loads(data[4 : 4 + length])
    pictures = data[4 + length :]
    assert len(pictures) == len(facts["panels"]) * 64 * 64 * 3
    return {**facts, "pictures": [pictures[i : i + 12288] for i in range(0, len(pictures), 12288)]}


@asynccontextmanager
async def page_of(site: Site, **headers: str) -> AsyncIterator[Page]:
    """A page that is open, with its first moment read."""
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{site.root}/socket?token={site.token}", headers=headers) as socket,
    ):
        page = Page(socket)
        await page.hear("hello")
        await page.hear("moment")
        yield page


def with_page(site: Site, act: Callable[[Page], Awaitable[None]]) -> None:
    async def run() -> None:
        async with page_of(site) as page:
            await act(page)

    asyncio.run(run())


async def works(site: Site) -> bool:
    """Whether a new page can play."""
    async with page_of(site) as page:
        await page.send("step")
        return (await page.hear("moment"))["step"] == 1


async def status_of(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        return response.status


# -- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.pipeline
def test_a_person_plays_hands_over_goes_back_and_records(site: Site) -> None:
    async def act(page: Page) -> None:
        await page.send("record")
        await page.send("keys", held=["ArrowUp"])
        await page.send("play")
        mine = await page.hear("moment")
        assert (mine["who"], mine["action"], mine["world"]) == ("you", 2, "dream")
        assert [panel["label"] for panel in mine["panels"]] == ["real", "reconstruction", "dream"]
        await page.send("control", who="agent")
        for _ in range(4):
            agents = await page.hear("moment")
        assert agents["who"] == "agent"
        await page.send("pause")
        assert (await page.hear("state"))["playing"] is False
        await page.send("rewind", to=1)
        assert (await page.hear("moment"))["pictures"] == mine["pictures"]
        await page.send("control", who="you")
        await page.send("step")
        branched = await page.hear("moment")
        assert (branched["step"], branched["last"], len(branched["branches"])) == (2, 2, 1)
        await page.send("save", kind="mp4", name="my-film")
        saved = await page.hear("saved")
        assert saved["frames"] == 3
        assert len(imageio.imread(site.media / "my-film.mp4", index=None)) == 3
        assert await status_of(f"{site.root}/films/{saved['name']}?token={site.token}") == 200

    with_page(site, act)


@pytest.mark.pipeline
def test_a_stored_episode_is_dreamt_from(site: Site) -> None:
    async def act(page: Page) -> None:
        await page.send("start", world="dream", episode=0, at=10, seed=3)
        first = await page.hear("moment")
        assert [panel["label"] for panel in first["panels"]] == ["stored", "reconstruction", "dream"]
        await page.send("control", who="stored")
        await page.send("step")
        assert (await page.hear("moment"))["who"] == "stored"

    with_page(site, act)


def test_the_page_is_served_with_nothing_from_elsewhere(site: Site) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as client:
            for path in ("/", "/play.js", "/play.css"):
                async with client.get(f"{site.root}{path}?token={site.token}") as response:
                    text = await response.text()
                    assert response.status == 200
                    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
                    assert "http://" not in text
                    assert "https://" not in text

    asyncio.run(run())


@pytest.mark.pipeline
def test_the_clock_keeps_its_pace(site: Site) -> None:
    async def act(page: Page) -> None:
        await page.send("speed", fps=20)
        await page.send("play")
        for _ in range(5):
            await page.hear("moment")
        begun = time.monotonic()
        for _ in range(20):
            await page.hear("moment")
        assert 0.7 < time.monotonic() - begun < 3.0

    with_page(site, act)


# -- who may come in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/socket", "/films/my-film.mp4"])
@pytest.mark.parametrize("token", ["", "?token=", "?token=wrong", "?token=%C3%A9"])
def test_without_the_token_nothing_is_told(site: Site, path: str, token: str) -> None:
    assert asyncio.run(status_of(f"{site.root}{path}{token}")) == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_name_that_leads_here_is_no_way_in(site: Site, host: str) -> None:
    assert asyncio.run(status_of(site.address, Host=host)) == 403


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1:80", "[::1]:8000"])
def test_localhost_and_numbers_are(site: Site, host: str) -> None:
    assert asyncio.run(status_of(site.address, Host=host)) == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_another_page_may_not_talk_to_it(site: Site, origin: str) -> None:
    async def run() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with page_of(site, Origin=origin):
                pass
        assert refused.value.status == 403

    asyncio.run(run())


def test_the_own_page_may(site: Site) -> None:
    async def run() -> None:
        async with page_of(site, Origin=site.root) as page:
            await page.send("step")
            await page.hear("moment")

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "/films/..%2f..%2frun.yaml", "/films/%2e%2e/%2e%2e/run.yaml", "/films/run.yaml", "/films/%2fetc%2fpasswd",
        "/../session.py", "/play.py", "/page/index.html", "/films/", "/films/a%00b",
    ],
)  # fmt: skip
def test_nothing_but_the_page_and_its_films_is_served(site: Site, path: str) -> None:
    assert asyncio.run(status_of(f"{site.root}{path}?token={site.token}")) in (400, 403, 404)


# -- wrong messages ---------------------------------------------------------------------------------------------------

WRONG = [
    ("", "no JSON"), ("{", "no JSON"), ("[" * 1500, "no JSON"), ("null", "no object"), ("[]", "no object"),
    ('"keys"', "no object"), ("{}", "no object with an op"), ('{"op": 5}', "no object with an op"),
    ('{"op": "eval"}', "no op 'eval'"), ('{"op": "__class__"}', "no op"),
    ('{"op": "step", "x": 1}', "step knows no 'x'"),
    ('{"op": "keys"}', "held of keys must be a list"), ('{"op": "keys", "held": "ArrowUp"}', "must be a list"),
    ('{"op": "keys", "held": [1]}', "names of keys"), ('{"op": "keys", "held": ["../"]}', "names of keys"),
    (json.dumps({"op": "keys", "held": ["A"] * 17}), "16 keys at most"),
    ('{"op": "rewind", "to": -1}', "whole number"), ('{"op": "rewind", "to": 1e400}', "whole number"),
    ('{"op": "rewind", "to": "1"}', "whole number"), ('{"op": "rewind", "to": true}', "whole number"),
    ('{"op": "rewind", "to": NaN}', "whole number"), ('{"op": "rewind", "to": 99}', "not among 0 to 0"),
    ('{"op": "speed", "fps": 0}', "whole number from 1 to 60"), ('{"op": "speed", "fps": 100000}', "from 1 to 60"),
    ('{"op": "control", "who": "root"}', "must be one of"), ('{"op": "control", "who": ["you"]}', "must be one of"),
    ('{"op": "control", "who": "stored"}', "cannot act here"), ('{"op": "branch", "number": 3}', "no branch 3"),
    ('{"op": "start", "world": "moon"}', "must be one of real, dream"),
    ('{"op": "start", "world": "real", "episode": 0}', "dreamt from, not played on"),
    ('{"op": "start", "world": "dream", "episode": 999}', "no episode 999"),
    ('{"op": "start", "world": "dream", "episode": 0, "at": 100000}', "no step 100000"),
    ('{"op": "start", "world": "dream", "seed": 99999999999999}', "whole number"),
    ('{"op": "save", "kind": "exe"}', "must be one of mp4, gif"),
    ('{"op": "save", "kind": "mp4"}', "nothing was recorded"),
    *((json.dumps({"op": "save", "kind": "mp4", "name": name}), "must be letters") for name in
      ("../up", "/etc/x", "a/b", "a\\b", "..", ".hidden", "a.mp4", "", "x" * 61, "a\n", "a\x00", 5, "CON:")),
    ('{"op": "along", "on": 1}', "true or false"), ("{\"op\": \"step\"}" * 2, "no JSON"), ("😀", "no JSON"),
    ('{"op": "\\ud800"}', "no op"),
]  # fmt: skip


def test_wrong_messages_are_answered_in_words_and_harm_nothing(site: Site) -> None:
    files = sorted(site.media.parent.rglob("*"))

    async def act(page: Page) -> None:
        for text, said in WRONG:
            await page.socket.send_str(text)
            assert said in (await page.hear("error"))["text"], text
        await page.send("step")
        assert (await page.hear("moment"))["step"] == 1

    with_page(site, act)
    assert sorted(site.media.parent.rglob("*")) == files


def test_bytes_are_answered_in_words(site: Site) -> None:
    async def act(page: Page) -> None:
        await page.socket.send_bytes(b"\x00\xff" * 100)
        assert "no text" in (await page.hear("error"))["text"]
        await page.send("step")
        assert (await page.hear("moment"))["step"] == 1

    with_page(site, act)


@pytest.mark.pipeline
def test_a_message_too_long_closes_that_page_alone(site: Site) -> None:
    async def run() -> None:
        async with page_of(site) as other:
            async with page_of(site) as page:
                await page.socket.send_str(json.dumps({"op": "keys", "held": ["A" * 100_000]}))
                while (message := await page.socket.receive()).type not in (
                    aiohttp.WSMsgType.CLOSE,
                    aiohttp.WSMsgType.CLOSED,
                ):
                    pass
                assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            await other.send("step")
            assert (await other.hear("moment"))["step"] == 1

    asyncio.run(run())


def test_a_mistake_of_ours_ends_no_session(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    async def act(page: Page) -> None:
        await page.send("step")
        assert "something went wrong here (ZeroDivisionError)" in (await page.hear("error"))["text"]
        monkeypatch.undo()
        await page.send("step")
        assert (await page.hear("moment"))["step"] == 1

    monkeypatch.setattr(Session, "advance", lambda *_: 1 / 0)
    with_page(site, act)


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /?token=\xff\xed\xa0\x80 HTTP/1.0\r\n\r\n",
        b"GET /?token=%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"A" * 100_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n",
        b"GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["TLS", "no host", "bytes", "no text", "endless", "a body", "an upgrade"],
)
def test_what_is_no_request_is_no_harm(site: Site, request_line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(site.root.rsplit(":", 1)[1]))
        writer.write(request_line)
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            await writer.drain()
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert b"200 OK" not in answer
        assert b"101 Switching" not in answer

    asyncio.run(run())
    assert asyncio.run(status_of(site.address)) == 200
    assert caplog.text == ""


@pytest.mark.pipeline
def test_pages_that_leave_at_once_leave_nothing_behind(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as client:
            for _ in range(6):
                with suppress(aiohttp.ClientError):
                    async with client.ws_connect(f"{site.root}/socket?token={site.token}") as socket:
                        socket._response.connection.transport.abort()
        async with asyncio.timeout(30):
            while True:
                with suppress(AssertionError):
                    assert await works(site)
                    return
                await asyncio.sleep(0.1)

    asyncio.run(run())
    assert [record for record in caplog.records if record.exc_info] == []


# -- many and much ----------------------------------------------------------------------------------------------------


@pytest.mark.pipeline
def test_a_flood_is_dropped_and_slows_nobody_else(site: Site) -> None:
    async def run() -> None:
        async with page_of(site) as other, page_of(site) as flooding:
            await other.send("play")
            await other.hear("moment")
            begun, texts = time.monotonic(), []
            for number in range(1500):
                await flooding.send("rewind" if number % 2 else "keys", **({"to": 0} if number % 2 else {"held": []}))
            for _ in range(15):
                await other.hear("moment")
            assert time.monotonic() - begun < 6.0  # a second, were it alone
            while not any("some are dropped" in text for text in texts):
                texts.append((await flooding.hear("error"))["text"])
            await asyncio.sleep(0.5)
            await flooding.send("step")
            assert (await flooding.hear("moment", within=10))["kind"] == "moment"

    asyncio.run(run())


@pytest.mark.pipeline
def test_who_floods_without_end_is_shut_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 300)

    async def run() -> None:
        async with page_of(site) as page:
            closed = False
            for _ in range(5000):
                try:
                    await page.send("keys", held=[])
                except (ConnectionError, aiohttp.ClientError):
                    closed = True
                    break
            async with asyncio.timeout(20):
                while not closed:
                    closed = (await page.socket.receive()).type not in (
                        aiohttp.WSMsgType.TEXT,
                        aiohttp.WSMsgType.BINARY,
                    )
        assert await works(site)

    asyncio.run(run())


@pytest.mark.pipeline
def test_orders_that_cannot_be_met_in_time_are_refused_in_words(site: Site) -> None:
    async def act(page: Page) -> None:
        for _ in range(100):
            await page.send("start", world="dream")
        assert "orders wait already" in (await page.hear("error"))["text"]

    with_page(site, act)


@pytest.mark.pipeline
def test_one_session_too_many_is_told_so_and_a_seat_is_free_again(site: Site) -> None:
    async def run() -> None:
        async with (
            page_of(site), page_of(site), page_of(site), aiohttp.ClientSession() as client,
            client.ws_connect(f"{site.root}/socket?token={site.token}") as socket,
        ):  # fmt: skip
            refused = await Page(socket).hear("error")
            assert "3 sessions already" in refused["text"]
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await works(site)
                    return
                except AssertionError:
                    await asyncio.sleep(0.1)

    asyncio.run(run())


@pytest.mark.pipeline
def test_a_page_that_does_not_read_stops_only_itself(site: Site) -> None:
    async def run() -> None:
        async with page_of(site) as deaf, page_of(site) as other:
            await deaf.send("speed", fps=60)  # nothing of what it is sent is received
            await deaf.send("play")
            await other.send("play")
            begun = time.monotonic()
            for _ in range(15):
                await other.hear("moment")
            assert time.monotonic() - begun < 5.0

    asyncio.run(run())


# -- the door ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_one_line(site: Site, game: Game) -> None:
    port = int(site.root.rsplit(":", 1)[1])

    with pytest.raises(ConfigError, match=rf"cannot be served .*In 127.0.0.1:{port}. Name another --port"):
        serve(game, Door(port=port), opened=lambda address: None)


def test_without_the_library_it_is_one_line(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "web", None)

    with pytest.raises(ConfigError, match=r"pip install 'iris-wm\[play\]'"):
        serve(game, Door(), opened=lambda address: None)


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.8.8", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.4", False), ("box.example", False)],
)  # fmt: skip
def test_a_door_knows_whether_others_reach_it(host: str, private: bool) -> None:
    assert Door(host=host).is_private is private


@pytest.mark.parametrize("wrong", [{"host": "a b"}, {"host": ""}, {"host": "http://x"}, {"port": -1}, {"port": 70000}])
def test_a_door_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Door(**wrong)
