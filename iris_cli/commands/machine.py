"""`iris doctor`, `bench`, `completion`: what concerns this machine."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from iris_cli.commands.options import PATH, device_option


@click.command()
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


@click.command()
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


@click.command()
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

    found, root = get_completion_class(shell), click.get_current_context().find_root().command
    assert found is not None
    console.text(found(root, {}, "iris", "_IRIS_COMPLETE").source())
