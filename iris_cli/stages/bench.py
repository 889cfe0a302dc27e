"""`iris bench`: how fast every stage runs on this machine, on real frames of Pong.

Rates are medians over the time given to each; ratios between machines mean more than single figures. The tokenizer is
measured with its weights-free loss, and no rate includes the evaluation or the writing of checkpoints.
"""

import platform
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Any

import numpy as np
import torch

from iris_cli.agents import build, presets_for
from iris_cli.config import nearest
from iris_cli.device import choose_device
from iris_cli.envs.spec import training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError
from iris_cli.learn.actor_critic import actor_critic_loss
from iris_cli.learn.imagination import imagine
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.replay.segments import Segments
from iris_cli.version import VERSION

FRAMES = 256  # real frames that the measurements work on


def bench(*, preset: str = "published", seconds: float = 5.0, device: str = "auto") -> dict[str, Any]:
    """Measure rates.

    Args:
        preset: of the iris agent.
        seconds: spent on each measurement, at least; one repetition is always done.
        device: for the networks.

    Returns:
        JSON-safe: the machine, the settings, and for each measurement its rate per second.
    """
    presets = presets_for("iris")
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where="--preset", fix=nearest(preset, presets))
    chosen = choose_device(device)
    clock = _Clock(seconds, chosen)
    frames, actions, rewards, num_actions, env_rate = _real_frames(clock)
    torch.manual_seed(0)
    agent = build("iris", presets[preset], num_actions).to(chosen).eval()
    images = torch.from_numpy(frames).to(chosen).permute(0, 3, 1, 2)
    rates = {"collect_steps_per_second": env_rate} | _rates(
        agent, images, actions.to(chosen), rewards.to(chosen), clock
    )
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name(chosen)
        if chosen.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "processor": platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        "iris-wm": VERSION,
        "date": time.strftime("%Y-%m-%d"),
        **{name: float(f"{rate:.4g}") for name, rate in rates.items()},
    }


class _Clock:
    """Repeats a piece of work for a while and gives its median rate."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._seconds, self._device = seconds, device

    def rate(self, amount: int, work: Callable[[], object]) -> float:
        """Units per second, where one call of `work` does `amount` of them. The first call warms up."""
        times: list[float] = []
        while len(times) < 2 or sum(times[1:]) < self._seconds:
            self._wait()
            begun = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - begun)
        return amount / median(times[1:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _real_frames(clock: _Clock) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, int, float]:
    """Frames (N, 64, 64, 3), actions and rewards (N,) of random Pong, the number of actions, and steps per second."""
    draws = np.random.default_rng(0)
    frames: list[np.ndarray] = []
    actions: list[int] = []
    rewards: list[float] = []
    with closing(VectorEnv(training_spec("Pong"), 1)) as envs:
        frame = envs.reset([0])
        num_actions = envs.num_actions

        def step() -> None:
            nonlocal frame
            action = draws.integers(num_actions, size=1)
            given = envs.step(action)
            if len(frames) < FRAMES:
                frames.append(frame[0].copy())
                actions.append(int(action[0]))
                rewards.append(float(given.rewards[0]))
            over = given.terminations[0] or given.truncations[0]
            frame = envs.reset([1]) if over else given.frames

        for _ in range(FRAMES):
            step()

        def steps() -> None:
            for _ in range(50):
                step()

        rate = clock.rate(50, steps)
    return np.stack(frames), torch.tensor(actions), torch.tensor(rewards), num_actions, rate


def _rates(
    agent: Any, images: torch.Tensor, actions: torch.Tensor, rewards: torch.Tensor, clock: _Clock
) -> dict[str, float]:
    config, optimizers = agent.config, {}
    for component in ("tokenizer", "dynamics", "actor_critic"):
        optimizers[component] = make_optimizer(getattr(agent, component), getattr(config, component))
    tokens = agent.tokenizer.encode(images)
    draws, dreams = torch.Generator().manual_seed(0), torch.Generator(device=images.device).manual_seed(0)

    def segments(batch: int, length: int) -> Segments:
        starts = torch.randint(len(images) - length, (batch, 1), generator=draws)
        rows = (starts + torch.arange(length)).to(images.device)  # (B, T)
        real = torch.ones_like(rows, dtype=torch.bool)
        return Segments(None, actions[rows], rewards[rows], ~real, real, tokens[rows])

    def update(component: str, losses: Callable[[], Any]) -> None:
        optimizers[component].zero_grad(set_to_none=True)
        losses().total.backward()
        optimizers[component].step()

    def imagined() -> Any:
        ac = config.actor_critic
        memory, dream = agent.actor_critic_start(segments(ac.batch_size, ac.burn_in + 1), dreams)
        return imagine(dream, agent.actor_critic, memory, ac.horizon, dreams)

    def dreamt() -> None:
        with torch.no_grad():
            imagined()

    def actor_critic() -> Any:
        ac = config.actor_critic
        return actor_critic_loss(imagined(), gamma=ac.gamma, lam=ac.lam, entropy_weight=ac.entropy_weight)

    micro = min(config.tokenizer.micro_batch, config.tokenizer.batch_size, len(images))
    dynamics, ac = config.dynamics, config.actor_critic
    rates = {
        "encode_frames_per_second": clock.rate(len(images), lambda: agent.tokenizer.encode(images)),
        "decode_frames_per_second": clock.rate(len(tokens), lambda: agent.tokenizer.decode(tokens)),
        "imagined_frames_per_second": clock.rate(ac.batch_size * ac.horizon, dreamt),
        "actor_critic_updates_per_second": clock.rate(1, lambda: update("actor_critic", actor_critic)),
    }
    agent.dynamics.train()
    rates["dynamics_updates_per_second"] = clock.rate(
        1,
        lambda: update("dynamics", lambda: agent.dynamics.loss(segments(dynamics.batch_size, dynamics.segment_length))),
    )
    agent.tokenizer.train()
    rates["tokenizer_trained_frames_per_second"] = clock.rate(
        micro,
        lambda: update("tokenizer", lambda: agent.tokenizer.loss(images[:micro], perceptual=None)),
    )
    return rates
