"""A person's play becomes data, exactly what was played, with who acted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.errors import PlayError
from iris_cli.play import ledger as ledgers
from iris_cli.play.ledger import Ledger
from iris_cli.play.session import Session, Start
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.collect import Collect, collect_randomly, open_dataset

BREAKOUT = EnvSpec(id="ALE/Breakout-v5", kind="atari", max_frames=60)  # episodes of less than 15 steps
Collecting = Callable[..., tuple[Session, Ledger]]


@pytest.fixture
def collecting(tmp_path: Path) -> Iterator[Collecting]:
    """Begins to collect: `collecting(environment, most=100)`; the dataset is data.zarr."""
    opened: list[tuple[Session, Dataset]] = []

    def begin(environment: EnvSpec = BREAKOUT, *, run: Run | None = None, most: int = 1000) -> tuple[Session, Ledger]:
        dataset = open_dataset(tmp_path / "data.zarr", environment)
        ledger = Ledger(dataset, writers={} if run is None else {"agent": run.writer}, most=most)
        agent, trained = (None, ()) if run is None else (run.agent, COMPONENTS)
        session = Session(environment, agent=agent, trained=trained, notebook=ledger)
        opened.append((session, dataset))
        return session, ledger

    yield begin
    for session, dataset in opened:
        session.close()
        dataset.close()


def play_to_the_end(session: Session) -> None:
    while not session.present.over:
        session.act(session.present.step % 4)


def test_what_was_played_is_what_is_stored(collecting: Collecting, tmp_path: Path) -> None:
    session, ledger = collecting()
    played = []
    for seed in (0, 1):
        session.start(Start(seed=seed))
        play_to_the_end(session)
        played.append(list(session.line))

    dataset = Dataset.open(tmp_path / "data.zarr")
    steps = [moment for line in played for moment in line[1:]]
    before = [moment.before for moment in steps]
    assert dataset.num_steps == len(steps) == ledger.steps
    assert dataset.num_episodes == ledger.episodes == 2
    assert np.array_equal(dataset.read("observations"), np.stack([moment.observation for moment in before]))
    assert dataset.read("actions").tolist() == [moment.action for moment in steps]
    assert dataset.read("rewards").tolist() == [moment.reward for moment in steps]
    over = dataset.read("terminations") | dataset.read("truncations")
    assert over.tolist() == [moment.over for moment in steps]
    assert [writer["who"] for writer in dataset.attributes["writers"]] == ["human"]


def test_steps_that_one_went_back_from_are_not_stored(collecting: Collecting, tmp_path: Path) -> None:
    session, _ = collecting()
    session.start(Start())
    for action in (1, 2, 2, 2):
        session.act(action)
    session.rewind(2)
    play_to_the_end(session)

    actions = Dataset.open(tmp_path / "data.zarr").read("actions").tolist()
    assert actions == [moment.action for moment in session.line[1:]]
    assert actions[:3] == [1, 2, 2]


def test_what_is_stored_cannot_be_played_differently(collecting: Collecting, tmp_path: Path) -> None:
    session, ledger = collecting()
    session.start(Start())
    play_to_the_end(session)
    session.rewind(3)

    with pytest.raises(PlayError, match="stored already"):
        session.act(0)
    session.start(Start(seed=1))
    session.act(0)
    assert ledger.episodes == 1


@pytest.mark.pipeline
def test_an_episode_that_is_left_counts_as_cut(collecting: Collecting, tmp_path: Path) -> None:
    session, ledger = collecting()
    session.start(Start())
    for _ in range(5):
        session.act(2)
    session.start(Start(seed=1))
    session.act(2)
    session.close()

    dataset = Dataset.open(tmp_path / "data.zarr")
    assert dataset.read("truncations").tolist() == [False] * 4 + [True] * 2
    assert (dataset.num_episodes, ledger.episodes, ledger.steps) == (2, 2, 6)


@pytest.mark.pipeline
def test_who_acted_is_known_of_every_step(collecting: Collecting, tmp_path: Path, runs: dict[str, Run]) -> None:
    run = runs["iris"]
    session, _ = collecting(training_spec("Pong"), run=run)
    session.start(Start())
    for who, steps in (("you", 3), ("agent", 4), ("you", 2)):
        session.hand_to(who)
        for _ in range(steps):
            session.advance()
    session.close()

    dataset = Dataset.open(tmp_path / "data.zarr")
    assert dataset.num_episodes == 1
    writers = [(writer["who"], writer["start"]) for writer in dataset.attributes["writers"]]
    assert writers == [("human", 0), (run.writer, 3), ("human", 7)]


@pytest.mark.pipeline
def test_long_episodes_are_stored_on_the_way(
    collecting: Collecting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "COMMIT_STEPS", 6)
    session, ledger = collecting()
    session.start(Start())
    for _ in range(8):
        session.act(1)
    assert ledger.steps == Dataset.open(tmp_path / "data.zarr").num_steps == 6
    session.rewind(7)
    session.act(2)  # behind what is stored
    session.rewind(5)
    with pytest.raises(PlayError, match="Play on from step 6"):
        session.act(2)
    session.rewind(8)
    play_to_the_end(session)

    dataset = Dataset.open(tmp_path / "data.zarr")
    assert dataset.num_episodes == 1
    assert dataset.read("actions").tolist() == [moment.action for moment in session.line[1:]]


def test_no_more_is_stored_than_was_asked_for(collecting: Collecting, tmp_path: Path) -> None:
    session, ledger = collecting(most=7)
    session.start(Start())
    for _ in range(7):
        session.act(0)
    assert ledger.is_full

    with pytest.raises(PlayError, match="all 7 steps are collected"):
        session.act(0)
    session.close()
    assert Dataset.open(tmp_path / "data.zarr").num_steps == 7


@pytest.mark.pipeline
def test_a_persons_play_and_an_agents_collections_share_a_dataset(collecting: Collecting, tmp_path: Path) -> None:
    path = tmp_path / "data.zarr"
    collect_randomly(path, BREAKOUT, Collect(steps=10), seed=0)
    session, _ = collecting()
    session.start(Start(seed=3))
    play_to_the_end(session)
    steps = len(session.line) - 1
    session.close()
    session._notebook._dataset.close()

    collect_randomly(path, BREAKOUT, Collect(steps=40), seed=0)

    dataset = Dataset.open(path)
    assert dataset.num_steps == 50 + steps
    assert [writer["who"] for writer in dataset.attributes["writers"]] == ["random", "human", "random"]
    lone = tmp_path / "alone.zarr"
    collect_randomly(lone, BREAKOUT, Collect(steps=50), seed=0)
    random = np.concatenate([dataset.read("actions", 0, 10), dataset.read("actions", 10 + steps)])
    assert np.array_equal(random, Dataset.open(lone).read("actions"))  # the person disturbed nothing
