"""Maps of what a dynamics looks at: for every agent, drawn and in words, and without a trace in the run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from iris_cli.agents import AGENTS
from iris_cli.errors import ConfigError, RunError
from iris_cli.learn.diagnosis import Episode
from iris_cli.run import Run
from iris_cli.stages.attention import AttentionMap, attention
from iris_cli.stages.diagnose import stored

KINDS = {
    "iris": ("frame", "action"), "delta-iris": ("frame", "action", "transition"), "twm": ("latent", "action", "reward"),
}  # fmt: skip


@pytest.fixture(params=AGENTS)
def run(request: pytest.FixtureRequest, pong_for: Callable[[str], Path], new_run: Callable[..., Run]) -> Run:
    """A tiny run of each agent, whose components count as trained."""
    made = new_run(pong_for(request.param), agent=request.param)
    made.updates = dict.fromkeys(made.updates, 1)
    return made


def measured(run: Run, episodes: list[Episode], most: int = 500) -> np.ndarray:
    return run.agent.attention(episodes, most=most, seed=0).weights


def test_attention_is_shared_out_among_the_kinds_that_the_agent_has(run: Run) -> None:
    episodes = stored(run, run.dataset_path, steps=40)

    found = run.agent.attention(episodes, most=30, seed=0)

    assert found.kinds == KINDS[run.agent_name]
    assert found.predictions == 30
    assert found.weights.sum((1, 2)) == pytest.approx(np.ones(run.config.dynamics.layers), abs=1e-5)
    assert (found.weights[:, :2, :2] > 0).all()
    later = found.weights[:, 2:, 0]  # what the present step leads to is not known yet
    assert (later == 0).all()


def test_what_comes_after_an_episode_s_step_and_padding_play_no_role(run: Run) -> None:
    [whole] = stored(run, run.dataset_path, steps=7)
    first = Episode(*(getattr(whole, name)[:1] for name in ("frames", "actions", "rewards", "ends")))
    others = replace(whole, rewards=whole.rewards + np.eye(7, dtype=np.float32)[-1], actions=whole.actions.copy())

    alone = measured(run, [first])

    assert alone[:, :, 1:].sum() == 0
    assert alone[:, :2, 0].sum(1) == pytest.approx(np.ones(len(alone)), abs=1e-5)
    assert measured(run, [whole]) == pytest.approx(measured(run, [others]), abs=1e-6)


def test_without_rewards_in_the_input_there_are_none_to_look_at(
    pong_for: Callable[[str], Path], new_run: Callable[..., Run]
) -> None:
    run = new_run(pong_for("twm"), agent="twm", dynamics={"reads_rewards": False})

    found = run.agent.attention(stored(run, run.dataset_path, steps=20), most=10, seed=0)

    assert found.kinds == ("latent", "action")
    assert found.weights.sum((1, 2)) == pytest.approx(np.ones(2), abs=1e-5)


def test_a_picture_is_drawn_and_the_run_stays_as_it_was(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fingerprint, state = run.fingerprint(), torch.get_rng_state()

    report = attention(run, AttentionMap(predictions=20), tmp_path / "new" / "map.svg")

    text = (tmp_path / "new" / "map.svg").read_text()
    for words in (*KINDS[run.agent_name], "steps ago", "20 predictions"):
        assert f"<!-- {words} -->" in text or words in text, words
    assert [row[0] for row in report.sections[0].rows] == list(KINDS[run.agent_name])
    assert sum(value for value in report.figures.values() if isinstance(value, float)) == pytest.approx(1, abs=1e-5)
    assert run.fingerprint() == fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert not (run.directory / "reports").exists()


def test_what_cannot_be_drawn_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not '\.gif'"):
        attention(run, AttentionMap(), tmp_path / "map.gif")
    run.updates["dynamics"] = 0
    with pytest.raises(RunError, match="dynamics has not been trained yet"):
        attention(run, AttentionMap(), tmp_path / "map.png")
    with pytest.raises(ConfigError):
        AttentionMap(predictions=0)


def test_the_command_draws(workplace: Path, command: Callable[..., Result], run: Run) -> None:
    pytest.importorskip("matplotlib")
    run.save()
    run.close()

    result = command("attention", run.directory, "--out", "map.png", "--predictions", 5)

    assert result.exit_code == 0, result.output
    assert Path("map.png").stat().st_size > 1000
    assert "in all" in result.output
