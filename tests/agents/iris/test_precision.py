"""What is computed in bfloat16 is, within its precision, what float32 says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import IrisConfig
from iris_cli.learn.imagination import imagine
from iris_cli.nn.precision import Copy, compute_dtype
from iris_cli.replay.segments import Segments

InPrecision = Callable[[IrisConfig, str], IrisConfig]


@pytest.fixture
def half(agent: Agent, golden_agent_config: IrisConfig, in_precision: InPrecision) -> Agent:
    """The golden network, told to compute in bfloat16."""
    half = Agent(in_precision(golden_agent_config, "bfloat16"), num_actions=4).eval()
    half.load_state_dict(agent.state_dict())
    return half


@pytest.fixture
def segments(agent: Agent, golden: dict[str, Tensor]) -> Segments:
    frames = golden["in.imagine.observations"]  # (2, 4, 3, 64, 64)
    tokens = agent.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, (2, 4))
    ones = torch.ones(2, 4, dtype=torch.bool)
    return Segments(None, torch.tensor([[0, 1, 2, 3]] * 2), torch.zeros(2, 4), ~ones, ones, tokens)


def test_dreams_are_told_apart_by_rounding_only(agent: Agent, half: Agent, segments: Segments) -> None:
    dreams = [each.actor_critic_start(segments)[1] for each in (agent, half)]
    exact, rounded = (dream.cache.memory[..., : dream.cache.length, :].float() for dream in dreams)

    assert dreams[1].cache.memory.dtype == torch.bfloat16
    assert dreams[1].view.dtype == torch.float32
    difference = (dreams[1].view - dreams[0].view).abs()
    assert difference.mean() < 0.1 * dreams[0].view.std()  # random weights amplify what they round
    assert F.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.9999


def test_the_imagined_distribution_is_indistinguishable(agent: Agent, half: Agent, segments: Segments) -> None:
    """Means over 96 dreams of 3 steps: rewards, ends and tokens occur as often, within three standard errors."""
    statistics = []
    for seed, each in enumerate((agent, half)):
        many = segments.repeated(48)
        generator = torch.Generator().manual_seed(seed)
        memory, dream = each.actor_critic_start(many, generator)
        with torch.no_grad():
            rollout = imagine(dream, each.actor_critic, memory, 4, generator)
        tokens = F.one_hot(dream.tokens.flatten(), 32).float()
        rows = (rollout.rewards.mean(1), rollout.ends.float().mean(1), dream.view.mean((1, 2, 3)))
        statistics.append([*rows, *tokens.unbind(1)])

    far = 0
    for a, b in zip(*statistics, strict=True):
        error = (a.var() / len(a) + b.var() / len(b)).sqrt().clamp_min(1e-6)
        far += int((a.mean() - b.mean()).abs() > 3 * error)
    assert far <= 1, f"{far} of {len(statistics[0])} means differ"


def test_cross_entropies_agree(agent: Agent, half: Agent, segments: Segments) -> None:
    with torch.no_grad():
        (exact,), (rounded,) = (each.dynamics_losses(segments)[0] for each in (agent, half))

    for name in ("loss_tokens", "loss_rewards", "loss_ends"):
        torch.testing.assert_close(rounded.losses.parts[name], exact.losses.parts[name], rtol=0.05, atol=0)


@pytest.mark.parametrize("component", ["tokenizer", "dynamics"])
def test_it_learns_as_well(
    golden_agent_config: IrisConfig,
    in_precision: InPrecision,
    golden: dict[str, Tensor],
    segments: Segments,
    component: str,
) -> None:
    frames = golden["in.imagine.observations"].flatten(0, 1)
    ends = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        each = Agent(in_precision(golden_agent_config, precision), num_actions=4)
        parameters = list(getattr(each, component).parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        losses = []
        for _ in range(25):
            if component == "tokenizer":
                steps = each.tokenizer_losses(frames, perceptual=None)
            else:
                steps = each.dynamics_losses(segments)
            ((part,),) = steps
            optimizer.zero_grad()
            part.losses.total.backward()
            assert {p.grad.dtype for p in parameters if p.grad is not None} == {torch.float32}
            optimizer.step()
            losses.append(part.losses.total.item())
        assert losses[-1] < 0.8 * losses[0]
        ends.append(sum(losses[-5:]) / 5)

    assert ends[1] == pytest.approx(ends[0], rel=0.15)  # four seeds of float32 alone lie 8 % apart


def test_a_copy_follows_the_weights_and_is_no_part_of_the_agent(half: Agent, segments: Segments) -> None:
    names = set(half.state_dict())
    before = half.actor_critic_start(segments)[1].view
    with torch.no_grad():
        half.tokenizer.decoder.conv_out.bias += 0.5
    after = half.actor_critic_start(segments)[1].view

    assert set(half.state_dict()) == names
    assert (after - before).mean() > 0.1


def test_new_settings_make_new_copies(half: Agent, in_precision: InPrecision, segments: Segments) -> None:
    half.actor_critic_start(segments)

    half.configure(in_precision(half.config, "float32"))

    assert half.actor_critic_start(segments)[1].cache.memory.dtype == torch.float32


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_is_asked_for_is_used(precision: str, dtype: torch.dtype) -> None:
    assert compute_dtype(precision, torch.device("cpu")) == dtype


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    assert compute_dtype("auto", torch.device("cpu")) == dtype


def test_copies_are_for_one_module_in_one_precision() -> None:
    module, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    copy = Copy(module, torch.bfloat16)

    assert copy.is_of(module, torch.bfloat16)
    assert not copy.is_of(module, torch.float16)
    assert not copy.is_of(other, torch.bfloat16)
