"""`iris sweep` and its commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from iris_cli.commands.options import PATH, POSITIVE, F, device_option, set_option


class Sweeping(click.Group):
    """`iris sweep FILE` is `iris sweep start FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_file = bool(args) and ("." in args[0] or "/" in args[0] or Path(args[0]).exists())
        if args and args[0] not in self.commands and (is_file or args[0].startswith("--")) and args[0] != "--help":
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


@click.group(cls=Sweeping)
def sweep() -> None:
    """Carry out a pipeline FILE for many games and seeds: iris sweep FILE.

    \b
    Started again, it goes on where it stood, whatever died. At the end: the table of iris scores, a report.
    Example: iris sweep pipelines/atari100k.yaml --games all --seeds 5
             iris sweep pipelines/atari100k.yaml --games Pong,Qbert --seeds 0,3 --gpus-per-run 0.25
             iris sweep pipelines/atari-small.yaml --games Pong --seeds 3 --engine local --parallel 2
             iris sweep pipelines/atari100k.yaml --games all --engine slurm
             iris sweep status runs/sweeps/atari100k
    Options: iris sweep start --help
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
@click.argument("directory", type=PATH, required=False)
def stop(directory: Path | None) -> None:
    """Let all runs of a sweep (the newest one if none is named) save and end, wherever they are.

    \b
    Example: iris sweep stop runs/sweeps/atari100k
    """
    from iris_cli.sweep import drive
    from iris_cli.sweep.manifest import newest_sweep

    drive.stop(directory or newest_sweep())


@sweep.command()
@click.argument("directory", type=PATH, required=False)
@placement_options(defaults=False)
def resume(directory: Path | None, **placement: Any) -> None:
    """Go on with a sweep (the newest one if none is named), on the same engine or another; what failed is tried again.

    \b
    Example: iris sweep resume runs/sweeps/atari100k
             iris sweep resume runs/sweeps/atari100k --engine local --parallel 2
    """
    from iris_cli.sweep import drive
    from iris_cli.sweep.manifest import newest_sweep

    drive.resume(directory or newest_sweep(), **placement)


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
