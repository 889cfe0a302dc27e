"""Stored tokens are those of the present tokenizer, or are not used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iris_cli import interrupts
from iris_cli import run as run_module
from iris_cli.errors import Interrupted, RunError
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import tokenize as tokenize_stage
from iris_cli.stages.collect import Collect, collect
from iris_cli.stages.tokenize import Tokenize, tokenize
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

NewRun = Callable[..., Run]


@pytest.fixture
def run(pong: Path, new_run: NewRun) -> Run:
    """A run whose tokenizer has seen a few updates."""
    run = new_run(pong)
    train_tokenizer(run, TrainTokenizer(updates=3))
    return run


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which steps were encoded, as (start, stop)."""
    blocks: list[tuple[int, int]] = []
    encode = Run.encode_steps

    def spy(run: Run, start: int, stop: int) -> torch.Tensor:
        blocks.append((start, stop))
        return encode(run, start, stop)

    monkeypatch.setattr(Run, "encode_steps", spy)
    return blocks


def stored(run: Run) -> torch.Tensor:
    tokens = run.dataset().read_tokens(run.agent.tokenizer.fingerprint())
    assert tokens is not None
    return torch.from_numpy(tokens)


def are_of_the_present_tokenizer(tokens: torch.Tensor | None, run: Run) -> bool:
    """Whether tokens of all steps are what each frame gives when it is encoded by itself; looks at some."""
    frames = torch.from_numpy(run.dataset().read("observations")).permute(0, 3, 1, 2)
    assert tokens is not None
    assert len(tokens) == len(frames)
    chosen = [*range(0, len(frames), 17), len(frames) - 1]
    return torch.equal(tokens[chosen], torch.cat([run.agent.tokenizer.encode(frames[[step]]) for step in chosen]))


def test_stored_tokens_equal_those_computed_on_the_fly_and_are_used(
    run: Run, encoded: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_stage, "TOKENIZE_BLOCK", 128)
    report = tokenize(run, Tokenize())
    assert encoded == [(0, 128), (128, 256), (256, 300)]
    assert (report.figures["frames"], report.figures["already_there"]) == (300, 0)

    tokens = run.tokenized_replay().tokens
    assert len(encoded) == 3  # nothing was encoded again
    assert are_of_the_present_tokenizer(tokens, run)
    assert torch.equal(stored(run), tokens)
    assert tokens.unique().numel() > 1


def test_tokens_of_an_earlier_tokenizer_are_never_used(run: Run, encoded: list[tuple[int, int]]) -> None:
    tokenize(run, Tokenize())
    old = run.tokenized_replay().tokens.clone()
    train_tokenizer(run, TrainTokenizer(updates=3))
    encoded.clear()

    tokens = run.tokenized_replay().tokens

    assert encoded == [(0, 300)]
    assert are_of_the_present_tokenizer(tokens, run)
    assert not are_of_the_present_tokenizer(old, run)
    tokenize(run, Tokenize())
    assert len(Dataset.open(run.dataset_path).attributes["tokens"]) == 2


def test_an_interrupted_tokenize_keeps_its_blocks_and_goes_on(
    run: Run, encoded: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_stage, "TOKENIZE_BLOCK", 100)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: True)
        with pytest.raises(Interrupted, match="after 100 of 300 frames, which are kept"):
            tokenize(run, Tokenize())
    report = tokenize(run, Tokenize())
    assert report.figures["already_there"] == 100
    assert encoded == [(0, 100), (100, 200), (200, 300)]
    assert are_of_the_present_tokenizer(stored(run), run)


def test_after_more_collection_only_new_frames_are_encoded(run: Run, encoded: list[tuple[int, int]]) -> None:
    tokenize(run, Tokenize())
    collect(run, Collect(steps=10))
    assert are_of_the_present_tokenizer(run.tokenized_replay().tokens, run)
    tokenize(run, Tokenize())
    assert encoded == [(0, 300), (300, 310), (300, 310)]
    assert are_of_the_present_tokenizer(stored(run), run)


def test_an_untrained_tokenizer_stores_nothing(pong: Path, new_run: NewRun) -> None:
    with pytest.raises(RunError, match=r"tokenizer has not been trained yet.*iris train-tokenizer"):
        tokenize(new_run(pong), Tokenize())
    assert Dataset.open(pong).attributes["tokens"] == {}


def test_between_rounds_only_new_blocks_are_encoded(
    run: Run, encoded: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the tokenizer stands. The blocks are those in which a run that was killed would encode everything."""
    monkeypatch.setattr(run_module, "TOKENIZE_BLOCK", 128)
    run.tokenized_replay()
    collect(run, Collect(steps=10))
    encoded.clear()
    tokens = run.tokenized_replay().tokens
    assert encoded == [(256, 310)]
    assert are_of_the_present_tokenizer(tokens, run)

    train_tokenizer(run, TrainTokenizer(updates=3))
    collect(run, Collect(steps=10))
    encoded.clear()
    run.tokenized_replay()
    assert encoded == [(0, 128), (128, 256), (256, 320)]
