"""Bad input: one line that says what, where and what to do, exit code 1 or 2, no traceback, files untouched."""

import hashlib
import json
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import Result

from iris_cli.digests import mark_of
from iris_cli.errors import ConfigError, DatasetError, IrisError, ShapeError, TrainingError, out_of_memory
from iris_cli.run import Run

Command = Callable[..., Result]
Prepare = Callable[[Path], object]


class Code:
    """Pickled, it would make a file when it is loaded."""

    def __reduce__(self) -> tuple:
        return (Path("executed").touch, ())


def contents(place: Path) -> dict[str, str]:
    """Every file and directory below, with a digest; not the locks, which only name the last process that wrote."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in place.rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture
def refused(workplace: Path, command: Command) -> Callable[..., str]:
    """Carries out a command line that must fail; gives its error line."""

    def run(line: str) -> str:
        before = contents(workplace)
        result = command(*shlex.split(line))
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code in (1, 2)
        errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
        assert len(errors) == 1, result.stderr
        if result.exit_code == 1:  # click puts the usage before its own
            assert result.stderr.splitlines() == errors
        assert "Traceback" not in result.output
        assert contents(workplace) == before
        return errors[0]

    return run


def pipeline(text: str) -> None:
    Path("p.yaml").write_text(f"game: Pong\npreset: tiny\ndataset: data/pong.zarr\nrun: runs/new\n{text}\n")


def checkpoint(run: str = "pong") -> Path:
    return Path("runs", run, "checkpoints", Path("runs", run, "checkpoints", "latest").read_text().strip())


def sealed(name: str, content: bytes) -> None:
    """Write a file of the checkpoint with its checksum, as a stranger could."""
    (checkpoint() / name).write_bytes(content)
    (checkpoint() / "done").write_text(mark_of(checkpoint()))


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Games and environments


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("collect --env Pnog", ["Pnog", "Did you mean Pong"]),
        ("collect --env ms_pacmen", ["MsPacman"]),
        ("collect --env nowhere:Game", ["nowhere"]),
        ("collect", ["--env", "Example"]),
        ("import-checkpoint last.pt --env Pnog", ["Pong"]),
        ("run p.yaml --game Pnog", ["Pong"]),
        ("collect --run runs/pong --env Breakout", ["Pong", "Breakout"]),
    ],
)
def test_an_unknown_or_wrong_game_is_refused(refused: Callable[..., str], line: str, said: list[str]) -> None:
    pipeline("first: [collect]")

    error = refused(line)

    assert all(words in error for words in said), error


# Datasets


def foreign_group(place: Path) -> None:
    zarr.create_group(place / "foreign", zarr_format=3)


def foreign_array(place: Path) -> None:
    zarr.create_array(place / "foreign", shape=(3,), dtype="u1")


def lost_chunk(place: Path) -> None:
    (place / "data/pong.zarr/observations/c.0.0.0.0").unlink()


def cut_chunk(place: Path) -> None:
    chunk = place / "data/pong.zarr/observations/c.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])


def garbage_attributes(place: Path) -> None:
    (place / "data/pong.zarr/zarr.json").write_bytes(b"\x00{garbage")


def garbage_array(place: Path) -> None:
    (place / "data/pong.zarr/rewards/zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("prepare", "line", "said"),
    [
        (None, "train-tokenizer data/none.zarr", ["no dataset", "data/none.zarr", "iris collect"]),
        (None, "train-tokenizer runs/pong", ["runs/pong", "data/pong.zarr"]),
        (None, "info data", ["neither", "data/NAME.zarr"]),
        (None, "info nothing", ["nothing"]),
        (None, "collect --env Pong --steps 1 --out runs/pong", ["runs/pong"]),
        (foreign_group, "train-tokenizer foreign", ["not a dataset of this program", "foreign"]),
        (foreign_array, "train-tokenizer foreign", ["array", "foreign"]),
        (foreign_group, "collect --env Pong --steps 1 --out foreign", ["foreign"]),
        (lost_chunk, "train-tokenizer data/pong.zarr --updates 1", ["observations", "data/pong.zarr"]),
        (cut_chunk, "train-tokenizer data/pong.zarr --updates 1", ["observations", "data/pong.zarr"]),
        (cut_chunk, "train-tokenizer data/pong.zarr --run runs/new --preset tiny --updates 1", ["observations"]),
        (garbage_attributes, "train-tokenizer data/pong.zarr", ["zarr.json", "data/pong.zarr"]),
        (garbage_attributes, "info data/pong.zarr", ["zarr.json", "data/pong.zarr"]),
        (garbage_array, "train-dynamics data/pong.zarr", ["rewards", "data/pong.zarr"]),
        (None, "collect --env Pong --steps 1 --out data/breakout.zarr", ["Breakout", "Pong", "data/breakout.zarr"]),
        (None, "collect --run runs/pong --steps 1 --out data/breakout.zarr", ["Breakout", "data/breakout.zarr"]),
        (None, "train-tokenizer data/breakout.zarr --run runs/pong", ["Breakout", "Pong", "--run"]),
        (None, "train-dynamics data/breakout.zarr --run runs/pong", ["Breakout", "Pong", "--run"]),
        (None, "train-tokenizer data/empty.zarr --preset tiny", ["no steps", "data/empty.zarr", "iris collect"]),
        (None, "train-dynamics data/empty.zarr --run runs/pong", ["no steps", "iris collect"]),
        (None, "imagine --run runs/pong --policy dataset --render o.png", ["104", "12", "--steps"]),
    ],
)
def test_a_missing_foreign_damaged_or_empty_dataset_is_refused(
    refused: Callable[..., str], workplace: Path, prepare: Prepare | None, line: str, said: list[str]
) -> None:
    if prepare is not None:
        prepare(workplace)

    error = refused(line)

    assert all(words in error for words in said), error


# Pipelines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agnet: iris", ["p.yaml:5", "agnet", "'agent'"]),
        ("first:\n  - colect: {steps: 3}", ["p.yaml:6", "colect", "'collect'"]),
        ("first:\n  - collect:\n      stpes: 3", ["p.yaml:7", "stpes", "'steps'"]),
        ("first:\n  - collect:\n      steps: three", ["p.yaml:7", "collect.steps", "'three'", "whole number"]),
        ("first:\n  - collect: {epsilon: high}", ["p.yaml:6", "number"]),
        ("first:\n  - imagine: {render: 3}", ["p.yaml:6", "path"]),
        ("first:\n  - imagine: {render: o.txt}", ["p.yaml:6", ".mp4"]),
        ("first:\n  - collect: {steps: 0}", ["p.yaml:6", "at least 1"]),
        ("first:\n  - train-tokenizer: {updates: 0}", ["p.yaml:6", "updates"]),
        ("first:\n  - train-tokenizer", ["p.yaml:6", "updates"]),
        ("first:\n  - collect: {until: 4}", ["p.yaml:6", "until"]),
        ("first:\n  - collect: 3", ["p.yaml:6", "steps"]),
        ("first: {collect: {steps: 3}}", ["p.yaml:5", "list"]),
        ("first: [[collect]]", ["p.yaml:5"]),
        ("first:\n  - collect:\n      steps: 3\n      steps: 4", ["p.yaml:8", "twice"]),
        ("agent: iris\nagent: iris", ["p.yaml:6", "twice"]),
        ("seed: !!python/object/apply:pathlib.Path.touch [executed]", ["p.yaml:5", "python"]),
        ("first: !!python/object/apply:pathlib.Path.touch [executed]", ["p.yaml:5", "python"]),
        ("settings: !!python/object:x.Y {tokenizer: {}}", ["p.yaml:5", "python"]),
        ("seed: 2001-99-99", ["p.yaml:5"]),
        ("seed: -1", ["p.yaml:5", "seed"]),
        ("rounds: many", ["p.yaml:5", "rounds"]),
        ("rounds: [", ["p.yaml:6", "YAML"]),
        ("first: &a [*a]", ["p.yaml", "deep"]),
        ("agent: rembrandt\nfirst: [collect]", ["rembrandt", "iris"]),
        ("first: [collect]\nsettings: {tokenizer: {codse: 3}}", ["p.yaml:6", "codse", "'codes'"]),
        ("first: [collect]\nsettings:\n  tokenizer:\n    codes: -3", ["p.yaml:8", "-3"]),
        ("first: [collect]\nsettings: 3", ["p.yaml:6"]),
        ("", ["p.yaml", "no stages"]),
        ("first:\n  - train-dynamics: {updates: 1}", ["tokenizer", "iris train-tokenizer"]),
        ("first:\n  - imagine: {render: o.png}", ["tokenizer", "iris train-tokenizer"]),
    ],
)
def test_a_wrong_pipeline_is_refused_with_its_line(refused: Callable[..., str], text: str, said: list[str]) -> None:
    pipeline(text)

    error = refused("run p.yaml")

    assert all(words in error for words in said), error


@pytest.mark.parametrize(
    ("prepare", "line", "said"),
    [
        (None, "run none.yaml", ["none.yaml"]),
        (None, "run data", ["data"]),
        (lambda place: Path("p.yaml").write_bytes(b"\xff\xfe\x00"), "run p.yaml", ["p.yaml"]),
        (lambda place: Path("p.yaml").write_text("- a list"), "run p.yaml", ["mapping", "p.yaml"]),
        (lambda place: Path("p.yaml").write_text("preset: tny\nfirst: [collect]"), "run p.yaml", ["--game"]),
        (lambda place: Path("p.yaml").write_text("preset: tny\nfirst: [collect]"), "run p.yaml --game Pong",
         ["p.yaml:1", "'tiny'"]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml --set collect.stpes=3", ["--set", "'steps'"]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml --set train-dynamics.updates=3", ["train-dynamics"]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml --set tokenizer.codes=many", ["whole number"]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml --set dataset=data/breakout.zarr", ["Breakout"]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml --set run=runs/pong --seed 3", ["seed", "--set run="]),
        (lambda place: pipeline("first: [collect]"), "run p.yaml", ["random", "data/pong.zarr"]),  # others' steps
    ],
)  # fmt: skip
def test_a_pipeline_that_cannot_be_carried_out_is_refused(
    refused: Callable[..., str], workplace: Path, prepare: Prepare | None, line: str, said: list[str]
) -> None:
    if prepare is not None:
        prepare(workplace)

    error = refused(line)

    assert all(words in error for words in said), error


# Stages out of order, and options


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tokenize data/pong.zarr --run runs/fresh", ["tokenizer", "iris train-tokenizer data/pong.zarr"]),
        ("train-dynamics data/pong.zarr --run runs/fresh", ["tokenizer", "iris train-tokenizer data/pong.zarr"]),
        ("train-actor-critic data/pong.zarr --run runs/fresh", ["iris train-tokenizer data/pong.zarr"]),
        ("train-dynamics data/pong.zarr --run runs/new --preset tiny", ["iris train-tokenizer data/pong.zarr"]),
        ("imagine --run runs/fresh --render o.mp4", ["tokenizer", "iris train-tokenizer data/pong.zarr"]),
        ("evaluate --run runs/none", ["no such run", "runs/none", "iris train-tokenizer"]),
        ("evaluate --run data", ["no run", "data", "iris train-tokenizer"]),
        ("collect --run runs/none", ["no such run", "runs/none"]),
        ("export-checkpoint last.pt --run runs/none", ["no such run"]),
        ("export-checkpoint last.pt --run runs/pong", ["strided"]),
        ("evaluate --run runs/pong --device nonsense", ["nonsense", "--device", "cpu"]),
        ("evaluate --run runs/pong --device meta", ["meta", "--device", "cpu"]),
        ("train-tokenizer data/pong.zarr --run runs/new --device nonsense", ["nonsense", "--device"]),
        ("evaluate --run runs/pong --temperature 0", ["temperature"]),
        ("evaluate --run runs/pong --temperature nan", ["temperature"]),
        ("evaluate --run runs/pong --episodes 0", ["--episodes"]),
        ("evaluate --run runs/pong --seed -1", ["--seed"]),
        ("diagnose --run runs/none", ["no such run", "runs/none", "iris train-tokenizer"]),
        ("diagnose --run runs/pong --dataset data/none.zarr", ["data/none.zarr"]),
        (
            "diagnose --run runs/pong --dataset data/empty.zarr",
            ["no steps", "data/empty.zarr", "iris collect --env Pong"],
        ),
        ("diagnose --run runs/pong --dataset data/breakout.zarr", ["Breakout", "Pong"]),
        ("diagnose --run runs/pong --horizon 0", ["--horizon"]),
        ("diagnose --run runs/pong --steps 0", ["--steps"]),
        ("diagnose --run runs/pong --json --device nonsense", ["nonsense", "--device"]),
        ("collect --env Pong --epsilon 2", ["epsilon"]),
        ("collect --env Pong --seed -1", ["--seed"]),
        ("imagine --run runs/pong --render out.txt", ["out.txt", ".mp4", ".gif", ".png"]),
        ("imagine --run runs/pong --policy other", ["--policy", "dataset"]),
        ("imagine --run runs/pong --context 9 --render o.png", ["context", "9", "6"]),
        ("imagine --run runs/pong --temperature 0 --render o.png", ["temperature"]),
        ("train-tokenizer data/pong.zarr --seed 4", ["seed", "--run"]),
        ("train-tokenizer data/pong.zarr --run runs/new --preset tiny --seed 99999999999999999999", ["seed", "2^32"]),
        ("train-tokenizer data/pong.zarr --preset small", ["preset", "--run"]),
        ("train-tokenizer data/pong.zarr --agent twm", ["agent", "--run"]),
        ("train-tokenizer data/pong.zarr --run runs/new --preset tny", ["--preset", "'tiny'"]),
        ("train-tokenizer data/pong.zarr --run runs/new --agent isis", ["isis", "iris"]),
        ("colect", ["colect", "collect"]),
        ("train-tokenizer runs/pong --preset tiny", ["runs/pong", "a run, not a dataset"]),
        ("evaluate data/pong.zarr", ["data/pong.zarr", "a dataset, not a run"]),
        ("repair nope", ["nope", "nothing here"]),
        ("evaluate runs/pong --temperature -1", ["temperature is -1", "above 0"]),
    ],
)
def test_a_stage_without_the_one_before_or_with_wrong_options_is_refused(
    refused: Callable[..., str], line: str, said: list[str]
) -> None:
    error = refused(line)

    assert all(words in error for words in said), error


def test_without_any_run_the_command_that_makes_one_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "work" / "runs").rename(tmp_path / "elsewhere")

    assert "iris train-tokenizer" in refused("evaluate")
    assert "iris train-tokenizer" in refused("imagine")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("tokenizer.codse=3", ["'codes'"]),
        ("tokeniser.codes=3", ["'tokenizer'"]),
        ("tokenizer.codes=many", ["whole number", "'many'"]),
        ("tokenizer.codes=1.5", ["whole number"]),
        ("tokenizer.codes", ["name=value"]),
        ("tokenizer=3", ["tokenizer"]),
        ("preset=tiny", ["--preset"]),
        ("tokenizer.preset=lihgt", ["'light'"]),
        ("tokenizer.codebook=emma", ["ema"]),
        ("tokenizer.learning_rate=nan", ["number"]),
        ("tokenizer.lpips=nowhere", ["nowhere"]),
        ("tokenizer.channel_multipliers=1,2", ["5"]),
        ("tokenizer.channel_multipliers=1,0,1,1,1", ["at least 1"]),
        ("tokenizer.latent_channels=0", ["positive"]),
        ("actor_critic.channels=1,2", ["4 whole numbers"]),
        ("actor_critic.channels=0,1,2,3", ["positive"]),
        ("dynamics.residual_dropout=2", ["residual_dropout"]),
        ("dynamics.weight_decay=-1", ["weight_decay"]),
        ("dynamics.heads=3", ["multiple"]),
    ],
)
def test_a_wrong_setting_is_refused(refused: Callable[..., str], assignment: str, said: list[str]) -> None:
    error = refused(f"train-tokenizer data/pong.zarr --run runs/new --preset tiny --updates 1 --set {assignment}")

    assert all(words in error for words in said), error


def test_channels_that_the_residual_network_cannot_have_are_refused(refused: Callable[..., str]) -> None:
    line = "train-tokenizer data/pong.zarr --run runs/new --preset tiny --set tokenizer.network=residual"

    assert "32" in refused(f"{line} --set tokenizer.base_channels=48")


def test_a_setting_of_the_network_cannot_change(refused: Callable[..., str]) -> None:
    error = refused("train-tokenizer data/pong.zarr --set tokenizer.codes=3")

    assert "tokenizer.codes is 32" in error
    assert "--run" in error


@pytest.mark.parametrize(
    "line",
    [
        "collect --env Pong --steps 1 --out file/x.zarr",
        "train-tokenizer data/pong.zarr --preset tiny --run file",
        "train-tokenizer data/pong.zarr --preset tiny --run file/x",
        "train-tokenizer data/pong.zarr --preset tiny --run data",
        "imagine --run runs/pong --policy random --steps 2 --num 1 --render file/o.png",
    ],
)
def test_where_nothing_can_be_written_one_line_says_so(refused: Callable[..., str], line: str) -> None:
    Path("file").write_text("no directory")

    assert line.split()[-1] in refused(line)


# Damaged runs


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda: (checkpoint() / "weights.safetensors").write_bytes(b"garbage"), ["cannot be read", "older one"]),
        (lambda: (checkpoint() / "weights.safetensors").write_bytes(b""), ["cannot be read", "older one"]),
        (lambda: (checkpoint() / "state.json").write_text("{garbage"), ["cannot be read", "older one"]),
        (lambda: (checkpoint() / "state.json").write_text("[]"), ["state.json", "checksum"]),
        (lambda: sealed("state.json", b"[]"), ["does not fit"]),
        (lambda: sealed("state.json", b'{"updates": "ab"}'), ["does not fit"]),
        (lambda: (checkpoint() / "done").write_text("[1]"), ["done is damaged", "older one"]),
        (lambda: (checkpoint() / "done").unlink(), ["not whole", "older one"]),
        (lambda: Path("runs/pong/checkpoints/latest").write_bytes(b"\xff\xfe"), ["not whole"]),
        (lambda: Path("runs/pong/checkpoints/latest").write_text("../../elsewhere"), ["not whole"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "format: 1", "format: 2"), ["format 2", "format 1", "run.yaml"]),
        (lambda: Path("runs/pong/run.yaml").write_text("format: 1\nagent: iris\n"), ["lacks id", "run.yaml"]),
        (lambda: Path("runs/pong/run.yaml").write_text("{"), ["YAML", "run.yaml"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "agent: iris", "agent: rembrandt"), ["rembrandt"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "agent: iris", "agent: [iris]"), ["agent", "run.yaml"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "seed: 0", "seed: none"), ["seed", "run.yaml"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "num_actions: 6", "num_actions: -6"), ["run.yaml"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "num_actions: 6", "num_actions: 7"), ["does not fit"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "layers: 2", "layers: 3"), ["does not fit", "blocks.2"]),
        (lambda: replaced(Path("runs/pong/run.yaml"), "layers: 2", "layer: 2"), ["run.yaml", "'layers'"]),
    ],
)
def test_a_damaged_run_is_refused(
    refused: Callable[..., str], workplace: Path, prepare: Callable[[], object], said: list[str]
) -> None:
    prepare()

    error = refused("evaluate --run runs/pong --episodes 1 --max-steps 1")

    assert all(words in error for words in said), error


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: path.write_bytes(b"garbage"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"tokenizer": Code()})),
        lambda path: torch.save({"tokenizer": Code()}, path),
        lambda path: torch.save([1], path),
        lambda path: torch.save({"tokenizer": 3}, path),
        lambda path: torch.save({"tokenizer": {"state": {}, "param_groups": []}}, path),
    ],
)
def test_damaged_optimizers_are_refused_and_code_in_them_never_runs(
    refused: Callable[..., str], workplace: Path, prepare: Prepare
) -> None:
    prepare(checkpoint() / "optimizers.pt")
    sealed("state.json", (checkpoint() / "state.json").read_bytes())

    assert "runs/pong" in refused("train-tokenizer data/pong.zarr --updates 1")


def test_weights_that_are_not_finite_are_never_saved(workplace: Path) -> None:
    run = Run.open(Path("runs/pong"), device=torch.device("cpu"), training=True)
    before = contents(workplace)
    next(run.agent.dynamics.parameters()).data[0] = float("nan")

    with pytest.raises(TrainingError, match="not finite"):
        run.save()

    assert contents(workplace) == before


def test_a_damaged_report_is_named_by_info(refused: Callable[..., str], workplace: Path) -> None:
    report = workplace / "runs/pong/reports/evaluate-1.json"
    report.parent.mkdir()
    report.write_text(json.dumps({"mean": 3}))

    assert "evaluate-1.json" in refused("info runs/pong")


# Foreign checkpoints

DELTA_IRIS = (
    "tokenizer.encoder_act_emb.weight",
    "tokenizer.quantizer.codebook",
    "tokenizer.frame_cnn.encoder.0.weight",
    "world_model.transformer.pos_emb.weight",
    "world_model.act_emb.weight",
    "actor_critic.lstm.weight_hh",
)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"garbage" * 1000),
        lambda path: path.write_bytes(np.zeros(1000).tobytes()),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"tokenizer.embedding.weight": Code()})),
        lambda path: torch.save({"tokenizer.embedding.weight": Code()}, path),
        lambda path: torch.save([torch.zeros(3)], path),
        lambda path: torch.save({name: torch.zeros(8, 8) for name in DELTA_IRIS}, path),
    ],
    ids=["missing", "directory", "garbage", "zeros", "empty", "pickled code", "code", "list", "delta-iris"],
)
def test_what_is_no_published_checkpoint_is_not_imported(
    refused: Callable[..., str], workplace: Path, prepare: Prepare
) -> None:
    prepare(workplace / "last.pt")

    error = refused("import-checkpoint last.pt --env Pong --run runs/imported")

    assert "last.pt" in error
    assert "published" in error


# The sentences themselves


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = DatasetError("it is too short", where=Path("data/pong.zarr"), fix="Collect more.")

    assert str(error) == "it is too short. In data/pong.zarr. Collect more."
    assert str(ConfigError("this is wrong.")) == "this is wrong."


def test_a_wrong_shape_is_also_a_value_error() -> None:
    assert issubclass(ShapeError, ValueError)
    assert issubclass(ShapeError, IrisError)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "of the device.*2.00 GiB"),
        (MemoryError(), "of the machine"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "of the machine"),
    ],
)
def test_too_little_memory_says_what_to_make_smaller(error: Exception, said: str) -> None:
    told = out_of_memory(error)

    assert re.search(f"{said}.*batch_size.*IRIS_FRAMES", str(told))
    assert "\n" not in str(told)
    assert out_of_memory(RuntimeError("shapes differ")) is None
