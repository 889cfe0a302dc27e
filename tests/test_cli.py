"""The command as a whole: quick to answer, and what it prints. Errors are in test_errors.py."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from click.testing import Result

from iris_cli import interrupts
from iris_cli.cli import cli
from iris_cli.errors import IrisError
from iris_cli.version import VERSION

Command = Callable[..., Result]
HEAVY = ("torch", "gymnasium", "ale_py", "zarr", "numpy", "imageio", "PIL", "yaml")


def cpu_seconds(*arguments: str) -> float:
    """Of a process of its own, user and system; the wall time of a busy machine says nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "iris_cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["collect", "--help"], ["--version"]])
def test_help_answers_at_once(arguments: list[str], repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)

    assert median(cpu_seconds(*arguments) for _ in range(3)) < 0.3


def test_help_imports_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys; from iris_cli.cli import cli\n"
        "for arguments in (['--help'], ['train-dynamics', '--help']):\n"
        "    cli(arguments, standalone_mode=False)\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)

    assert shown.stdout.endswith("loaded: []\n")


def test_environments_start_without_torch(repository: Path) -> None:
    code = "import sys; import iris_cli.envs.vector, iris_cli.replay.dataset; print('torch' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)

    assert shown.stdout == "False\n"


def test_what_touches_no_model_needs_no_torch(scored: Callable[..., Path], repository: Path) -> None:
    run = str(scored("a", mean=3.0).resolve())
    asked = (["info", run, "--json"], ["scores", run, "--json"], ["curve", run, "--out", f"{run}/curve.png"])
    code = (
        "import sys; from iris_cli.cli import cli\n"
        f"for arguments in {asked!r}:\n"
        "    cli(arguments, standalone_mode=False)\n"
        "print('torch:', 'torch' in sys.modules, file=sys.stderr)"
    )

    shown = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)

    assert shown.stderr.endswith("torch: False\n"), shown.stderr


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version").output == f"iris, version {VERSION}\n"


def test_without_a_command_the_help_is_shown(command: Command) -> None:
    result = command()

    assert "iris collect --env Pong" in result.output
    assert all(name in result.output for name in cli.commands)


def test_atari_100k_is_planned_as_published(
    command: Command, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = command("run", repository / "pipelines" / "atari100k.yaml", "--game", "Qbert", "--dry-run")

    assert result.exit_code == 0
    for figure in ("Qbert", "600", "100,000", "119,000", "115,000", "110,000"):
        assert figure in result.output
    assert list(tmp_path.iterdir()) == []


def test_info_is_json_for_other_programs(command: Command, workplace: Path) -> None:
    facts = json.loads(command("info", "data/pong.zarr", "--json").stdout)

    assert facts["steps"] == 20
    assert facts["environment"] == "ALE/Pong-v5"


def test_info_is_a_table_for_people(command: Command, workplace: Path) -> None:
    result = command("info", "runs/pong")

    assert result.exit_code == 0
    assert "ALE/Pong-v5" in result.stdout
    assert "tiny" in result.stdout


def test_info_without_a_path_is_of_the_newest_run(command: Command, workplace: Path) -> None:
    os.utime("runs/pong/checkpoints/latest", (2e9, 2e9))

    assert json.loads(command("info", "--json").stdout) == json.loads(command("info", "runs/pong", "--json").stdout)


def test_a_diagnosis_is_tables_and_hints_for_people(command: Command, workplace: Path) -> None:
    result = command("diagnose", "--run", "runs/pong", "--dataset", "data/pong.zarr", "--horizon", "5")

    assert result.exit_code == 0, result.output
    words = ("20 steps of 2 episodes", "Tokenizer", "Dynamics", "Rewards and ends", "Dreams", "Policy", "Hints")
    places = [result.stdout.index(word) for word in words]
    assert places == sorted(places)
    assert "runs/pong/reports/diagnose-000002.json" in result.stdout
    assert "not held out" in result.stderr


def test_a_diagnosis_is_json_alone_for_other_programs(command: Command, workplace: Path) -> None:
    os.utime("runs/pong/checkpoints/latest", (2e9, 2e9))

    result = command("diagnose", "--dataset", "data/pong.zarr", "--horizon", "5", "--json")

    assert json.loads(result.stdout) == json.loads(Path("runs/pong/reports/diagnose-000002.json").read_text())
    assert "Run: runs/pong (the newest" in result.stderr
    assert command("info", "runs/pong").stdout.startswith("runs/pong")  # people read on stdout again


def test_the_newest_run_is_chosen_and_named(command: Command, workplace: Path) -> None:
    os.utime("runs/pong/checkpoints/latest", (2e9, 2e9))

    result = command("imagine", "--steps", "2", "--num", "1", "--policy", "dataset", "--render", "o.png")

    assert result.exit_code == 0, result.output
    assert "Run: runs/pong (the newest" in result.stdout
    assert (workplace / "o.png").stat().st_size > 0


def test_training_makes_the_run_of_the_dataset_and_goes_on_with_it(command: Command, workplace: Path) -> None:
    arguments = ["train-tokenizer", "data/breakout.zarr", "--preset", "tiny", "--updates", "2"]

    first, second = command(*arguments), command(*arguments)

    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert "New run runs/breakout: iris, preset tiny, seed 0" in first.stdout
    assert "New run" not in second.stdout
    facts = json.loads(command("info", "runs/breakout", "--json").stdout)
    assert facts["updates"] == {"tokenizer": 4, "dynamics": 0, "actor_critic": 0}
    assert facts["collected_steps"] == json.loads(command("info", "data/breakout.zarr", "--json").stdout)["steps"] > 0


def test_a_change_of_learning_settings_is_said_and_kept(command: Command, workplace: Path) -> None:
    arguments = ["train-dynamics", "data/pong.zarr", "--updates", "1"]

    result = command(*arguments, "--set", "dynamics.learning_rate=1e-3")

    assert result.exit_code == 0, result.output
    assert "Changed dynamics.learning_rate: 0.0001 -> 0.001." in result.stdout
    assert "Changed" not in command(*arguments).stdout


def test_without_updates_the_command_says_how_many_and_why(command: Command, workplace: Path) -> None:
    result = command("train-tokenizer", "data/breakout.zarr", "--preset", "tiny")

    assert "train-tokenizer: 10 updates, one for each of the dataset's 10 steps, as published; about" in result.stdout


@pytest.mark.parametrize("named", [("runs/pong",), ("--run", "runs/pong")])
def test_a_run_may_be_named_with_and_without_its_option(
    command: Command, workplace: Path, named: tuple[str, ...]
) -> None:
    result = command("imagine", *named, "--steps", "2", "--num", "1", "--policy", "dataset", "--render", "o.png")

    assert result.exit_code == 0, result.output
    assert "the newest" not in result.output
    assert "Name the run once" in command("imagine", "runs/pong", "--run", "runs/pong").output


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (IrisError("it broke", where="here", fix="Mend it."), 1, "Error: it broke. In here. Mend it."),
        (OSError(28, "No space left on device", "x.bin"), 1, "Error: No space left on device. In x.bin."),
        (KeyboardInterrupt(), 130, "Stopped at once"),
    ],
)
def test_what_a_command_raises_becomes_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(cli.commands["info"], "callback", fail)

    result = command("info", "x")

    assert result.exit_code == code
    assert said in result.output
    assert len(result.output.splitlines()) == 1


def test_ctrl_c_is_a_request_only_while_a_command_runs(command: Command) -> None:
    command("--version")

    assert not interrupts.requested()


def test_a_person_plays_one_world_at_a_time(command: Command, workplace: Path) -> None:
    both = command("play", "runs/pong", "--env", "Pong")
    many = command("collect", "--env", "Pong", "--human", "--num-envs", "2")

    assert both.exit_code == many.exit_code == 2
    assert "Name a run or --env, not both." in both.output
    assert "leave --num-envs away" in many.output


def test_a_script_of_keys_is_filmed_from_the_newest_run(command: Command, workplace: Path) -> None:
    os.utime("runs/pong/checkpoints/latest", (2e9, 2e9))
    Path("keys.txt").write_text("fire\nup 2  # Pong's RIGHT\n")

    result = command("play", "--world", "real", "--script", "keys.txt", "--render", "out.png")

    assert result.exit_code == 0, result.output
    assert "Run: runs/pong (the newest" in result.stdout
    assert (workplace / "out.png").stat().st_size > 0
