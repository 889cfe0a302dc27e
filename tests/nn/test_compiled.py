"""What may be compiled, and that it could be. Inductor itself is left to a GPU."""

import copy

import pytest
import torch

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import PRESETS
from iris_cli.nn.autoencoder import Decoder
from iris_cli.nn.compiled import compile_in_place


def test_on_a_cpu_nothing_is_compiled() -> None:
    layer = torch.nn.Linear(2, 2)

    compile_in_place(layer, wanted=True)

    assert layer._compiled_call_impl is None


@pytest.mark.pipeline
@torch.no_grad()
def test_the_networks_that_may_be_compiled_are_one_graph_each() -> None:
    tokens, actions = torch.randint(32, (2, 3, 16)), torch.zeros(2, 3, dtype=torch.int64)
    dynamics = Agent(PRESETS["tiny"], 4).eval().dynamics
    decoder = Decoder(32, 3, widths=[32] * 5, res_blocks=2, attention_resolutions=(8, 16), image_size=64)
    traced_dynamics, traced_decoder = copy.deepcopy(dynamics), copy.deepcopy(decoder)
    for module in (traced_dynamics, traced_decoder):
        module.compile(backend="eager", fullgraph=True, dynamic=False)

    codes = torch.randn(2, 32, 4, 4)
    assert torch.equal(traced_decoder(codes), decoder(codes))
    expected = dynamics(tokens, actions).logits_tokens
    assert torch.equal(traced_dynamics(tokens, actions).logits_tokens, expected)
    assert traced_dynamics.state_dict().keys() == dynamics.state_dict().keys()
    assert copy.deepcopy(traced_dynamics)._compiled_call_impl is None  # an agent's copy stays plain
