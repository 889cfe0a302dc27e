"""`iris collect`, the training stages and `iris run`: whatever makes a run or goes on with it."""

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
    log_option,
    profile_option,
    set_option,
    training_options,
    trust_option,
    updates_option,
)


@click.command()
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


@click.command("train-tokenizer")
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


@click.command()
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


@click.command("train-dynamics")
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


@click.command("train-actor-critic")
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


@click.command("train-agent")
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


@click.command()
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
