"""`iris report`: whole pages of real runs, of what is half-written, hostile or missing."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from iris_cli.config import dump_yaml, load_yaml
from iris_cli.errors import ConfigError, RunError
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.render import write_media
from iris_cli.stages.report import MEDIA_BYTES, WriteReport, _films, report

Command = Callable[..., Result]
Scored = Callable[..., Path]
HOSTILE = '<script>alert("x")</script><img src=//evil.example/x onerror=alert(1)>'
PIPELINE = """
preset: tiny
game: "toy_game:Toy"
dataset: data/p.zarr
run: runs/p
rounds: 1
round:
  - collect: {steps: 48}
  - train-tokenizer: {updates: 2}
  - train-dynamics: {updates: 2}
  - train-actor-critic: {updates: 1}
  - evaluate: {episodes: 2, measured_steps: 30}
"""


class Page(HTMLParser):
    """The parts of a page: elements, everything that could be loaded, and the text of each chapter."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.chapters: dict[str, str] = {}
        self.handlers: list[str] = []
        self._chapter, self._in_title = "", False
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self._in_title = tag == "h2"
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._chapter = data
        self.chapters[self._chapter] = self.chapters.get(self._chapter, "") + data

    @property
    def is_whole(self) -> bool:
        """Whether it loads nothing and runs nothing."""
        loads = [link for link in self.links if not link.startswith(("data:", "#"))]
        return not loads and not self.handlers and "script" not in self.names


@pytest.fixture(scope="module")
def _piped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("piped")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        patch.chdir(place)
        Path("p.yaml").write_text(PIPELINE)
        execute(make_plan(Path("p.yaml")), device="cpu")
        write_media(np.zeros((4, 64, 64, 3), np.uint8), Path("runs/p/media/imagined.mp4"))
    return place


@pytest.fixture
def piped(_piped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a real pipeline on the toy game, every stage of it, in the current directory."""
    shutil.copytree(_piped, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return Path("runs/p")


def page_of(run: Path, **settings: bool) -> Page:
    return Page(report([run], WriteReport(**settings)).files["page"])


@pytest.mark.pipeline
def test_a_run_has_all_chapters_and_the_page_is_whole(piped: Path) -> None:
    page = page_of(piped)

    assert page.is_whole
    assert [name for name in page.chapters if name] == [
        "Scores", "Learning curves", "Losses", "World model", "Codebook", "Reconstructions", "Dreams", "Attention",
        "Timings and hardware", "Settings", "How to reproduce",
    ]  # fmt: skip
    assert page.names.count("video") == 1
    assert page.names.count("img") == 9  # eight reconstructions, one attention
    assert "tokens right" in page.chapters["World model"]
    assert re.search(r"\d+ of 32 codes occur in the newest 48 frames", page.chapters["Codebook"])
    assert "train-dynamics" in page.chapters["Timings and hardware"]
    assert "cores" in page.chapters["Timings and hardware"]
    assert "The pipeline file as it was read: p.yaml" in page.chapters["How to reproduce"]
    assert "iris evaluate --run runs/p --episodes 2" in page.chapters["How to reproduce"]
    assert len(page.text) < 3_000_000


def test_scores_are_beside_the_published_ones_of_the_game(scored: Scored) -> None:
    page = page_of(scored("a", mean=3.0), pictures=False)

    chapter = page.chapters["Scores"]
    for words in (
        "this run",
        "IRIS",
        "STORM",
        "random -20.7",
        "human 14.6",
        "3.0 ± 0.1",
        "each game has one run".title()[:4],
    ):
        assert words in chapter
    assert "IRIS: " in chapter  # told to a pointer, with its interval


def test_the_command_that_made_a_run_is_in_its_report(command: Command, workplace: Path) -> None:
    made = command("train-tokenizer", "data/breakout.zarr", "--preset", "tiny", "--updates", "2")
    result = command("report", "runs/breakout", "--no-pictures")

    assert made.exit_code == result.exit_code == 0, made.output + result.output
    reproduce = Page(Path("runs/breakout/report.html")).chapters["How to reproduce"]
    assert "iris train-tokenizer data/breakout.zarr --preset tiny --updates 2" in reproduce


def test_what_is_missing_is_one_sentence_each(workplace: Path) -> None:
    page = page_of(Path("runs/fresh"))

    for chapter, words in {
        "Scores": "has not been evaluated yet: iris evaluate --run runs/fresh",
        "Learning curves": "no evaluation and no collected score to draw yet",
        "Losses": "Nothing has been learned yet",
        "World model": "not been measured yet: iris diagnose --run runs/fresh",
        "Codebook": "The tokenizer has not been trained yet",
        "Reconstructions": "The tokenizer has not been trained yet",
        "Dreams": "The tokenizer has not been trained yet",
        "Attention": "The dynamics has not been trained yet",
        "Timings and hardware": "No times of stages are recorded",
        "How to reproduce": "The commands were not recorded",
    }.items():
        assert words in page.chapters[chapter], chapter


@pytest.mark.pipeline
@pytest.mark.parametrize("agent", ["delta-iris", "twm"])
def test_other_agents_are_reported_as_far_as_they_can_be_shown(
    agent: str, new_run: Callable, pong_for: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_cli.stages.pictures.FILM_STEPS", 3)
    run = new_run(pong_for(agent), agent=agent)
    run.updates = dict.fromkeys(run.updates, 1)
    run.save()
    run.close()

    page = page_of(run.directory)

    assert page.is_whole
    assert f"The attention of {agent} cannot be shown yet." in page.chapters["Attention"]
    assert "frames of the dataset" in page.chapters["Reconstructions"].lower()
    assert ("no codebook" in page.chapters["Codebook"]) == (agent == "twm")


@pytest.mark.pipeline
def test_a_run_in_progress_is_reported_as_it_stands(piped: Path) -> None:
    lines = (piped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (piped / "metrics.jsonl").write_text("".join(lines[:6]) + lines[6][:-9])
    (piped / ".lock").write_text("1")  # a process that is there
    (piped / "checkpoints" / "latest").write_text("000099\n")  # just being replaced

    page = page_of(piped)

    assert page.is_whole
    assert "in progress" in page.chapters[""]
    assert "The latest checkpoint is not whole" in page.chapters["Codebook"]
    assert "train-tokenizer" in page.chapters["Timings and hardware"]


@pytest.mark.pipeline
def test_lines_and_reports_that_cannot_be_read_are_left_out_with_a_note(piped: Path) -> None:
    with (piped / "metrics.jsonl").open("a") as file:
        file.write(
            '\x00\n{"event": "stage", "stage": "evaluate", "seconds": 1, "figures": 3}\n{"stage": "train-dynamics",'
        )
    (piped / "reports" / "evaluate-round-0001.json").write_text("{")
    (piped / "history.jsonl").write_text('{"time": "x"}\n[]\n{"time": 1, "command": 7}\n')
    (piped / "plan.json").write_text('{"stages": 3}')

    page = page_of(piped, pictures=False)

    assert page.is_whole
    assert "1 lines of metrics.jsonl cannot be read" in page.chapters[""]
    assert "The scores are left out" in page.chapters[""]
    assert "evaluate-round-0001.json cannot be read" in page.chapters[""]
    assert "The machine is not recorded" in page.chapters["Timings and hardware"]


@pytest.mark.pipeline
def test_nothing_that_files_say_becomes_markup(piped: Path) -> None:
    hostile = Path("runs") / "a<b>\"&'onload=x"
    piped.rename(hostile)
    card = load_yaml(hostile / "run.yaml").data
    card["config"]["tokenizer"]["lpips"] = card["dataset"] = card["created"] = HOSTILE
    card["versions"][HOSTILE] = HOSTILE
    (hostile / "run.yaml").write_text(dump_yaml(card))
    lines = [json.loads(line) for line in (hostile / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line[HOSTILE] = 1.0
        line["phase"] = HOSTILE
        if line.get("event") == "stage" and line["stage"] == "collect":
            line["stage"] = HOSTILE
    lines.append({"time": 1, "event": "growth", "stage": HOSTILE, "name": HOSTILE, "usual": HOSTILE, "now": HOSTILE})
    (hostile / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for file in (hostile / "reports").glob("*.json"):
        content = json.loads(file.read_text())
        content["world_model"]["hints"] = [{"part": HOSTILE, "text": HOSTILE}]
        content["world_model"]["held_out"] = content["device"] = content["checkpoint"] = HOSTILE
        content["protocol"]["seed"] = content["fingerprint"] = HOSTILE
        file.write_text(json.dumps(content))
        file.rename(file.with_name(f"evaluate-{'<i>' + file.stem}.json"))
    (hostile / "history.jsonl").write_text(
        json.dumps({"time": 1, "command": HOSTILE, "machine": {"processor": HOSTILE}, "versions": {HOSTILE: HOSTILE}})
        + "\n"
    )
    plan = json.loads((hostile / "plan.json").read_text())
    (hostile / "plan.json").write_text(json.dumps({**plan, "source": HOSTILE, "text": HOSTILE}))
    [film] = (hostile / "media").glob("*.mp4")
    film.rename(film.with_name('"><img src=x>.mp4'))

    page = page_of(hostile)

    assert page.is_whole
    assert "<script" not in page.text
    assert HOSTILE in page.chapters["How to reproduce"]
    assert HOSTILE in page.chapters["Losses"].replace("\n", "")
    assert HOSTILE in page.chapters["World model"]
    assert page.names.count("img") <= 9


@pytest.mark.pipeline
@pytest.mark.parametrize("spoiled", ["<b>", None, [], {"a": 1}, "1e3"])
def test_a_world_model_of_another_shape_is_one_sentence(piped: Path, spoiled: object) -> None:
    for file in (piped / "reports").glob("*.json"):
        content = json.loads(file.read_text())
        content["world_model"]["tokenizer"]["reconstruction"] = spoiled
        content["world_model"]["dynamics"]["cross_entropy"] = spoiled
        file.write_text(json.dumps(content))

    page = page_of(piped, pictures=False)

    assert "is not as this version writes it" in page.chapters["World model"]


@pytest.mark.pipeline
def test_runs_are_compared_on_one_page_and_what_is_no_run_is_said(piped: Path) -> None:
    shutil.copytree(piped, "runs/q")
    card = load_yaml(Path("runs/q/run.yaml")).data
    card["config"]["tokenizer"]["learning_rate"] = 0.5
    Path("runs/q/run.yaml").write_text(dump_yaml(card))
    Path("runs/notes.txt").write_text("mine")

    made = report(sorted(Path("runs").iterdir()), WriteReport(out=Path("out/compared.html"), pictures=False))
    page = Page(made.files["page"])

    assert made.files["page"] == Path("out/compared.html")
    assert page.is_whole
    assert "2 runs compared" in page.text
    assert "notes.txt is left out" in page.text
    assert "tokenizer.learning_rate" in page.chapters["Settings"]
    assert "dynamics.learning_rate" not in page.chapters["Settings"]  # the same in both
    assert page.chapters["Losses"].count("total loss: last") == 0
    assert "q: last" in page.text


def test_films_fill_the_page_up_to_its_limit_the_newest_first(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.mp4" for name in "abc"]
    for file, size in zip(files, (10, 100, 60), strict=True):
        file.write_bytes(bytes(size))

    films = _films(files, 80)

    assert [(path.name, content and len(content)) for path, content in films] == [
        ("c.mp4", 60), ("b.mp4", None), ("a.mp4", 10)
    ]  # fmt: skip
    assert MEDIA_BYTES * 4 / 3 < 18e6


@pytest.mark.pipeline
def test_a_film_that_is_too_large_is_named_and_gifs_are_pictures(piped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iris_cli.stages.report.MEDIA_BYTES", 40_000)
    write_media(np.zeros((4, 64, 64, 3), np.uint8), piped / "media" / "small.gif")
    (piped / "media" / "large.mp4").write_bytes(bytes(50_000))
    (piped / "media" / "elsewhere.mp4").symlink_to("/etc/hostname")

    page = page_of(piped, pictures=False)

    assert "large.mp4 is too large for this page" in page.chapters["Dreams"]
    assert "small.gif" in page.chapters["Dreams"]
    assert "elsewhere.mp4" not in page.text
    assert any(link.startswith("data:image/gif") for link in page.links)


def test_errors_are_one_line_each(command: Command, workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"not 'x.pdf'"):
        WriteReport(out=Path("x.pdf"))
    with pytest.raises(RunError, match="no such run"):
        report([Path("runs/none")], WriteReport())
    assert command("report", "runs/none").exit_code == 1
    assert command("report", "runs/none", "data").output.count("\n") == 1


@pytest.mark.pipeline
def test_a_report_replaces_the_one_before_and_touches_nothing_else(piped: Path) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    page_of(piped)
    first = (piped / "report.html").stat().st_ino
    page_of(piped)

    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert set(after) - set(before) == {piped / "report.html"}
    assert all(after[path] == content for path, content in before.items())
    assert (piped / "report.html").stat().st_ino != first  # replaced as a whole
