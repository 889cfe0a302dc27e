"""`iris doctor`: what works is ok, and what is broken is named, alone, with what to do."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import Result

from iris_cli.stages import doctor as stage
from iris_cli.stages.doctor import FAIL, OK, WARN, Check, doctor, facts_of

Command = Callable[..., Result]
PARTS = ["python", "packages", "extras", "device", "precision", "memory", "game", "dataset", "films", "writing", "disk",
         "perceptual weights"]  # fmt: skip


def check(name: str, **where: object) -> Check:
    return next(one for one in doctor(device="cpu", **where) if one.name == name)  # type: ignore[arg-type]


def only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the other parts out, for speed."""
    for part in ("game", "dataset", "films", "memory", "packages", "extras"):
        if part != name:
            monkeypatch.setattr(stage, f"_{part}", lambda *_, part=part: Check(part, OK, "left out"))


def test_here_everything_that_is_needed_works_and_nothing_is_left_behind(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = command("doctor", "--device", "cpu", "--json")

    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["healthy"]
    assert [one["name"] for one in facts["checks"]] == PARTS
    found = {one["name"]: one for one in facts["checks"]}
    for part in ("game", "dataset", "device", "writing"):
        assert found[part]["status"] == OK, found[part]
    assert found["films"]["found"] == "mp4 and gif written and read back"
    assert "40 steps played, 6 actions" in found["game"]["found"]
    assert "frames 1.2 GB" in found["memory"]["found"]
    assert list(tmp_path.iterdir()) == []


def test_people_see_a_line_for_each_part_and_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("nothing", monkeypatch)
    monkeypatch.chdir(tmp_path)

    result = command("doctor", "--device", "cpu")

    assert result.exit_code == 0
    assert all(part in result.stdout for part in PARTS)
    assert "-> For the published loss: iris fetch lpips" in result.stdout


def test_a_part_that_is_needed_and_broken_ends_with_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    only("game", monkeypatch)

    def broken() -> Check:
        raise RuntimeError("emulator says no\nand more")

    monkeypatch.setattr(stage, "_game", broken)

    result = command("doctor", "--device", "cpu", "--json")

    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    failed = [one for one in facts["checks"] if one["status"] == FAIL]
    assert [(one["name"], one["found"]) for one in failed] == [("game", "RuntimeError: emulator says no")]


@pytest.mark.pipeline
@pytest.mark.parametrize("package", ["ale_py", "zarr", "torch", "imageio"])
def test_a_package_that_cannot_be_imported_fails_its_own_parts_alone(package: str, tmp_path: Path) -> None:
    """In a process of its own, where the package is missing."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise ImportError('gone', name='{package}')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import json; from iris_cli.stages.doctor import doctor, facts_of\n"
        "print(json.dumps(facts_of(doctor(device='cpu'))))"
    )

    facts = json.loads(run_python(code, tmp_path))

    failed = {one["name"]: one for one in facts["checks"] if one["status"] == FAIL}
    wanted = {
        "ale_py": {"game", "dataset"}, "zarr": {"dataset"}, "imageio": {"films"},
        "torch": {"device", "precision", "memory"},
    }[package]  # fmt: skip
    assert wanted <= failed.keys()
    assert all(f"{package} cannot be imported" in failed[part]["found"] for part in wanted)
    assert "python" not in failed
    assert "writing" not in failed or package in ("torch",)


def run_python(code: str, place: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_too_little_memory_is_a_warning_with_settings_that_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iris_cli.machine.memory", lambda: (4 * 10**9, 10**9))

    found = stage._memory("cpu")

    assert found.status == WARN
    assert "1.0 GB of 4.0 GB are free" in found.found
    assert "--preset small" in str(found.fix)


@pytest.mark.parametrize(("free", "status"), [(5 * 10**8, FAIL), (2 * 10**9, WARN), (10**11, OK)])
def test_disk_space_is_judged(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))

    assert stage._disk(Path()).status == status


def test_a_place_that_cannot_be_written_to_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(dir: Path) -> object:  # root may write anywhere, so permissions would prove nothing here
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)

    found = stage._writing(tmp_path / "not" / "there")

    assert found.status == FAIL
    assert f"{tmp_path} (Permission denied)" in found.found


def test_films_that_cannot_be_written_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ffmpeg(*_: object) -> None:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr("iris_cli.render._write_mp4", no_ffmpeg)

    found = stage._films()

    assert found.status == WARN
    assert found.found.startswith("gif written and read back; not mp4")


@pytest.mark.parametrize(
    ("version", "status", "words"), [("0.1", FAIL, "torch is 0.1, needed is 2.6"), (None, FAIL, "torch is missing")]
)
def test_versions_are_held_against_what_the_package_asks_for(
    monkeypatch: pytest.MonkeyPatch, version: str | None, status: str, words: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=2.6", 'matplotlib>=3.8; extra == "plot"'])
    monkeypatch.setattr(stage, "_version", lambda name: version)

    found, extras = stage._packages(), stage._extras()

    assert (found.status, found.found) == (status, words)
    assert found.fix == "pip install 'torch>=2.6'"
    assert extras.status == OK
    assert extras.fix == ("If wanted: pip install 'iris-wm[plot]'" if version is None else None)


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    monkeypatch.setattr(stage.Path, "glob", lambda self, pattern: [Path("/dev/nvidia0")])

    found = stage._device("auto")

    assert found.status == WARN
    assert "there is an NVIDIA GPU, but this torch" in found.found
    assert stage._device("cpu").status == OK


def test_health_is_only_about_what_fails() -> None:
    assert facts_of([Check("a", OK, "x"), Check("b", WARN, "y", "z")])["healthy"]
    assert not facts_of([Check("a", FAIL, "x")])["healthy"]
