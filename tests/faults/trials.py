"""Trials: a command is disturbed at some instant, again and again, then left alone, and must end like one that was not.

A scenario is a command with the files it starts from and what has to be equal in the end. An instant is a time, or the
n-th operation on files (layer.c), which finds the inside of every save. All draws come from the seed of a trial, so
that one that failed can be carried out again.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from test_kill_and_resume import outcome, plain  # the same comparison, bit for bit

from iris_cli.replay.dataset import Dataset

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPILER = shutil.which("cc")
SMALL = {  # so that a short stage has many commits
    "iris_cli.stages.collect:COMMIT_STEPS": 40,
    "iris_cli.stages.tokenize:TOKENIZE_BLOCK": 64,
    "iris_cli.run:TOKENIZE_BLOCK": 64,
}
OFTEN = {
    **SMALL,
    "iris_cli.run:SAVE_SECONDS": 0.0,
}  # a checkpoint after every update, so that operations are counted alike
NEVER = {**SMALL, "iris_cli.run:SAVE_SECONDS": 1000.0}
KILLED = -signal.SIGKILL


class Ended(NamedTuple):
    """How a command ended: exit code (negative: by that signal), what it said, seconds, operations on files."""

    code: int
    output: str
    seconds: float
    operations: int


class Zygote:
    """The other end of zygote.py. Closed, it takes all its children along."""

    def __init__(self, folder: Path) -> None:
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1", "COLUMNS": "200",
            "PYTHONHASHSEED": "0", "IRIS_CACHE": str(folder / "cache"),
        }  # fmt: skip
        self.has_layer = COMPILER is not None
        if COMPILER is not None:
            layer = folder / "layer.so"
            subprocess.run(
                [COMPILER, "-O2", "-shared", "-fPIC", "-o", layer, HERE / "layer.c", "-ldl"], check=True, text=True
            )
            environment["LD_PRELOAD"] = str(layer)
        self.folder, self._started = folder, 0
        self._outputs: dict[int, Path] = {}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "zygote.py"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def start(self, place: Path, *command: str, **faults: Any) -> int:
        """Begin a command in a directory; the number of its process. Faults: see carry_out of zygote.py."""
        self._started += 1
        output = self.folder / f"output-{self._started % 8}"
        number = self._ask(do="start", place=str(place), command=command, output=str(output), **faults)
        self._outputs[number] = output
        return number

    def wait(self, number: int, seconds: float) -> Ended | None:
        """How a process ended; None: it goes on after so many seconds."""
        answer = self._ask(do="wait", number=number, seconds=seconds)
        if answer is None:
            return None
        output = self._outputs.pop(number).read_text(errors="replace")
        return Ended(answer["code"], output, answer["seconds"], answer["operations"])

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send one."""
        self._ask(do="signal", number=number, signal=int(which))

    def operations(self, number: int) -> int:
        """Of a process under way, on files, so far."""
        return self._ask(do="operations", number=number)

    def run(self, place: Path, *command: str, seconds: float | None = None, limit: float = 120, **faults: Any) -> Ended:
        """Carry a command out; killed after `seconds`, if given. More than the limit is a failure: it hangs."""
        number = self.start(place, *command, **faults)
        ended = self.wait(number, limit if seconds is None else seconds)
        if ended is None:
            self.signal(number, signal.SIGKILL)
            ended = self.wait(number, 30)
            assert ended is not None
            if seconds is None:
                raise AssertionError(f"{command} hung for {limit} s: {ended.output}")
        return ended

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the zygote has ended"
        return json.loads(line)


@dataclass
class Scenario:
    """A command that is to survive.

    Attributes:
        name: of the scenario, for the table.
        command: what is typed, at first and to go on.
        prepare: makes the files it starts from.
        outcome: what must be equal in the end.
        rest: what is typed to go on, given the place; None: the same again.
        settings: of the modules, in all processes.
    """

    name: str
    command: tuple[str, ...]
    prepare: Callable[[Zygote, Path], None]
    outcome: Callable[[Path], dict[str, Any]]
    rest: Callable[[Path], tuple[str, ...] | None] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Known:
    """What an undisturbed end looks like, and the files to start from."""

    scenario: Scenario
    start: Path
    expected: dict[str, Any]
    seconds: float
    operations: list[tuple[int, str, str]]  # number, kind and path of each, with frequent checkpoints

    def draw(self, draws: random.Random, share: float) -> int:
        """The number of an operation among the first `share` of them: any kind on any file, alike."""
        within = self.operations[: max(1, round(share * len(self.operations)))]
        kinds = sorted({(kind, alike(path)) for _, kind, path in within})
        chosen = draws.choice(kinds)
        return draws.choice([number for number, kind, path in within if (kind, alike(path)) == chosen])

    def each_kind(self, modes: Sequence[str]) -> list[dict[str, Any]]:
        """A fault of each mode at each kind of operation on each kind of file, the middle one of those alike."""
        places: dict[tuple[str, str], list[int]] = {}
        for number, kind, path in self.operations:
            places.setdefault((kind, alike(path)), []).append(number)
        takes_space = ("open", "write", "resize", "make")
        return [
            {"mode": mode, "at": numbers[len(numbers) // 2], "kind": kind, "path": path}
            for (kind, path), numbers in sorted(places.items())
            for mode in modes
            if not (mode.startswith("full") and kind not in takes_space)
            and not (mode == "read only" and kind == "sync")
        ]


@dataclass
class Trial:
    """What was done to a scenario, and how it ended. `lost` names what differs; empty: it survived."""

    scenario: str
    seed: int
    faults: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def kills(self) -> int:
        """Processes that were really killed."""
        return sum(fault.get("code") == KILLED for fault in self.faults)


def finish(zygote: Zygote, place: Path, *command: str, settings: dict[str, Any], **faults: Any) -> Ended:
    """Carry out a command that must succeed."""
    ended = zygote.run(place, *command, settings=settings, **faults)
    assert ended.code == 0, ended.output
    return ended


def learn(zygote: Zygote, scenario: Scenario, folder: Path) -> Known:
    """Carry out a scenario without a disturbance: with no checkpoint but at the end, and again with many."""
    start = folder / scenario.name / "start"
    start.mkdir(parents=True)
    scenario.prepare(zygote, start)
    whole, again = start.with_name("whole"), start.with_name("again")
    shutil.copytree(start, whole)
    shutil.copytree(start, again)
    finish(zygote, whole, *scenario.command, settings=NEVER | scenario.settings)
    journal = folder / f"{scenario.name}.journal"
    faults = {"journal": str(journal)} if zygote.has_layer else {}
    ended = finish(zygote, again, *scenario.command, settings=OFTEN | scenario.settings, **faults)
    expected = scenario.outcome(whole)
    assert differences(scenario.outcome(again), expected) == []
    shutil.rmtree(again)
    return Known(scenario, start, expected, ended.seconds, read_journal(journal) if zygote.has_layer else [])


def read_journal(file: Path) -> list[tuple[int, str, str]]:
    """Number, kind and path of each operation, in order."""
    lines = [line.split(" ", 2) for line in file.read_text().splitlines()]
    return sorted((int(number), kind, path) for number, kind, path in lines)


def alike(path: str) -> str:
    """A path without the numbers and random names in it, which says what kind of file it is."""
    path = re.sub(r"[0-9a-f]{32}|\.tmp\w{6}$", "#", path[path.find("/runs/") + 1 :] if "/runs/" in path else path)
    return re.sub(r"\d+", "#", path)


def differences(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names of what is not equal."""
    return [name for name in expected if got.get(name) != expected[name]]


def complain(ended: Ended) -> list[str]:
    """What is wrong with how a command said that it could not go on: one line, exit code 1, no traceback."""
    errors = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    wrong = []
    if "Traceback" in ended.output:
        wrong.append("traceback")
    if ended.code != 1 or len(errors) != 1:
        wrong.append(f"exit code {ended.code} with {len(errors)} error lines")
    return wrong


def kill_trial(zygote: Zygote, known: Known, place: Path, seed: int, *, kills: int) -> Trial:
    """Kill a scenario at `kills` random instants on its way, then let it finish and compare."""
    draws, trial = random.Random(seed), Trial(known.scenario.name, seed)
    shutil.copytree(known.start, place)
    command: tuple[str, ...] | None = known.scenario.command
    try:
        for _ in range(kills):
            # On average, all kills together come about once around the way.
            share, how = min(1.0, 2 / kills), draws.choice(("time", "kill", "tear")) if zygote.has_layer else "time"
            if how == "time":
                fault: dict[str, Any] = {"seconds": round(draws.random() * share * known.seconds, 4)}
            else:
                fault = {"mode": how, "at": known.draw(draws, share)}
            ended = zygote.run(place, *command, settings=OFTEN | known.scenario.settings, **fault)
            trial.faults.append({**fault, "code": ended.code})
            if ended.code not in (0, KILLED):
                trial.said, trial.lost = ended.output, ["the command after a kill"]
                return trial
            command = None if ended.code == 0 else known.scenario.rest(place) if known.scenario.rest else command
            if command is None:
                break
        return concluded(zygote, known, place, command, trial)
    finally:
        if not trial.lost:
            shutil.rmtree(place)


def sweep_trial(zygote: Zygote, known: Known, place: Path, seed: int, *, kills: int) -> Trial:
    """Kill a sweep's own process, one of its runs, or all at once, at random times; then let it finish and compare."""
    draws, trial, mark = random.Random(seed), Trial(known.scenario.name, seed), f"{place.name}-{os.getpid()}"
    shutil.copytree(known.start, place)
    carrying = {"settings": SWEEPING, "environment": {"IRIS_TEST_MARK": mark, "IRIS_SAVE_SECONDS": "0"}}
    driver = zygote.start(place, *known.scenario.command, **carrying)
    ended = None
    try:
        for _ in range(kills):
            fault = {"seconds": round(draws.random() * 2 / kills * known.seconds, 4)}
            ended = zygote.wait(driver, fault["seconds"])
            if ended is not None:
                break
            runs, whom = marked(mark), draws.choice(("the sweep", "a run", "all"))
            victims = draws.sample(sorted(runs), min(1, len(runs))) if whom == "a run" else [*runs] * (whom == "all")
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            if whom != "a run":
                zygote.signal(driver, signal.SIGKILL)
                died = zygote.wait(driver, 30)
                assert died is not None
                driver = zygote.start(place, *known.scenario.command, **carrying)
            trial.faults.append({**fault, "whom": whom, "code": KILLED if whom != "a run" or victims else 0})
        ended = ended or zygote.wait(driver, 600)
        if ended is None or ended.code:
            trial.said, trial.lost = ended.output if ended else "", ["the last command"]
            return trial
        trial.lost = differences(known.scenario.outcome(place), known.expected)
        return trial
    finally:
        if not trial.lost:
            shutil.rmtree(place)


def marked(mark: str) -> list[int]:
    """All processes that were started with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"IRIS_TEST_MARK={mark}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def concluded(zygote: Zygote, known: Known, place: Path, command: tuple[str, ...] | None, trial: Trial) -> Trial:
    """Carry out the rest without a disturbance, and compare."""
    if command is not None:
        ended = zygote.run(place, *command, settings=SMALL | known.scenario.settings)
        if ended.code:
            trial.said, trial.lost = ended.output, ["the last command"]
            return trial
    try:
        trial.lost = differences(known.scenario.outcome(place), known.expected)
    except Exception as error:
        trial.said, trial.lost = repr(error), ["the outcome cannot be read"]
    return trial


def fault_trial(zygote: Zygote, known: Known, place: Path, seed: int, fault: dict[str, Any]) -> Trial:
    """Let operations on files fail in a scenario: it must say so in one line, and go on once they work again."""
    trial = Trial(known.scenario.name, seed, [dict(fault)])
    shutil.copytree(known.start, place)
    try:
        asked = {name: value for name, value in fault.items() if name not in ("path", "kind")}
        ended = zygote.run(place, *known.scenario.command, settings=OFTEN | known.scenario.settings, **asked)
        trial.faults[0]["code"] = ended.code
        if ended.code == KILLED:
            pass
        elif ended.code == 130 and "interrupt" in fault.get("mode", ""):
            trial.lost = ["traceback"] if "Traceback" in ended.output else []
        elif ended.code:
            trial.lost = complain(ended)
        if trial.lost:
            trial.said = ended.output
            return trial
        rest = known.scenario.rest(place) if known.scenario.rest else known.scenario.command
        return concluded(zygote, known, place, rest if ended.code else None, trial)
    finally:
        if not trial.lost:
            shutil.rmtree(place)


def collected(place: Path) -> dict[str, Any]:
    """All that is in the dataset of a place, whoever wrote it."""
    dataset = Dataset.open(place / "data" / "game.zarr")
    fields = ("observations", "actions", "rewards", "terminations", "truncations")
    return {
        **{name: dataset.read(name).tobytes() for name in fields},
        "steps": dataset.num_steps,
        "episode ends": dataset.episode_ends.tolist(),
        "episode ids": dataset.episode_ids.tolist(),
        "collector": dataset.attributes["collector"],
    }


def reports(place: Path) -> dict[str, Any]:
    """What the evaluations of a place found, and that its run is what it was."""
    found = sorted((place / "runs" / "game" / "reports").glob("evaluate-0*.json"))
    contents = [json.loads(path.read_text()) for path in found]
    return {"scores": [(c["scores"], c["lengths"], c["world_model"]) for c in contents], **outcome(place)} | {
        "metrics": None, "world models": None, "fingerprints": None, "achievements of reports": None,
    }  # fmt: skip


def sweep_outcome(place: Path) -> dict[str, Any]:
    """All that the runs of a sweep come to, and that every stage took place once."""
    runs = [f"{game}-{seed}" for game in ("pong", "boxing") for seed in (0, 1)]
    return {f"{run}: {what}": found for run in runs for what, found in outcome(place, run).items()}


def without_metrics(place: Path) -> dict[str, Any]:
    """The outcome of a pipeline."""
    return plain(outcome(place))


PIPELINES = {
    "iris": """
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
rounds: 2
first:
  - collect: {steps: 60}
round:
  - collect: {steps: 50}
  - train-tokenizer: {updates: 8}
  - tokenize
  - train-dynamics: {updates: 8}
  - train-actor-critic: {updates: 5}
  - evaluate: {episodes: 2, max_steps: 12, num_envs: 1, measured_steps: 10}
then:
  - imagine: {render: dream.png, steps: 4, num: 1, warm_up: 3}
""",
    "delta-iris": """
agent: delta-iris
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
first:
  - collect: {steps: 60}
rounds: 1
round:
  - train-tokenizer: {updates: 6}
  - train-dynamics: {updates: 6}
  - train-actor-critic: {updates: 4}
  - collect: {steps: 30}
then:
  - evaluate: {episodes: 2, max_steps: 12, num_envs: 1, measured_steps: 10}
""",
    "twm": """
agent: twm
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
first:
  - collect: {steps: 80, epsilon: 1.0}
  - train-tokenizer: {updates: 8}
  - train-dynamics: {updates: 8}
  - train-actor-critic: {updates: 8}
rounds: 2
round:
  - collect: {steps: 19, epsilon: 0.0}
  - train-agent: {updates: 4}
then:
  - evaluate: {episodes: 1, max_steps: 12, temperature: 1.0, measured_steps: 10}
""",
    "sweep": """
preset: tiny
game: Pong
dataset: data/{game}-{seed}.zarr
run: runs/{game}-{seed}
rounds: 2
round:
  - collect: {steps: 60}
  - train-tokenizer: {updates: 20}
  - train-dynamics: {updates: 20}
  - train-actor-critic: {updates: 8}
then:
  - evaluate: {episodes: 1, max_steps: 10, measured_steps: 0}
""",
}
AGENTS = ("iris", "delta-iris", "twm")
SWEEP = (
    "sweep", "tiny.yaml", "--games", "Pong,Boxing", "--seeds", "2", "--device", "cpu", "--engine", "local",
    "--parallel", "2",
)  # fmt: skip
SWEEPING = {"iris_cli.sweep.drive:RETRIES": 100, "iris_cli.sweep.drive:PICTURED": 0}


TRAINED = """
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
first:
  - collect: {steps: 100}
  - train-tokenizer: {updates: 3}
  - tokenize
  - train-dynamics: {updates: 2}
  - train-actor-critic: {updates: 1}
"""


def pipeline(agent: str) -> Callable[[Zygote, Path], None]:
    """Makes a place with the pipeline of an agent."""

    def prepare(zygote: Zygote, place: Path) -> None:
        (place / "tiny.yaml").write_text(PIPELINES[agent])

    return prepare


def trained(zygote: Zygote, place: Path) -> None:
    """Make a place where a pipeline of IRIS has ended; the same each time, so it is carried out once."""
    made = zygote.folder / "trained"
    if not made.exists():
        made.mkdir()
        (made / "tiny.yaml").write_text(TRAINED)
        finish(zygote, made, "run", "tiny.yaml", settings=NEVER)
        (made / "runs" / "game" / "reports").mkdir()  # where `outcome` looks
    shutil.copytree(made, place, dirs_exist_ok=True)


def untokenized(zygote: Zygote, place: Path) -> None:
    """Make a place where tokens are to be made anew."""
    trained(zygote, place)
    command = ("train-tokenizer", "data/game.zarr", "--run", "runs/game", "--updates", "2")
    finish(zygote, place, *command, settings=NEVER)
    (place / "runs" / "game" / "goal.json").write_text(json.dumps(state_of(place)["invocations"]["tokenize"] + 1))


TOKENIZE = ("tokenize", "data/game.zarr", "--run", "runs/game")


def rest_of_tokenizing(place: Path) -> tuple[str, ...] | None:
    """The same again, unless it came to its end."""
    state, goal = state_of(place), json.loads((place / "runs" / "game" / "goal.json").read_text())
    return None if state["invocations"]["tokenize"] >= goal and state["progress"] is None else TOKENIZE


def state_of(place: Path) -> dict[str, Any]:
    """What the last checkpoint says."""
    checkpoints = place / "runs" / "game" / "checkpoints"
    return json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "state.json").read_text())


STEPS = 160


def rest_of_collection(place: Path) -> tuple[str, ...] | None:
    """As many steps as are missing."""
    path = place / "data" / "game.zarr"
    left = STEPS - (Dataset.open(path).num_steps if path.exists() else 0)
    return ("collect", "--env", "Pong", "--out", "data/game.zarr", "--steps", str(left)) if left else None


def rest_of_training(stage: str, updates: int) -> Callable[[Path], tuple[str, ...] | None]:
    """The same again, unless it came to its end."""

    def rest(place: Path) -> tuple[str, ...] | None:
        component = stage.removeprefix("train-").replace("-", "_")
        done = state_of(place)
        goal = json.loads((place / "runs" / "game" / "goal.json").read_text())[component] + updates
        over = done["updates"][component] >= goal and done["progress"] is None
        return None if over else (stage, "data/game.zarr", "--run", "runs/game", "--updates", str(updates))

    return rest


def with_goal(zygote: Zygote, place: Path) -> None:
    """Make a trained place that knows how much it has been trained."""
    trained(zygote, place)
    (place / "runs" / "game" / "goal.json").write_text(json.dumps(state_of(place)["updates"]))


def rest_of_evaluation(place: Path) -> tuple[str, ...] | None:
    """The same again, unless the report is there."""
    return None if list((place / "runs" / "game" / "reports").glob("evaluate-0*.json")) else EVALUATE


EVALUATE = ("evaluate", "--run", "runs/game", "--episodes", "2", "--max-steps", "20", "--num-envs", "1")


def training(stage: str, updates: int) -> Scenario:
    """A training command on a run that has been trained."""
    command = (stage, "data/game.zarr", "--run", "runs/game", "--updates", str(updates))
    return Scenario(stage, command, with_goal, outcome, rest_of_training(stage, updates))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        *(Scenario(f"run {agent}", ("run", "tiny.yaml"), pipeline(agent), outcome) for agent in AGENTS),
        Scenario(
            "collect", ("collect", "--env", "Pong", "--out", "data/game.zarr", "--steps", str(STEPS)),
            lambda zygote, place: None, collected, rest_of_collection,
        ),
        training("train-tokenizer", 15),
        Scenario("tokenize", TOKENIZE, untokenized, outcome, rest_of_tokenizing),
        training("train-dynamics", 15),
        training("train-actor-critic", 8),
        Scenario("evaluate", EVALUATE, trained, reports, rest_of_evaluation),
        Scenario("sweep", SWEEP, pipeline("sweep"), sweep_outcome, settings=SWEEPING),
    )
}  # fmt: skip
