"""Dreams as CUDA graphs. Skipped without a GPU; what a CPU can tell is in agents/*/test_workspace.py."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents import build, presets_for
from iris_cli.learn.imagination import imagine
from iris_cli.replay.segments import Segments
from iris_cli.replay.windows import Windows

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

BATCH, STEPS = 8, 12  # twice past the positions of the tiny network
AGENTS = ("iris", "delta-iris", "twm")


class Dreamer:
    """An agent on the GPU, segments to begin at, and its dreams."""

    def __init__(self, name: str, precision: str = "float32") -> None:
        torch.manual_seed(0)
        config = presets_for(name)["tiny"]
        self.agent = build(name, config, 4).cuda().eval()
        draws = torch.Generator(device="cuda").manual_seed(1)
        shape = (BATCH, max(config.actor_critic.burn_in + 1, 2))

        def drawn(high: int, *more: int) -> Tensor:
            return torch.randint(high, (*shape, *more), device="cuda", generator=draws)

        real = torch.ones(shape, dtype=torch.bool, device="cuda")
        if name == "twm":
            nothing = torch.zeros(shape, device="cuda")
            windows = Windows(None, drawn(4), nothing, nothing.bool(), nothing.bool())
            latents, fresh = (
                F.one_hot(torch.randint(high, (*some, kinds), device="cuda", generator=draws), high).float().flatten(-2)
                for kinds, high in [self.agent.dynamics.latent_shape]
                for some in (shape, (5,))
            )
            self._start: tuple[Any, ...] = (windows, latents, fresh)
        else:
            frames = drawn(256, 3, 64, 64).to(torch.uint8)
            self._start = (Segments(frames, drawn(4), torch.zeros(shape, device="cuda"), ~real, real, drawn(32, 16)),)
        self.policy = getattr(self.agent.actor_critic, "model", self.agent.actor_critic)

    def begin(self, generator: torch.Generator) -> tuple[Any, Any]:
        """The policy's memory and a dream."""
        return self.agent.actor_critic_start(*self._start, generator)

    @torch.no_grad()
    def end_everything(self) -> None:
        """From now on every imagined step ends its episode."""
        dynamics = self.agent.dynamics
        if "out_heads" in dict(dynamics.named_children()):
            dynamics.out_heads["g"][-1].bias -= 100.0
        else:
            dynamics.head_ends[2].bias[1] += 100.0

    def dream(self, seed: int | torch.Generator, *, eager: bool = False) -> list[Tensor]:
        """What is imagined, and the gradient that a policy gets from it."""
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator("cuda").manual_seed(seed)
        if eager:
            self.agent._workspace = None
        memory, dream = self.begin(generator)
        if eager:
            dream._work._graphs.captures = False
        rollout = imagine(dream, self.policy, memory, STEPS, generator, keep_views=True)
        if eager:
            self.agent._workspace = None
        self.policy.zero_grad()
        (rollout.logits_actions.square().mean() + rollout.values.square().mean()).backward()
        gradient = next(parameter.grad for parameter in self.policy.parameters())
        assert rollout.views is not None
        assert gradient is not None
        return [rollout.actions, rollout.rewards, rollout.ends, rollout.views, gradient.clone()]


@pytest.fixture(params=AGENTS)
def dreamer(request: pytest.FixtureRequest) -> Iterator[Dreamer]:
    yield Dreamer(request.param)
    torch.cuda.synchronize()


def same(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    """Draws to the bit, pixels and gradients but for the order of sums."""
    *drawn, views, gradient = zip(mine, theirs, strict=True)
    torch.testing.assert_close(*views, atol=1e-5, rtol=0)
    torch.testing.assert_close(*gradient, atol=1e-6, rtol=1e-3)
    return all(torch.equal(a, b) for a, b in drawn)


def test_a_graph_imagines_what_eager_calls_do(dreamer: Dreamer) -> None:
    expected = [dreamer.dream(seed, eager=True) for seed in (1, 2, 1)]

    for attempt in range(3):  # warm up, capture, replay
        for seed, theirs in zip((1, 2, 1), expected, strict=True):
            assert same(dreamer.dream(seed), theirs), attempt
    assert dreamer.agent._workspace._graphs.captured > 3


def test_replays_draw_anew_each_time_and_the_same_from_the_same_state(dreamer: Dreamer) -> None:
    for seed in range(3):
        dreamer.dream(seed)
    generator = torch.Generator("cuda").manual_seed(7)
    state = generator.get_state()

    first, second = dreamer.dream(generator), dreamer.dream(generator)
    generator.set_state(state)
    again = dreamer.dream(generator)

    assert not torch.equal(first[1], second[1]) or not torch.equal(first[3], second[3])
    assert same(again, first)


def test_nothing_in_the_loop_waits_for_the_device(dreamer: Dreamer) -> None:
    for seed in range(3):
        dreamer.dream(seed)
    generator = torch.Generator("cuda").manual_seed(7)
    memory, dream = dreamer.begin(generator)

    torch.cuda.set_sync_debug_mode("error")
    try:
        imagine(dream, dreamer.policy, memory, STEPS, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_does_not_grow_over_a_hundred_replays(dreamer: Dreamer) -> None:
    for seed in range(4):
        dreamer.dream(seed)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    for seed in range(100):
        dreamer.dream(seed)
    torch.cuda.synchronize()

    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_weights_that_learn_in_place_are_seen_by_the_next_replay(dreamer: Dreamer) -> None:
    for seed in range(3):
        dreamer.dream(seed)
    work = dreamer.agent._workspace
    dreamer.end_everything()

    assert dreamer.dream(5)[2].all()
    assert dreamer.agent._workspace is work


def test_networks_that_moved_are_read_where_they_are_now(dreamer: Dreamer) -> None:
    for seed in range(3):
        dreamer.dream(seed)

    dreamer.agent.configure(dreamer.agent.config)
    dreamer.agent.cpu()
    dreamer.end_everything()
    dreamer.agent.cuda().eval()

    for _ in range(3):
        generator = torch.Generator("cuda").manual_seed(4)
        _, dream = dreamer.begin(generator)
        for _ in range(STEPS):
            assert dream.step(torch.zeros(BATCH, dtype=torch.int64, device="cuda")).ends.all()
        del dream  # it would keep its workspace


@pytest.mark.pipeline
def test_what_is_compiled_shows_the_same_in_bfloat16_and_learns_the_same() -> None:
    torch.manual_seed(0)
    plain = presets_for("iris")["tiny"]
    views, losses = [], []
    for compiled in (False, True):
        config = replace(
            plain,
            actor_critic=replace(plain.actor_critic, precision="bfloat16", compiled=compiled),
            dynamics=replace(
                plain.dynamics, compiled=compiled, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0
            ),
        )
        torch.manual_seed(0)
        agent = build("iris", config, 4).cuda().eval()
        draws = torch.Generator("cuda").manual_seed(1)
        shape = (64, config.actor_critic.burn_in + 1)
        real = torch.ones(shape, dtype=torch.bool, device="cuda")
        tokens = torch.randint(32, (*shape, 16), device="cuda", generator=draws)
        segments = Segments(None, torch.zeros_like(tokens[..., 0]), real.float(), ~real, real, tokens)
        for _ in range(3):
            generator = torch.Generator("cuda").manual_seed(2)
            memory, dream = agent.actor_critic_start(segments, generator)
            view = dream.view
            imagine(dream, agent.actor_critic, memory, STEPS, generator)
            del dream
        views.append(view)
        ((part,),) = agent.dynamics_losses(segments)
        losses.append(part.losses.total)
    torch.testing.assert_close(*views, atol=0.03, rtol=0)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
