"""The page in a real Chromium, served by the real command: a person dreams, hands over, goes back, records.

Skipped where there is no Chromium: `apt-get install chromium chromium-driver`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import imageio.v3 as imageio
import pytest

from iris_cli.run import Run

pytestmark = pytest.mark.pipeline

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def site(request: pytest.FixtureRequest, runs: dict[str, Run], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """`iris play` of a tiny run of real Pong, of IRIS if not said otherwise: its address, and the run."""
    run = shutil.copytree(runs[getattr(request, "param", "iris")].directory, tmp_path / "runs" / "pong")
    command = [sys.executable, "-m", "iris_cli", "play", str(run), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = iter(served.stdout.readline, "")
        yield next(re.findall(r"http://\S+", line)[0] for line in lines if "http" in line), run
        served.terminate()
        assert served.wait(30) == 0


class Browser:
    """What a person does and sees."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str, *, within: float = 30.0) -> Any:
        begun = time.monotonic()
        while time.monotonic() - begun < within:
            if value := self.js(expression):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never: {expression}; {self.js('[play.moment, play.state]')}")

    def click(self, id: str) -> None:
        self.driver.find_element("id", id).click()

    def key(self, code: str, kind: str = "keyDown") -> None:
        names = {"ArrowUp": 38, "ArrowDown": 40, "Space": 32, "KeyH": 72, "KeyP": 80, "Comma": 188}
        self.driver.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": kind, "code": code, "key": code, "windowsVirtualKeyCode": names[code]}
        )

    def press(self, code: str) -> None:
        self.key(code)
        self.key(code, "keyUp")

    def picture(self, label: str) -> str:
        return self.js(f"document.querySelector('figure[data-label={label}] canvas').toDataURL()")


@pytest.fixture
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver)
    driver.quit()


def test_a_person_plays_in_a_dream(
    site: tuple[str, Path], browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    address, run = site
    browser.driver.get(address)
    browser.until("play.moment && play.moment.step === 0")
    assert browser.js("play.state.world") == "dream"
    assert browser.js("[...document.querySelectorAll('figure')].map(f => f.dataset.label)") == [
        "real", "reconstruction", "dream"
    ]  # fmt: skip
    before = browser.picture("dream")

    browser.click("record")
    browser.key("ArrowUp")  # a key of the game begins
    browser.until("play.moment.step >= 8")
    assert browser.js("play.moment.action") == 2  # Pong's RIGHT, which is up
    assert browser.js("play.moment.who") == "you"
    assert browser.picture("dream") != before
    browser.key("ArrowUp", "keyUp")
    browser.until("play.moment.action === 0")
    browser.press("KeyP")
    browser.until("play.state.playing === false")

    # The same moment again, and what another key makes of it.
    browser.js("send('rewind', {to: 4})")
    browser.until("play.moment.step === 4")
    up = walk(browser, "ArrowUp")
    browser.js("send('rewind', {to: 4})")
    browser.until("play.moment.step === 4")
    down = walk(browser, "ArrowDown")
    browser.js("send('rewind', {to: 4})")
    browser.until("play.moment.step === 4")
    assert walk(browser, "ArrowUp") == up != down
    assert browser.js("document.querySelectorAll('#branches button').length") == 3

    # The agent takes over, and a key takes it back.
    browser.click("hand")
    browser.until("play.state.control === 'agent'")
    browser.click("play")
    browser.until("play.moment.who === 'agent'")
    measured = latency(browser)
    assert browser.js("play.state.control") == "you"
    frames = browser.js("play.moments")
    begun = time.monotonic()
    time.sleep(3)
    pace = (browser.js("play.moments") - frames) / (time.monotonic() - begun)
    browser.click("play")

    browser.driver.find_element("id", "name").send_keys("from-the-page")
    browser.until("!document.getElementById('mp4').disabled")
    browser.click("mp4")
    browser.until("document.querySelector('#films a')")
    film = imageio.imread(run / "media" / "from-the-page.mp4", index=None)
    assert len(film) > 20
    assert film.std() > 5
    size = browser.driver.execute_async_script(
        "fetch(document.querySelector('#films a').href).then(r => r.blob()).then(b => arguments[0](b.size))"
    )
    assert size == (run / "media" / "from-the-page.mp4").stat().st_size

    record_property("frames_per_second", round(pace, 1))
    record_property("milliseconds_from_key_to_frame", round(measured, 1))
    assert pace > 5  # a machine under load; on an idle one it is 15
    assert measured < 1000
    assert said_wrong(browser) == []
    assert set(hosts(browser)) == {address.split("/")[2]}


def test_the_page_fits_a_phone_and_is_played_by_touch(site: tuple[str, Path], browser: Browser) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    browser.driver.get(site[0])
    browser.until("play.moment && play.moment.step === 0")

    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    x, y = browser.js("(r => [r.x + r.width / 2, r.y + 8])(document.getElementById('stick').getBoundingClientRect())")
    assert y + 150 < 844  # all that is needed to play is on the first screen
    touch = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
    browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
    browser.until("play.moment.action === 2")
    browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    browser.until("play.moment.action === 0")
    assert browser.js("document.getElementById('fire').offsetWidth") > 40
    assert said_wrong(browser) == []


def test_a_lost_connection_is_said_and_a_reload_begins_anew(site: tuple[str, Path], browser: Browser) -> None:
    browser.driver.get(site[0].replace("token=", "token=x"))
    assert "lacks the token" in browser.driver.page_source
    browser.driver.get(site[0])
    browser.until("play.moment")
    browser.js("socket.send('x'.repeat(10000))")
    browser.until("document.getElementById('errors').textContent.includes('connection is closed')")
    browser.driver.refresh()
    browser.until("play.moment && play.moment.step === 0")


@pytest.mark.parametrize("site", ["twm"], indirect=True)
def test_the_page_shows_a_dream_of_twm_and_its_latent(site: tuple[str, Path], browser: Browser) -> None:
    browser.driver.get(site[0])
    browser.until("play.moment && play.moment.step === 0")
    before = browser.picture("dream")
    for step in (1, 2, 3):
        browser.js("send('step')")
        browser.until(f"play.moment.step === {step}")

    assert browser.js("play.state.world") == "dream"
    assert browser.picture("dream") != before
    assert browser.js("document.querySelectorAll('#grid div').length") == 4  # categoricals of the tiny latents
    assert browser.js("document.getElementById('tokens-of').textContent") == "of the dream latent"
    assert said_wrong(browser) == []


def walk(browser: Browser, code: str) -> list[str]:
    """Three single steps with a key held: the pictures."""
    browser.key(code)
    pictures = []
    for step in (5, 6, 7):
        browser.js("send('step')")
        browser.until(f"play.moment.step === {step}")
        pictures.append(browser.picture("dream"))
    browser.key(code, "keyUp")
    return pictures


def latency(browser: Browser) -> float:
    """Median milliseconds from a key to the frame that obeys it, measured within the page."""
    return median(
        browser.driver.execute_async_script(
            """
            const wanted = arguments[0], done = arguments[1], begun = performance.now();
            hold([wanted === 2 ? "ArrowUp" : "ArrowDown"], ["ArrowUp", "ArrowDown"]);
            const look = () => play.moment.who === "you" && play.moment.action === wanted
                ? done(performance.now() - begun) : requestAnimationFrame(look);
            look();
            """,
            action,
        )
        for action in (2, 3, 2, 3, 2, 3, 2)
    )


def said_wrong(browser: Browser) -> list[str]:
    """What the console of the browser complained of."""
    return [entry["message"] for entry in browser.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def hosts(browser: Browser) -> Iterator[str]:
    """Where the page's requests went."""
    for entry in browser.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            url = message["params"].get("url") or message["params"]["request"]["url"]
            if url.split(":")[0] in ("http", "https", "ws", "wss"):
                yield url.split("/")[2]
