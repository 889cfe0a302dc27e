"""Published weights become a run, on which everything works, and come back as they were."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor

import iris_cli
from iris_cli import load_agent
from iris_cli.agents import presets_for
from iris_cli.agents.delta_iris.agent import Agent as DeltaAgent
from iris_cli.agents.delta_iris.checkpoint import to_published as delta_to_published
from iris_cli.agents.delta_iris.config import PRESETS, DeltaIrisConfig
from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.checkpoint import to_published
from iris_cli.agents.iris.config import ActorCriticConfig, DynamicsConfig, IrisConfig, TokenizerConfig
from iris_cli.agents.twm.agent import Agent as Twm
from iris_cli.agents.twm.checkpoint import to_published as twm_published
from iris_cli.agents.twm.config import TwmConfig
from iris_cli.envs.spec import training_spec
from iris_cli.errors import CheckpointError, ConfigError, RunError, ShapeError
from iris_cli.run import Run
from iris_cli.stages.exchange import import_checkpoint

CONFIG = IrisConfig(
    tokenizer=TokenizerConfig(
        codes=12, code_width=8, latent_channels=32, base_channels=32, res_blocks=1, attention_resolutions=(),
    ),
    dynamics=DynamicsConfig(layers=2, heads=2, width=16, max_blocks=3, segment_length=3),
    actor_critic=ActorCriticConfig(channels=(4, 4, 4, 4), lstm_width=8),
)  # fmt: skip
DELTA_TINY = PRESETS["tiny"]
DELTA = DeltaIrisConfig(
    tokenizer=replace(DELTA_TINY.tokenizer, patch=1, halvings=(1, 1)),
    dynamics=replace(DELTA_TINY.dynamics, patch=1, channel_multipliers=(1, 1, 1), halvings=(1, 1, 1)),
    actor_critic=replace(DELTA_TINY.actor_critic, patch=1),
)
HEADS = ("dynamics.heads=2",)  # the file does not tell


@pytest.fixture(scope="module")
def published() -> tuple[Agent, "OrderedDict[str, Tensor]"]:
    """An agent for Pong's six actions, and its weights in the published format."""
    torch.manual_seed(0)
    agent = Agent(CONFIG, 6).eval()
    return agent, to_published(agent)


@pytest.fixture
def imported(published: tuple[Agent, "OrderedDict[str, Tensor]"], workplace: Path) -> Path:
    """The run that last.pt became."""
    torch.save(published[1], "last.pt")
    import_checkpoint(Path("last.pt"), env="Pong", run=Path("runs/imported"), device="cpu", assignments=HEADS)
    return Path("runs/imported")


@torch.no_grad()
def test_the_python_surface_gives_what_the_published_network_gives(
    published: tuple[Agent, "OrderedDict[str, Tensor]"], imported: Path
) -> None:
    theirs, draws = published[0], torch.Generator().manual_seed(1)
    frames = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=draws)
    actions = torch.randint(6, (1, 3), generator=draws)

    agent = load_agent(str(imported), device="cpu")

    tokens = agent.tokenizer.encode(frames)
    assert tokens.shape == (3, 16)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, theirs.tokenizer.encode(frames))
    decoded = agent.tokenizer.decode(tokens)
    assert decoded.shape == (3, 3, 64, 64)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    output, expected = agent.dynamics(tokens[None], actions), theirs.dynamics(tokens[None], actions)
    assert output.logits_tokens.shape == (1, 48, 12)
    assert output.logits_rewards.shape == (1, 3, 3)
    assert output.logits_ends.shape == (1, 3, 2)
    torch.testing.assert_close(output.logits_tokens, expected.logits_tokens)
    first = agent.actor_critic(decoded, None)
    second = agent.actor_critic(decoded, first.memory)
    assert first.logits_actions.shape == (3, 6)
    assert first.values.shape == (3,)
    assert not torch.equal(first.values, second.values)
    assert not agent.training


def test_what_is_exported_is_what_was_imported(
    published: tuple[Agent, "OrderedDict[str, Tensor]"], imported: Path, command: Callable[..., Result]
) -> None:
    result = command("export-checkpoint", "back.pt", "--run", imported)

    assert result.exit_code == 0, result.output
    back = torch.load("back.pt", weights_only=True)
    assert list(back) == list(published[1])
    assert all(torch.equal(back[name], tensor) for name, tensor in published[1].items())


def test_every_later_command_accepts_an_imported_run(imported: Path, command: Callable[..., Result]) -> None:
    lines = (
        ["evaluate", "--run", imported, "--episodes", "1", "--max-steps", "2"],
        ["imagine", "--run", imported, "--policy", "dataset", "--steps", "1", "--num", "1", "--context", "2",
         "--render", "o.png"],
        ["tokenize", "data/pong.zarr", "--run", imported],
        ["train-dynamics", "data/pong.zarr", "--run", imported, "--updates", "1", "--set", "dynamics.batch_size=1"],
        ["info", imported],
    )  # fmt: skip
    for line in lines:
        result = command(*line)

        assert result.exit_code == 0, result.output
        assert "never trained" not in result.output


def test_the_command_makes_the_games_run(
    published: tuple[Agent, "OrderedDict[str, Tensor]"], workplace: Path, command: Callable[..., Result]
) -> None:
    torch.save(published[1], "last.pt")
    result = command("import-checkpoint", "last.pt", "--env", "PongNoFrameskip-v4", "--run", "runs/other")

    assert result.exit_code == 0, result.output
    assert "runs/other" in result.stdout
    assert "6" in result.stdout


def test_a_game_with_other_actions_is_refused(
    published: tuple[Agent, "OrderedDict[str, Tensor]"], workplace: Path
) -> None:
    torch.save(published[1], "last.pt")

    with pytest.raises(CheckpointError, match="6 actions, but Breakout has 4"):
        import_checkpoint(Path("last.pt"), env="Breakout", run=Path("runs/x"), device="cpu")

    assert not Path("runs/x").exists()


@pytest.mark.parametrize("wrong", ["dynamics=3", "dynamics.heads=many", "dynamics.heads=3", "tokenizer.codes=3"])
def test_settings_that_do_not_fit_the_file_are_refused(
    published: tuple[Agent, "OrderedDict[str, Tensor]"], workplace: Path, wrong: str
) -> None:
    torch.save(published[1], "last.pt")

    with pytest.raises((ConfigError, CheckpointError)):
        import_checkpoint(Path("last.pt"), env="Pong", run=Path("runs/x"), device="cpu", assignments=(wrong,))

    assert not Path("runs/x").exists()


def test_a_run_is_never_written_over(imported: Path) -> None:
    with pytest.raises(RunError, match="already"):
        import_checkpoint(Path("last.pt"), env="Pong", run=imported, device="cpu", assignments=HEADS)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(imported: Path, command: Callable[..., Result]) -> None:
    Path("taken").mkdir()

    result = command("export-checkpoint", "taken", "--run", imported)

    assert result.exit_code == 1
    assert "taken" in result.stderr
    assert list(Path(".").glob(".*")) == []


@pytest.mark.parametrize(
    "frames", [torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, 3, 64, 64), torch.zeros(3, 64, 64)]
)
def test_wrong_frames_are_named_by_shape(workplace: Path, frames: Tensor) -> None:
    agent = load_agent("runs/pong", device="cpu")

    with pytest.raises(ShapeError):
        agent.tokenizer.encode(frames)


def test_the_public_names_are_there() -> None:
    for name in iris_cli.__all__:
        assert getattr(iris_cli, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        iris_cli.nothing  # noqa: B018


def test_a_delta_iris_checkpoint_is_recognised_and_its_run_has_the_surface_of_the_contract(
    workplace: Path, command: Callable[..., Result]
) -> None:
    torch.manual_seed(0)
    theirs = DeltaAgent(DELTA, 6).eval()
    torch.save(delta_to_published(theirs), "last.pt")
    draws = torch.Generator().manual_seed(1)
    past, frames = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=draws)
    actions = torch.randint(6, (3,), generator=draws)

    result = command("import-checkpoint", "last.pt", "--env", "Pong", "--run", "runs/delta", "--set", HEADS[0])
    assert result.exit_code == 0, result.output
    agent = load_agent("runs/delta", device="cpu")

    tokens = agent.tokenizer.encode(past, actions, frames)
    assert torch.equal(tokens, theirs.tokenizer.encode(past, actions, frames))
    assert tokens.shape == (3, 4)
    decoded = agent.tokenizer.decode(past, actions, tokens)
    assert torch.equal(decoded, theirs.tokenizer.decode(past, actions, tokens))
    with torch.no_grad():
        output = agent.dynamics(frames[None], actions[None], tokens[None])
        expected = theirs.dynamics(frames[None], actions[None], tokens[None])
    assert torch.equal(output.logits_tokens, expected.logits_tokens)
    assert (output.logits_tokens.shape, output.logits_ends.shape) == ((1, 12, 32), (1, 3, 2))
    second = agent.actor_critic(decoded, agent.actor_critic(decoded, None).memory)
    assert (second.logits_actions.shape, second.values.shape) == ((3, 6), (3,))
    assert "perceptual" not in result.output

    result = command("export-checkpoint", "back.pt", "--run", "runs/delta")
    assert result.exit_code == 0, result.output
    back, there = (torch.load(name, weights_only=True) for name in ("back.pt", "last.pt"))
    assert list(back) == list(there)
    assert all(torch.equal(back[name], tensor) for name, tensor in there.items())


@torch.no_grad()
def test_a_file_of_twm_becomes_a_run_of_twm_and_comes_back(workplace: Path, command: Callable[..., Result]) -> None:
    torch.manual_seed(0)
    tiny = presets_for("twm")["tiny"]
    theirs = Twm(replace(tiny, tokenizer=replace(tiny.tokenizer, hidden_widths=(512, 512))), 6).eval()
    torch.save(twm_published(theirs), "twm.pt")

    result = command("import-checkpoint", "twm.pt", "--env", "Pong", "--run", "runs/twm")

    assert result.exit_code == 0, result.output
    agent = load_agent("runs/twm", device="cpu")
    stacks = torch.randint(256, (2, 4, 64, 64), dtype=torch.uint8)
    assert torch.equal(agent.tokenizer.encode(stacks), theirs.tokenizer.encode(stacks))
    assert Run.open(Path("runs/twm"), device=torch.device("cpu")).environment == training_spec("Pong").as_grey_stacks()
    result = command("export-checkpoint", "back.pt", "--run", "runs/twm")
    assert result.exit_code == 0, result.output
    back, before = (torch.load(name, weights_only=True) for name in ("back.pt", "twm.pt"))
    assert back["config"] == before["config"]
    assert all(torch.equal(back["state_dict"][name], value) for name, value in before["state_dict"].items())


def test_a_file_of_twm_for_another_game_is_refused(workplace: Path) -> None:
    torch.save(twm_published(Twm(TwmConfig(), 5)), "twm.pt")

    with pytest.raises(CheckpointError, match="has 5 actions, but Pong has 6"):
        import_checkpoint(Path("twm.pt"), env="Pong", device="cpu")


def test_an_imported_twm_plays_and_goes_on_learning(workplace: Path, command: Callable[..., Result]) -> None:
    tiny = presets_for("twm")["tiny"]
    agent = Twm(replace(tiny, tokenizer=replace(tiny.tokenizer, hidden_widths=(512, 512))), 6)
    torch.save(twm_published(agent), "twm.pt")
    settings = ("--set", "dynamics.batch_size=2", "--set", "actor_critic.batch_size=4")
    command("import-checkpoint", "twm.pt", "--env", "Pong", "--run", "runs/twm", "--dataset", "data/stacks.zarr")

    results = [
        command("evaluate", "--run", "runs/twm", "--episodes", 1, "--max-steps", 3),
        command("collect", "--run", "runs/twm", "--steps", 30),
        command("train-agent", "data/stacks.zarr", "--run", "runs/twm", "--updates", 1, *settings),
    ]
    film = ("imagine", "--run", "runs/twm", "--render", "a.png", "--num", 1, "--steps", 3)
    results.append(command(*film))

    assert [result.exit_code for result in results] == [0, 0, 0, 0], [result.output for result in results]
    assert Path("a.png").exists()
