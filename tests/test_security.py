"""Files from strangers: nothing in them is executed, none leads out of its folder, none steers the terminal.

The page of `iris play` (token, host, origin) is in tests/play/test_server.py, modules that only a file names in
tests/test_trust.py, shared runs in tests/stages/test_share.py, archives in tests/formats/test_npz.py, downloads in
tests/stages/test_fetch.py, and changed inputs of every parser in tests/fuzz/.
"""

import ast
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from iris_cli import console, load_agent
from iris_cli.config import load_yaml
from iris_cli.errors import IrisError
from iris_cli.failures import read_failure
from iris_cli.formats.npz import read_npz
from iris_cli.nn.foreign import read_foreign
from iris_cli.nn.lpips import load_lpips
from iris_cli.pipeline import _media
from iris_cli.plan import make_plan
from iris_cli.replay.dataset import Dataset

Command = Callable[..., Result]
SOURCES = sorted((Path(__file__).resolve().parent.parent / "iris_cli").rglob("*.py"))
CHECKPOINT = "runs/pong/checkpoints"


class Evil:
    """Makes a folder `executed` when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def pickled() -> bytes:
    return pickle.dumps(Evil())


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer)
    return buffer.getvalue()


def old_torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()] * 3, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz_of_objects() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            archive.writestr(f"{name}.npy", object_array())
    return buffer.getvalue()


PICKLES = [pickled, torch_file, old_torch_file, object_array, npz_of_objects]
YAML = b"a: !!python/object/apply:os.mkdir ['executed']\n"


@pytest.fixture
def place(workplace: Path) -> Iterator[Path]:
    yield workplace
    assert not list(workplace.rglob("executed")), "something in a file was executed"


def test_the_bait_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests below show nothing."""
    monkeypatch.chdir(tmp_path)

    pickle.loads(pickled())

    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", PICKLES, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_foreign(path, fix="x"),
        lambda path: load_lpips(path),
        lambda path: load_lpips(path.rename("w.safetensors")),
        lambda path: list(read_npz(path, most_values=10_000).blocks),
        read_failure,
        load_yaml,
        make_plan,
    ],
    ids=["checkpoint", "perceptual", "safetensors", "npz", "failure", "yaml", "pipeline"],
)
def test_no_reader_unpickles(place: Path, content: Callable[[], bytes], read: Callable[[Path], object]) -> None:
    (place / "x").write_bytes(content())

    with pytest.raises(IrisError):
        read(Path("x"))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizers.pt", "state.json"])
@pytest.mark.parametrize("content", [pickled, torch_file, object_array], ids=lambda make: make.__name__)
def test_no_file_of_a_run_is_unpickled(place: Path, command: Command, name: str, content: Callable[[], bytes]) -> None:
    (next(Path(CHECKPOINT).glob("0*")) / name).write_bytes(content())

    result = command("train-dynamics", "data/pong.zarr", "--run", "runs/pong", "--updates", "1")

    assert result.exit_code == 1
    assert result.stderr.count("Error:") == 1


@pytest.mark.parametrize("name", ["run.yaml", "p.yaml"])
def test_tags_of_yaml_build_nothing(place: Path, command: Command, name: str) -> None:
    path = Path("p.yaml" if name == "p.yaml" else "runs/pong/run.yaml")
    path.write_bytes((path.read_bytes() if path.exists() else b"") + YAML)

    result = command(*(("run", path) if name == "p.yaml" else ("info", "runs/pong")))

    assert result.exit_code == 1
    assert "tags like" in result.stderr


@pytest.mark.parametrize("member", ["actions/c.0", "zarr.json", "actions/zarr.json"])
def test_no_file_of_a_dataset_is_unpickled(place: Path, member: str) -> None:
    Path("data/pong.zarr", member).write_bytes(pickled())

    with pytest.raises(IrisError), Dataset.open("data/pong.zarr") as dataset:
        dataset.read("actions")


@pytest.mark.parametrize(
    "codec",
    [{"name": "numcodecs.pickle", "configuration": {}}, {"name": "os.mkdir", "configuration": {"path": "executed"}}],
)
def test_a_dataset_names_no_code_to_unpack_it(place: Path, codec: dict) -> None:
    file = Path("data/pong.zarr/actions/zarr.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "codecs": [codec]}))

    with pytest.raises(IrisError), Dataset.open("data/pong.zarr") as dataset:
        dataset.read("actions")


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def before(place: Path) -> Iterator[None]:
    """Nothing outside of the current directory, and nothing beside runs/ and data/, comes to be."""
    sentinel = place.parent / "outside"
    sentinel.mkdir()
    (sentinel / "kept").write_text("kept")
    there = set(place.parent.rglob("*")) - set(place.rglob("*"))
    yield
    assert set(place.parent.rglob("*")) - set(place.rglob("*")) == there
    assert (sentinel / "kept").read_text() == "kept"


@pytest.mark.parametrize("name", ["../../outside/kept", "/etc", "..", "000001/../..", "a" * 5000, "\x00", ""])
def test_latest_names_a_checkpoint_and_nothing_else(place: Path, before: None, command: Command, name: str) -> None:
    (Path(CHECKPOINT) / "latest").write_text(name)

    result = command("info", "runs/pong")

    assert result.exit_code == 1
    assert "not whole" in result.stderr
    assert "\n" not in result.stderr.strip()


@pytest.mark.parametrize(
    "game", ["../../outside/x", "/tmp/x", "a/../../../outside:X", "..", "a:..", "imported:../../x"]
)
def test_no_name_of_a_game_is_a_path(place: Path, before: None, command: Command, game: str) -> None:
    Path("p.yaml").write_text("dataset: data/{game}.zarr\nrun: runs/{game}\nthen:\n  - collect: {steps: 1}\n")

    for line in (("collect", "--env", game, "--steps", "1"), ("run", "p.yaml", "--game", game, "--dry-run")):
        result = command(*line)
        if result.exit_code == 0:  # a dry run of a module that nobody has looked for yet
            assert ".." not in result.stdout.partition("dataset")[2].partition("seed")[0]
        else:
            assert result.exit_code == 1, result.output


@pytest.mark.parametrize(
    "render", ["../../outside/x.mp4", "/tmp/iris-escape.mp4", "..", "/", ".mp4", "a/../../x.gif", "x.gif"]
)
def test_films_of_a_pipeline_stay_in_its_run(place: Path, render: str) -> None:
    Path("p.yaml").write_text(f"game: Pong\nrun: runs/pong\nthen: [{{imagine: {{render: '{render}'}}}}]\n")
    try:
        [planned] = make_plan(Path("p.yaml")).stages
    except IrisError:
        return

    film = Path("runs/pong") / _media(planned)
    assert Path(os.path.normpath(film)).parent == Path("runs/pong/media")


def test_a_shared_run_cannot_choose_where_it_goes(place: Path, before: None, command: Command) -> None:
    """Nor where its dataset lies, nor which files are read."""
    command("push", "runs/pong", "--to", "shared")
    facts = json.loads(Path("shared/config.json").read_text())
    facts |= {"run": "../../outside/x", "directory": "../../outside/y", "name": "../../outside/z"}
    facts["dataset"] = "../../outside/d.zarr"
    facts["config"]["tokenizer"]["lpips"] = "../../outside/kept"
    Path("shared/config.json").write_text(json.dumps(facts))

    result = command("pull", "shared", "--out", "runs/pulled")

    assert result.exit_code == 0, result.output
    card = load_yaml(Path("runs/pulled/run.yaml")).data
    assert card["dataset"] == "data/pong.zarr"
    assert card["config"]["tokenizer"]["lpips"] == "auto"
    load_agent("runs/pulled", device="cpu")


def test_an_import_takes_its_name_from_the_last_part_alone(place: Path, before: None, command: Command) -> None:
    steps = {
        "observations": np.zeros((3, 8, 8, 3), np.uint8), "actions": np.arange(3), "rewards": np.zeros(3),
        "terminations": np.zeros(3, bool), "truncations": np.zeros(3, bool),
    }  # fmt: skip
    np.savez("..hidden..name.npz", **steps)

    result = command("import", "..hidden..name.npz")

    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("data").iterdir()} >= {"hidden-name.zarr"}


# -- terminal, sizes, source -----------------------------------------------------------------------------------------


def test_what_files_say_cannot_steer_the_terminal(place: Path, command: Command) -> None:
    shutil.rmtree("data")
    card = Path("runs/pong/run.yaml")
    card.write_text(card.read_text().replace("versions:", 'versions:\n  evil: "\\e]0;title\\a\\e[2J[bold]x[/bold]"', 1))

    result = command("info", "runs/pong")

    assert result.exit_code == 0, result.output
    assert "[bold]x[/bold]" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b31m", "\x00", "\ud800", "\r", "\x08"])
def test_control_characters_are_shown_as_such(text: str) -> None:
    assert console.escape(f"a{text}b") == "a\N{REPLACEMENT CHARACTER}" + text[1:] + "b"


def test_weights_smaller_than_their_settings_are_refused_before_anything_is_made(place: Path) -> None:
    card = Path("runs/pong/run.yaml")
    card.write_text(card.read_text().replace("layers: 2", "layers: 100000000"))

    with pytest.raises(IrisError, match="too large for a setting"):
        load_agent("runs/pong", device="cpu")

    save_file({"a": torch.zeros(1)}, next(Path(CHECKPOINT).glob("0*")) / "weights.safetensors")
    card.write_text(card.read_text().replace("layers: 100000000", "layers: 1"))
    with pytest.raises(IrisError):
        load_agent("runs/pong", device="cpu")


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load",
    "yaml.full_load", "yaml.unsafe_load", "os.system", "os.popen", "subprocess.getoutput", "shelve.open",
    "dill.load", "joblib.load", "numpy.load", "zipfile.extractall", "tarfile.open", "shutil.unpack_archive",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_source_calls_nothing_that_executes_what_it_reads(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).replace("np.", "numpy.")
        settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in FORBIDDEN, f"{path.name}:{node.lineno}"
        assert not name.endswith((".extractall", ".extract")), f"{path.name}:{node.lineno}"
        assert settings.get("shell", "False") == "False", f"{path.name}:{node.lineno}"
        assert settings.get("allow_pickle", "False") == "False", f"{path.name}:{node.lineno}"
        assert settings.get("trust_remote_code", "False") == "False", f"{path.name}:{node.lineno}"
        if name == "torch.load":
            assert settings.get("weights_only") == "True", f"{path.name}:{node.lineno}"
