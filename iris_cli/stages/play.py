"""`iris play`: a person in the real game or in a dream of it, at a page or by a script; `iris collect --human`.

The page is served by this machine to itself (`play/server.py`); what a person may do there, `play/session.py` says.
With a script of keys (`play/keys.py`) there is no page: the keys are played, and the film of it is written.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from iris_cli import console
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import ConfigError, IrisError
from iris_cli.object_store import Location
from iris_cli.play.keys import YOU, read_script
from iris_cli.play.ledger import HUMAN, Ledger
from iris_cli.play.moment import film_of
from iris_cli.play.server import Door, Game, serve
from iris_cli.play.session import DREAM, REAL, WORLDS, Session, Start
from iris_cli.render import media_writer, write_media
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.collect import open_dataset, take_note
from iris_cli.stages.training import needs_training


@dataclass(frozen=True, kw_only=True)
class Play:
    """Who plays what. The defaults open the page for this machine alone."""

    world: str = "auto"  # real, dream, or auto: a dream where there is a trained world model
    script: Path | None = None  # keys to play instead of a person's
    render: Path | None = None  # the film of the script: .mp4, .gif or .png
    host: str = "127.0.0.1"
    port: int = 8000
    fps: int = 15  # steps a second at the page, frames a second in films
    temperature: float = 1.0  # of the agent, where it acts
    seed: int = 0

    def __post_init__(self) -> None:
        if self.world not in ("auto", *WORLDS):
            raise ConfigError(f"'{self.world}' is not one of auto, {', '.join(WORLDS)}", where="--world")
        if (self.script is None) != (self.render is None):
            raise ConfigError("a script and the film of it go together", fix="Name both: --script FILE --render FILE.")
        if self.render is not None:
            media_writer(self.render)
        if not 1 <= self.fps <= 60 or not self.temperature > 0 or not 0 <= self.seed < 2**31:
            raise ConfigError("fps must lie in 1 to 60, temperature above 0, seed in 0 to 2^31 - 1", where="play")


@dataclass(frozen=True, kw_only=True)
class Human:
    """How a person's play becomes data."""

    steps: int = 10_000  # to collect at most
    host: str = "127.0.0.1"
    port: int = 8000
    temperature: float = 1.0  # of the agent, where it takes over
    seed: int = 0  # of the first game, with what is stored already, so that no game is played twice


def play(run: Run | None, environment: EnvSpec, settings: Play) -> Report | None:
    """Play the run's game, or a game without a run; a report of the script, or None after the page.

    Args:
        run: whose world model and policy are there, or None.
        environment: what is played, as scores are made.

    Raises:
        ConfigError: if a dream is wanted and cannot be had, or the page or the script cannot.
        RunError: if a dream is wanted of an untrained tokenizer.
    """
    start = Start(world=_world(run, settings.world), seed=settings.seed)
    dataset = _dataset_of(run)

    def open_session() -> Session:
        return Session(
            environment, agent=None if run is None else run.agent, dataset=dataset, trained=_trained(run),
            temperature=settings.temperature,
        )  # fmt: skip

    _say_what_is_missing(run)
    if settings.script is not None and settings.render is not None:
        session = open_session()
        try:
            return _play_script(session, start, settings, settings.script, settings.render)
        finally:
            session.close()
    game = Game(
        title=environment.name, subtitle="the real game" if run is None else str(run.directory),
        open_session=open_session, first=start, media=(Path() if run is None else run.directory) / "media",
        episodes=0 if dataset is None else dataset.num_episodes, fps=settings.fps,
    )  # fmt: skip
    _open_page(game, Door(host=settings.host, port=settings.port))
    if run is not None:
        run.publish()  # the films
    return None


def collect_by_hand(path: Location, environment: EnvSpec, settings: Human, *, run: Run | None = None) -> Report:
    """Let a person play at the page, and append every step to the dataset at `path`, which is made if need be.

    Args:
        path: of the dataset.
        environment: with its settings for training, as any collection.
        settings: how long.
        run: whose agent may take over; its steps are its own.
    """
    begun = time.monotonic()
    with open_dataset(path, environment) as dataset:
        writers = {} if run is None else {"agent": run.writer}
        ledger = Ledger(dataset, writers=writers, most=settings.steps)

        def open_session() -> Session:
            agent = None if run is None else run.agent
            return Session(
                environment, agent=agent, trained=_trained(run), temperature=settings.temperature, notebook=ledger
            )

        game = Game(
            title=environment.name, subtitle=f"your play becomes data in {path}", open_session=open_session,
            first=Start(seed=(settings.seed + dataset.num_steps) % 2**31), media=_films_beside(path),
            is_full=lambda: ledger.is_full,
            collecting=lambda: f"{ledger.steps:,} steps of {ledger.episodes} episodes stored",
        )  # fmt: skip
        _open_page(game, Door(host=settings.host, port=settings.port, most_sessions=1))
        mean = sum(ledger.scores) / len(ledger.scores) if ledger.scores else "-"
        figures: dict[str, float | int | str] = {
            "steps": ledger.steps, "episodes": ledger.episodes, "mean_score": mean, "who": HUMAN,
            "steps_in_all": dataset.num_steps, "seconds": time.monotonic() - begun,
        }  # fmt: skip
    return Report(stage="collect", figures=figures, files={"dataset": path})


def _films_beside(dataset: Location) -> Path:
    return (dataset.parent if isinstance(dataset, Path) else Path("data")) / "media"


def collect_by_hand_with(run: Run, settings: Human) -> Report:
    """`collect_by_hand` into the run's dataset, with its agent at hand."""
    report = collect_by_hand(run.dataset_path, run.environment, settings, run=run)
    take_note(run)
    return report


def _play_script(session: Session, start: Start, settings: Play, script: Path, render: Path) -> Report:
    presses, begun = read_script(script, session.keyboard), time.monotonic()
    moments = [session.start(start)]
    for press in presses:
        session.hand_to(press.who)
        for _ in range(press.steps):
            if moments[-1].over:
                break
            action = press.action if press.who == YOU else None
            moments.append(session.advance() if action is None else session.act(action))
    path = write_media(film_of(moments, session.action_meanings), render, fps=settings.fps)
    steps, wanted = len(moments) - 1, sum(press.steps for press in presses)
    figures: dict[str, float | int | str] = {
        "world": session.world, "steps": steps, "score": moments[-1].score, "over": moments[-1].over,
        "seconds": time.monotonic() - begun,
    }  # fmt: skip
    notes = () if steps == wanted else (f"the episode was over after {steps} of the script's {wanted} steps",)
    return Report(stage="play", figures=figures, files={"video": path}, notes=notes)


def _open_page(game: Game, door: Door) -> None:
    if not door.is_private:
        console.warn(
            f"{door.host} is not this machine alone: whoever can reach it and has the address below can play here, and "
            f"write films to {game.media}. The connection is not encrypted."
        )

    def opened(address: str) -> None:
        console.say(f"Open {address}")
        console.say("Ctrl-C stops.")

    serve(game, door, opened=opened)


def _world(run: Run | None, wanted: str) -> str:
    """Which world to begin in.

    Raises:
        ConfigError: if a dream is wanted, and there is no world model.
        RunError: if its tokenizer was never trained.
    """
    if wanted == "auto":
        return DREAM if {"tokenizer", "dynamics"} <= set(_trained(run)) else REAL
    if wanted == DREAM:
        if run is None:
            raise ConfigError("without a run there is no dream", where="--world", fix="Name one: iris play runs/NAME")
        needs_training(run, "tokenizer")
    return wanted


def _trained(run: Run | None) -> tuple[str, ...]:
    return () if run is None else tuple(name for name in run.updates if run.is_trained(name))


def _dataset_of(run: Run | None) -> Dataset | None:
    """The run's dataset, to dream from; without it there is the game itself."""
    if run is None:
        return None
    try:
        return run.dataset()
    except IrisError as error:
        console.warn(f"no stored episodes to dream from: {error}")
        return None


def _say_what_is_missing(run: Run | None) -> None:
    if run is None:
        return
    for component, effect in (("dynamics", "a dream is noise"), ("actor_critic", "the agent acts at random")):
        if not run.is_trained(component):
            stage = f"train-{component.replace('_', '-')}"
            console.warn(
                f"the {component.replace('_', '-')} has not been trained: {effect}. Next: {run.command(stage)}"
            )
