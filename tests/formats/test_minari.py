"""Minari datasets, made by Minari itself: what they give, and what is refused."""

import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_cli.errors import DatasetError
from iris_cli.formats import minari as ours

pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

import minari  # noqa: E402
from gymnasium.spaces import Box, Discrete  # noqa: E402
from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402

LENGTHS = (4, 1, 7)
IMAGES = Box(0, 255, (40, 50, 3), np.uint8)

Made = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's own folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


def episodes(start: int = 0) -> Iterator[EpisodeBuffer]:
    draws = np.random.default_rng(0)
    for index, length in enumerate(LENGTHS):
        over = np.arange(length) == length - 1
        yield EpisodeBuffer(
            observations=draws.integers(0, 256, (length + 1, *IMAGES.shape), np.uint8),
            actions=start + draws.integers(0, 3, length), rewards=draws.normal(size=length).tolist(),
            terminations=(over & (index == 0)).tolist(), truncations=(over & (index == 1)).tolist(),
        )  # fmt: skip


@pytest.fixture
def made(root: Path) -> Made:
    """Makes a dataset in Minari's own folder; gives its place."""

    def make(name: str = "game/play-v0", *, data_format: str = "hdf5", start: int = 0) -> Path:
        minari.create_dataset_from_buffers(
            name, list(episodes(start)), observation_space=IMAGES, action_space=Discrete(5, start=start),
            data_format=data_format, jpeg_encoding=False, algorithm_name="by hand",
        )  # fmt: skip
        return root / name

    return make


def read(path: Path, most_values: int = 10_000) -> list[Any]:
    return list(ours.read_minari(path, most_values=most_values).blocks)


@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")
class TestReading:
    """Of datasets that are as they should be."""

    @pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
    @pytest.mark.parametrize("start", [0, 2])
    def test_a_dataset_is_read_episode_by_episode(self, made: Made, data_format: str, start: int) -> None:
        if data_format != "hdf5":
            pytest.importorskip("pyarrow")
        recording = ours.read_minari(made(data_format=data_format, start=start), most_values=10_000)
        blocks = list(recording.blocks)

        assert (recording.num_steps, recording.num_actions, recording.keeps_finals) == (sum(LENGTHS), 5, True)
        assert recording.facts["algorithm_name"] == "by hand"
        assert recording.facts["first_action"] == start
        for block, given in zip(blocks, episodes(start), strict=True):
            assert np.array_equal(block.images, given.observations[:-1])
            assert np.array_equal(block.finals, given.observations[-1:])
            assert np.array_equal(block.actions + start, given.actions)
            assert np.array_equal(block.rewards, np.float32(given.rewards))
            assert block.terminations.tolist() == given.terminations
            assert block.truncations.tolist() == given.truncations
            assert block.lengths == (len(given.actions),)

    def test_long_episodes_come_in_blocks(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ours, "BLOCK_BYTES", 3 * 40 * 50 * 3)

        blocks = read(made())

        assert [block.lengths for block in blocks] == [(3,), (1,), (1,), (3,), (3,), (1,)]
        assert [block.continues for block in blocks] == [False, True, False, False, True, True]
        assert [len(block.finals) for block in blocks] == [0, 1, 1, 0, 0, 1]

    def test_an_id_names_what_lies_in_minaris_own_folder(self, made: Made) -> None:
        path = made("game/play-v0")

        assert ours.folder_of("game/play-v0") == path
        assert ours.is_minari(path)
        assert ours.is_minari(path / "data")

    @pytest.mark.parametrize(
        ("name", "space", "said"),
        [
            ("observation", {"type": "Dict", "subspaces": {}}, "observes a Dict"),
            ("observation", {"type": "Box", "dtype": "float32", "shape": [40, 50, 3]}, "only images"),
            ("observation", {"type": "Box", "dtype": "uint8", "shape": [40]}, "only images"),
            ("observation", {"type": "Box", "dtype": "uint8", "shape": [400, 500, 3]}, "cannot be frames"),
            ("observation", {"type": "Box", "dtype": "uint8", "shape": [-40, -50, 3]}, "cannot be frames"),
            ("observation", {"type": "Discrete", "n": 4}, "only images"),
            ("action", {"type": "MultiDiscrete", "nvec": [2, 3]}, "actions are MultiDiscrete"),
            ("action", {"type": "Box", "dtype": "float32", "shape": [2]}, "actions are Box"),
        ],
    )
    def test_other_spaces_are_refused(self, made: Made, name: str, space: dict[str, Any], said: str) -> None:
        path = made()
        changed(path, **{f"{name}_space": json.dumps(space)})

        with pytest.raises(DatasetError, match=said):
            read(path)


def metadata(path: Path) -> dict[str, Any]:
    return json.loads((path / "data" / "metadata.json").read_text())


def changed(path: Path, **values: Any) -> None:
    content = {name: value for name, value in {**metadata(path), **values}.items() if value is not None}
    (path / "data" / "metadata.json").write_text(json.dumps(content))


def hdf5(path: Path) -> Any:
    return h5py.File(path / "data" / "main_data.hdf5", "r+")


def replaced(path: Path, name: str, value: Any, episode: int = 0) -> None:
    with hdf5(path) as file:
        del file[f"episode_{episode}/{name}"]
        file[f"episode_{episode}"].create_dataset(name, data=value)


def relinked(path: Path, link: Any) -> None:
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        file["episode_0"]["rewards"] = link


def outside(path: Path) -> None:
    (path.parent / "secret").write_bytes(bytes(32))
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        stored = [(str(path.parent / "secret"), 0, 32)]
        file["episode_0"].create_dataset("rewards", (4,), np.float64, external=stored)


def virtual(path: Path) -> None:
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        layout = h5py.VirtualLayout((4,), np.float64)
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
        file["episode_0"].create_virtual_dataset("rewards", layout)


def huge(path: Path) -> None:
    with hdf5(path) as file:
        del file["episode_0/observations"]
        file["episode_0"].create_dataset(
            "observations", (10**9, 40, 50, 3), np.uint8, chunks=(1, 40, 50, 3), compression="gzip"
        )


def circle(path: Path) -> None:
    with hdf5(path) as file:
        file["episode_0/again"] = file["episode_0"]


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no metadata": (lambda p: (p / "data" / "metadata.json").unlink(), "no Minari dataset"),
    "garbage metadata": (lambda p: (p / "data" / "metadata.json").write_text("{"), "cannot be read"),
    "deep metadata": (lambda p: (p / "data" / "metadata.json").write_text("[" * 10**6), "cannot be read"),
    "listed metadata": (lambda p: (p / "data" / "metadata.json").write_text("[]"), "no mapping"),
    "no data": (lambda p: (p / "data" / "main_data.hdf5").unlink(), "cannot be read"),
    "garbage data": (lambda p: (p / "data" / "main_data.hdf5").write_bytes(b"x" * 999), "cannot be read"),
    "cut data": (lambda p: os.truncate(p / "data" / "main_data.hdf5", 3000), "cannot be read"),
    "another format": (lambda p: changed(p, data_format="pickle"), "cannot be read"),
    "linked data": (
        lambda p: ((p / "data").rename(p / "x"), (p / "data").symlink_to(p / "x")), "is a link",
    ),
    "a link in it": (lambda p: (p / "data" / "more").symlink_to("/etc"), "holds a link"),
    "a pipe in it": (lambda p: os.mkfifo(p / "data" / "pipe"), "holds a link"),
    "many episodes": (lambda p: changed(p, total_episodes=99, total_steps=99), "cannot be read"),
    "many steps": (lambda p: changed(p, total_steps=10**12), "says that it has"),
    "steps in words": (lambda p: changed(p, total_steps="12"), "says that it has"),
    "other steps": (lambda p: changed(p, total_steps=13), "13 steps, but has 12"),
    "no spaces": (lambda p: changed(p, observation_space=None), "does not say"),
    "spaces of garbage": (lambda p: changed(p, action_space="["), "does not say"),
    "spaces of nothing": (lambda p: changed(p, action_space='{"type": "Discrete", "n": 0, "start": 0}'), "0 actions"),
    "actions in words": (lambda p: changed(p, action_space='{"type": "Discrete", "n": "5"}'), "only images"),
    "large actions": (lambda p: replaced(p, "actions", [0, 1, 2, 5]), "not in 0 to 4"),
    "negative actions": (lambda p: replaced(p, "actions", [0, 1, 2, -1]), "not in 0 to 4"),
    "halves of actions": (lambda p: replaced(p, "actions", [0, 1, 2, 0.5]), "actions are float64"),
    "too few actions": (lambda p: replaced(p, "actions", [0, 1]), "for 2 actions"),
    "rewards of nothing": (lambda p: replaced(p, "rewards", [0, np.nan, 0, 0]), "not finite"),
    "too few rewards": (lambda p: replaced(p, "rewards", [0.0, 1.0]), "rewards have shape"),
    "words for rewards": (lambda p: replaced(p, "rewards", [b"a"] * 4), "must be numbers"),
    "two ends": (lambda p: replaced(p, "terminations", [True] * 4), "ends an episode"),
    "other pictures": (lambda p: replaced(p, "observations", np.zeros((5, 9, 9, 3), np.uint8)), "observations are"),
    "pictures of halves": (lambda p: replaced(p, "observations", np.zeros((5, 40, 50, 3))), "observations are"),
    "huge pictures": (huge, "would take"),
    "an external link": (lambda p: relinked(p, h5py.ExternalLink("/etc/passwd", "x")), "links to somewhere"),
    "a soft link": (lambda p: relinked(p, h5py.SoftLink("/episode_1/rewards")), "links to somewhere"),
    "data elsewhere": (outside, "lies in another file"),
    "virtual data": (virtual, "lies in another file"),
    "a circle": (circle, "cannot be read"),
    "an empty episode": (
        lambda p: [
            replaced(p, name, np.zeros((0, *shape), kind))
            for name, shape, kind in (
                ("actions", (), int), ("rewards", (), float), ("terminations", (), bool), ("truncations", (), bool),
            )
        ]
        + [replaced(p, "observations", np.zeros((1, 40, 50, 3), np.uint8))],
        "0 steps",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_dataset_is_refused(made: Made, name: str) -> None:
    prepare, said = HOSTILE[name]
    path = made()
    prepare(path)

    with pytest.raises(DatasetError, match=said) as raised:
        read(path)

    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")
def test_the_environment_that_a_dataset_names_is_never_made(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_game.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"id": "Evil-v0", "entry_point": "evil_game:Game", "additional_wrappers": [], "kwargs": {}}
    path = made()

    changed(path, env_spec=json.dumps(spec))
    assert len(read(path)) == 3
    changed(path, env_spec=json.dumps({**spec, "id": "evil_game:Evil-v0"}), observation_space=None)
    with pytest.raises(DatasetError, match="does not say"):
        read(path)

    assert not (tmp_path / "executed").exists()
    assert "evil_game" not in sys.modules


@pytest.mark.parametrize(
    "name",
    ["../play-v0", "a/../../b-v0", "/etc-v0", "play", "a//b-v0", "a\nb-v0", ".hidden-v0", "", "play-v0/", "C:x-v0"],
)
def test_an_id_that_is_a_path_is_refused(root: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="no id"):
        ours.folder_of(name)


def test_a_dataset_that_is_not_there_is_named_with_the_command_that_gets_it(root: Path) -> None:
    with pytest.raises(DatasetError, match="minari download atari/pong/expert-v0"):
        ours.folder_of("atari/pong/expert-v0")


@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")
def test_without_minari_one_line_says_how_to_get_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = made(), builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "minari":
            raise ImportError("No module named 'minari'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(DatasetError, match=r"pip install 'iris-wm\[minari\]'"):
        read(path)


def test_what_is_written_is_what_minari_reads(root: Path) -> None:
    spec = json.dumps({"id": "CartPole-v1", "entry_point": "x:Y", "additional_wrappers": [], "kwargs": {}})
    writer = ours.MinariWriter(
        root / "mine-v3",
        name="mine-v3",
        shape=(64, 64, 3),
        num_actions=4,
        first_action=1,
        env_spec=spec,
        description="d",
    )
    draws = np.random.default_rng(0)
    values = {
        "observations": draws.integers(0, 256, (6, 64, 64, 3), np.uint8),
        "actions": draws.integers(1, 5, 5),
        "rewards": draws.normal(size=5).astype(np.float32),
        "terminations": np.arange(5) == 4,
        "truncations": np.zeros(5, bool),
    }
    writer.write(**values)

    dataset = minari.load_dataset("mine-v3")

    assert (dataset.total_steps, dataset.total_episodes) == (5, 1)
    assert dataset.action_space == Discrete(4, start=1)
    assert dataset.observation_space == Box(0, 255, (64, 64, 3), np.uint8)
    assert dataset.env_spec.id == "CartPole-v1"
    for name, value in values.items():
        assert np.array_equal(getattr(dataset[0], name), value), name
