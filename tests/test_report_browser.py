"""A report in a real browser: nothing is loaded, nothing complains, and it can be read on a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_cli.render import write_media
from iris_cli.stages.report import WriteReport, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
HOSTILE = "<img src=http://192.0.2.1/x.png onerror=alert(1)><script>fetch('http://192.0.2.1/')</script>"
SMALLEST = 9.0  # pixels that text of a chart is shown with, at least

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no Chromium: Debian's packages are chromium and chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="no selenium: pip install 'iris-wm[dev]'")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(_furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, with pictures, films, hostile words and a log."""
    place = tmp_path_factory.mktemp("browser") / "work"
    shutil.copytree(_furnished, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return _written(Path("runs/pong"))


def _written(run: Path) -> Path:
    lines: list[dict[str, Any]] = [
        {"time": 1.0 + u, "round": None, "stage": "train-dynamics", "update": u, "total_loss": 1 / u, HOSTILE: 1.0}
        for u in range(50, 5000, 50)
    ]
    lines += [
        {"time": 1.0, "round": r, "event": "stage", "stage": "collect", "phase": HOSTILE, "seconds": 2.0,
         "figures": {"steps_in_all": 100 * r, "mean_score": float(r), "steps_per_second": 30.0}}
        for r in range(1, 20)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    frames = np.random.default_rng(0).integers(0, 255, (20, 128, 400, 3), np.uint8)
    write_media(frames, run / "media" / "dream<i>.mp4")
    write_media(frames, run / "media" / "dream.gif")
    (run / "history.jsonl").write_text(json.dumps({"time": 1, "command": HOSTILE + " word" * 100}) + "\n")
    shutil.copytree(run, "runs/" + "long-name-" * 12)
    return report([run, Path("runs/" + "long-name-" * 12)], WriteReport(out=Path("r.html"))).files["page"].absolute()


def opened(browser: Any, page: Path, *, width: int, scheme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what was before is forgotten
    browser.get(page.as_uri())


def requests(browser: Any) -> set[str]:
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_nothing_is_loaded_nothing_complains_and_nothing_runs(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    opened(browser, page, width=width, scheme=scheme)

    assert browser.get_log("browser") == []
    assert {url for url in requests(browser) if not url.startswith("data:")} == {page.as_uri()}
    assert browser.execute_script("return document.scripts.length") == 0


def test_pictures_and_films_are_shown(browser: Any, page: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    opened(browser, page, width=1200)

    images = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(images) == 2 * (8 + 1 + 1)  # reconstructions, attention and a gif of each run
    assert all(complete and width > 0 for complete, width in images)
    ready = (
        "return [...document.querySelectorAll('video')].map(v => [v.readyState > 0, v.videoWidth, v.error === null])"
    )
    WebDriverWait(browser, 10).until(lambda b: all(one[0] for one in b.execute_script(ready)))
    assert browser.execute_script(ready) == [[True, 400, True]] * 2


@pytest.mark.parametrize("width", [1200, 390, 320])
def test_a_page_is_no_wider_than_its_screen(browser: Any, page: Path, width: int) -> None:
    opened(browser, page, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")

    wide = browser.execute_script("return document.documentElement.scrollWidth")

    assert wide <= width


def test_charts_can_be_read_on_a_phone(browser: Any, page: Path) -> None:
    opened(browser, page, width=390)

    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => parseFloat(getComputedStyle(s.querySelector('text'))"
        ".fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )

    assert len(sizes) > 4
    assert min(sizes) >= SMALLEST


def test_light_and_dark_have_ink_that_stands_out(browser: Any, page: Path) -> None:
    lightness = {}
    for scheme in ("light", "dark"):
        opened(browser, page, width=1200, scheme=scheme)
        colours = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        back, ink = (sum(map(float, c[c.index("(") + 1 : -1].split(",")[:3])) / 3 for c in colours)
        lightness[scheme] = back
        assert abs(back - ink) > 150
    assert lightness["light"] > 200 > 60 > lightness["dark"]
