"""Whether datasets and runs are whole, and how they and weights come and go: `iris verify`, `import`, `push`."""

from pathlib import Path
from typing import Any

import click

from iris_cli.commands.options import DATASET, EITHER, PATH, RUN, device_option, run_option, set_option


@click.command()
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


@click.command()
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


@click.command("import")
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


@click.command("export")
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


@click.command("import-checkpoint")
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


@click.command("export-checkpoint")
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


@click.command()
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


@click.command()
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


@click.command()
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
