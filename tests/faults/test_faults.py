"""The short tier of the fault harness: one trial or a few of each kind. `make soak` has hundreds; see soak.py."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from trials import (
    KILLED,
    NEVER,
    OFTEN,
    SCENARIOS,
    SMALL,
    Ended,
    Known,
    Zygote,
    complain,
    concluded,
    fault_trial,
    finish,
    kill_trial,
    learn,
)
from trials import Trial as Record

from iris_cli.replay.dataset import Dataset

pytestmark = pytest.mark.pipeline
soak = pytest.mark.soak
layered = pytest.mark.skipif(shutil.which("cc") is None, reason="the layer below the libraries needs a C compiler")
TRAIN = ("train-dynamics", "data/game.zarr", "--run", "runs/game", "--updates", "100000")
COLLECT = ("collect", "--env", "Pong", "--out", "data/game.zarr", "--steps", "100000")


@pytest.fixture(scope="module")
def training(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """train-dynamics after the pipeline of IRIS, and what it comes to."""
    return learn(zygote, SCENARIOS["train-dynamics"], tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def collecting(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """collect, and what it comes to."""
    return learn(zygote, SCENARIOS["collect"], tmp_path_factory.mktemp("collecting"))


@pytest.fixture
def place(training: Known, tmp_path: Path) -> Path:
    """Where something has been trained."""
    shutil.copytree(training.start, tmp_path / "place")
    return tmp_path / "place"


def assert_goes_on(zygote: Zygote, known: Known, place: Path) -> None:
    """After a disturbance: the rest of the command ends as if there had been none."""
    rest = known.scenario.rest(place) if known.scenario.rest else known.scenario.command
    trial = concluded(zygote, known, place, rest, Record(known.scenario.name, 0))
    assert trial.lost == [], trial.said


def error_of(ended: Ended) -> str:
    """The one line that a command said when it could not go on."""
    assert complain(ended) == [], ended.output
    return next(line for line in ended.output.splitlines() if line.startswith("Error: "))


def wait_for_checkpoints(zygote: Zygote, number: int, place: Path) -> None:
    """Until a process has saved something."""
    latest, until = place / "runs/game/checkpoints/latest", time.monotonic() + 60
    before = latest.read_text()
    while latest.read_text() == before:
        assert time.monotonic() < until
        assert zygote.wait(number, 0.01) is None


def committed(path: Path) -> int:
    """Steps of a dataset that may not be there yet."""
    return json.loads((path / "zarr.json").read_text())["attributes"]["committed_steps"] if path.exists() else 0


# Kills


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=soak)])
def test_a_collection_killed_anywhere_ends_the_same(
    zygote: Zygote, collecting: Known, tmp_path: Path, seed: int
) -> None:
    trial = kill_trial(zygote, collecting, tmp_path / "place", seed, kills=4)

    assert trial.lost == [], trial
    assert trial.kills > 0


def test_training_killed_anywhere_ends_the_same(zygote: Zygote, training: Known, tmp_path: Path) -> None:
    trial = kill_trial(zygote, training, tmp_path / "place", 3, kills=3)

    assert trial.lost == [], trial
    assert trial.kills > 0


@layered
def test_every_kill_is_where_it_was_asked_for(zygote: Zygote, training: Known, tmp_path: Path) -> None:
    """Else hundreds of kills would say nothing about the inside of a save."""
    kinds = {(kind, Path(path).name.lstrip(".")) for _, kind, path in training.operations}
    assert {("write", "state.json"), ("sync", "optimizers.pt"), ("rename", "latest"), ("open", "done")} <= kinds
    rename = next(number for number, kind, path in training.operations if (kind, path[-6:]) == ("rename", "latest"))
    changed = {}
    for mode in ("kill", "tear"):
        place = tmp_path / mode
        shutil.copytree(training.start, place)
        latest = place / "runs/game/checkpoints/latest"
        before = latest.read_text()
        ended = zygote.run(place, *training.scenario.command, settings=OFTEN, mode=mode, at=rename)
        assert (ended.code, ended.operations) == (KILLED, rename)
        changed[mode] = latest.read_text() != before

    assert changed == {"kill": False, "tear": True}  # just before, and just after


# Disks


def some(known: Known, mode: str, wanted: str) -> dict[str, Any]:
    """A fault of a mode at a write to, or an opening of, some file."""
    faults = [fault for fault in known.each_kind((mode,)) if fault["kind"] in ("write", "open")]
    return next(fault for fault in reversed(faults) if wanted in fault["path"])


@layered
@pytest.mark.parametrize(
    ("mode", "what", "file"),
    [
        ("full", "training", "optimizers.pt"),
        ("full", "collecting", "/observations/"),
        pytest.param("broken", "collecting", "/zarr.", marks=soak),
        pytest.param("read only", "collecting", "/rewards/", marks=soak),
        pytest.param("full once", "training", "latest", marks=soak),
        pytest.param("broken", "training", "state.json", marks=soak),
        pytest.param("read only", "training", "done", marks=soak),
        pytest.param("full", "training", "history.jsonl", marks=soak),
        pytest.param("full", "training", "metrics.jsonl", marks=soak),
        pytest.param("full", "training", ".lock", marks=soak),
    ],
)
def test_a_disk_that_fails_is_one_line_and_the_command_goes_on_when_it_works_again(
    zygote: Zygote, request: pytest.FixtureRequest, tmp_path: Path, mode: str, what: str, file: str
) -> None:
    known = request.getfixturevalue(what)

    trial = fault_trial(zygote, known, tmp_path / "place", 0, some(known, mode, file))

    assert trial.lost == [], trial
    assert trial.faults[0]["code"] == 1


@soak
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_file_system_is_one_line_and_nothing_is_lost(zygote: Zygote, training: Known, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    size = sum(file.stat().st_size for file in training.start.rglob("*") if file.is_file()) + 1_000_000
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    try:
        shutil.copytree(training.start, place, dirs_exist_ok=True)
        ended = zygote.run(place, *training.scenario.command, settings=OFTEN)
        assert "the checkpoint cannot be written" in error_of(ended)  # torch says in its own words why
        subprocess.run(["mount", "-o", f"remount,size={10 * size}", place], check=True)
        assert_goes_on(zygote, training, place)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="rights hold up root alone not at all, so root plays somebody else")
def test_a_folder_that_may_not_be_written_is_one_line_and_readers_do_not_mind(zygote: Zygote, place: Path) -> None:
    for folder in (place, *place.parents):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    nobody = 65534

    read = zygote.run(place, "info", "runs/game", "--json", user=nobody)
    written = [zygote.run(place, *TRAIN, user=nobody), zygote.run(place, *COLLECT, user=nobody)]

    assert json.loads(read.output)["kind"] == "run"
    assert all("cannot be written" in error_of(ended) for ended in written)


def test_a_run_that_vanishes_is_one_line_and_does_not_come_back_in_part(zygote: Zygote, place: Path) -> None:
    number = zygote.start(place, *TRAIN, settings=OFTEN)
    wait_for_checkpoints(zygote, number, place)
    (place / "runs/game").rename(place / "elsewhere")

    ended = zygote.wait(number, 60)

    assert ended is not None
    assert "runs/game" in error_of(ended)
    assert not (place / "runs/game").exists()


def test_a_dataset_that_vanishes_is_one_line_and_does_not_come_back_in_part(zygote: Zygote, tmp_path: Path) -> None:
    number = zygote.start(tmp_path, *COLLECT, settings=OFTEN)
    until = time.monotonic() + 60
    while committed(tmp_path / "data/game.zarr") == 0:
        assert time.monotonic() < until
        assert zygote.wait(number, 0.01) is None
    (tmp_path / "data/game.zarr").rename(tmp_path / "elsewhere")

    ended = zygote.wait(number, 60)

    assert ended is not None
    assert "data/game.zarr" in error_of(ended)
    assert not (tmp_path / "data/game.zarr").exists()
    assert Dataset.open(tmp_path / "elsewhere").num_steps > 0


# Two at once


def test_two_processes_never_share_a_run_or_a_dataset(zygote: Zygote, place: Path) -> None:
    training, collecting = zygote.start(place, *TRAIN, settings=OFTEN), zygote.start(place, *COLLECT, settings=OFTEN)
    wait_for_checkpoints(zygote, training, place)

    second = zygote.run(place, *TRAIN, settings=OFTEN)
    assert f"process {training} is writing to the run (iris train-dynamics" in error_of(second)
    second = zygote.run(place, *COLLECT, settings=OFTEN)
    assert f"process {collecting} is writing to the dataset (iris collect" in error_of(second)
    for number in (training, collecting):
        zygote.signal(number, signal.SIGKILL)
        assert zygote.wait(number, 30) is not None

    finish(zygote, place, *TRAIN[:-1], "1", settings=NEVER)  # a lock goes with its process
    assert zygote.run(place, "verify", "data/game.zarr").code == zygote.run(place, "verify", "runs/game").code == 0


# Ctrl-C


@layered
@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("interrupt", ("write", "optimizers.pt")),
        pytest.param("interrupt twice", ("write", "state.json"), marks=soak),
        pytest.param("interrupt twice", ("write", "optimizers.pt"), marks=soak),
        pytest.param("interrupt", ("rename", "latest"), marks=soak),
        pytest.param("interrupt twice", ("rename", "latest"), marks=soak),
    ],
)
def test_an_interrupt_inside_a_save_loses_nothing(
    zygote: Zygote, training: Known, place: Path, mode: str, what: tuple[str, str]
) -> None:
    at = [number for number, kind, path in training.operations if (kind, Path(path).name) == what]

    ended = zygote.run(place, *training.scenario.command, settings=OFTEN, mode=mode, at=at[len(at) // 2])

    assert ended.code == 130, ended.output
    assert "Traceback" not in ended.output
    assert ("Stopped at once" in ended.output) == (mode == "interrupt twice")
    assert_goes_on(zygote, training, place)


# Clocks, memory, games


@soak
def test_a_clock_that_jumps_changes_nothing(zygote: Zygote, training: Known, place: Path) -> None:
    finish(zygote, place, *training.scenario.command, settings=OFTEN, jumping_clock=True)

    assert_goes_on(zygote, training, place)


def test_too_little_memory_is_one_line_and_the_command_goes_on(zygote: Zygote, training: Known, place: Path) -> None:
    ended = zygote.run(place, *training.scenario.command, settings=OFTEN, memory_for=7)

    error = error_of(ended)
    assert "memory of the device is too small (2.00 GiB more were asked for)" in error
    assert "batch_size" in error
    assert "IRIS_FRAMES" in error
    assert_goes_on(zygote, training, place)


@pytest.mark.parametrize(
    ("game", "said"),
    [
        ("Hangs", "gave no answer for 2 s"),
        pytest.param("Raises", "the environment raised ValueError: the emulator is confused", marks=soak),
        pytest.param("Dies", "ended (exit code -9)", marks=soak),
    ],
)
def test_a_game_in_a_process_of_its_own_that_goes_wrong_is_one_line(
    zygote: Zygote, tmp_path: Path, game: str, said: str
) -> None:
    command = ("collect", "--env", f"toy_faults:{game}", "--num-envs", "2", "--steps", "100", "--out", "data/toy.zarr")
    slow = {"iris_cli.envs.vector:ANSWER_SECONDS": 2.0 if game == "Hangs" else 60.0}

    ended = zygote.run(tmp_path, *command, settings=SMALL | slow)

    assert said in error_of(ended)
    assert Dataset.open(tmp_path / "data/toy.zarr").num_steps == 0


def test_a_game_in_this_process_that_hangs_is_stopped_by_a_second_interrupt(zygote: Zygote, tmp_path: Path) -> None:
    number = zygote.start(tmp_path, "collect", "--env", "toy_faults:Hangs", "--steps", "100", "--out", "data/toy.zarr")
    while not (tmp_path / "data/toy.zarr").exists():
        assert zygote.wait(number, 0.01) is None
    time.sleep(0.3)
    zygote.signal(number, signal.SIGINT)
    assert zygote.wait(number, 0.3) is None
    zygote.signal(number, signal.SIGINT)

    ended = zygote.wait(number, 20)

    assert ended is not None
    assert ended.code == 130
    assert "Stopped at once" in ended.output
