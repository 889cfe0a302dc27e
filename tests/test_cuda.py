"""What only a GPU can show. Skipped without one."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from iris_cli import load_agent
from iris_cli.errors import TrainingError
from iris_cli.failures import read_failure
from iris_cli.learn.losses import Losses
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.replay.segments import Segments
from iris_cli.run import Run
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PIPELINE = """
preset: tiny
game: Pong
dataset: data/p.zarr
run: runs/p
first: [{collect: {steps: 80}}]
rounds: 2
round:
  - collect: {steps: 20}
  - train-tokenizer: {updates: 3}
  - train-dynamics: {updates: 3}
  - train-actor-critic: {updates: 3}
then:
  - tokenize
  - evaluate: {episodes: 2, max_steps: 20}
  - diagnose: {steps: 40, horizon: 3}
  - imagine: {render: a.png, steps: 8, num: 1, warm_up: 3}
"""


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run whose pipeline was carried out on the GPU."""
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PIPELINE)
    execute(make_plan(Path("p.yaml")), device="cuda")
    return Path("runs/p")


def test_every_stage_runs_on_the_gpu_and_the_run_opens_on_the_cpu(done: Path) -> None:
    assert (done / "media" / "a.png").exists()
    assert next(load_agent(done, device="cpu").parameters()).device.type == "cpu"


def test_a_pipeline_begun_on_the_gpu_goes_on_on_the_cpu_and_back(done: Path) -> None:
    for device, rounds in (("cpu", 3), ("cuda", 4)):
        Path("p.yaml").write_text(PIPELINE.split("then:")[0].replace("rounds: 2", f"rounds: {rounds}"))
        plan = make_plan(Path("p.yaml"), assignments=("run=runs/q", "dataset=data/q.zarr"))
        assert execute(plan, device=device).files["run"] == Path("runs/q")


def test_a_step_that_is_not_finite_is_not_taken_on_the_gpu_either(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Run.open(done, device=torch.device("cuda"), training=True)) as run:
        loss, calls = run.agent.dynamics.loss, iter(range(100))

        def spoiled_third(segments: Segments) -> Losses:
            losses = loss(segments)
            return Losses(losses.total * (torch.nan if next(calls) == 2 else 1.0), losses.parts)

        monkeypatch.setattr(run.agent.dynamics, "loss", spoiled_third)
        update = run.updates["dynamics"] + 3
        with pytest.raises(TrainingError, match=f"total_loss of the dynamics became nan in update {update}"):
            train_dynamics(run, TrainDynamics(updates=9))

        kept = read_failure(run.directory / "failures" / f"train-dynamics-{update:06d}.safetensors")
        assert all(tensor.isfinite().all() for tensor in kept.weights.values())
        assert kept.batch["tokens"].shape == (4, 5, 16)


VARIANTS = "settings: {actor_critic: {objective: clipped, rollouts_per_start: 2}, exploration: {bonus: collected}}"


def test_variants_run_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(VARIANTS + PIPELINE)
    execute(make_plan(Path("p.yaml")), device="cuda")


JOINT = """
agent: twm
preset: tiny
game: Pong
dataset: data/j.zarr
run: runs/j
first:
  - collect: {steps: 60, epsilon: 1.0}
  - train-tokenizer: {updates: 3}
  - train-dynamics: {updates: 3}
  - train-actor-critic: {updates: 3}
rounds: 1
round:
  - collect: {steps: 19}
  - train-agent: {updates: 3}
"""


def test_joint_training_begun_on_the_gpu_goes_on_on_the_cpu_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for device, rounds in (("cuda", 1), ("cpu", 2), ("cuda", 3)):
        Path("j.yaml").write_text(JOINT.replace("rounds: 1", f"rounds: {rounds}"))
        execute(make_plan(Path("j.yaml")), device=device)
        with closing(Run.open(Path("runs/j"), device=torch.device(device))) as run:
            assert run.updates["actor_critic"] == 3 + 3 * rounds


@torch.no_grad()
def test_the_gpu_computes_what_the_cpu_computes(done: Path) -> None:
    frames = torch.randint(256, (70, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    actions = torch.zeros(1, 5, dtype=torch.int64)
    here, there = load_agent(done, device="cpu"), load_agent(done, device="cuda")

    tokens = here.tokenizer.encode(frames)

    assert torch.equal(there.tokenizer.encode(frames.cuda()).cpu(), tokens)
    torch.testing.assert_close(
        there.tokenizer.decode(tokens.cuda()).cpu(), here.tokenizer.decode(tokens), atol=1e-4, rtol=0
    )
    ours, theirs = here.dynamics(tokens[None, :5], actions), there.dynamics(tokens[None, :5].cuda(), actions.cuda())
    torch.testing.assert_close(theirs.logits_tokens.cpu(), ours.logits_tokens, atol=1e-3, rtol=0)
