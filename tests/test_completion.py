"""Shell completion: what a shell asks, and what it is told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import Result

from iris_cli.cli import cli

Command = Callable[..., Result]


def completed(*words: str) -> list[str]:
    """The words that a shell offers behind those before the last, which begin like it."""
    *before, begun = words
    return [item.value for item in BashComplete(cli, {}, "iris", "_IRIS_COMPLETE").get_completions(before, begun)]


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("wat") == ["watch"]
    assert completed("train-") == ["train-actor-critic", "train-agent", "train-dynamics", "train-tokenizer"]
    assert completed("report", "--no") == ["--no-pictures"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert "--log" in completed("run", "--")


def test_runs_and_datasets_are_completed_by_name(workplace: Path) -> None:
    (workplace / "runs" / "notes").mkdir()

    assert completed("watch", "") == ["runs/fresh", "runs/pong"]
    assert completed("report", "runs/fresh", "runs/p") == ["runs/pong"]
    assert completed("evaluate", "--run", "runs/f") == ["runs/fresh"]
    assert completed("train-dynamics", "data/b") == ["data/breakout.zarr"]
    assert completed("info", "") == [
        "data/breakout.zarr",
        "data/empty.zarr",
        "data/pong.zarr",
        "runs/fresh",
        "runs/pong",
    ]


def test_where_nothing_is_known_the_shell_completes_paths(workplace: Path) -> None:
    [item] = BashComplete(cli, {}, "iris", "_IRIS_COMPLETE").get_completions(["watch"], "elsewhere/")

    assert item.type in ("dir", "file")


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete -o"), ("zsh", "#compdef iris"), ("fish", "complete ")])
def test_each_shell_gets_its_script(command: Command, shell: str, words: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("there is no bash")

    result = command("completion", shell)

    assert result.exit_code == 0
    assert words in result.stdout
    assert "_IRIS_COMPLETE" in result.stdout


@pytest.mark.pipeline
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes_with_the_script(workplace: Path, repository: Path, tmp_path: Path) -> None:
    """The script is evaluated, and the function it defines is called as bash does at a tab."""
    program = tmp_path / "bin" / "iris"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m iris_cli "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(iris completion bash)"; COMP_WORDS=(iris watch runs/p); COMP_CWORD=2; _iris_completion iris; '
        'echo "${COMPREPLY[@]}"; complete -p iris'
    )
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(repository)}

    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)

    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "runs/pong"
    assert "_iris_completion" in done.stdout.splitlines()[1]


ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -Uz compinit; compinit -u -D; eval "$(iris completion zsh)"; print -r -- re""ady'
zpty -r z line '*ready*'
zpty -w -n z $'iris train-a\\t\\t'
zpty -r z line '*train-agent*'
print -r -- "$line"
"""


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("shell", "script"),
    [("fish", 'iris completion fish | source; complete -C "iris train-a"'), ("zsh", ZSH)],
)
def test_real_shells_complete_with_their_scripts(shell: str, script: str, repository: Path, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    program = tmp_path / "iris"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m iris_cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(repository)}

    done = subprocess.run([shell, "-c", script], env=environment, capture_output=True, text=True, timeout=60)

    assert "train-agent" in done.stdout
    assert "train-actor-critic" in done.stdout
    assert "train-tokenizer" not in done.stdout
