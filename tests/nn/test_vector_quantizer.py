import pytest
import torch
from torch import Tensor

from iris_cli.nn.vector_quantizer import VectorQuantizer


def latents(count: int = 32, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_each_latent_gets_its_nearest_code() -> None:
    quantizer, z = VectorQuantizer(8, 4).eval(), latents()

    quantized = quantizer(z)

    flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = torch.cdist(flat, quantizer.weight).argmin(1).view(32, 2, 2)
    assert torch.equal(quantized.tokens, expected)
    assert torch.equal(quantizer.tokens(z), expected)
    torch.testing.assert_close(quantized.latents, quantizer.lookup(expected))


def test_of_equal_codes_the_first_is_taken() -> None:
    quantizer = VectorQuantizer(4, 2)
    with torch.no_grad():
        quantizer.weight.copy_(torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))

    assert quantizer.tokens(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)).item() == 1


def test_the_gradient_goes_straight_through_and_not_to_the_codes() -> None:
    quantizer, z = VectorQuantizer(8, 4), latents().requires_grad_()

    quantizer(z).latents.sum().backward()

    assert torch.equal(z.grad, torch.ones_like(z))
    assert quantizer.weight.grad is None


def test_the_loss_pulls_codes_and_latents_with_their_weights() -> None:
    quantizer, z = VectorQuantizer(8, 4, commitment_weight=0.25), latents()

    quantized = quantizer(z)

    error = (quantizer.lookup(quantized.tokens) - z).square().mean()
    torch.testing.assert_close(quantized.loss, 1.25 * error)


def test_moving_averages_find_the_centres_of_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    quantizer = VectorQuantizer(4, 2, ema_decay=0.5, revive_after=1)

    for _ in range(40):
        z = centres[torch.randint(4, (64,))] + 0.1 * torch.randn(64, 2)
        quantizer(z.view(64, 2, 1, 1))
        quantizer.update_codebook()

    assert torch.cdist(centres, quantizer.weight).amin(1).max() < 0.2


def test_codes_stay_put_without_training_mode() -> None:
    quantizer = VectorQuantizer(4, 4, ema_decay=0.5, revive_after=1).eval()
    before = quantizer.weight.clone()

    quantizer(latents())
    quantizer.update_codebook()

    assert torch.equal(quantizer.weight, before)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_codes_idle_for_longer_than_allowed_become_latents_of_the_update(ema_decay: float | None) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 4, ema_decay=ema_decay, revive_after=2)
    z = torch.zeros(8, 4, 1, 1)
    with torch.no_grad():
        quantizer.weight.copy_(torch.tensor([[0.0] * 4, [9.0] * 4, [8.0] * 4]))
        quantizer.idle.zero_()

    z[0] = 1.0  # the one that the codes serve worst
    changed = []
    for _ in range(3):
        quantizer(z)
        quantizer.update_codebook()
        changed.append(bool((quantizer.weight[1:] < 2).all()))

    assert changed == [False, False, True]
    torch.testing.assert_close(quantizer.weight[1:], torch.ones(2, 4))
    assert quantizer.idle.tolist() == [0, 0, 0]


def update(quantizer: VectorQuantizer, points: Tensor) -> Tensor:
    """One update on points (n, E), eight of each in any order; returns the n points' tokens after it, in eval mode."""
    drawn = points.repeat(8, 1)[torch.randperm(8 * len(points))]
    quantizer.train()(drawn[:, :, None, None])
    quantizer.update_codebook()
    return quantizer.eval().tokens(points[:, :, None, None]).flatten()


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("revive_after", [1, 4])
def test_each_of_few_latents_has_one_code_and_keeps_it(ema_decay: float | None, revive_after: int) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 3, ema_decay=ema_decay, revive_after=revive_after)
    points = torch.randn(5, 3)

    tokens = [update(quantizer, points) for _ in range(40)]

    assert len(tokens[20].unique()) == 5
    assert all(torch.equal(later, tokens[20]) for later in tokens[20:])
    used = torch.zeros(16, dtype=torch.bool).index_fill(0, tokens[-1], True)
    assert torch.equal(quantizer.parked, ~used)  # none lies beside another in wait for a share of its latents
    torch.testing.assert_close(quantizer.weight[tokens[-1]], points, atol=0.05, rtol=0)


def test_of_codes_drawn_at_once_only_the_first_gets_a_latent() -> None:
    torch.manual_seed(0)
    quantizer, points = VectorQuantizer(16, 3, revive_after=100), torch.eye(3)

    tokens = [update(quantizer, points) for _ in range(10)]  # only the first draws

    assert quantizer.parked.sum() == 13
    assert len(quantizer.weight[~quantizer.parked].unique(dim=0)) == 3
    assert all(torch.equal(later, tokens[0]) for later in tokens)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_of_two_codes_that_share_a_latent_the_later_is_parked(ema_decay: float | None) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 2, ema_decay=ema_decay, revive_after=2)
    points = torch.tensor([[1.0, 0.0], [1.001, 0.0], [-1.0, 0.0]])
    with torch.no_grad():
        quantizer.weight.copy_(points)
        quantizer.idle.zero_()
        if ema_decay is not None:
            quantizer.average_sum.copy_(points)

    tokens = [update(quantizer, points).tolist() for _ in range(8)]

    assert tokens[0] == [0, 1, 2]
    assert tokens[2:] == [[0, 0, 2]] * 6
    assert quantizer.parked.tolist() == [False, True, False]


def test_no_latent_gets_a_parked_code() -> None:
    quantizer = VectorQuantizer(3, 2, revive_after=5)
    with torch.no_grad():
        quantizer.weight.copy_(torch.tensor([[1.0, 0.0], [1.1, 0.0], [5.0, 5.0]]))
        quantizer.parked[0] = True
    z = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)

    assert quantizer.tokens(z).item() == 1
    quantized = quantizer(z)
    assert quantized.tokens.item() == 1
    assert quantized.latents.flatten().tolist() == pytest.approx([1.1, 0.0])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_parked_codes_are_used_again_once_there_are_new_latents(ema_decay: float | None) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 3, ema_decay=ema_decay, revive_after=2)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    for _ in range(20):
        update(quantizer, corners[:4])
    assert quantizer.parked.sum() == 12

    tokens = [update(quantizer, corners) for _ in range(40)]

    assert len(tokens[20].unique()) == 8
    assert all(torch.equal(later, tokens[20]) for later in tokens[20:])
    assert quantizer.parked.sum() == 8


def test_parking_survives_saving() -> None:
    torch.manual_seed(0)
    first, second = (VectorQuantizer(16, 3, ema_decay=0.9, revive_after=2) for _ in range(2))
    for _ in range(10):
        update(first, torch.eye(3))

    second.load_state_dict(first.state_dict())

    assert second.parked.sum() == 13
    assert torch.equal(second.parked, first.parked)


def test_codebooks_hold_no_state_but_what_their_options_need() -> None:
    assert list(VectorQuantizer(8, 4).state_dict()) == ["weight"]  # published
    assert set(VectorQuantizer(8, 4, ema_decay=0.9).state_dict()) == {"weight", "average_count", "average_sum"}
    assert set(VectorQuantizer(8, 4, revive_after=1).state_dict()) == {"weight", "idle", "parked"}


@torch.no_grad()
def test_the_published_codebook_gives_a_latent_to_the_nearest_code_however_near_others_are() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 2)
    weight = torch.tensor([[1.0, 0.0], [1.001, 0.0], [-1.0, 0.0]])
    quantizer.weight.copy_(weight)

    tokens = [update(quantizer, weight).tolist() for _ in range(5)]

    assert tokens == [[0, 1, 2]] * 5
    assert torch.equal(quantizer.weight, weight)


def test_state_survives_saving() -> None:
    torch.manual_seed(0)
    first, second = (VectorQuantizer(8, 4, ema_decay=0.9, revive_after=3) for _ in range(2))
    first(latents())
    first.update_codebook()

    second.load_state_dict(first.state_dict())
    for quantizer in (first, second):
        torch.manual_seed(1)
        quantizer(latents(seed=2))
        quantizer.update_codebook()

    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
