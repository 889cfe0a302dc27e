"""When work is called, captured and replayed. What only a GPU shows is in test_cuda_graphs.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from iris_cli.nn.graphs import Graphs, identity

CPU = torch.device("cpu")


def test_on_a_cpu_every_call_is_a_call() -> None:
    graphs, calls, mine = Graphs(CPU), [], torch.Generator()

    for _ in range(3):
        graphs.run("a", lambda: calls.append(graphs.generator), mine)
    graphs.run("a", lambda: calls.append(graphs.generator))

    assert calls == [mine, mine, mine, None]
    assert graphs.captured == 0


def test_the_first_call_warms_up_the_second_captures_and_all_later_ones_replay(
    recorded_graphs: Callable[[], Any],
) -> None:
    graphs = recorded_graphs()

    for name in ("a", "a", "b", "a", "b"):
        graphs.run(name, lambda: None)

    assert graphs.said == ["warm up", "capture", "replay", "warm up", "replay", "capture", "replay"]
    assert graphs.captured == 2


def test_draws_are_those_of_eager_calls_and_go_on_from_one_call_to_the_next(
    recorded_graphs: Callable[[], Any],
) -> None:
    graphs, drawn = recorded_graphs(), torch.zeros(3)
    mine, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)

    for _ in range(4):
        graphs.run("draw", lambda: drawn.exponential_(generator=graphs.generator), mine)
        assert torch.equal(drawn, torch.zeros(3).exponential_(generator=theirs))
    assert torch.equal(mine.get_state(), theirs.get_state())

    torch.manual_seed(9)
    graphs.run("draw", lambda: drawn.exponential_(generator=graphs.generator))
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.zeros(3).exponential_())


def test_without_capture_nothing_is_captured_on_any_device() -> None:
    assert not Graphs(torch.device("cuda"), capture=False).captures


def test_weights_that_learn_in_place_stay_who_they_are() -> None:
    layer = nn.Linear(3, 3)
    before = identity(layer)

    with torch.no_grad():
        layer.weight.add_(1)
    layer.load_state_dict(nn.Linear(3, 3).state_dict())

    assert identity(layer) == before


def test_other_weights_precisions_and_products_are_another_network() -> None:
    layer = nn.Linear(3, 3)
    before = identity(layer)

    assert identity(nn.Linear(3, 3)) != before
    with torch.no_grad():
        kept, layer.weight = layer.weight, nn.Parameter(layer.weight.clone())
        assert identity(layer) != before
        layer.weight = kept
        assert identity(layer) == before
    torch.set_float32_matmul_precision("high")
    try:
        assert identity(layer) != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert identity(layer.to(torch.bfloat16)) != before
