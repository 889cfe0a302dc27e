"""What is kept of an update that was not finite."""

import json
import math
from pathlib import Path

import pytest
import torch

from iris_cli.errors import RunError
from iris_cli.failures import Failure, read_failure, write_failure


@pytest.fixture
def failure() -> Failure:
    frames = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 4, 4, 3).permute(0, 3, 1, 2)  # as replay has them
    return Failure(
        stage="train-tokenizer", component="tokenizer", update=231, state={"draws": "AAEC", "done": 30},
        metrics={"total_loss": math.nan, "l2_loss": -math.inf, "perplexity": 2.5},
        batch={"frames": frames}, weights={"tokenizer.scale": torch.tensor([1.5, math.inf])},
    )  # fmt: skip


def test_a_failure_is_read_as_it_was_written(tmp_path: Path, failure: Failure) -> None:
    path = write_failure(tmp_path / "failures", failure)

    again = read_failure(path)

    assert path.name == "train-tokenizer-000231.safetensors"
    assert (again.stage, again.component, again.update) == ("train-tokenizer", "tokenizer", 231)
    assert again.state == failure.state
    assert again.metrics == pytest.approx(failure.metrics, nan_ok=True)
    for ours, theirs in ((again.batch, failure.batch), (again.weights, failure.weights)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_metrics_are_plain_json(tmp_path: Path, failure: Failure) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    path = write_failure(tmp_path / "failures", failure)

    content = json.loads(path.with_suffix(".json").read_text(), parse_constant=refuse)
    assert content["metrics"] == {"total_loss": "nan", "l2_loss": "-inf", "perplexity": 2.5}
    assert content["not_finite"] == ["total_loss", "l2_loss"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")

    with pytest.raises(RunError, match="cannot be read as a failed update"):
        read_failure(tmp_path / "x.safetensors")
