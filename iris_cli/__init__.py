"""iris: agents that learn inside a learned world, as staged pipelines.

    from iris_cli import load_agent
    agent = load_agent("runs/pong", device="cpu")

Words, in code, commands, files and metrics: frame; step (of the environment, 4 game frames); update (of an
optimizer); round (of a pipeline); episode; segment (consecutive steps of one episode); token, latent; tokenizer
(frames to tokens and back); dynamics (tokens and actions to the next tokens, reward, end); world (= tokenizer +
dynamics, acted in); dream (imagined episodes under way); rollout (what a policy did in one); horizon; actor-critic;
agent (all of it); run (its directory); stage (a verb of the toolkit); score (raw sum of rewards); return
(discounted). Axes: B batch, T steps, H horizon, K tokens per frame, E width, V codes, A actions, N steps in a
dataset.

Names are imported when they are first used, so that `iris --help` needs no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from iris_cli.version import VERSION as __version__

__all__ = ["Dataset", "Run", "__version__", "diagnose", "evaluate", "imagine", "load_agent"]

_HOMES = {
    "Dataset": "iris_cli.replay.dataset",
    "Run": "iris_cli.run",
    "diagnose": "iris_cli.stages.diagnose",
    "evaluate": "iris_cli.stages.evaluate",
    "imagine": "iris_cli.stages.imagine",
}


def load_agent(path: str | Path, device: str = "auto") -> Any:
    """The agent of a run directory at its latest checkpoint, in eval mode.

    Args:
        path: of the run, or its URL: s3://bucket/runs/pong.
        device: auto, cpu, cuda, cuda:1.

    Returns:
        A torch module with `tokenizer`, `dynamics` and `actor_critic`; its parameters ask for no gradient.

    Raises:
        RunError: if there is no run, or it cannot be read.
    """
    from iris_cli.device import choose_device
    from iris_cli.object_store import located
    from iris_cli.run import Run

    return Run.open(located(path), device=choose_device(device)).agent.requires_grad_(False)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iris_cli' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
