"""What commands share: kinds of values, and options."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

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
EITHER = Known("runs/*/run.yaml", "data/*.zarr/zarr.json")
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0)


def with_sweeps(runs: Sequence[Any]) -> list[Any]:
    """Runs as they were named; a sweep among them stands for those of its runs that are there."""
    sweeps = [run for run in runs if isinstance(run, Path) and (run / "sweep.yaml").exists()]
    if not sweeps:
        return list(runs)
    from iris_cli.sweep.manifest import runs_in

    return [found for run in runs for found in (runs_in(run) if run in sweeps else [run])]


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
        from iris_cli.launch import launch

        if profile is None or launch().rank > 0:  # whose first process is traced
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
