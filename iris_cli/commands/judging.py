"""`iris evaluate`, `diagnose`, `scores`, `curve`: how good a run is."""

from pathlib import Path
from typing import Any

import click

from iris_cli.commands.options import (
    DATASET,
    PATH,
    POSITIVE,
    RUN,
    SEED,
    device_option,
    profile_option,
    run_argument,
    trust_option,
    with_sweeps,
)


@click.command()
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


@click.command()
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


@click.command()
@click.argument("runs", type=RUN, nargs=-1)
@click.option("--against", metavar="METHOD", help="For the probability of improvement.  [default: IRIS]")
@click.option("--profile", type=PATH, help="Draw performance profiles here: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
def scores(runs: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Compare the final evaluations of RUNS with the published methods; without RUNS, print those alone.

    \b
    Example: iris scores runs/*
             iris scores runs/sweeps/atari100k
             iris scores runs/* --against TWM --profile profile.png
    """
    from iris_cli import console
    from iris_cli.stages.scores import scores as stage
    from iris_cli.stages.scores import show

    facts = stage(with_sweeps(runs), **options)
    if as_json:
        console.facts("scores", facts, as_json=True)
    else:
        show(facts)


@click.command()
@click.argument("runs", type=RUN, nargs=-1, required=True)
@click.option("--out", type=PATH, default=Path("curve.png"), show_default=True, help="Picture: .png, .svg or .pdf.")
@click.option("--x", type=click.Choice(["steps", "minutes"]), default="steps", show_default=True, help="Axis.")
@click.option("--random", type=float, help="Score of random play to mark.  [default: the published one]")
@click.option("--threshold", type=float, help="Score to mark, and to say when it was reached.")
def curve(runs: tuple[Path, ...], **options: Any) -> None:
    """Draw how the evaluations of RUNS grew with steps or time, a line for each run.

    \b
    Example: iris curve runs/catch-0 runs/catch-1 --out curve.png
             iris curve runs/sweeps/catch
             iris curve runs/catch-0 --x minutes --threshold 0.95
    """
    from iris_cli import console
    from iris_cli.stages.curve import curve as stage

    console.show(stage(with_sweeps(runs), **options))
