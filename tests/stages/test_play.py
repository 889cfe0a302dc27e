"""`iris play` without a page: scripts of keys, and what is refused; and `iris collect --human` with one."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import aiohttp
import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from iris_cli import interrupts
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError, RunError
from iris_cli.play.server import Door, Game
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import play as stage
from iris_cli.stages.play import Human, Play, collect_by_hand, collect_by_hand_with, play

NewRun = Callable[..., Run]
SCRIPT = "# a serve\nfire\nup 4\nagent 3\nnoop\n"


@pytest.fixture
def run(pong: Path, new_run: NewRun) -> Run:
    """A run whose components count as trained, and whose dreams do not end."""
    run = new_run(pong)
    with torch.no_grad():
        run.agent.dynamics.head_ends[-1].bias.copy_(torch.tensor([8.0, -8.0]))
    run.updates = dict.fromkeys(run.updates, 1)
    return run


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(SCRIPT)
    return path


def played(run: Run | None, script: Path, path: Path, **settings: object) -> dict:
    environment = training_spec("Pong") if run is None else run.environment
    report = play(run, environment.for_testing(), Play(script=script, render=path, **settings))
    assert report.files["video"] == path
    return report.figures


@pytest.mark.parametrize("world", [pytest.param("real", marks=pytest.mark.pipeline), "dream"])
def test_a_script_is_played_and_filmed(run: Run, script: Path, tmp_path: Path, world: str) -> None:
    figures = played(run, script, tmp_path / "films" / "out.mp4", world=world)

    film = imageio.imread(tmp_path / "films" / "out.mp4", index=None)
    assert (figures["world"], figures["steps"]) == (world, 9)
    assert len(film) == 10
    assert film.shape[2] > 3 * 192  # real, reconstruction and dream


@pytest.mark.pipeline
def test_the_seed_decides(run: Run, script: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        played(run, script, tmp_path / f"{name}.gif", world="dream", seed=seed)

    films = [(tmp_path / f"{name}.gif").read_bytes() for name in "abc"]
    assert films[0] == films[1] != films[2]


@pytest.mark.pipeline
def test_a_trained_world_model_is_what_a_run_begins_with(run: Run, script: Path, tmp_path: Path) -> None:
    assert played(run, script, tmp_path / "a.gif")["world"] == "dream"
    run.updates["dynamics"] = 0
    assert played(run, script, tmp_path / "b.gif")["world"] == "real"


def test_a_game_is_played_without_a_run(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("fire\nup 5\n")

    assert played(None, path, tmp_path / "out.gif") | {"seconds": 0} == {
        "world": "real", "steps": 6, "score": 0.0, "over": False, "seconds": 0
    }  # fmt: skip


@pytest.mark.pipeline
def test_keys_are_the_games_actions(tmp_path: Path) -> None:
    films = {}
    for keys in ("up", "down", "right"):  # Pong's RIGHT is up
        (tmp_path / "keys.txt").write_text(f"noop 20\n{keys} 8\n")
        played(None, tmp_path / "keys.txt", tmp_path / "out.gif", seed=3)
        films[keys] = imageio.imread(tmp_path / "out.gif", index=None)[-1].tobytes()

    assert films["up"] == films["right"] != films["down"]


def test_a_script_goes_on_no_longer_than_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("left 50\n")
    report = play(None, training_spec("Catch-v0").for_testing(), Play(script=path, render=tmp_path / "o.gif"))

    assert (report.figures["steps"], report.figures["over"]) == (7, True)
    assert report.notes == ("the episode was over after 7 of the script's 50 steps",)


def test_a_wrong_line_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("fire\nfly 3\n")

    with pytest.raises(ConfigError, match=r"the game knows no 'fly'. In .*keys.txt:2"):
        played(None, tmp_path / "keys.txt", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["keys.txt"]


def test_an_agent_that_is_not_there_cannot_act(script: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'agent' cannot act here"):
        played(None, script, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    "wrong", [{"world": "moon"}, {"script": Path("x")}, {"render": Path("x.mp4")}, {"fps": 0}, {"temperature": 0},
              {"seed": -1}, {"script": Path("x"), "render": Path("x.avi")}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Play(**wrong)


def test_a_script_is_played_in_a_dream_of_twm(
    new_run: NewRun, pong_for: Callable, script: Path, tmp_path: Path
) -> None:
    run = new_run(pong_for("twm"), name="twm", agent="twm")
    run.updates = dict.fromkeys(run.updates, 1)
    figures = [played(run, script, tmp_path / f"{name}.gif") for name in "ab"]

    film = imageio.imread(tmp_path / "a.gif", index=None)
    assert [(each["world"], each["steps"]) for each in figures] == [("dream", 9)] * 2
    assert len(film) == 10
    assert film.shape[2] > 3 * 192  # real, reconstruction and dream
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_dreams_that_cannot_be_are_one_line(run: Run) -> None:
    wanted = Play(world="dream")
    with pytest.raises(ConfigError, match="without a run there is no dream"):
        play(None, run.environment, wanted)
    run.updates["tokenizer"] = 0
    with pytest.raises(RunError, match="tokenizer has not been trained yet"):
        play(run, run.environment, wanted)


def test_a_door_that_others_reach_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    seen: list[tuple[Game, Door]] = []
    monkeypatch.setattr(stage, "serve", lambda game, door, opened: seen.append((game, door)))

    play(None, training_spec("Catch-v0"), Play())
    assert "not this machine alone" not in capsys.readouterr().err
    play(None, training_spec("Catch-v0"), Play(host="0.0.0.0", port=1234))

    assert "0.0.0.0 is not this machine alone" in capsys.readouterr().err
    assert [door.host for _, door in seen] == ["127.0.0.1", "0.0.0.0"]


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Opens the page as soon as it is served, plays some steps, and stops the server."""

    def will(do: Callable[[aiohttp.ClientWebSocketResponse], object]) -> None:
        serve = stage.serve

        def served(game: Game, door: Door, *, opened: Callable[[str], None]) -> None:
            tasks = []

            def open_page(address: str) -> None:
                opened(address)
                tasks.append(asyncio.get_running_loop().create_task(visit(address.replace("/?", "/socket?"))))

            async def visit(address: str) -> None:
                async with aiohttp.ClientSession() as client, client.ws_connect(address) as socket:
                    await socket.receive()  # hello
                    await socket.receive()  # the first moment
                    await do(socket)
                monkeypatch.setattr(interrupts, "_requested", True)  # Ctrl-C

            serve(game, Door(port=0, most_sessions=door.most_sessions), opened=open_page)

        monkeypatch.setattr(stage, "serve", served)

    return will


async def step(socket: aiohttp.ClientWebSocketResponse, *held: str) -> None:
    await socket.send_str(json.dumps({"op": "keys", "held": held}))
    await socket.send_str(json.dumps({"op": "step"}))
    assert (await socket.receive()).type == aiohttp.WSMsgType.BINARY


def test_a_person_collects_at_the_page(person: Callable, tmp_path: Path) -> None:
    async def do(socket: aiohttp.ClientWebSocketResponse) -> None:
        for key in ("ArrowUp", "ArrowUp", "ArrowDown", "Space"):
            await step(socket, key)

    person(do)
    report = collect_by_hand(tmp_path / "pong.zarr", training_spec("Pong"), Human(steps=100))

    dataset = Dataset.open(tmp_path / "pong.zarr")
    assert dataset.read("actions").tolist() == [2, 2, 3, 1]
    assert dataset.environment == training_spec("Pong").to_mapping()
    assert [writer["who"] for writer in dataset.attributes["writers"]] == ["human"]
    assert (report.figures["steps"], report.figures["who"]) == (4, "human")
    assert np.array_equal(dataset.read("truncations"), [False, False, False, True])


@pytest.mark.pipeline
def test_a_persons_steps_are_part_of_the_runs_dataset(person: Callable, run: Run) -> None:
    async def do(socket: aiohttp.ClientWebSocketResponse) -> None:
        await step(socket, "ArrowUp")
        await socket.send_str(json.dumps({"op": "control", "who": "agent"}))
        await socket.receive()
        await step(socket)

    person(do)
    collect_by_hand_with(run, Human(steps=100))

    dataset = run.dataset()
    assert dataset.num_steps == 302
    assert [writer["who"] for writer in dataset.attributes["writers"]] == ["random", "human", run.writer]
    assert run.collected["steps"] == 302  # so that a pipeline that goes on keeps them
    assert run.replay().num_steps == 302  # training takes them as any others
