"""Drawing windows by their counts, and gathering them, against the published numbers."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from iris_cli.errors import DatasetError
from iris_cli.replay.windows import adjoining_pairs, draw_starts, gather_windows, start_probabilities

GOLDEN = Path(__file__).parents[1] / "golden" / "twm_tiny.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        names = [name for name in file.keys() if name.split(".")[1] in ("sample", "buf", "start")]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


@pytest.mark.parity
@pytest.mark.parametrize("temperature", [1.0, 5.0, 20.0, 1000.0])
@pytest.mark.parametrize("starts", [25, 40])
def test_chances_are_the_published_ones(golden: dict[str, Tensor], temperature: float, starts: int) -> None:
    chances = start_probabilities(golden["in.sample.visits"], starts, temperature)

    torch.testing.assert_close(
        chances, golden[f"out.sample.probs.tau{temperature}.n{starts}"], rtol=1e-5, atol=1e-9
    )  # fmt: skip


@pytest.mark.parity
def test_an_infinite_temperature_is_uniform_unlike_the_released_program(golden: dict[str, Tensor]) -> None:
    visits, theirs = golden["in.sample.visits"], golden["out.sample.probs.tauinf.n40"]

    torch.testing.assert_close(theirs, 1 - visits / visits.sum())  # never normalised, and never zero
    torch.testing.assert_close(start_probabilities(visits, 40, float("inf")), torch.full((40,), 1 / 40))


@pytest.mark.parity
def test_starts_and_counts_are_the_published_ones_for_their_seed(golden: dict[str, Tensor]) -> None:
    torch.manual_seed(20230318)
    visits = golden["in.sample.visits"]

    starts, after = draw_starts(visits, steps=40, length=5, batch=6, temperature=20.0)

    assert torch.equal(starts[:, None] + torch.arange(5), golden["out.sample.idx_example"])
    assert torch.equal(after, golden["out.sample.visits_after"])
    assert visits.sum() + 6 == after.sum()


def test_no_start_is_drawn_twice_and_none_too_late() -> None:
    visits = torch.zeros(100, dtype=torch.int64)

    starts, _ = draw_starts(visits, steps=10, length=4, batch=7, temperature=20.0)

    assert sorted(starts.tolist()) == list(range(7))
    with pytest.raises(DatasetError, match="need 11 steps, but there are 10"):
        draw_starts(visits, steps=10, length=4, batch=8, temperature=20.0)


def test_what_was_drawn_often_is_drawn_less() -> None:
    visits = torch.zeros(20, dtype=torch.int64)
    visits[:10] = 60

    starts, _ = draw_starts(visits, steps=20, length=1, batch=8, temperature=5.0)

    assert (starts >= 10).all()


@pytest.mark.parity
def test_windows_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    fields = {name: golden[f"in.buf.{name}"] for name in ("actions", "rewards")}
    fields |= {"terminations": golden["in.buf.terminated"], "truncations": golden["in.buf.truncated"]}

    windows = gather_windows(golden["in.buf.idx"][:, 0], 4, stacks=golden["in.buf.obs"], **fields)

    assert torch.equal(windows.stacks.float() / 255, golden["out.buf.obs"])
    assert torch.equal(windows.actions, golden["out.buf.actions"])
    assert torch.equal(windows.rewards, golden["out.buf.rewards"])
    assert torch.equal(windows.terminations, golden["out.buf.terminated"])
    assert torch.equal(windows.truncations, golden["out.buf.truncated"])


@pytest.mark.parity
def test_pairs_to_dream_from_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    assert torch.equal(adjoining_pairs(golden["in.start.z"]), golden["out.start.z_windows"])
    assert torch.equal(golden["in.start.a"].flatten(0, 1)[:, None], golden["out.start.a_windows"])
