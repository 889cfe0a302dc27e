"""What only a GPU can show. Skipped without one."""

from pathlib import Path

import pytest
import torch

from iris_cli import load_agent
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan

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
