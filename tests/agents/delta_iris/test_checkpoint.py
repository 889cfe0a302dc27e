"""The published state dict, there and back."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_cli.agents import read_published
from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.checkpoint import config_from_published, load_published, to_published
from iris_cli.agents.delta_iris.config import PRESETS, DeltaIrisConfig
from iris_cli.errors import CheckpointError
from iris_cli.learn.optimizers import make_optimizer

from .conftest import IMAGE_SIZE, Golden

Entry = tuple[str, tuple[int, ...]]


def both(name: str, *shape: int) -> Iterator[Entry]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def residual(name: str, channels: int, width: int) -> Iterator[Entry]:
    yield from both(f"{name}.f.0", channels)
    yield from both(f"{name}.f.2", width, channels, 3, 3)
    yield from both(f"{name}.f.3", width)
    yield from both(f"{name}.f.5", width, width, 3, 3)
    if channels != width:
        yield from both(f"{name}.skip_projection", width, channels, 1, 1)


def encoder(name: str, base: int, into: int, out: int) -> Iterator[Entry]:
    """The fact sheet's [ENC base, in, latent]."""
    name += ".encoder"
    yield from both(f"{name}.0", base, into, 3, 3)
    for index, channels, width in ((1, 1, 1), (3, 1, 1), (4, 1, 2), (6, 2, 2), (8, 2, 4)):
        yield from residual(f"{name}.{index}", channels * base, width * base)
    for index, width in ((2, base), (5, 2 * base), (7, 2 * base)):
        yield from both(f"{name}.{index}.conv", width, width, 2, 2)
    yield from both(f"{name}.9", 4 * base)
    yield from both(f"{name}.11", out, 4 * base, 3, 3)


def decoder(name: str, base: int, into: int) -> Iterator[Entry]:
    """The fact sheet's [DEC]."""
    name += ".decoder"
    yield from both(f"{name}.0", 4 * base, into, 3, 3)
    for index, channels, width in ((1, 4, 2), (3, 2, 2), (5, 2, 1), (6, 1, 1), (8, 1, 1)):
        yield from residual(f"{name}.{index}", channels * base, width * base)
    for index, width in ((2, 2 * base), (4, 2 * base), (7, base)):
        yield from both(f"{name}.{index}.conv", width, width, 3, 3)
    yield from both(f"{name}.9", base)
    yield from both(f"{name}.11", 3, base, 3, 3)


def world_model(actions: int, width: int, blocks: int, latent: int, rewards: int) -> Iterator[Entry]:
    tokens = 6 * blocks
    yield "transformer.pos_emb.weight", (tokens, width)
    yield from both("transformer.ln", width)
    for i in range(3):
        block = f"transformer.blocks.{i}"
        yield f"{block}.sa.mask", (tokens, tokens)
        yield from both(f"{block}.sa.ln", width)
        for part in ("query", "key", "value", "attention.proj"):
            yield from both(f"{block}.sa.{part}", width, width)
        yield from both(f"{block}.mlp.ln", width)
        yield from both(f"{block}.mlp.mlp.0", 4 * width, width)
        yield from both(f"{block}.mlp.mlp.2", width, 4 * width)
    yield from encoder("frame_cnn.0", 32, 3, latent)
    yield from both("frame_cnn.2", width)
    yield "act_emb.weight", (actions, width)
    yield "latents_emb.weight", (1024, width)
    for head, reads, classes in (("latents", 4 * blocks, 1024), ("rewards", blocks, rewards), ("ends", blocks, 2)):
        yield f"head_{head}.indices", (reads,)
        yield from both(f"head_{head}.head_module.0", width, width)
        yield from both(f"head_{head}.head_module.2", classes, width)


def published_entries(preset: str, actions: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published `last.pt`: fact sheet, section 10."""
    crafter = preset == "crafter"
    past_base, past_latent = (64, 8) if crafter else (32, 16)
    entries: list[Entry] = [
        ("encoder_act_emb.weight", (actions, 4096)),
        ("decoder_act_emb.weight", (actions, 256)),
        ("quantizer.num_codebook_updates", ()),
        ("quantizer.codebook", (1024, 64)),
        ("quantizer.codewords_freqs", (1024,)),
        *both("quantizer.pre_quant_proj", 64, 1024),
        *both("quantizer.post_quant_proj", 1024, 64),
        *encoder("encoder", 64, 7, 64),
        *decoder("decoder", 64, past_latent + 4 + 64),
        *encoder("frame_cnn", past_base, 3, past_latent),
    ]
    found = {f"tokenizer.{name}": shape for name, shape in entries}
    sizes = (512, 21, 8, 255) if crafter else (256, 26, 4, 3)
    found |= {f"world_model.{name}": shape for name, shape in world_model(actions, *sizes)}
    for name in ("model", "target_model"):
        network: list[Entry] = [
            *encoder("cnn.0", 32, 3, 16),
            ("lstm.weight_ih", (2048, 1024)),
            ("lstm.weight_hh", (2048, 512)),
            ("lstm.bias_ih", (2048,)),
            ("lstm.bias_hh", (2048,)),
            *both("actor_linear", actions, 512),
            *both("critic_linear", 255 if crafter else 1, 512),
        ]
        found |= {f"actor_critic.{name}.{key}": shape for key, shape in network}
    return found


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == value.dtype and torch.equal(ours[name], value) for name, value in theirs.items()
    )


def without_constants(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith((".mask", ".indices"))}


@pytest.mark.parametrize(
    ("preset", "actions", "parameters"),
    [("crafter", 17, 24_848_500), ("atari", 18, 14_938_338), ("atari", 4, 14_859_462)],
)
def test_a_full_size_checkpoint_has_the_published_entries_and_comes_out_as_it_went_in(
    preset: str, actions: int, parameters: int
) -> None:
    torch.manual_seed(0)
    agent = Agent(PRESETS[preset], actions)
    for scale, tensor in enumerate(agent.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + scale)  # no two entries are alike

    state = to_published(agent)
    config, read_actions = config_from_published(state)
    other = Agent(config, read_actions)
    load_published(other, state)

    assert {name: tuple(value.shape) for name, value in state.items()} == published_entries(preset, actions)
    assert equal(to_published(other), state)
    assert (read_actions, dataclasses.replace(config, preset=preset)) == (actions, PRESETS[preset])
    assert sum(p.numel() for p in agent.parameters()) == parameters
    if preset == "crafter":
        assert len(state) == 434
        assert sum(value.numel() * value.element_size() for value in state.values()) == 99_708_884


def test_the_golden_checkpoint_comes_out_as_it_went_in(golden: Golden, agent: Agent) -> None:
    assert equal(to_published(agent), golden.state)


def test_sizes_are_read_from_the_shapes(golden: Golden, golden_config: DeltaIrisConfig) -> None:
    config, actions = config_from_published(golden.state, heads=4)

    assert actions == golden.num_actions
    assert dataclasses.replace(
        config.tokenizer,
        revival_updates=golden_config.tokenizer.revival_updates,
        batch_size=golden_config.tokenizer.batch_size,
        priority=golden_config.tokenizer.priority,
        weight_decay=0.01,
    ) == dataclasses.replace(golden_config.tokenizer, segment_length=21)
    for field in ("width", "heads", "layers", "max_blocks", "halvings", "channel_multipliers", "rewards"):
        assert getattr(config.dynamics, field) == getattr(golden_config.dynamics, field)
    for field in ("latent_channels", "lstm_width", "halvings", "channel_multipliers", "values"):
        assert getattr(config.actor_critic, field) == getattr(golden_config.actor_critic, field)


def test_masks_and_positions_may_be_missing(golden: Golden, golden_config: DeltaIrisConfig) -> None:
    agent = Agent(golden_config, golden.num_actions, image_size=IMAGE_SIZE)

    load_published(agent, without_constants(golden.state))

    assert equal(to_published(agent), golden.state)


@pytest.mark.parametrize("component", ["tokenizer", "world_model", "actor_critic"])
def test_weight_decay_is_on_the_published_parameters(
    golden: Golden, golden_config: DeltaIrisConfig, component: str
) -> None:
    agent = Agent(golden_config, golden.num_actions, image_size=IMAGE_SIZE)
    ours = component.replace("world_model", "dynamics")
    settings = golden.groups[component]
    optimizer = make_optimizer(agent.get_submodule(ours), getattr(agent.config, ours))

    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.fill_(1.0 if group["weight_decay"] else 0.0)
    marked = {
        name.removeprefix(f"{component}.")
        for name, value in without_constants(to_published(agent)).items()
        if name.startswith(f"{component}.") and "quantizer.code" not in name and (value == 1).all()
    }

    assert marked == set(settings.get("decay", []))
    listed = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert listed == golden.info["param_counts"][component]
    for name in ("lr", "betas", "eps"):
        expected = settings.get("defaults", golden.groups["tokenizer"].get("defaults", {})).get(name)
        if expected is not None:
            assert optimizer.defaults[name] == (tuple(expected) if name == "betas" else expected)


def test_a_file_is_read_as_it_was_written(golden: Golden, tmp_path: Path) -> None:
    torch.save(OrderedDict(golden.state), tmp_path / "last.pt")

    agent, state = read_published(tmp_path / "last.pt")

    assert agent == "delta-iris"
    assert equal(state, golden.state)


@pytest.mark.parametrize(
    "content",
    [b"garbage" * 1000, {"model.0.weight": torch.zeros(3)}, {"tokenizer.quantizer.codebook": torch.zeros(4)}],
    ids=["garbage", "other net", "shape"],
)
def test_what_is_no_published_checkpoint_is_refused_with_its_path(content: object, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)

    with pytest.raises(CheckpointError, match=r"last\.pt.*Δ-IRIS"):
        read_published(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("actor_critic.target_model.lstm.bias_hh"), "lacks actor_critic.target_model.lstm.bias_hh"),
        (lambda s: s.update({"actor_critic.conv5.weight": torch.zeros(1)}), "unknown actor_critic.conv5.weight"),
        (lambda s: s.update({"world_model.act_emb.weight": torch.zeros(9, 64)}), r"Got \(9, 64\)"),
        (lambda s: s["world_model.head_rewards.indices"].add_(1), "head_rewards.indices is not what"),
        (lambda s: s["world_model.transformer.blocks.1.sa.mask"].fill_(True), "mask is not what"),
    ],
)
def test_a_state_dict_that_does_not_fit_leaves_the_agent_as_it_was(
    golden: Golden, golden_config: DeltaIrisConfig, change, message: str
) -> None:
    agent = Agent(golden_config, golden.num_actions, image_size=IMAGE_SIZE)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    state = {name: value.clone() for name, value in golden.state.items()}
    change(state)

    with pytest.raises(CheckpointError, match=message):
        load_published(agent, state)

    assert equal(dict(agent.state_dict()), before)


def test_networks_that_fold_pixels_cannot_be_exported() -> None:
    with pytest.raises(CheckpointError, match="patch 1"):
        to_published(Agent(PRESETS["tiny"], 3))
