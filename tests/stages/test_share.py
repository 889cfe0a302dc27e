"""A run goes out as a folder, or to a hub that is played here, and comes back the same; hostile ones stay out."""

import base64
import builtins
import hashlib
import inspect
import json
import os
import pickle
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file

from iris_cli import hub, load_agent
from iris_cli.agents import presets_for
from iris_cli.config import load_yaml
from iris_cli.envs.spec import training_spec
from iris_cli.errors import IrisError, RunError
from iris_cli.evaluations import final_evaluation
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.collect import Collect, collect_randomly
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.share import Push, pull, push

CPU = torch.device("cpu")
LAYOUT = {"README.md", "config.json", "model.safetensors", "reports"}


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of the toy game that says it has been trained, its dataset, an evaluation, and what push wrote."""
    place = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(Path(__file__).parent.parent)  # for the toy game
        toy = training_spec("toy_game:Toy")
        collect_randomly(Path("data/toy.zarr"), toy, Collect(steps=60), seed=0)
        run = Run.create(
            Path("runs/toy"), agent="iris", config=presets_for("iris")["tiny"], environment=toy, num_actions=6,
            dataset=Path("data/toy.zarr").absolute(), seed=3, device=CPU,
        )  # fmt: skip
        run.updates = dict.fromkeys(COMPONENTS, 7)
        run.tokenizer_loss = "weights-free"
        evaluate(run, Evaluate(episodes=2, measured_steps=0))
        run.save()
        run.close()
        push(opened("runs/toy"), Push(to=Path("toy-agent"), licence="MIT"))
    return place


@pytest.fixture
def place(_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the run `runs/toy`."""
    target = tmp_path / "place"
    shutil.copytree(_trained, target, ignore=shutil.ignore_patterns("toy-agent"))
    monkeypatch.chdir(target)
    return target


def opened(path: str | Path) -> Run:
    return Run.open(Path(path), device=CPU)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def shared(place: Path, _trained: Path) -> Path:
    """The folder that push wrote."""
    return Path(shutil.copytree(_trained / "toy-agent", place / "toy-agent"))


def test_a_folder_has_the_layout_of_the_hub_and_no_more(shared: Path) -> None:
    [report] = (shared / "reports").iterdir()

    assert {path.name for path in shared.iterdir()} == LAYOUT
    assert report.name.startswith("evaluate-")
    assert not list(shared.parent.glob(".*"))


def test_nothing_of_this_machine_is_told(shared: Path) -> None:
    text = "".join(path.read_text() for path in shared.rglob("*") if path.suffix in (".md", ".json"))

    assert str(shared.parent) not in text
    assert os.uname().nodename not in text


def test_a_pulled_run_is_the_same_agent_and_goes_on(shared: Path) -> None:
    report = pull("toy-agent", out=Path("runs/theirs"))

    ours, theirs = opened("runs/toy"), opened("runs/theirs")
    assert theirs.fingerprint() == ours.fingerprint()
    assert (theirs.updates, theirs.tokenizer_loss, theirs.seed) == (ours.updates, ours.tokenizer_loss, ours.seed)
    assert theirs.config == ours.config
    assert theirs.card["id"] != ours.card["id"]
    assert theirs.card["pulled"] == {"from": "toy-agent", "licence": "MIT"}
    found, original = final_evaluation(Path("runs/theirs")), final_evaluation(Path("runs/toy"))
    assert found is not None
    assert original is not None
    assert found.scores == original.scores
    assert any("toy_game" in note for note in report.notes)
    agent = load_agent("runs/theirs", device="cpu")
    assert agent.tokenizer.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 16)


@pytest.mark.pipeline
def test_a_pulled_run_evaluates_imagines_and_trains(shared: Path, command: Callable[..., Any]) -> None:
    pull("toy-agent", out=Path("runs/theirs"))

    for line in (
        "evaluate --run runs/theirs --episodes 1 --trust-env",
        "imagine --run runs/theirs --num 1 --steps 2 --policy random --render o.png --trust-env",
        "train-dynamics data/toy.zarr --run runs/theirs --updates 1",
    ):
        result = command(*line.split())
        assert result.exit_code == 0, result.output
    assert opened("runs/theirs").updates["dynamics"] == 8


def test_the_card_says_what_the_run_is(shared: Path) -> None:
    text = (shared / "README.md").read_text()
    matter = text.split("---\n")[1]
    (shared / "matter.yaml").write_text(matter)
    front = load_yaml(shared / "matter.yaml").data
    report = final_evaluation(Path("runs/toy"))
    assert report is not None

    assert (front["license"], front["library_name"]) == ("mit", "iris-wm")
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == report.mean
    for words in (
        "toy_game:Toy", f"{report.mean:.6g}", "2 episodes, not 100", "60 steps", "random", "tokenizer 7", "preset tiny",
        "learning_rate", "torch ", report.fingerprint, "(these)",
    ):  # fmt: skip
        assert words in text, words


def test_a_card_without_evaluation_dataset_or_licence_says_so(place: Path) -> None:
    shutil.rmtree("runs/toy/reports")
    run = opened("runs/toy")
    run.dataset_path = Path("data/none.zarr")

    report = push(run, Push(to=Path("bare")))

    text = Path("bare/README.md").read_text()
    assert "Nobody has evaluated" in text
    assert "not at hand" in text
    assert "license: unknown" in text
    assert "named no licence" in text
    assert any("licence" in note for note in report.notes)
    assert not Path("bare/reports").exists()
    pull("bare", out=Path("runs/bare"))


def test_names_from_elsewhere_are_no_markup_in_the_card(place: Path) -> None:
    with Dataset.open("data/toy.zarr", writable=True) as dataset:
        dataset._commit({"imported": {"source": "x](http://evil) | <script>\n# y", "licence": "a\nb"}})
    run = opened("runs/toy")
    run.dataset_path = Path("data/toy.zarr")

    push(run, Push(to=Path("out")))

    text = Path("out/README.md").read_text()
    assert "\n# y" not in text
    assert "\\]" in text
    assert "\\<script\\>" in text


@pytest.mark.pipeline
@pytest.mark.parametrize("agent", ["delta-iris", "twm"])
def test_the_other_agents_are_shared_too(place: Path, agent: str) -> None:
    toy = training_spec("toy_game:Toy")
    run = Run.create(
        Path("runs/other"), agent=agent, config=presets_for(agent)["tiny"], num_actions=6, seed=0, device=CPU,
        environment=toy.as_grey_stacks() if agent == "twm" else toy, dataset=Path("none.zarr"),
    )  # fmt: skip
    run.updates["tokenizer"] = 1
    run.save()

    push(run, Push(to=Path("other")))
    run.close()
    pull("other", out=Path("runs/theirs"))

    assert opened("runs/theirs").fingerprint() == run.fingerprint()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Push(), "one place"),
        (Push(repository="a/b", to=Path("x")), "one place"),
        (Push(to=Path("data")), "there already"),
        (Push(repository="../x"), "no name of a repository"),
        (Push(repository="a/b/c"), "no name of a repository"),
    ],
)
def test_a_place_that_cannot_be_is_refused(place: Path, settings: Push, said: str) -> None:
    before = files(place)

    with pytest.raises(IrisError, match=said):
        push(opened("runs/toy"), settings)

    assert files(place) == before


def test_an_untrained_run_is_not_shared(place: Path) -> None:
    run = opened("runs/toy")
    run.updates = dict.fromkeys(COMPONENTS, 0)

    with pytest.raises(RunError, match="nothing of this run has been trained"):
        push(run, Push(to=Path("x")))


# What comes in


def changed(shared: Path, **changes: Any) -> None:
    facts = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({**facts, **changes}))


def config_of(shared: Path) -> Any:
    return json.loads((shared / "config.json").read_text())["config"]


def environment_of(shared: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads((shared / "config.json").read_text())["environment"], **changes}


class Code:
    """Pickled, it would make a file when it is loaded."""

    def __reduce__(self) -> tuple:
        return (Path("executed").touch, ())


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def reweighted(shared: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(shared / "model.safetensors")
    change(weights)
    save_file(weights, shared / "model.safetensors")


HOSTILE = {
    "no weights": (lambda s: (s / "model.safetensors").unlink(), "has no model.safetensors"),
    "no card": (lambda s: (s / "README.md").unlink(), "has no README.md"),
    "pickled weights": (lambda s: (s / "model.safetensors").write_bytes(pickle.dumps(Code())), "cannot be used"),
    "torch weights": (lambda s: torch.save({"x": Code()}, s / "model.safetensors"), "cannot be used"),
    "cut weights": (lambda s: os.truncate(s / "model.safetensors", 5000), "cannot be used"),
    "a weight too few": (lambda s: reweighted(s, lambda w: w.pop(next(iter(w)))), "differ"),
    "a weight too many": (lambda s: reweighted(s, lambda w: w.update(x=torch.zeros(3))), "such as x"),
    "another shape": (lambda s: reweighted(s, lambda w: w.update({next(iter(w)): torch.zeros(2)})), "differ"),
    "another dtype": (
        lambda s: reweighted(s, lambda w: w.update({n: t.double() for n, t in w.items() if t.is_floating_point()})),
        "differ",
    ),
    "not finite": (
        lambda s: reweighted(
            s, lambda w: w.update({n: t * float("nan") for n, t in w.items() if t.is_floating_point()})
        ),
        "not finite",
    ),
    "linked weights": (lambda s: linked(s / "model.safetensors", "/dev/zero"), "no plain file"),
    "linked config": (lambda s: linked(s / "config.json", "../runs/toy/run.yaml"), "no plain file"),
    "linked reports": (
        lambda s: (shutil.rmtree(s / "reports"), (s / "reports").symlink_to("../runs/toy/reports")),
        "is a link",
    ),
    "a linked report": (lambda s: linked(next((s / "reports").iterdir()), "../../data"), "no plain file"),
    "a report that is none": (lambda s: next((s / "reports").iterdir()).write_text("{}"), "report cannot be read"),
    "a report of garbage": (lambda s: next((s / "reports").iterdir()).write_text("[" * 100_000), "cannot be read"),
    "config of garbage": (lambda s: (s / "config.json").write_text("{"), "cannot be read"),
    "deep config": (lambda s: (s / "config.json").write_text('{"a":' * 100_000), "cannot be read"),
    "large config": (lambda s: (s / "config.json").write_text(" " * (1 << 20) + "{}"), "more than"),
    "another format": (lambda s: changed(s, format="x"), "not of format"),
    "another agent": (lambda s: changed(s, agent="rembrandt"), "does not describe"),
    "no seed": (lambda s: changed(s, seed="0"), "lacks seed"),
    "a huge seed": (lambda s: changed(s, seed=2**40), "seed"),
    "many actions": (lambda s: changed(s, num_actions=10**9), "actions"),
    "negative updates": (lambda s: changed(s, updates={"tokenizer": -1}), "counted"),
    "a setting of the future": (lambda s: changed(s, config={**config_of(s), "magic": 1}), "magic"),
    "a huge network": (
        lambda s: changed(s, config={**config_of(s), "dynamics": {**config_of(s)["dynamics"], "width": 10**12}}),
        "large|describe",
    ),
    "a huge number in words": (
        lambda s: changed(s, config={**config_of(s), "dynamics": {**config_of(s)["dynamics"], "layers": "9e8"}}),
        "too large",
    ),
    "a deep network": (
        lambda s: changed(s, config={**config_of(s), "dynamics": {**config_of(s)["dynamics"], "layers": 100_000}}),
        "tensors",
    ),
    "a trusted environment": (lambda s: changed(s, environment=environment_of(s, trusted=True)), "trusted"),
    "an environment of numbers": (lambda s: changed(s, environment=environment_of(s, id=3)), "describe"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_leaves_nothing_behind(shared: Path, name: str) -> None:
    prepare, said = HOSTILE[name]
    prepare(shared)
    before = files(shared.parent)

    with pytest.raises(IrisError, match=said):
        pull("toy-agent", out=Path("runs/theirs"))

    assert files(shared.parent) == before
    assert not Path("executed").exists()


def test_other_files_are_not_taken_and_never_loaded(shared: Path) -> None:
    (shared / "optimizers.pt").write_bytes(pickle.dumps(Code()))
    (shared / "reports" / "evaluate-..%2fx.txt").write_text("x")

    report = pull("toy-agent", out=Path("runs/theirs"))

    assert "optimizers.pt" in report.notes[0]
    assert not Path("executed").exists()
    assert not list(Path("runs/theirs").rglob("*.txt"))


def test_a_path_of_perceptual_weights_is_not_followed(shared: Path) -> None:
    changed(
        shared, config={**config_of(shared), "tokenizer": {**config_of(shared)["tokenizer"], "lpips": "/etc/passwd"}}
    )

    pull("toy-agent", out=Path("runs/theirs"))

    assert opened("runs/theirs").config.tokenizer.lpips == "auto"


def test_what_is_there_is_not_written_over(shared: Path) -> None:
    before = files(shared.parent)

    with pytest.raises(RunError, match="there already"):
        pull("toy-agent", out=Path("runs/toy"))

    assert files(shared.parent) == before


@pytest.mark.parametrize(
    "source", ["nowhere", "../../x", "a/b/c", "a/..", "-x/y", "http://a/b", "data/toy.zarr/zarr.json"]
)
def test_what_is_no_source_is_refused(place: Path, source: str) -> None:
    with pytest.raises(RunError):
        pull(source, out=Path("runs/theirs"))

    assert not Path("runs/theirs").exists()


# The hub


class Hub(types.ModuleType):
    """The client's functions, with repositories in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root = root

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool, repo_type: str) -> str:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(
        self, repo_id: str, *, allow_patterns: list[str], local_dir: str | None = None, dry_run: bool = False
    ) -> Any:
        there = self.root / repo_id
        if not there.exists():
            raise FileNotFoundError("404 Client Error.\nRepository Not Found")
        paths = [path for pattern in allow_patterns for path in there.glob(pattern)]
        if dry_run:
            assert local_dir is not None  # else the client keeps notes in the user's cache
            return [
                types.SimpleNamespace(file_size=path.stat().st_size, filename=path.relative_to(there).as_posix())
                for path in paths
            ]
        assert local_dir is not None
        for path in paths:
            target = Path(local_dir) / path.relative_to(there)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        return local_dir


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_run_goes_through_the_hub(place: Path, client: Hub) -> None:
    report = push(opened("runs/toy"), Push(repository="someone/toy-iris", licence="MIT"))
    (client.root / "someone/toy-iris/optimizers.pt").write_bytes(pickle.dumps(Code()))
    pull("someone/toy-iris")

    assert report.figures["address"] == "https://hub/someone/toy-iris"
    assert {path.name for path in (client.root / "someone/toy-iris").iterdir()} == {*LAYOUT, "optimizers.pt"}
    assert opened("runs/toy-iris").fingerprint() == opened("runs/toy").fingerprint()
    assert "iris pull someone/toy-iris" in (client.root / "someone/toy-iris/README.md").read_text()
    assert not Path("executed").exists()


def test_only_names_that_are_known_come_down_from_the_hub(place: Path, client: Hub) -> None:
    push(opened("runs/toy"), Push(repository="someone/toy"))
    repository = client.root / "someone/toy"
    for name in ("reports/evaluate-/deep.json", "reports/evaluate-a b.json", "other.json", "more/config.json"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("{}")
    patterns = {"config.json": 1 << 20, "reports/evaluate-*.json": 1 << 20}
    (place / "into").mkdir()

    hub.download("someone/toy", place / "into", limits=patterns)

    [report] = (place / "into/reports").iterdir()
    assert report.name.startswith("evaluate-0")
    assert {path.name for path in (place / "into").iterdir()} == {"config.json", "reports"}


def test_a_repository_of_huge_files_is_not_fetched(place: Path, client: Hub) -> None:
    push(opened("runs/toy"), Push(repository="someone/toy"))
    with (client.root / "someone/toy/model.safetensors").open("ab") as file:
        file.truncate(1 << 33)  # a hole: takes no room

    with pytest.raises(RunError, match="more than"):
        pull("someone/toy", out=Path("runs/theirs"))


@pytest.fixture
def server(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a small hub of our own, with what is in the repository someone/toy: file name -> content."""
    content = {path.relative_to(shared).as_posix(): path.read_bytes() for path in shared.rglob("*") if path.is_file()}
    commit = "a" * 40

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            name = path.removeprefix(f"/someone/toy/resolve/{commit}/")
            if path == "/api/models/someone/toy/revision/main":
                files = [{"rfilename": name} for name in content]
                self.answer(json.dumps({"id": "someone/toy", "sha": commit, "siblings": files}).encode())
            elif path == f"/api/models/someone/toy/tree/{commit}":
                entries = [
                    {"type": "file", "path": name, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                    for name, value in content.items()
                ]
                self.answer(json.dumps(entries).encode())
            elif name in content:
                digest = hashlib.sha1(content[name]).hexdigest()
                self.answer(content[name], {"X-Repo-Commit": commit, "ETag": f'"{digest}"'})
            else:
                self.answer(b"", status=404)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
            if path == "/api/repos/create":
                content.clear()
                self.answer(json.dumps({"url": "https://huggingface.co/someone/toy"}).encode())
            elif path == "/api/validate-yaml":
                self.answer(b'{"errors": [], "warnings": []}')
            elif path == "/api/models/someone/toy/preupload/main":
                plain = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self.answer(json.dumps({"files": plain}).encode())
            elif path == "/api/models/someone/toy/commit/main":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer(
                    json.dumps(
                        {
                            "commitUrl": f"https://huggingface.co/someone/toy/commit/{commit}",
                            "commitOid": commit,
                            "success": True,
                        }
                    ).encode()
                )
            else:
                self.answer(b"", status=404)

        def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is to be said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", content
        listening.shutdown()


@pytest.mark.pipeline
def test_the_real_client_pushes_and_pulls_a_run_over_http(
    server: tuple[str, dict[str, bytes]], place: Path, iris: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    address, content = server
    before = dict(content)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    content["old.txt"] = b"of a repository that is made anew"

    pushed = iris("push", "runs/toy", "someone/toy", "--licence", "MIT", cwd=place)
    assert pushed.returncode == 0, pushed.stderr
    assert content.keys() == before.keys()
    assert content["model.safetensors"] == before["model.safetensors"]

    content["optimizers.pt"] = pickle.dumps(Code())
    pulled = iris("pull", "someone/toy", "--out", "runs/theirs", cwd=place)
    missing = iris("pull", "someone/else", cwd=place)
    content["reports/evaluate-/../../../../../evil.json"] = content["reports/../../evil.json"] = b"{}"
    evil = iris("pull", "someone/toy", "--out", "runs/evil", cwd=place)

    assert pulled.returncode == 0, pulled.stderr
    assert opened("runs/theirs").fingerprint() == opened("runs/toy").fingerprint()
    assert files(Path("runs/theirs/reports")) == files(Path("runs/toy/reports"))
    assert not list(Path("runs/theirs").glob("optimizers.pt"))
    assert not list(place.parent.rglob("evil*"))
    for refused in (missing, evil):
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: the hub did not give it")
        assert len(refused.stderr.splitlines()) == 1


def test_a_repository_that_is_not_there_is_named_in_one_line(place: Path, client: Hub) -> None:
    with pytest.raises(RunError, match="someone/else") as raised:
        pull("someone/else")

    assert "\n" not in str(raised.value)


def test_without_the_client_one_line_says_how_to_get_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError("No module named 'huggingface_hub'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(RunError, match=r"pip install 'iris-wm\[hub\]'"):
        push(opened("runs/toy"), Push(repository="a/b"))
    push(opened("runs/toy"), Push(to=Path("out")))
    pull("out")


def test_the_real_client_takes_what_we_say(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    real = pytest.importorskip("huggingface_hub")
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        ours = inspect.signature(getattr(client, name))
        theirs = inspect.signature(getattr(real, name))
        assert ours.parameters.keys() <= theirs.parameters.keys(), name


def test_the_real_client_without_a_network_gives_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(RunError, match="did not give it") as raised:
        hub.download("someone/toy", place / "x", limits={"README.md": 10})

    assert "\n" not in str(raised.value)
