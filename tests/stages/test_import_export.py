"""Others' recordings become datasets that train and dream, and datasets go out again, the same."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from iris_cli.envs.pictures import resize
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError, DatasetError, EnvironmentError_, Interrupted
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay
from iris_cli.stages import import_data as stage
from iris_cli.stages.collect import Collect, collect_randomly
from iris_cli.stages.export_data import Export, export_data
from iris_cli.stages.import_data import Import, import_data

FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(
    steps: int = 30, *, shape: tuple[int, ...] = (64, 64, 3), actions: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Steps of episodes of ten; the last is cut by the time limit."""
    draws = np.random.default_rng(seed)
    return {
        "observations": draws.integers(0, 256, (steps, *shape), np.uint8),
        "actions": draws.permutation(np.arange(steps) % actions),
        "rewards": draws.normal(size=steps).astype(np.float32),
        "terminations": (np.arange(steps) % 10 == 9) & (np.arange(steps) < steps - 1),
        "truncations": np.arange(steps) == steps - 1,
    }


def npz(name: str = "mine.npz", **values: Any) -> str:
    np.savez_compressed(name, **(values or recorded()))
    return name


def holds(path: str | Path) -> dict[str, np.ndarray]:
    with Dataset.open(path) as dataset:
        fields = {name: dataset.read(name) for name in FIELDS}
        return {**fields, "ends": dataset.episode_ends, "ids": dataset.episode_ids}


def same(one: str | Path, other: str | Path) -> bool:
    return all(np.array_equal(value, holds(other)[name]) for name, value in holds(one).items())


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*")}


# In


def test_frames_of_the_right_size_come_in_as_they_are() -> None:
    values = recorded()

    report = import_data(npz(**values), Import())

    there = holds("data/mine.zarr")
    assert all(np.array_equal(there[name], values[name]) for name in FIELDS)
    assert there["ends"].tolist() == [10, 20, 30]
    assert report.figures["episodes"] == 3
    assert set(os.listdir("data")) == {"mine.zarr"}


@pytest.mark.parametrize(
    ("shape", "as_picture"),
    [
        ((210, 160, 3), lambda image: image),
        ((3, 84, 96), lambda image: image.transpose(1, 2, 0)),
        ((30, 40), lambda image: image),
        ((30, 40, 1), lambda image: image[:, :, 0]),
        ((1, 30, 40), lambda image: image[0]),
    ],
    ids=["wide", "channels first", "grey", "one channel", "one channel first"],
)
def test_pictures_of_any_size_go_through_the_resize_of_atari(shape: tuple[int, ...], as_picture: Callable) -> None:
    values = recorded(10, shape=shape)

    import_data(npz(**values), Import())

    frames = holds("data/mine.zarr")["observations"]
    for frame, image in zip(frames, values["observations"], strict=True):
        assert np.array_equal(frame, resize(as_picture(image)))


def test_the_resize_is_pillows_bilinear() -> None:
    values = recorded(1, shape=(210, 160, 3))

    import_data(npz(**values), Import())

    expected = Image.fromarray(values["observations"][0]).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(holds("data/mine.zarr")["observations"][0], np.asarray(expected))


@pytest.mark.parametrize("shape", [(64, 64, 4), (4, 84, 84), (3, 64, 3), (64, 3, 64)])
def test_pictures_that_could_be_anything_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="could be anything"):
        import_data(npz(**recorded(shape=shape)), Import())

    assert files() - {"data"} == {"mine.npz"}


@pytest.mark.parametrize(("commit", "block"), [(7, 1), (1, 25), (16, 3), (4, 10), (1000, 4)])
def test_commits_and_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, commit: int, block: int) -> None:
    values = recorded(shape=(8, 8))
    import_data(npz(**values), Import(out=Path("whole.zarr")))
    monkeypatch.setattr(stage, "COMMIT_STEPS", commit)
    monkeypatch.setattr("iris_cli.formats.npz.BLOCK_BYTES", block * 64)

    import_data("mine.npz", Import(out=Path("pieces.zarr")))

    assert same("whole.zarr", "pieces.zarr")


def test_where_it_comes_from_stays_with_it() -> None:
    import_data(npz("some where.npz"), Import(out=Path("x.zarr"), licence="CC-BY-4.0", actions="NOOP,UP,DOWN,FIRE"))

    with Dataset.open("x.zarr") as dataset:
        attributes = dataset.attributes
        assert attributes["imported"] == {"source": "some where.npz", "licence": "CC-BY-4.0", "format": "npz"}
        assert attributes["environment"]["id"] == "imported:some-where"
        assert attributes["action_meanings"] == ["NOOP", "UP", "DOWN", "FIRE"]
        assert attributes["writers"] == [{"start": 0, "who": "imported"}]
        assert dataset.summary()["imported"]["licence"] == "CC-BY-4.0"


def test_a_licence_that_nobody_named_is_unknown_and_said_to_be() -> None:
    report = import_data(npz(), Import())

    assert any("licence" in note for note in report.notes)
    assert any("nothing can be played" in note for note in report.notes)
    assert Dataset.open("data/mine.zarr").attributes["imported"]["licence"] == "unknown"


def test_a_game_that_is_named_can_be_played_on() -> None:
    report = import_data(npz(**recorded(actions=6)), Import(env="toy_game:Toy", licence="MIT", out=Path("toy.zarr")))

    assert report.notes == ()
    collect_randomly(Path("toy.zarr"), training_spec("toy_game:Toy"), Collect(steps=20), seed=0)
    with Dataset.open("toy.zarr") as dataset:
        assert (dataset.num_steps, dataset.num_actions) == (50, 6)
        assert dataset.environment["id"] == "toy_game:Toy"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"actions": "3"}, "action 3 occurs, but there are 3"),
        ({"actions": "0"}, "cannot be"),
        ({"actions": "9999"}, "cannot be"),
        ({"actions": "A,,B,C"}, "missing, or there twice"),
        ({"actions": "A,A,B,C"}, "missing, or there twice"),
        ({"env": "Pnog"}, "Did you mean Pong"),
        ({"env": "Catch-v0"}, "action 3 occurs, but there are 3"),
        ({"env": "toy_game:Toy", "actions": "4"}, "4 actions were named, but the game has 6"),
        ({"csv": Path("x.csv")}, "only a film"),
        ({"out": Path("mine.npz")}, "there already"),
        ({"out": Path("mine.npz/x.zarr")}, "mine.npz"),
        ({"out": Path("link.zarr")}, "there already"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    npz()
    Path("link.zarr").symlink_to("nowhere")
    before = files()

    with pytest.raises((ConfigError, DatasetError, EnvironmentError_), match=said):
        import_data("mine.npz", Import(**settings))

    assert files() - {"data"} == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.npz", "no such file"),
        ("text.txt", "does not say what it is"),
        ("folder", "no Minari dataset"),
        ("pipe.npz", "neither a file nor a folder"),
        ("minari:../../etc-v0", "no id"),
        ("minari:nobody/nothing-v0", "minari download"),
        ("text.npz", "no npz file"),
        ("text.mp4", "no CSV file"),
        ("linked.mp4", r"no CSV file of its own.*--csv"),
        ("piped.mp4", "no CSV file"),
    ],
)
def test_what_is_no_recording_is_refused(source: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "root")
    for name in ("linked.mp4", "piped.mp4"):
        Path(name).write_text("text")
    Path("linked.csv").symlink_to("/etc/passwd")
    os.mkfifo("piped.csv")
    for name in ("text.txt", "text.npz", "text.mp4"):
        Path(name).write_text("text")
    Path("folder").mkdir()
    os.mkfifo("pipe.npz")
    before = files()

    with pytest.raises((ConfigError, DatasetError), match=said):
        import_data(source, Import())

    assert files() - {"data"} == before


def test_an_import_that_fails_midway_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "COMMIT_STEPS", 4)
    monkeypatch.setattr("iris_cli.formats.npz.BLOCK_BYTES", 64 * 64 * 3 * 4)
    content = bytearray(Path(npz(**recorded())).read_bytes())
    np.savez("mine.npz", **recorded())
    content = bytearray(Path("mine.npz").read_bytes())
    content[content.index(recorded()["observations"].tobytes()[-64:])] ^= 1  # in the last frame: its checksum is wrong
    Path("mine.npz").write_bytes(content)

    with pytest.raises(DatasetError, match="CRC"):
        import_data("mine.npz", Import())

    assert files() == {"mine.npz", "data"}


def test_ctrl_c_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iris_cli.interrupts.requested", lambda: True)

    with pytest.raises(Interrupted):
        import_data(npz(), Import())

    assert files() == {"mine.npz", "data"}


@pytest.mark.pipeline
def test_what_a_killed_import_left_is_removed_by_the_next() -> None:
    code = (
        "import os, iris_cli.stages.import_data as stage\n"
        "stage._fill = lambda *_: (print('now', flush=True), __import__('time').sleep(60))\n"
        "stage.import_data('mine.npz', stage.Import())\n"
    )
    npz()
    environment = {**os.environ, "PYTHONPATH": str(Path(stage.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    [left] = Path("data").glob(".*")
    import_data("mine.npz", Import(out=Path("data/other.zarr")))
    assert left.exists()
    process.kill()
    process.wait()
    process.stdout.close()

    import_data("mine.npz", Import())

    assert sorted(os.listdir("data")) == ["mine.zarr", "other.zarr"]


# Out, and in again


def test_a_film_without_loss_comes_back_the_same(pong: Path) -> None:
    export_data(pong, Export(to="mp4", out=Path("pong.mp4"), lossless=True))
    import_data("pong.mp4", Import(env="Pong", out=Path("again.zarr")))

    assert same(pong, "again.zarr")
    with Dataset.open(pong) as before, Dataset.open("again.zarr") as after:
        assert after.environment == before.environment
        assert after.attributes["action_meanings"] == before.attributes["action_meanings"]


@pytest.mark.pipeline
def test_a_film_that_all_players_show_comes_back_nearly_the_same(pong: Path) -> None:
    report = export_data(pong, Export(to="mp4"))
    import_data(str(pong.with_suffix(".mp4")), Import(out=Path("again.zarr")))

    before, after = holds(pong), holds("again.zarr")
    assert "compressed" in report.notes[0]
    assert all(np.array_equal(before[name], after[name]) for name in (*FIELDS[1:], "ends"))
    error = np.abs(before["observations"].astype(int) - after["observations"])
    assert error.mean() < 4


@pytest.mark.pipeline
def test_minari_holds_what_the_dataset_holds(pong: Path) -> None:
    export_data(pong, Export(out=Path("pong-v0")))
    import_data("pong-v0", Import(env="Pong", out=Path("again.zarr")))

    assert same(pong, "again.zarr")


@pytest.mark.pipeline
def test_episodes_that_lie_in_pieces_become_whole() -> None:
    collect_randomly(Path("two.zarr"), training_spec("toy_game:Toy"), Collect(steps=8, num_envs=2), seed=0)
    collect_randomly(Path("two.zarr"), training_spec("toy_game:Toy"), Collect(steps=100, num_envs=2), seed=0)
    export_data(Path("two.zarr"), Export(out=Path("two-v0")))
    import_data("two-v0", Import(out=Path("again.zarr")))

    with Dataset.open("two.zarr") as before, Dataset.open("again.zarr") as after:
        assert len(before.episode_ends) > before.num_episodes
        assert after.num_episodes == len(after.episode_ends) == before.num_episodes
        for episode in range(before.num_episodes):
            pieces = [before.read("observations", *piece) for piece in before.pieces(episode)]
            [whole] = after.pieces(episode)
            assert np.array_equal(np.concatenate(pieces), after.read("observations", *whole))


@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")
def test_minari_to_zarr_to_minari_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box, Discrete
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("root").absolute()))
    draws, lengths = np.random.default_rng(0), (5, 1, 12)
    buffers = [
        EpisodeBuffer(
            observations=draws.integers(0, 256, (n + 1, 64, 64, 3), np.uint8), actions=draws.integers(2, 7, n),
            rewards=draws.normal(size=n).astype(np.float32), terminations=np.arange(n) == (n - 1 if n > 1 else -1),
            truncations=np.arange(n) == (n - 1 if n == 12 else -1),
        )
        for n in lengths
    ]  # fmt: skip
    spec = json.dumps({"id": "CartPole-v1", "entry_point": "x:Y", "additional_wrappers": [], "kwargs": {}})
    minari.create_dataset_from_buffers(
        "game/first-v1", buffers, observation_space=Box(0, 255, (64, 64, 3), np.uint8), jpeg_encoding=False,
        action_space=Discrete(5, start=2), data_format="hdf5",
    )  # fmt: skip
    metadata = Path("root/game/first-v1/data/metadata.json")
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "env_spec": spec}))

    import_data("minari:game/first-v1", Import(out=Path("x.zarr")))
    export_data(Path("x.zarr"), Export(out=Path("root/second-v0")))

    first, second = minari.load_dataset("game/first-v1"), minari.load_dataset("second-v0")
    assert len(first) == len(second) == 3
    assert (first.action_space, first.observation_space) == (second.action_space, second.observation_space)
    assert second.env_spec.id == "CartPole-v1"
    for one, other in zip(first, second, strict=True):
        for name in FIELDS:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.pipeline
def test_grey_stacks_go_to_minari_but_to_no_film(pong_for: Callable[[str], Path]) -> None:
    stacks = pong_for("twm")

    export_data(stacks, Export(out=Path("stacks-v0")))

    with pytest.raises(DatasetError, match="no film"):
        export_data(stacks, Export(to="mp4"))
    minari = pytest.importorskip("minari")
    assert minari.MinariDataset("stacks-v0/data").observation_space.shape == (64, 64, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"to": "gif"}, "not one of"),
        ({"to": "mp4", "fps": 0.0}, "fps"),
        ({"to": "mp4", "fps": float("nan")}, "fps"),
        ({"to": "mp4", "out": Path("x.avi")}, r"end in \.mp4"),
        ({"out": Path("../x")}, "no name of a Minari dataset"),
        ({"out": Path("x-v0/..")}, "no name of a Minari dataset"),
        ({"out": Path("there-v0")}, "there already"),
        ({"to": "mp4", "out": Path("there.mp4")}, "there already"),
        ({"to": "mp4", "out": Path("file/x.mp4")}, "cannot be written"),
    ],
)
def test_exports_that_cannot_be_are_refused(pong: Path, settings: dict[str, Any], said: str) -> None:
    Path("there-v0").symlink_to("nowhere")
    Path("there.csv").write_text("mine")
    Path("file").write_text("no folder")
    before = files()

    with pytest.raises((ConfigError, DatasetError), match=said):
        export_data(pong, Export(**settings))

    assert files() == before


# What imported data is good for


@pytest.mark.pipeline
def test_a_film_becomes_a_dream(command: Command) -> None:
    npz("clip.npz", **recorded(60))
    import_data("clip.npz", Import(out=Path("film.zarr")))
    export_data(Path("film.zarr"), Export(to="mp4", out=Path("clip.mp4")))

    for line in (
        "import clip.mp4",
        "train-tokenizer data/clip.zarr --preset tiny --updates 2",
        "tokenize data/clip.zarr",
        "train-dynamics data/clip.zarr --updates 2",
        "train-actor-critic data/clip.zarr --updates 2",
        "imagine --run runs/clip --num 2 --steps 5 --render dream.mp4",
        "imagine --run runs/clip --num 1 --steps 3 --render dream.png --policy random",
        "imagine --run runs/clip --num 1 --steps 3 --render stored.png --policy dataset",
        "diagnose --run runs/clip --dataset data/clip.zarr --horizon 3",
        "info runs/clip",
    ):
        result = command(*line.split())
        assert result.exit_code == 0, (line, result.output)
        if "--policy" not in line and line.startswith("imagine"):
            assert "no game to play" in result.stderr
    assert Path("dream.mp4").stat().st_size > 1000

    for line in (
        "evaluate --run runs/clip --episodes 1",
        "collect --run runs/clip --steps 5",
        "collect --env imported:clip --steps 5",
        "diagnose --run runs/clip",
    ):
        result = command(*line.split())
        assert result.exit_code == 1, line
        [error] = result.stderr.splitlines()[-1:]
        assert error.startswith("Error: this data was imported without an environment"), error


@pytest.mark.pipeline
def test_delta_iris_dreams_of_imported_data_too(command: Command) -> None:
    import_data(npz("clip.npz", **recorded(60)), Import())

    for line in (
        "train-tokenizer data/clip.zarr --agent delta-iris --preset tiny --updates 1",
        "train-dynamics data/clip.zarr --updates 1",
        "imagine --run runs/clip --num 1 --steps 3 --render dream.png",
    ):
        result = command(*line.split())
        assert result.exit_code == 0, (line, result.output)


@pytest.mark.pipeline
def test_grey_stacks_are_not_made_of_imported_colours(command: Command) -> None:
    import_data(npz("clip.npz"), Import())

    result = command("train-tokenizer", "data/clip.zarr", "--agent", "twm", "--preset", "tiny", "--updates", "1")

    assert result.exit_code == 1
    assert "twm sees grey-stack frames" in result.stderr
    assert "agents that see colours" in result.stderr


@pytest.mark.pipeline
def test_a_pipeline_trains_on_imported_data(command: Command) -> None:
    import_data(npz("clip.npz", **recorded(60)), Import())
    Path("p.yaml").write_text(
        "game: imported:clip\npreset: tiny\ndataset: data/clip.zarr\nrun: runs/clip\nfirst:\n"
        "  - train-tokenizer: {updates: 1}\n  - train-dynamics: {updates: 1}\n"
        "  - imagine: {num: 1, steps: 3, policy: dataset, render: d.png}\n"
    )

    result = command("run", "p.yaml")

    assert result.exit_code == 0, result.output
    assert Path("runs/clip/media/d.png").exists()


def test_final_observations_are_of_whole_episodes_only() -> None:
    draws = np.random.default_rng(0)
    frames = draws.integers(0, 256, (3, 64, 64, 3), np.uint8)
    values = {name: np.zeros(4, bool) for name in FIELDS[3:]}
    with Dataset.create("f.zarr", environment={"id": "x"}, action_meanings=["A"], keeps_finals=True) as dataset:

        def append(episode: int, finals: np.ndarray) -> None:
            dataset.append(
                observations=np.zeros((4, 64, 64, 3), np.uint8), actions=np.zeros(4, int), rewards=np.zeros(4),
                **values, episode_lengths=[4], episode_ids=[episode], writer="me", finals=finals,
            )  # fmt: skip

        append(0, frames[:1])
        append(1, frames[1:2])
        with pytest.raises(ValueError, match="final observations"):
            append(2, frames[:2])
        dataset.rewind(6, writer="me")
        assert dataset.final_observation(1) is None
        again = Dataset.open("f.zarr")
        found = again.final_observation(0)
        assert found is not None
        assert np.array_equal(found, frames[0])
        replay = Replay(torch.device("cpu"))
        replay.refresh(again)
        assert replay.num_steps == 6


@pytest.mark.pipeline
def test_the_memory_of_an_import_does_not_grow_with_the_recording() -> None:
    """The frames are 123 MB."""
    steps = 10_000
    np.savez_compressed(
        "long.npz", observations=np.zeros((steps, 64, 64, 3), np.uint8), actions=np.zeros(steps, int),
        rewards=np.zeros(steps), terminations=np.zeros(steps, bool), truncations=np.zeros(steps, bool),
    )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iris_cli.formats.npz.BLOCK_BYTES", 1 << 20)
        patch.setattr(stage, "COMMIT_STEPS", 256)
        tracemalloc.start()
        import_data("long.npz", Import())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 24 << 20
