"""Files of the released program, in and out. The names of its entries come from a list of their own."""

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_cli.agents import build, config_for, presets_for, read_published
from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.checkpoint import config_from_published, load_published, to_published
from iris_cli.agents.twm.config import TwmConfig
from iris_cli.errors import CheckpointError

OBSERVATIONS, PREDICTION = "wm.obs_model.", "wm.dyn_model.prediction_net."


@pytest.fixture
def golden_file(golden_state: dict[str, Tensor], published_config: dict, tmp_path: Path) -> Path:
    torch.save({"config": published_config, "state_dict": golden_state}, tmp_path / "twm.pt")
    return tmp_path / "twm.pt"


def linear(name: str, *widths: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for i in range(1, len(widths)):
        yield f"{name}.linear{i}.weight", (widths[i], widths[i - 1])
        yield f"{name}.linear{i}.bias", (widths[i],)


def released_entries(actions: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the released state dict: fact sheet, section 9."""
    for i, (before, after) in enumerate([(4, 48), (48, 96), (96, 192), (192, 384)], start=1):
        yield f"{OBSERVATIONS}encoder.0.conv{i}.weight", (after, before, 4, 4)
        yield f"{OBSERVATIONS}encoder.0.conv{i}.bias", (after,)
    yield from linear(f"{OBSERVATIONS}encoder.2", 1536, 512, 512, 1024)
    yield from linear(f"{OBSERVATIONS}decoder.0", 1024, 768)
    for i, (before, after, kernel) in enumerate([(768, 192, 5), (192, 96, 5), (96, 48, 6), (48, 4, 6)], start=1):
        yield f"{OBSERVATIONS}decoder.2.conv_transpose{i}.weight", (before, after, kernel, kernel)
        yield f"{OBSERVATIONS}decoder.2.conv_transpose{i}.bias", (after,)
    yield from linear(f"{PREDICTION}embeds.z", 1024, 256)
    yield f"{PREDICTION}embeds.a.weight", (actions, 256)
    yield from linear(f"{PREDICTION}embeds.r", 1, 256)
    for name in "uv":
        yield f"{PREDICTION}transformer.{name}_bias", (4, 64)
    yield f"{PREDICTION}transformer.pos_enc.encodings", (53, 256)
    for i in range(10):
        layer = f"{PREDICTION}transformer.layers.{i}"
        yield f"{layer}.self_attn.qkv_proj.weight", (768, 256)
        yield f"{layer}.self_attn.pos_proj.weight", (256, 256)
        yield f"{layer}.self_attn.out_proj.weight", (256, 256)
        yield from linear(layer, 256, 1024, 256)
        for norm in ("norm1", "norm2"):
            yield f"{layer}.{norm}.weight", (256,)
            yield f"{layer}.{norm}.bias", (256,)
    yield from linear(f"{PREDICTION}out_heads.z", 256, 512, 512, 512, 512, 1024)
    for head in "rg":
        yield from linear(f"{PREDICTION}out_heads.{head}", 256, 256, 256, 256, 256, 1)
    yield from linear("ac.actor_model", 1024, 512, 512, 512, 512, actions)
    yield from linear("ac.critic_model", 1024, 512, 512, 512, 512, 1)


def test_the_default_agent_has_the_released_entries() -> None:
    content = to_published(Agent(TwmConfig(), 18))

    assert {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()} == dict(released_entries(18))
    assert config_from_published(content)[1] == 18


@pytest.mark.parity
def test_the_golden_file_comes_out_as_it_went_in(
    golden_file: Path, golden_state: dict[str, Tensor], published_config: dict
) -> None:
    name, content = read_published(golden_file)
    agent = Agent(*config_from_published(content))

    load_published(agent, content)
    written = to_published(agent)

    assert name == "twm"
    assert written["state_dict"].keys() == golden_state.keys()
    assert all(torch.equal(written["state_dict"][name], value) for name, value in golden_state.items())
    ours_alone = written["config"].keys() - published_config.keys()
    assert not ours_alone
    assert {name: published_config[name] for name in written["config"]} == written["config"]


@pytest.mark.parity
def test_all_settings_of_the_file_become_ours(golden_file: Path, golden_config: TwmConfig) -> None:
    config, actions = config_from_published(read_published(golden_file)[1])

    assert actions == 6
    assert dataclasses.replace(config.tokenizer, preset="published") == golden_config.tokenizer
    assert config.dynamics == golden_config.dynamics
    assert config.actor_critic == golden_config.actor_critic
    assert config.schedule == TwmConfig().schedule


def test_an_infinite_temperature_is_a_word_there(
    golden_state: dict[str, Tensor], published_config: dict, tmp_path: Path
) -> None:
    content = {"config": published_config | {"buffer_temperature": "inf"}, "state_dict": golden_state}
    torch.save(content, tmp_path / "twm.pt")

    config, actions = config_from_published(read_published(tmp_path / "twm.pt")[1])

    assert config.dynamics.sampling_temperature is None
    assert to_published(Agent(config, actions))["config"]["buffer_temperature"] == "inf"


class Bomb:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps(Bomb()),
        "bomb",
        [torch.zeros(3)],
        {"config": {}, "state_dict": {}},
        {"config": 3, "state_dict": {"wm.obs_model.encoder.2.linear1.bias": torch.zeros(2)}},
        {"config": {}, "state_dict": {"x": 3}},
        {"config": {}, "state_dict": torch.zeros(2)},
    ],
    ids=["empty", "pickled code", "code in zip", "list", "no entries", "no settings", "no tensors", "no names"],
)
def test_what_is_no_released_file_is_refused_with_its_path(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "twm.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(Bomb() if content == "bomb" else content, path)

    with pytest.raises(CheckpointError, match=r"twm\.pt"):
        read_published(path)

    assert [file.name for file in tmp_path.iterdir()] == ["twm.pt"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ac_input_h", True, "ac_input_h True, and only False"),
        ("obs_norm", "batch", "obs_norm 'batch'"),
        ("dyn_num_layers", 0, "layers is 0"),
        ("buffer_temperature", "much", "much"),
    ],
)
def test_settings_that_make_no_agent_of_ours_are_refused(
    setting: str, value: object, message: str, golden_state: dict[str, Tensor], published_config: dict, tmp_path: Path
) -> None:
    torch.save({"config": published_config | {setting: value}, "state_dict": golden_state}, tmp_path / "twm.pt")

    with pytest.raises(CheckpointError, match=message):
        read_published(tmp_path / "twm.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("ac.actor_model.linear1.bias"), r"lacks ac\.actor_model\.linear1\.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "unknown more"),
        (lambda state: state.update({"ac.critic_model.linear3.bias": torch.zeros(2)}), r"shape \(1,\). Got \(2,\)"),
        (lambda state: state[f"{PREDICTION}transformer.pos_enc.encodings"].add_(1), "not what it is"),
    ],
)
def test_other_weights_are_refused_and_leave_the_agent_as_it_was(
    change, message: str, golden_config: TwmConfig, golden_state: dict[str, Tensor]
) -> None:
    agent = Agent(golden_config, 6)
    before = {name: weights.clone() for name, weights in agent.state_dict().items()}
    state = {name: value.clone() for name, value in golden_state.items()}
    change(state)

    with pytest.raises(CheckpointError, match=message):
        load_published(agent, {"config": {}, "state_dict": state})

    assert all(torch.equal(before[name], weights) for name, weights in agent.state_dict().items())


def test_an_encoder_of_other_layers_cannot_be_exported() -> None:
    with pytest.raises(CheckpointError, match="hidden widths 32"):
        to_published(Agent(presets_for("twm")["tiny"], 4))


def test_the_agent_is_known_by_name() -> None:
    assert config_for("twm") == TwmConfig()
    assert isinstance(build("twm", presets_for("twm")["tiny"], 4), Agent)
