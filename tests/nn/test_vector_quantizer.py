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


def test_the_published_codebook_has_only_its_weight_as_state() -> None:
    assert list(VectorQuantizer(8, 4).state_dict()) == ["weight"]


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
