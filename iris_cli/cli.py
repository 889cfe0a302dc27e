"""The commands: a name, options, one sentence, an example and one call. All that is heavy is imported inside."""

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem, get_completion_class

from iris_cli.version import VERSION

F = TypeVar("F", bound=Callable[..., Any])


class File(click.Path):
    """The path of a file or folder of this machine."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            from iris_cli.object_store import on_this_machine

            return on_this_machine(value)
        return super().convert(value, param, ctx)


class Known(click.Path):
    """A run or dataset, by path or URL; a shell completes it to those under the current directory."""

    def __init__(self, *patterns: str) -> None:
        super().__init__(path_type=Path)
        self._patterns = patterns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from iris_cli.object_store import located

        return located(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = sorted(str(path.parent) for pattern in self._patterns for path in Path().glob(pattern))
        fitting = [CompletionItem(name) for name in found if name.startswith(incomplete)]
        return fitting or super().shell_complete(ctx, param, incomplete)


PATH = File()
RUN = Known("runs/*/run.yaml")
DATASET = Known("data/*.zarr/zarr.json")
DATA_PARALLEL = ("train-tokenizer", "train-dynamics")  # commands that several processes carry out as one
EITHER = Known("runs/*/run.yaml", "data/*.zarr/zarr.json")
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0)


class Group(click.Group):
    """Turns the library's errors into one line and exit code 1, and Ctrl-C into a clean stop with exit code 130."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from iris_cli import invocation

        if not ctx.resilient_parsing:
            invocation.note(args)
            ctx.call_on_close(lambda: invocation.note(None))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name not in DATA_PARALLEL and not ctx.resilient_parsing:
            _check_alone(str(name))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        from iris_cli import console, interrupts
        from iris_cli.errors import Interrupted, IrisError, out_of_memory

        try:
            ctx.with_resource(console.hushed(_is_follower()))
            with interrupts.graceful(console.say):
                result = super().invoke(ctx)
                _part()
                return result
        except IrisError as error:
            _tell(str(error))
            ctx.exit(1)
        except OSError as error:  # a full disk, a directory that may not be written
            if error.errno == errno.EPIPE:  # `iris info ... | head`: click ends quietly
                raise
            _tell(f"{error.strerror or error}." + (f" In {error.filename}." if error.filename else ""))
            ctx.exit(1)
        except (MemoryError, RuntimeError) as error:
            told = out_of_memory(error)
            if told is None:
                raise
            console.error(str(told))
            ctx.exit(1)
        except (Interrupted, KeyboardInterrupt) as stop:
            console.say(str(stop) or "Stopped at once; what was not saved is lost, and the last checkpoint stands.")
            ctx.exit(130)


def _check_alone(command: str) -> None:
    """Go on only if torchrun did not start several processes, each of which would do the same work."""
    from iris_cli.errors import ConfigError
    from iris_cli.launch import launch

    if launch().processes > 1:
        raise ConfigError(
            f"{command} is work for one process, but there are {launch().processes}", where="torchrun",
            fix=f"Only {' and '.join(DATA_PARALLEL)} are data-parallel; run this one as: iris {command}",
        )  # fmt: skip


def _is_follower() -> bool:
    """Whether another process writes and prints for this one."""
    from iris_cli.launch import launch

    return launch().rank > 0


def _tell(error: str) -> None:
    """Print the line that a command fails with; of several processes one does."""
    from iris_cli import console, interrupts
    from iris_cli.launch import launch

    if launch().processes > 1:
        from iris_cli.nn import data_parallel

        with interrupts.graceful(lambda text: None):  # torchrun ends the processes that are left, once one has failed
            if not data_parallel.is_to_say(otherwise=launch().local_rank == 0):
                return
    console.error(error)


def _part() -> None:
    """End what processes that trained as one had in common, and each of them at once.

    gloo's threads may outlive the group, and then abort a process that takes its time to end.
    """
    from iris_cli import console
    from iris_cli.launch import launch

    if launch().processes > 1:
        from iris_cli.nn import data_parallel

        if data_parallel.processes() > 1:
            data_parallel.leave()
            console.leave(0)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="iris")
def cli() -> None:
    """Agents that learn inside a learned world, on real Atari games.

    \b
    Every stage is a command:
      iris collect --env Pong
      iris train-tokenizer data/pong.zarr
      iris train-dynamics data/pong.zarr
      iris train-actor-critic data/pong.zarr
      iris evaluate
      iris imagine --render out.mp4
    and a pipeline chains them:
      iris run pipelines/demo.yaml
    """


def main() -> None:
    """The `iris` command."""
    # Before torch is imported: threads that wait spin for a moment only. Products of tiny networks last microseconds:
    # without spinning they took 2.5 times as long on idle cores; with GNU's long default, threads on a busy machine
    # became five times slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    cache = os.environ.get("IRIS_CACHE") or os.path.expanduser("~/.cache/iris")
    # What torch.compile made lies where a restart of the machine leaves it.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(cache, "inductor"))
    try:
        cli(prog_name="iris")  # which completion goes by, too
    except SystemExit as leaving:
        from iris_cli.launch import launch

        # Else Python may end itself by SIGINT, for a KeyboardInterrupt caught long before, or wait for a process that
        # trained together with this one.
        if leaving.code == 130 or (leaving.code == 1 and launch().processes > 1):
            from iris_cli import console

            console.leave(leaving.code)
        raise


def device_option(command: F) -> F:
    """--device, for whatever computes."""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")(command)


def run_option(command: F) -> F:
    """--run, for whatever works on a run."""
    return click.option("--run", type=RUN, help="Run directory.  [default: the newest]")(command)


def run_argument(command: F) -> F:
    """RUN, or --run as above, for whatever works on one run and takes nothing else."""

    def note(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
        ctx.meta["run"] = value

    def either(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and ctx.meta["run"] is not None:
            raise click.UsageError("Name the run once.")
        return value or ctx.meta["run"]

    command = click.option("--run", type=RUN, callback=either, help="The same as RUN.  [default: the newest]")(command)
    argument = click.argument(
        "named", metavar="[RUN]", type=RUN, required=False, is_eager=True, expose_value=False, callback=note
    )
    return argument(command)


def trust_option(command: F) -> F:
    """--trust-env, for whatever plays the environment that a run names."""
    return click.option("--trust-env", is_flag=True, help="Run the module of a run's own module:Class game.")(command)


def set_option(command: F) -> F:
    """--set, for single settings."""
    return click.option(
        "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting, e.g. tokenizer.preset=light."
    )(command)


def profile_option(command: F) -> F:
    """--profile, for the stages and pipelines."""

    @functools.wraps(command)
    def perhaps_profiled(*arguments: Any, profile: Path | None, **options: Any) -> Any:
        if profile is None or _is_follower():
            return command(*arguments, **options)
        from iris_cli import console
        from iris_cli.profiling import profiled

        with profiled(profile):
            result = command(*arguments, **options)
        console.warn(f"the trace is in {profile}; ui.perfetto.dev draws it")  # apart from what programs read
        return result

    option = click.option("--profile", type=PATH, help="Write a trace of every operator here: .json, for short work.")
    return cast(F, option(perhaps_profiled))


def log_option(command: F) -> F:
    """--log, for whatever writes metrics."""
    return click.option(
        "--log", multiple=True, metavar="LOGGER",
        help="Also draw the metrics with tensorboard, wandb or trackio; may be repeated.",
    )(command)  # fmt: skip


def updates_option(command: F) -> F:
    """--updates, of the training stages."""
    return click.option(
        "--updates", type=POSITIVE, help="Optimizer updates.  [default: as published for the dataset, less on a CPU]"
    )(command)


def training_options(command: F) -> F:
    """What all commands share that make a run of a dataset, or go on with it."""
    for option in (
        click.option("--seed", type=SEED, help="Of a new run.  [default: 0]"),
        click.option(
            "--preset", help="Of a new run: published, small, tiny (delta-iris: crafter).  [default: published]"
        ),
        click.option("--agent", help="Of a new run: iris, delta-iris or twm.  [default: iris]"),
        click.option("--run", type=RUN, help="Run directory.  [default: runs/ and the dataset's name]"),
    ):
        command = option(command)
    return device_option(log_option(set_option(profile_option(command))))


@cli.command()
@click.option("--env", help="Pong, ms_pacman, ALE/Qbert-v5, any Gymnasium id, or module:Class.  [default: the run's]")
@click.option("--steps", type=POSITIVE, default=10_000, show_default=True, help="Environment steps to add.")
@click.option("--out", type=DATASET, help="Dataset.  [default: data/ and the game's name, or the run's]")
@click.option("--agent", help="Who shall see the frames: twm sees stacks of grey ones.  [default: iris, or the run's]")
@click.option("--run", type=RUN, help="Play with this run's policy instead of at random.")
@click.option("--num-envs", type=POSITIVE, default=1, show_default=True, help="Environments, each in its own process.")
@click.option("--epsilon", type=float, default=0.01, show_default=True, help="Chance of a random action, with --run.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the policy, with --run.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of games and random actions; a run has its own.")
@click.option("--human", is_flag=True, help="You play, at a page of this machine; with --run, its agent may take over.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of the page, with --human."
)
@trust_option
@device_option
@profile_option
def collect(
    env: str | None, out: Path | None, agent: str | None, run: Path | None, seed: int, device: str, human: bool,
    port: int, trust_env: bool, **settings: Any,
) -> None:  # fmt: skip
    """Play real episodes and append them to a dataset.

    \b
    Example: iris collect --env Pong
             iris collect --env Pong --run runs/pong --steps 2000
             iris collect --env Pong --agent twm --out data/pong-twm.zarr
             iris collect --env Pong --human
    """
    from iris_cli import console
    from iris_cli.open_run import alone, environment_named, open_for_collecting
    from iris_cli.stages import collect as stage

    wanted = stage.Collect(**settings)
    if human:
        from iris_cli.stages import play

        if wanted.num_envs > 1:
            raise click.UsageError("A person plays one game at a time: leave --num-envs away.")
        by_hand = play.Human(steps=wanted.steps, port=port, temperature=wanted.temperature, seed=seed)
        if run is not None:
            opened = open_for_collecting(run, env=env, agent=agent, dataset=out, device=device, trust_env=trust_env)
            report = alone(play.collect_by_hand_with, opened, by_hand)
        else:
            environment = environment_named(env, agent or "iris")
            report = play.collect_by_hand(out or Path("data") / f"{environment.stem}.zarr", environment, by_hand)
    elif run is not None:
        opened = open_for_collecting(run, env=env, agent=agent, dataset=out, device=device, trust_env=trust_env)
        report = alone(stage.collect_alone, opened, wanted)
    else:
        environment = environment_named(env, agent or "iris")
        path = out or Path("data") / f"{environment.stem}.zarr"
        report = stage.collect_randomly(path, environment, wanted, seed=seed)
    console.show(report)


@cli.command("train-tokenizer")
@click.argument("dataset", type=DATASET)
@updates_option
@training_options
def train_tokenizer(dataset: Path, updates: int | None, **run: Any) -> None:
    """Fit the frame tokenizer to DATASET.

    \b
    Example: iris train-tokenizer data/pong.zarr
             iris train-tokenizer data/pong.zarr --preset small --updates 2000
    """
    from iris_cli import console
    from iris_cli.open_run import alone, open_together
    from iris_cli.stages.train_tokenizer import TrainTokenizer
    from iris_cli.stages.train_tokenizer import train_tokenizer as stage

    console.show(alone(stage, open_together(dataset, create=True, **run), TrainTokenizer(updates=updates)))


@cli.command()
@click.argument("dataset", type=DATASET)
@training_options
def tokenize(dataset: Path, **run: Any) -> None:
    """Turn every frame of DATASET into tokens once, and store them for the later stages.

    \b
    Example: iris tokenize data/pong.zarr
    """
    from iris_cli import console
    from iris_cli.open_run import alone, open_for_training
    from iris_cli.stages.tokenize import Tokenize
    from iris_cli.stages.tokenize import tokenize as stage

    console.show(alone(stage, open_for_training(dataset, **run), Tokenize()))


@cli.command("train-dynamics")
@click.argument("dataset", type=DATASET)
@updates_option
@training_options
def train_dynamics(dataset: Path, updates: int | None, **run: Any) -> None:
    """Fit the GPT dynamics model to the tokens of DATASET.

    \b
    Example: iris train-dynamics data/pong.zarr
    """
    from iris_cli import console
    from iris_cli.open_run import alone, open_together
    from iris_cli.stages.train_dynamics import TrainDynamics
    from iris_cli.stages.train_dynamics import train_dynamics as stage

    console.show(alone(stage, open_together(dataset, **run), TrainDynamics(updates=updates)))


@cli.command("train-actor-critic")
@click.argument("dataset", type=DATASET)
@updates_option
@training_options
def train_actor_critic(dataset: Path, updates: int | None, **run: Any) -> None:
    """Learn policy and values in imagination, from starts in DATASET (twm: from its real steps, before train-agent).

    \b
    Example: iris train-actor-critic data/pong.zarr
    """
    from iris_cli import console
    from iris_cli.open_run import alone, open_for_training
    from iris_cli.stages.train_actor_critic import TrainActorCritic
    from iris_cli.stages.train_actor_critic import train_actor_critic as stage

    console.show(alone(stage, open_for_training(dataset, **run), TrainActorCritic(updates=updates)))


@cli.command("train-agent")
@click.argument("dataset", type=DATASET)
@updates_option
@training_options
def train_agent(dataset: Path, updates: int | None, **run: Any) -> None:
    """Train world model and actor-critic together on DATASET, for agents that learn so (twm).

    
    Example: iris train-agent data/pong-twm.zarr --agent twm
    """
    from iris_cli import console
    from iris_cli.open_run import alone, open_for_training
    from iris_cli.stages.train_agent import TrainAgent
    from iris_cli.stages.train_agent import train_agent as stage

    console.show(alone(stage, open_for_training(dataset, create=True, **run), TrainAgent(updates=updates)))


@cli.command()
@click.option("--episodes", type=POSITIVE, default=100, show_default=True, help="Whole games to play.")
@click.option("--temperature", type=float, help="Of the policy.  [default: as published, iris 0.5, the others 1]")
@click.option("--epsilon", type=float, default=0.0, show_default=True, help="Chance of a random action.")
@click.option("--num-envs", type=POSITIVE, help="Games at once.  [default: by processors, at most 25]")
@click.option("--max-steps", type=POSITIVE, help="Cut episodes, for a quick look.  [default: the published 27,000]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of games and policy draws.")
@run_argument
@trust_option
@device_option
@profile_option
def evaluate(run: Path | None, device: str, trust_env: bool, **settings: Any) -> None:
    """Play whole games by the published protocol and write a report of every score.

    \b
    Example: iris evaluate
             iris evaluate --run runs/pong --episodes 20
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.evaluate import Evaluate
    from iris_cli.stages.evaluate import evaluate as stage

    console.show(stage(open_existing(run, device=device, trust_env=trust_env), Evaluate(**settings)))


@cli.command()
@click.option("--steps", type=POSITIVE, default=2000, show_default=True, help="Steps to play at most.")
@click.option("--episodes", type=POSITIVE, help="Episodes to play at most.  [default: as many as the steps hold]")
@click.option("--horizon", type=POSITIVE, default=20, show_default=True, help="Steps of each dream.")
@click.option("--dataset", type=DATASET, help="Measure on its first steps instead of on fresh games.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of games, actions and dreams.")
@click.option("--json", "as_json", is_flag=True, help="The whole report, for other programs.")
@run_argument
@trust_option
@device_option
@profile_option
def diagnose(run: Path | None, device: str, as_json: bool, trust_env: bool, **settings: Any) -> None:
    """Measure each part of the world model on games it never saw, and say which one fails.

    \b
    Example: iris diagnose
             iris diagnose --run runs/pong --steps 5000
             iris diagnose --dataset data/other.zarr --json
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.diagnose import Diagnose
    from iris_cli.stages.diagnose import diagnose as stage

    with console.standard_output_for_programs(as_json):
        report = stage(open_existing(run, device=device, trust_env=trust_env), Diagnose(**settings))
    if as_json:
        console.document(Path(report.files["report"]))
    else:
        console.show(report)


@cli.command()
@click.option("--render", type=PATH, default=Path("imagined.mp4"), show_default=True, help=".mp4, .gif or .png strip.")
@click.option("--steps", type=POSITIVE, default=100, show_default=True, help="Imagined steps.")
@click.option("--num", type=POSITIVE, default=3, show_default=True, help="Dreams, one row each.")
@click.option(
    "--policy", type=click.Choice(["agent", "random", "dataset"]), default="agent", show_default=True,
    help="Who acts in the dream.",
)  # fmt: skip
@click.option("--context", type=POSITIVE, default=4, show_default=True, help="Real steps the world model reads first.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the policy.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the starts and of all draws.")
@run_argument
@trust_option
@device_option
@profile_option
def imagine(run: Path | None, device: str, trust_env: bool, **settings: Any) -> None:
    """Film dreams beside the real game: real | reconstruction | imagined, under the same actions.

    \b
    Example: iris imagine --render out.mp4
             iris imagine --render dream.gif --policy random --steps 40
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.imagine import Imagine
    from iris_cli.stages.imagine import imagine as stage

    wanted = Imagine(**settings)
    console.show(stage(open_existing(run, device=device, trust_env=trust_env), wanted))


@cli.command()
@click.argument("run", type=PATH, required=False)
@click.option("--env", help="Play this real game, without a run.")
@click.option(
    "--world", type=click.Choice(["auto", "real", "dream"]), default="auto", show_default=True,
    help="Where to begin; auto dreams where there is a trained world model.",
)  # fmt: skip
@click.option("--script", type=PATH, help="Play these keys instead of a person's, a line per press: up+fire 10.")
@click.option("--render", type=PATH, help="The film of the script: .mp4, .gif or .png strip.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the page listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--fps", type=click.IntRange(1, 60), default=15, show_default=True, help="Steps a second.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the agent, where it acts.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of games, dreams and the agent's actions.")
@trust_option
@device_option
def play(run: Path | None, env: str | None, device: str, trust_env: bool, **settings: Any) -> None:
    """Play the real game or inside the world model of RUN (the newest), at a page of this machine or by a script.

    \b
    Example: iris play
             iris play runs/pong --world real
             iris play --env Breakout
             iris play runs/pong --script keys.txt --render out.mp4
    """
    from iris_cli import console
    from iris_cli.open_run import environment_named, open_existing
    from iris_cli.stages.play import Play
    from iris_cli.stages.play import play as stage

    wanted = Play(**settings)
    if env is not None and run is not None:
        raise click.UsageError("Name a run or --env, not both.")
    opened = None if env is not None else open_existing(run, device=device, trust_env=trust_env)
    environment = environment_named(env, "iris") if opened is None else opened.environment
    report = stage(opened, environment.for_testing(), wanted)
    if report is not None:
        console.show(report)


@cli.command()
@click.argument("file", type=PATH)
@click.option("--game", help="In place of the file's.")
@click.option("--seed", type=SEED, help="In place of the file's.")
@click.option("--agent", help="In place of the file's.")
@click.option("--preset", help="In place of the file's.")
@set_option
@log_option
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@device_option
@profile_option
def run(file: Path, device: str, dry_run: bool, assignments: tuple[str, ...], **chosen: Any) -> None:
    """Carry out a pipeline FILE in one process; started again, it goes on from where it was stopped.

    \b
    Example: iris run pipelines/demo.yaml
             iris run pipelines/atari100k.yaml --game Qbert --dry-run
             iris run pipelines/atari100k.yaml --game Qbert --set rounds=2 --set train-dynamics.updates=50
    """
    from iris_cli import console, pipeline
    from iris_cli.plan import make_plan

    plan = make_plan(file, assignments=assignments, **chosen)
    if dry_run:
        pipeline.show_plan(plan)
    else:
        console.show(pipeline.execute(plan, device=device))


class Sweeping(click.Group):
    """`iris sweep FILE` is `iris sweep start FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["start", *args]
        return super().parse_args(ctx, args)


def placement_options(defaults: bool) -> Callable[[F], F]:
    """--engine, --address, --gpus-per-run and --parallel; without defaults, what is not named stays as it was."""
    shown: dict[str, Any] = {"default": "ray", "show_default": True} if defaults else {}

    def add(command: F) -> F:
        for option in (
            click.option("--parallel", type=POSITIVE, help="Runs at a time.  [default: as many as there is room for]"),
            click.option("--gpus-per-run", type=click.FloatRange(min=0), help="A share, or several.  [default: 1]"),
            click.option("--address", metavar="HOST:PORT", help="Of a Ray cluster.  [default: this machine alone]"),
            click.option("--engine", type=click.Choice(["ray", "local", "slurm"]), help="Who starts runs.", **shown),
        ):
            command = option(command)
        return command

    return add


@cli.group(cls=Sweeping)
def sweep() -> None:
    """Carry out a pipeline FILE for many games and seeds: iris sweep FILE.

    \b
    Started again, it goes on where it stood, whatever died. At the end: the table of iris scores, a report.
    Example: iris sweep pipelines/atari100k.yaml --games all --seeds 5
             iris sweep pipelines/atari100k.yaml --games Pong,Qbert --seeds 0,3 --gpus-per-run 0.25
             iris sweep pipelines/atari-small.yaml --games Pong --seeds 3 --engine local --parallel 2
             iris sweep pipelines/atari100k.yaml --games all --engine slurm
             iris sweep status runs/sweeps/atari100k
    """


@sweep.command()
@click.argument("file", type=PATH)
@click.option("--games", help="all (the 26 of Atari 100k), or names: Pong,Qbert.  [default: the file's]")
@click.option("--seeds", default="5", show_default=True, help="How many, from 0 on; or which: 0,3.")
@click.option("--agent", help="In place of the file's.")
@click.option("--preset", help="In place of the file's.")
@set_option
@device_option
@click.option("--cpus-per-run", type=POSITIVE, default=1, show_default=True, help="Threads of each run, exactly.")
@placement_options(defaults=True)
@click.option("--dir", "directory", type=PATH, help="Of the sweep.  [default: runs/sweeps/ and the file's name]")
def start(
    file: Path, directory: Path | None, games: str | None, seeds: str, assignments: tuple[str, ...], agent: str | None,
    preset: str | None, device: str, cpus_per_run: int, **placement: Any,
) -> None:  # fmt: skip
    """Begin a sweep, or go on with it: `iris sweep FILE` is this.

    \b
    Example: iris sweep start pipelines/atari100k.yaml --games all --seeds 5
    """
    from iris_cli.sweep import drive
    from iris_cli.sweep.manifest import Placement, Wanted

    wanted = Wanted(agent=agent, preset=preset, device=device, assignments=assignments, cpus_per_run=cpus_per_run)
    drive.start(file, directory, games=games, seeds=seeds, wanted=wanted, placement=Placement(**placement))


@sweep.command()
@click.argument("directory", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
def status(directory: Path | None, as_json: bool) -> None:
    """Say how each run of a sweep (the newest one if none is named) stands, while it is carried out or after.

    \b
    Example: iris sweep status runs/sweeps/atari100k
    """
    from iris_cli import console
    from iris_cli.sweep import drive
    from iris_cli.sweep.manifest import newest_sweep

    board = drive.status(directory or newest_sweep())
    if as_json:
        console.facts("sweep", board.facts(), as_json=True)
    else:
        console.show(board.report())


@sweep.command()
@click.argument("directory", type=PATH)
def stop(directory: Path) -> None:
    """Let all runs of a sweep save and end, wherever they are.

    \b
    Example: iris sweep stop runs/sweeps/atari100k
    """
    from iris_cli.sweep import drive

    drive.stop(directory)


@sweep.command()
@click.argument("directory", type=PATH)
@placement_options(defaults=False)
def resume(directory: Path, **placement: Any) -> None:
    """Go on with a sweep, on the same engine or another; what failed is tried again.

    \b
    Example: iris sweep resume runs/sweeps/atari100k
             iris sweep resume runs/sweeps/atari100k --engine local --parallel 2
    """
    from iris_cli.sweep import drive

    drive.resume(directory, **placement)


@sweep.command()
@click.argument("directory", type=PATH)
@click.argument("run")
@click.option("--parent", type=int, hidden=True, help="The process whose end ends this one.")
def work(directory: Path, run: str, parent: int | None) -> None:
    """Carry out one RUN of a sweep here and now: what every engine starts, for schedulers that are none of them.

    \b
    Example: iris sweep work runs/sweeps/atari100k pong-0
    """
    from iris_cli import console
    from iris_cli.sweep.work import work as stage

    console.show(stage(directory, run, parent=parent))


@cli.command()
@click.argument("path", type=EITHER)
def verify(path: Path) -> None:
    """Check that all of a dataset or run at PATH is as it was written; exit code 1 if something is wrong.

    \b
    Example: iris verify runs/pong
             iris verify data/pong.zarr
    """
    from iris_cli import console
    from iris_cli.stages.verify import report_of
    from iris_cli.stages.verify import verify as stage

    findings = stage(path)
    console.show(report_of(path, findings))
    if any(finding.is_wrong for finding in findings):
        click.get_current_context().exit(1)


@cli.command()
@click.argument("path", type=EITHER)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def repair(path: Path, dry_run: bool) -> None:
    """Bring a dataset or run at PATH back to its last whole state; says what it does, and guesses nothing.

    \b
    Example: iris repair data/pong.zarr --dry-run
             iris repair runs/pong
    """
    from iris_cli import console
    from iris_cli.stages.repair import repair as stage

    done = stage(path, dry_run=dry_run)
    for sentence in done:
        console.say(f"{'It would have ' if dry_run else 'It '}{sentence}.")
    if not done:
        console.say(f"Nothing is to be done in {path}.")


@cli.command()
@click.argument("runs", type=RUN, nargs=-1)
@click.option("--against", metavar="METHOD", help="For the probability of improvement.  [default: IRIS]")
@click.option("--profile", type=PATH, help="Draw performance profiles here: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
def scores(runs: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Compare the final evaluations of RUNS with the published methods; without RUNS, print those alone.

    \b
    Example: iris scores runs/*
             iris scores runs/* --against TWM --profile profile.png
    """
    from iris_cli import console
    from iris_cli.stages.scores import scores as stage
    from iris_cli.stages.scores import show

    facts = stage(runs, **options)
    if as_json:
        console.facts("scores", facts, as_json=True)
    else:
        show(facts)


@cli.command()
@click.argument("runs", type=RUN, nargs=-1, required=True)
@click.option("--out", type=PATH, default=Path("curve.png"), show_default=True, help="Picture: .png, .svg or .pdf.")
@click.option("--x", type=click.Choice(["steps", "minutes"]), default="steps", show_default=True, help="Axis.")
@click.option("--random", type=float, help="Score of random play to mark.  [default: the published one]")
@click.option("--threshold", type=float, help="Score to mark, and to say when it was reached.")
def curve(runs: tuple[Path, ...], **options: Any) -> None:
    """Draw how the evaluations of RUNS grew with steps or time, a line for each run.

    \b
    Example: iris curve runs/catch-0 runs/catch-1 --out curve.png
             iris curve runs/catch-0 --x minutes --threshold 0.95
    """
    from iris_cli import console
    from iris_cli.stages.curve import curve as stage

    console.show(stage(runs, **options))


@cli.command()
@click.argument("run", type=RUN)
@click.option("--out", type=PATH, default=Path("attention.png"), show_default=True, help="Picture: .png, .svg or .pdf.")
@click.option("--predictions", type=POSITIVE, default=500, show_default=True, help="How many to look into at most.")
@click.option("--dataset", type=DATASET, help="To predict on its first 5,000 steps.  [default: the run's]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of which predictions.")
@device_option
def attention(run: Path, out: Path, device: str, **settings: Any) -> None:
    """Draw what the dynamics of RUN looks at: frames or latents, actions and rewards, by how long ago.

    \b
    Example: iris attention runs/pong-twm --out attention.png
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.attention import AttentionMap
    from iris_cli.stages.attention import attention as stage

    console.show(stage(open_existing(run, device=device), AttentionMap(**settings), out))


@cli.command()
@click.argument("path", type=EITHER, required=False)
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
def info(path: Path | None, as_json: bool) -> None:
    """Say what is in a dataset or a run (the newest one if none is named).

    \b
    Example: iris info data/pong.zarr
             iris info runs/pong --json
    """
    from iris_cli import console
    from iris_cli.card import newest_run
    from iris_cli.stages.info import info as facts

    path = path or newest_run()
    console.facts(str(path), facts(path), as_json=as_json)


@cli.command("import")
@click.argument("source")
@click.option("--out", type=DATASET, help="Dataset to make.  [default: data/ and the source's name]")
@click.option("--csv", type=PATH, help="The actions of a film.  [default: the film's name with .csv]")
@click.option("--actions", help="How many actions there are, or their names: NOOP,LEFT.  [default: the largest]")
@click.option("--env", help="The game that was recorded, if it can be played.  [default: there is none]")
@click.option("--licence", default="unknown", show_default=True, help="Of the data; it is kept with them.")
def import_(source: str, **settings: Any) -> None:
    """Make a dataset of others' frames and actions: SOURCE is .npz, .mp4 with a .csv, a Minari folder or minari:ID.

    \b
    Example: iris import play.mp4
             iris import frames.npz --actions NOOP,LEFT,RIGHT --out data/mine.zarr
             iris import minari:atari/pong/expert-v0
    """
    from iris_cli import console
    from iris_cli.stages.import_data import Import, import_data

    console.show(import_data(source, Import(**settings)))


@cli.command("export")
@click.argument("dataset", type=DATASET)
@click.option("--to", type=click.Choice(["minari", "mp4"]), default="minari", show_default=True, help="What to write.")
@click.option("--out", type=PATH, help="Where.  [default: beside the dataset, NAME-v0 or NAME.mp4]")
@click.option("--fps", type=float, default=15.0, show_default=True, help="Frames per second of a film.")
@click.option("--lossless", is_flag=True, help="Keep every pixel of a film; few players show such.")
def export(dataset: Path, **settings: Any) -> None:
    """Write DATASET as a Minari dataset, or as a film with a CSV of its actions that can be imported again.

    \b
    Example: iris export data/pong.zarr --to minari
             iris export data/pong.zarr --to mp4 --out pong.mp4
    """
    from iris_cli import console
    from iris_cli.stages.export_data import Export, export_data

    console.show(export_data(dataset, Export(**settings)))


@cli.command()
@click.argument("runs", type=RUN, nargs=-1)
@click.option("--out", type=PATH, help="The page.  [default: report.html in the run; of several runs, here]")
@click.option("--pictures/--no-pictures", default=True, help="Load the agents for what they see and dream, or not.")
def report(runs: tuple[Path, ...], **settings: Any) -> None:
    """Write one HTML file about RUNS (the newest one if none is named): scores, curves, losses, dreams, settings.

    \b
    Example: iris report runs/pong
             iris report runs/* --out compared.html
    """
    from iris_cli import console
    from iris_cli.card import newest_run
    from iris_cli.stages.report import WriteReport
    from iris_cli.stages.report import report as stage

    console.show(stage(runs or (newest_run(),), WriteReport(**settings)))


@cli.command()
@click.argument("run", type=RUN, required=False)
@click.option("--once", is_flag=True, help="Print how it stands, and end.")
def watch(run: Path | None, once: bool) -> None:
    """Follow a RUN (the newest one if none is named) in the terminal until it ends or Ctrl-C; it does not notice.

    \b
    Example: iris watch
             iris watch runs/pong --once
    """
    from iris_cli import console, interrupts
    from iris_cli.card import newest_run
    from iris_cli.stages.watch import Watcher

    watcher = Watcher(run or newest_run())
    if once:
        console.show(watcher.look()[0])
    else:
        console.follow(watcher.look, stop=interrupts.requested)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
@device_option
def doctor(as_json: bool, device: str) -> None:
    """Try on this machine all that a run needs, and say what to do where something is wrong; exit code 1 if it is.

    \b
    Example: iris doctor
             iris doctor --device cpu --json
    """
    from iris_cli import console
    from iris_cli.stages.doctor import doctor as stage
    from iris_cli.stages.doctor import facts_of, report_of

    checks = stage(device=device)
    facts = facts_of(checks)
    if as_json:
        console.facts("doctor", facts, as_json=True)
    else:
        console.show(report_of(checks))
    if not facts["healthy"]:
        click.get_current_context().exit(1)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, runs and datasets.

    \b
    Example: iris completion bash
    bash:  echo 'eval "$(iris completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(iris completion zsh)"' >> ~/.zshrc
    fish:  iris completion fish > ~/.config/fish/completions/iris.fish
    """
    from iris_cli import console

    found = get_completion_class(shell)
    assert found is not None
    console.text(found(cli, {}, "iris", "_IRIS_COMPLETE").source())


@cli.command("import-checkpoint")
@click.argument("file", type=PATH)
@click.option("--env", required=True, help="The game it was trained on.")
@click.option("--run", type=RUN, help="Run to make.  [default: runs/ and the game's name]")
@click.option("--dataset", type=DATASET, help="For further training.  [default: data/ and the game's name]")
@set_option
@device_option
def import_checkpoint(file: Path, env: str, **options: Any) -> None:
    """Make a run of a published checkpoint FILE (last.pt).

    \b
    Example: iris import-checkpoint last.pt --env Pong
    """
    from iris_cli import console
    from iris_cli.stages.exchange import import_checkpoint as stage

    console.show(stage(file, env=env, **options))


@cli.command("export-checkpoint")
@click.argument("file", type=PATH)
@run_option
def export_checkpoint(file: Path, run: Path | None) -> None:
    """Write a run's weights to FILE in the published format.

    \b
    Example: iris export-checkpoint last.pt --run runs/pong
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.exchange import export_checkpoint as stage

    console.show(stage(open_existing(run, device="cpu"), file))


@cli.command()
@click.argument("run", type=RUN)
@click.argument("repository", required=False)
@click.option("--to", type=PATH, help="Make this folder instead: no hub, no network.")
@click.option("--licence", default="unknown", show_default=True, help="Of the weights, such as mit or cc-by-4.0.")
@click.option("--private", is_flag=True, help="Of a repository that is made.")
def push(run: Path, **settings: Any) -> None:
    """Share RUN in REPOSITORY (OWNER/NAME) on the Hugging Face hub, or as a folder: weights, settings, model card.

    \b
    Example: iris push runs/pong OWNER/pong-iris --licence mit
             iris push runs/pong --to pong-iris
    """
    from iris_cli import console
    from iris_cli.open_run import open_existing
    from iris_cli.stages.share import Push
    from iris_cli.stages.share import push as stage

    console.show(stage(open_existing(run, device="cpu"), Push(**settings)))


@cli.command()
@click.argument("source")
@click.option("--out", type=RUN, help="Run to make.  [default: runs/ and the source's name]")
def pull(source: str, out: Path | None) -> None:
    """Make a run of a shared one: SOURCE is OWNER/NAME on the Hugging Face hub, or a folder that push wrote.

    \b
    Example: iris pull OWNER/pong-iris
             iris pull pong-iris --out runs/theirs
    """
    from iris_cli import console
    from iris_cli.stages.share import pull as stage

    console.show(stage(source, out=out))


@cli.command()
@click.argument("what", type=click.Choice(["lpips"]))
@click.option("--source", type=PATH, help="A local file or directory with the weights, instead of a download.")
@click.option("--out", type=PATH, help="Where to keep them.  [default: ~/.cache/iris/lpips.safetensors]")
def fetch(what: str, source: Path | None, out: Path | None) -> None:
    """Get the weights of the perceptual loss, checked by their checksum: the only command that downloads.

    \b
    Example: iris fetch lpips
             iris fetch lpips --source last.pt
    """
    from iris_cli import console
    from iris_cli.stages.fetch import fetch_lpips

    with console.downloads() as progress:
        path = fetch_lpips(out, source=source, progress=progress)
    console.say(f"The perceptual weights are in {path}.")


@cli.command()
@click.option("--agent", default="iris", show_default=True, help="iris, delta-iris or twm.")
@click.option(
    "--preset", default="published", show_default=True, help="published, small or tiny (delta-iris: atari, crafter)."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Spent on each measurement."
)
@click.option("--scaling", is_flag=True, help="Measure how cost grows with batch, horizon, ... instead (iris).")
@click.option("--plot", type=PATH, help="Draw that here: .png, .svg or .pdf.")
@click.option("--out", type=PATH, default=None, help="Also write it here: a .json file, or a folder of many.")
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
@device_option
def bench(
    agent: str,
    preset: str,
    seconds: float,
    scaling: bool,
    plot: Path | None,
    out: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Measure the throughput of every stage on this machine, and what a full Atari 100k run would take.

    \b
    Example: iris bench --preset small
             iris bench --agent delta-iris --json --out results/
             iris bench --scaling --plot scaling.png
    """
    if plot is not None and not scaling:
        raise click.UsageError("--plot goes with --scaling.")
    if scaling and agent != "iris":
        raise click.UsageError("--scaling is measured of the agent iris alone.")
    from iris_cli import console
    from iris_cli.stages import bench as stage
    from iris_cli.stages import bench_scaling as growth

    asked: dict[str, Any] = {"preset": preset, "seconds": seconds, "device": device}
    result = growth.scaling(plot=plot, **asked) if scaling else stage.bench(agent=agent, **asked)
    path = None if out is None else stage.save(result, out)
    if as_json:
        console.facts("bench", result, as_json=True)
    else:
        console.show(growth.report_of(result, path, plot) if scaling else stage.report_of(result, path))
