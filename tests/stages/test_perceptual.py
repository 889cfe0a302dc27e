"""Where the tokenizer's loss comes from: fetched, named, imported or for want of weights another one."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from iris_cli import load_agent
from iris_cli.nn.lpips import LPIPS
from iris_cli.run import Run
from iris_cli.stages.train_tokenizer import announce_loss

TRAIN = ("train-tokenizer", "data/pong.zarr", "--updates", "1", "--run", "runs/fresh")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of perceptual weights, random ones."""
    path = tmp_path / "lpips.safetensors"
    save_file(LPIPS().state_dict(), path)
    return path


def recorded_loss() -> str | None:
    """What the run remembers."""
    directory = Path("runs/fresh/checkpoints")
    state = json.loads((directory / (directory / "latest").read_text().strip() / "state.json").read_text())
    return state["tokenizer_loss"]


def test_without_weights_the_loss_says_so_once(workplace: Path, command: Callable[..., Result]) -> None:
    first, second = command(*TRAIN), command(*TRAIN)

    assert first.output.count("for want of perceptual weights") == 1
    assert "perceptual weights" not in second.output
    assert recorded_loss() == "weights-free"


def test_a_change_of_loss_is_recorded_once(workplace: Path, command: Callable[..., Result], weights: Path) -> None:
    command(*TRAIN)

    for _ in range(2):
        result = command(*TRAIN, "--set", f"tokenizer.lpips={weights}")

    assert result.exit_code == 0, result.output
    assert recorded_loss() == "weights-free, then published"


def test_a_loss_that_nothing_was_learned_by_is_not_recorded(workplace: Path, weights: Path) -> None:
    with closing(Run.open(Path("runs/fresh"), device=torch.device("cpu"), training=True)) as run:
        announce_loss(run)
        run.change({"tokenizer": {"lpips": str(weights)}}, where=lambda *keys: "test")

        announce_loss(run)

        assert run.tokenizer_loss == "published"


def test_a_path_given_once_holds_from_any_directory(
    workplace: Path, command: Callable[..., Result], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(weights, "mine.safetensors")
    command(*TRAIN, "--set", "tokenizer.lpips=mine.safetensors")
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data, run = (os.path.relpath(workplace / name, elsewhere) for name in ("data/pong.zarr", "runs/fresh"))

    result = command("train-tokenizer", data, "--updates", "1", "--run", run)

    assert result.exit_code == 0, result.output


def test_a_path_that_leads_nowhere_changes_nothing(workplace: Path, command: Callable[..., Result]) -> None:
    before = Path("runs/fresh/run.yaml").read_bytes()

    result = command(*TRAIN, "--set", "tokenizer.lpips=nowhere.pth")

    assert result.exit_code == 1
    assert "nowhere.pth" in result.stderr
    assert Path("runs/fresh/run.yaml").read_bytes() == before
    assert command(*TRAIN).exit_code == 0


def test_a_loaded_agent_asks_for_no_gradient_and_draws_nothing(workplace: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)

    agent = load_agent("runs/pong", device="cpu")

    assert torch.equal(torch.rand(1), expected)
    assert not any(parameter.requires_grad for parameter in agent.parameters())
    assert not agent.training
