"""Files that commands write for people: a disk that fails is one line, and what was there before stays as it was."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trials import COMPILER, NEVER, TRAINED, Zygote, alike, complain, finish, read_journal

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(COMPILER is None, reason="the layer below the libraries needs a C compiler"),
]
BEFORE = b"of another day"
PIPELINE = f"{TRAINED}  - evaluate: {{episodes: 1, max_steps: 10, num_envs: 1, measured_steps: 5}}\n"
DREAM = ("imagine", "--run", "runs/game", "--steps", "3", "--num", "1")
DREAM_FILM = (*DREAM, "--render", "out.mp4")
FRAMES = ("--actions", "6", "--env", "Pong")
COMMANDS = {  # what is typed, and what it makes
    "a picture": ((*DREAM, "--render", "out.png"), "out.png"),
    "an animation": ((*DREAM, "--render", "out.gif"), "out.gif"),
    "a trace": (("tokenize", "data/game.zarr", "--run", "runs/game", "--profile", "out.json"), "out.json"),
    "a page": (("report", "runs/game", "--no-pictures", "--out", "out.html"), "out.html"),
    "a curve": (("curve", "runs/game", "--random", "0", "--out", "out.svg"), "out.svg"),
    "attention": (("attention", "runs/game", "--predictions", "5", "--out", "out.png"), "out.png"),
    "a script's film": (("play", "runs/game", "--script", "keys.txt", "--render", "out.gif"), "out.gif"),
    "a Minari dataset": (("export", "data/game.zarr", "--out", "out-v0"), "out-v0"),
    "an imported dataset": (("import", "frames.npz", *FRAMES, "--out", "data/out.zarr"), "data/out.zarr"),
}
OFTEN_RUN = ("a page", "a curve")  # by `make test`; the others by `make soak`


@pytest.fixture(scope="module")
def made(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a run that was trained and evaluated, and files to import and play."""
    made = tmp_path_factory.mktemp("made")
    (made / "tiny.yaml").write_text(PIPELINE)
    (made / "keys.txt").write_text("noop 3\nup 2\n")
    draws = np.random.default_rng(0)
    np.savez(
        made / "frames.npz", observations=draws.integers(256, size=(20, 64, 64, 3), dtype=np.uint8),
        actions=draws.integers(6, size=20), rewards=np.zeros(20, np.float32), terminations=np.arange(20) == 19,
        truncations=np.zeros(20, bool),
    )  # fmt: skip
    finish(zygote, made, "run", "tiny.yaml", settings=NEVER)
    return made


def files_of(place: Path) -> dict[str, bytes]:
    """All content below a directory but locks, and what the run of a place notes of each command."""
    found = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not name.startswith("runs/game/") and not name.endswith(".lock")
    }


def faults_of(zygote: Zygote, made: Path, folder: Path, command: tuple[str, ...]) -> list[dict[str, Any]]:
    """No space, and an input or output error, at each kind of operation on each kind of file that is written."""
    place, journal = folder / "whole", folder / "journal"
    shutil.copytree(made, place)
    finish(zygote, place, *command, settings=NEVER, journal=str(journal))
    first: dict[tuple[str, str], int] = {}
    for number, kind, path in read_journal(journal):
        if kind != "sync" and not path.endswith(".lock"):
            first.setdefault((kind, alike(path)), number)
    return [{"mode": mode, "at": at, "kind": kind} for (kind, _), at in first.items() for mode in ("full", "broken")]


@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=[] if name in OFTEN_RUN else pytest.mark.soak) for name in COMMANDS]
)
def test_a_disk_that_fails_leaves_what_was_there(zygote: Zygote, made: Path, tmp_path: Path, what: str) -> None:
    command, target = COMMANDS[what]
    faults = faults_of(zygote, made, tmp_path, command)
    whole = files_of(tmp_path / "whole")
    refused = 0
    for number, fault in enumerate(faults):
        place = tmp_path / f"{number}"
        shutil.copytree(made, place)
        if target in whole:  # it may be written again
            (place / target).write_bytes(BEFORE)
        before = files_of(place)

        ended = zygote.run(place, *command, settings=NEVER, mode=fault["mode"], at=fault["at"])

        if ended.code:
            refused += 1
            assert complain(ended) == [], (fault, ended.output)
            changed = {name for name, content in files_of(place).items() if before.get(name) != content}
            # What cannot take its place stays away, but what lies beside it may have taken its own.
            may = fault["kind"] == "rename" or what == "a trace"  # which tells also of work that failed
            assert changed <= ({target} if may else set()), (fault, changed, ended.output)
        else:
            assert files_of(place).keys() == whole.keys(), fault
            assert target not in whole or len((place / target).read_bytes()) > len(whole[target]) / 2, fault
        shutil.rmtree(place)
    assert refused > len(faults) / 4, faults


@pytest.mark.parametrize("command", [DREAM_FILM, ("export", "data/game.zarr", "--to", "mp4", "--out", "out.mp4")])
def test_a_film_that_another_program_cannot_write_leaves_what_was_there(
    zygote: Zygote, made: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The layer does not reach into ffmpeg, but a limit to the size of files does."""
    place = tmp_path / "place"
    shutil.copytree(made, place)
    if command is DREAM_FILM:  # which may be made again
        (place / "out.mp4").write_bytes(BEFORE)
    before = files_of(place)

    ended = zygote.run(place, *command, settings=NEVER, file_size=1500)

    assert complain(ended) == [], ended.output
    assert files_of(place) == before
