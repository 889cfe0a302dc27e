"""Datasets and runs of every earlier format version are opened, go on, and become the present one; later ones are not.

tests/golden/version-1.tar.xz was written by the program as it was at format version 1 (commit 39d537c): three datasets,
and a run that was killed in the middle of train-dynamics. Its weights were rounded to bfloat16, to be small.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from iris_cli.digests import has_digests
from iris_cli.errors import DatasetError, RunError
from iris_cli.open_run import alone, open_for_training
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages.repair import repair
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.verify import verify

GOLDEN = Path(__file__).parent / "golden" / "version-1.tar.xz"
DATASETS = {  # steps, episodes, tokens, and a digest of every value
    "pong": (70, 2, {"ada83622787085e5": 70}, "a29124aaf9336e8b"),
    "stacks": (10, 1, {}, "4dcb705b087b2ebc"),
    "imported": (12, 2, {}, "a97489c87bdc2f2e"),
}
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with what version 1 wrote."""
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "version-1")
    return tmp_path / "version-1"


def values(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for field in FIELDS:
        digest.update(dataset.read(field).tobytes())
    digest.update(dataset.episode_ends.tobytes() + dataset.episode_ids.tobytes())
    for name in sorted(dataset.attributes["tokens"]):
        digest.update(dataset.read_tokens(name).tobytes())
    final = dataset.final_observation(0)
    return (digest.update(final.tobytes()) if final is not None else None, digest.hexdigest()[:16])[1]


def version(path: Path) -> int:
    return json.loads((path / "zarr.json").read_text())["attributes"]["format_version"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_of_version_1_is_read_and_becomes_the_present_one_when_it_is_written(place: Path, name: str) -> None:
    path = place / "data" / f"{name}.zarr"
    steps, episodes, tokens, expected = DATASETS[name]
    dataset = Dataset.open(path)

    assert (dataset.num_steps, dataset.num_episodes, dataset.attributes["tokens"]) == (steps, episodes, tokens)
    assert values(dataset) == expected
    assert not any(finding.is_wrong for finding in verify(path))
    assert repair(path) == []
    assert version(path) == 1  # reading changes nothing

    with Dataset.open(path, writable=True) as writable:
        writable.write_tokens("fedc", 0, np.zeros((steps, 2), np.int64))

    assert version(path) == 2
    assert Dataset.open(path).attributes["digest"]
    assert [f.part for f in verify(path) if f.is_wrong] == []
    assert np.array_equal(Dataset.open(path).read("rewards"), dataset.read("rewards"))


def test_a_run_of_version_1_goes_on_in_the_middle_of_its_stage(place: Path) -> None:
    run = Run.open(Path("runs/pong"), device=CPU)
    assert run.fingerprint() == "45e06e33a3d5789d"
    assert run.updates == {"tokenizer": 3, "dynamics": 4, "actor_critic": 2}
    assert not any(finding.is_wrong for finding in verify(Path("runs/pong")))
    state = Path("runs/pong/checkpoints/000006/state.json")
    content = json.loads(state.read_text())
    content["progress"]["total"] = 3  # of 5,000, to be quick
    state.write_text(json.dumps(content))

    report = alone(train_dynamics, open_for_training(Path("data/pong.zarr")), TrainDynamics())

    assert report.figures["updates"] == 6
    latest = Path("runs/pong/checkpoints", Path("runs/pong/checkpoints/latest").read_text().strip())
    assert has_digests(latest)
    assert not has_digests(state.parent)
    assert not any(finding.is_wrong for finding in verify(Path("runs/pong")))


def test_what_a_later_version_wrote_is_refused_in_one_line(place: Path) -> None:
    file = place / "data/pong.zarr/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["format_version"] = 3
    file.write_text(json.dumps(metadata))
    card = Path("runs/pong/run.yaml")
    card.write_text(card.read_text().replace("format: 1", "format: 2"))

    with pytest.raises(DatasetError, match=r"version 3, this program reads 1 to 2.*later") as dataset:
        Dataset.open(place / "data/pong.zarr")
    with pytest.raises(RunError, match="format 2, but this program reads format 1") as run:
        Run.open(Path("runs/pong"), device=CPU)
    assert "\n" not in f"{dataset.value}{run.value}"
