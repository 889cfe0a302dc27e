"""`iris imagine`, `play`, `attention`, `report`, `watch`, `info`: what is to be seen of a run."""

from pathlib import Path
from typing import Any

import click

from iris_cli.commands.options import (
    DATASET,
    EITHER,
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


@click.command()
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


@click.command()
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


@click.command()
@click.argument("runs", type=RUN, nargs=-1)
@click.option("--out", type=PATH, help="The page.  [default: report.html in the run; of several runs, here]")
@click.option("--pictures/--no-pictures", default=True, help="Load the agents for what they see and dream, or not.")
def report(runs: tuple[Path, ...], **settings: Any) -> None:
    """Write one HTML file about RUNS (the newest one if none is named): scores, curves, losses, dreams, settings.

    \b
    Example: iris report runs/pong
             iris report runs/sweeps/catch
             iris report runs/* --out compared.html
    """
    from iris_cli import console
    from iris_cli.card import newest_run
    from iris_cli.stages.report import WriteReport
    from iris_cli.stages.report import report as stage

    console.show(stage(with_sweeps(runs) or [newest_run()], WriteReport(**settings)))


@click.command()
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


@click.command()
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
