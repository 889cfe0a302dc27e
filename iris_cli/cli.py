"""The command `iris`: which commands it has, and what becomes of errors and Ctrl-C."""

import errno
import os
from typing import Any

import click

from iris_cli.commands import judging, keeping, learning, looking, machine, sweeping
from iris_cli.version import VERSION

DATA_PARALLEL = ("train-tokenizer", "train-dynamics")  # commands that several processes carry out as one


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


for command in (
    learning.collect, learning.train_tokenizer, learning.tokenize, learning.train_dynamics, learning.train_actor_critic,
    learning.train_agent, learning.run, judging.evaluate, judging.diagnose, judging.scores, judging.curve,
    looking.imagine, looking.play, looking.attention, looking.report, looking.watch, looking.info, sweeping.sweep,
    keeping.verify, keeping.repair, keeping.import_, keeping.export, keeping.import_checkpoint,
    keeping.export_checkpoint, keeping.push, keeping.pull, keeping.fetch, machine.doctor, machine.bench,
    machine.completion,
):  # fmt: skip
    cli.add_command(command)


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
