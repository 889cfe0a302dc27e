"""Published checkpoints, in and out. The names come from a list of their own, not from the code under test."""

import dataclasses
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_cli.agents import read_published
from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.checkpoint import config_from_published, load_published, to_published
from iris_cli.agents.iris.config import PRESETS, DynamicsConfig, IrisConfig, TokenizerConfig
from iris_cli.errors import CheckpointError
from iris_cli.nn.lpips import LPIPS

Entry = tuple[str, tuple[int, ...]]


def both(name: str, *weight: int) -> Iterator[Entry]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def residual(name: str) -> Iterator[Entry]:
    for i in (1, 2):
        yield from both(f"{name}.norm{i}", 64)
        yield from both(f"{name}.conv{i}", 64, 64, 3, 3)


def attention(name: str) -> Iterator[Entry]:
    yield from both(f"{name}.norm", 64)
    for part in ("q", "k", "v", "proj_out"):
        yield from both(f"{name}.{part}", 64, 64, 1, 1)


def half(name: str, blocks: int, levels: str, resize: str, resized: range) -> Iterator[Entry]:
    def middle() -> Iterator[Entry]:
        yield from residual(f"{name}.mid.block_1")
        yield from attention(f"{name}.mid.attn_1")
        yield from residual(f"{name}.mid.block_2")

    if levels == "up":
        yield from middle()
    for level in range(5):
        for i in range(blocks):
            yield from residual(f"{name}.{levels}.{level}.block.{i}")
        for i in range(blocks if level in (2, 3) else 0):
            yield from attention(f"{name}.{levels}.{level}.attn.{i}")
        if level in resized:
            yield from both(f"{name}.{levels}.{level}.{resize}.conv", 64, 64, 3, 3)
    if levels == "down":
        yield from middle()
    yield from both(f"{name}.norm_out", 64)


def lpips_entries() -> Iterator[Entry]:
    yield "tokenizer.lpips.scaling_layer.shift", (1, 3, 1, 1)
    yield "tokenizer.lpips.scaling_layer.scale", (1, 3, 1, 1)
    channels = 3
    for part, (width, indices) in enumerate(
        [(64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28))], start=1
    ):
        for i in indices:
            yield from both(f"tokenizer.lpips.net.slice{part}.{i}", width, channels, 3, 3)
            channels = width
    for j, width in enumerate((64, 128, 256, 512, 512)):
        yield f"tokenizer.lpips.lin{j}.model.1.weight", (1, width, 1, 1)


def published_entries(actions: int, *, lpips: bool) -> Iterator[Entry]:
    """Names and shapes of a published `last.pt` in its order: fact sheet, section 13."""
    yield from both("tokenizer.encoder.conv_in", 64, 3, 3, 3)
    yield from half("tokenizer.encoder", 2, "down", "downsample", range(4))
    yield from both("tokenizer.encoder.conv_out", 512, 64, 3, 3)
    yield from both("tokenizer.pre_quant_conv", 512, 512, 1, 1)
    yield "tokenizer.embedding.weight", (512, 512)
    yield from both("tokenizer.post_quant_conv", 512, 512, 1, 1)
    yield from both("tokenizer.decoder.conv_in", 64, 512, 3, 3)
    yield from half("tokenizer.decoder", 3, "up", "upsample", range(1, 5))
    yield from both("tokenizer.decoder.conv_out", 3, 64, 3, 3)
    if lpips:
        yield from lpips_entries()
    for i in range(10):
        name = f"world_model.transformer.blocks.{i}"
        yield from both(f"{name}.ln1", 256)
        yield from both(f"{name}.ln2", 256)
        yield f"{name}.attn.mask", (340, 340)
        for part in ("key", "query", "value", "proj"):
            yield from both(f"{name}.attn.{part}", 256, 256)
        yield from both(f"{name}.mlp.0", 1024, 256)
        yield from both(f"{name}.mlp.2", 256, 1024)
    yield from both("world_model.transformer.ln_f", 256)
    yield "world_model.pos_emb.weight", (340, 256)
    yield "world_model.embedder.embedding_tables.0.weight", (actions, 256)
    yield "world_model.embedder.embedding_tables.1.weight", (512, 256)
    for head, reads, classes in (("observations", 320, 512), ("rewards", 20, 3), ("ends", 20, 2)):
        yield f"world_model.head_{head}.indices", (reads,)
        yield from both(f"world_model.head_{head}.head_module.0", 256, 256)
        yield from both(f"world_model.head_{head}.head_module.2", classes, 256)
    yield from both("actor_critic.conv1", 32, 3, 3, 3)
    yield from both("actor_critic.conv2", 32, 32, 3, 3)
    yield from both("actor_critic.conv3", 64, 32, 3, 3)
    yield from both("actor_critic.conv4", 64, 64, 3, 3)
    yield "actor_critic.lstm.weight_ih", (2048, 1024)
    yield "actor_critic.lstm.weight_hh", (2048, 512)
    yield "actor_critic.lstm.bias_ih", (2048,)
    yield "actor_critic.lstm.bias_hh", (2048,)
    yield from both("actor_critic.critic_linear", 1, 512)
    yield from both("actor_critic.actor_linear", actions, 512)


def full_size(actions: int = 6, *, lpips: bool) -> OrderedDict[str, Tensor]:
    """A published state dict with random weights; no two entries are alike."""
    pool = torch.rand(2_500_000, generator=torch.Generator().manual_seed(0)) * 0.1
    state, offset = OrderedDict(), 0
    for name, shape in published_entries(actions, lpips=lpips):
        size = torch.Size(shape).numel()
        state[name] = pool[offset : offset + size].clone().view(shape)
        offset = (offset + 997) % 100_000
    for name in state:
        if name.endswith(".mask"):
            state[name] = torch.ones(340, 340).tril()
    state["world_model.head_observations.indices"] = torch.tensor([p for p in range(340) if p % 17 != 15])
    for head in ("rewards", "ends"):
        state[f"world_model.head_{head}.indices"] = torch.arange(16, 340, 17)
    return state


@pytest.fixture(scope="module")
def tiny(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The golden state dict, without LPIPS keys."""
    return {name: value for name, value in golden.items() if not name.startswith(("in.", "out."))}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(ours[name].dtype == value.dtype and torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("with_lpips", [True, False])
def test_a_full_size_checkpoint_comes_out_as_it_went_in(with_lpips: bool) -> None:
    state = full_size(lpips=with_lpips)
    config, actions = config_from_published(state)
    agent = Agent(config, actions).eval()
    lpips = None
    if with_lpips:
        lpips = LPIPS()
        prefix = "tokenizer.lpips."
        lpips.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    load_published(agent, state)
    written = to_published(agent, lpips)

    assert len(state) == (624 if with_lpips else 591)
    assert list(written) == list(state)
    assert equal(written, state)
    assert (config.dynamics, actions) == (DynamicsConfig(), 6)
    assert dataclasses.replace(config.tokenizer, preset="published") == TokenizerConfig()
    assert config.actor_critic == IrisConfig().actor_critic
    sizes = [sum(p.numel() for p in part.parameters()) for part in agent.children()]
    assert sizes == [4_027_523, 8_446_469 + 256 * 6, 3_215_905 + 513 * 6]


def test_the_golden_checkpoint_comes_out_as_it_went_in(
    tiny: dict[str, Tensor], golden_agent_config: IrisConfig
) -> None:
    agent = Agent(golden_agent_config, 4)

    load_published(agent, tiny)
    written = to_published(agent)

    assert written.keys() == tiny.keys()
    assert equal(written, tiny)


def test_sizes_are_read_from_the_shapes(tiny: dict[str, Tensor], golden_agent_config: IrisConfig) -> None:
    config, actions = config_from_published(tiny, heads=2)

    assert actions == 4
    assert dataclasses.replace(config.tokenizer, preset="published") == golden_agent_config.tokenizer
    assert config.dynamics == golden_agent_config.dynamics
    assert config.actor_critic.channels == golden_agent_config.actor_critic.channels


def test_block_causal_attention_is_read_from_the_mask(tiny: dict[str, Tensor], golden_agent_config: IrisConfig) -> None:
    dynamics = dataclasses.replace(golden_agent_config.dynamics, attention="block-causal")
    state = to_published(Agent(dataclasses.replace(golden_agent_config, dynamics=dynamics), 4))

    assert config_from_published(state, heads=2)[0].dynamics == dynamics
    with pytest.raises(CheckpointError, match=r"attn\.mask"):
        load_published(Agent(golden_agent_config, 4), state)


def test_a_file_is_read_as_it_was_written(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(OrderedDict(tiny), tmp_path / "last.pt")

    agent, state = read_published(tmp_path / "last.pt")

    assert agent == "iris"
    assert equal(state, tiny)


class Bomb:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage" * 1000,
        b"PK\x03\x04" + bytes(5000),
        pickle.dumps(Bomb()),
        pickle.dumps({"tokenizer": 3}),
        "bomb",
        [torch.zeros(3)],
        {"model.0.weight": torch.zeros(3)},
        {"tokenizer.embedding.weight": torch.zeros(4)},
        {"world_model.transformer.blocks.0.sa.mask": torch.ones(126, 126, dtype=torch.bool)},
    ],
    ids=[
        "empty",
        "garbage",
        "broken zip",
        "pickled code",
        "pickle",
        "code in zip",
        "list",
        "other net",
        "shape",
        "delta",
    ],
)
def test_what_is_no_published_checkpoint_is_refused_with_its_path(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(Bomb() if content == "bomb" else content, path)
    before = path.read_bytes()

    with pytest.raises(CheckpointError, match=r"last\.pt"):
        read_published(path)

    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    assert path.read_bytes() == before


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        read_published(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("world_model.head_ends.indices"), "lacks world_model.head_ends.indices"),
        (lambda s: s.update({"actor_critic.conv5.weight": torch.zeros(1)}), "unknown actor_critic.conv5.weight"),
        (lambda s: s.update({"world_model.pos_emb.weight": torch.zeros(67, 32)}), r"\(68, 32\). Got \(67, 32\)"),
        (lambda s: s["world_model.head_rewards.indices"].add_(1), "head_rewards.indices is not what"),
    ],
)
def test_a_state_dict_that_does_not_fit_leaves_the_agent_as_it_was(
    tiny: dict[str, Tensor], golden_agent_config: IrisConfig, change, message: str
) -> None:
    agent = Agent(golden_agent_config, 4)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    state = {name: value.clone() for name, value in tiny.items()}
    change(state)

    with pytest.raises(CheckpointError, match=message):
        load_published(agent, state)

    assert equal(agent.state_dict(), before)


def test_an_agent_with_another_tokenizer_cannot_be_exported() -> None:
    with pytest.raises(CheckpointError, match="strided"):
        to_published(Agent(PRESETS["tiny"], 3))
