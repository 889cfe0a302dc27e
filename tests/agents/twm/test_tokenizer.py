"""The observation model: the published numbers, and what its surface promises."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents.twm.config import PRESETS, TokenizerConfig, TwmConfig
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.errors import ConfigError, ShapeError
from iris_cli.nn.categorical import draw_one_hot, entropies, most_probable, normalised_entropies, straight_through

CLOSE = {"atol": 1e-5, "rtol": 0}
TINY = PRESETS["tiny"].tokenizer


@pytest.fixture
def published(weights_of, golden_config: TwmConfig) -> Tokenizer:
    tokenizer = Tokenizer(golden_config.tokenizer).eval()
    tokenizer.load_state_dict(weights_of("wm.obs_model."))
    return tokenizer


def random_stacks(*lead: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (*lead, 4, 64, 64), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_the_default_network_has_3126992_and_5107540_parameters() -> None:
    tokenizer = Tokenizer(TokenizerConfig())

    assert sum(p.numel() for p in tokenizer.encoder.parameters()) == 3_126_992
    assert sum(p.numel() for p in tokenizer.decoder.parameters()) == 5_107_540


@pytest.mark.parity
@torch.no_grad()
def test_latents_are_the_published_ones(published: Tokenizer, golden: dict[str, Tensor]) -> None:
    stacks = golden["in.obs.o_u8"]  # (2, 3, 4, 64, 64)
    flat = published.encoder[1](published.encoder[0](stacks.flatten(0, 1).float() / 255))
    logits = published(stacks)

    torch.testing.assert_close(flat, golden["out.obs.conv_flat"], **CLOSE)
    raw = published.encoder[2](flat).view_as(golden["out.obs.logits_raw"])
    torch.testing.assert_close(raw, golden["out.obs.logits_raw"], **CLOSE)
    torch.testing.assert_close(logits, golden["out.obs.logits"], **CLOSE)
    torch.testing.assert_close(logits.exp(), golden["out.obs.probs"], **CLOSE)
    torch.testing.assert_close(entropies(logits).sum(-1), golden["out.obs.entropy"], **CLOSE)
    assert torch.equal(most_probable(logits), golden["out.obs.z_argmax"])


@pytest.mark.parity
def test_encoding_and_decoding_give_the_published_numbers(published: Tokenizer, golden: dict[str, Tensor]) -> None:
    logits = published.encode(golden["in.obs.o_u8"].flatten(0, 1))
    images = published.decode(golden["in.obs.z"].flatten(0, 1))

    torch.testing.assert_close(logits, golden["out.obs.logits"].flatten(0, 1), **CLOSE)
    torch.testing.assert_close(images, golden["out.obs.recon"].flatten(0, 1), **CLOSE)
    assert not images.requires_grad


@pytest.mark.parity
def test_draws_pass_the_gradient_of_the_probabilities(golden: dict[str, Tensor]) -> None:
    logits = golden["in.st.logits"].clone().requires_grad_()
    drawn = golden["out.st.sample_example"]

    latents = straight_through(drawn, logits)
    (golden["in.st.w"] * latents).sum().backward()

    assert torch.equal(latents, drawn)
    torch.testing.assert_close(logits.grad, golden["out.st.grad_logits"], **CLOSE)


@pytest.mark.parity
@pytest.mark.parametrize("case", range(3))
def test_the_entropy_costs_only_below_its_threshold(golden: dict[str, Tensor], case: int, golden_config) -> None:
    logits = golden[f"in.ent.logits.{case}"].log_softmax(-1)
    entropy = normalised_entropies(logits).mean()

    torch.testing.assert_close(entropy, golden[f"out.ent.norm_entropy.{case}"], rtol=1e-5, atol=1e-6)
    for name, config in (("loss", golden_config.tokenizer), ("loss_official", TokenizerConfig())):
        hinge = config.entropy_weight * torch.relu(config.entropy_threshold - entropy)
        torch.testing.assert_close(hinge, golden[f"out.ent.{name}.{case}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parity
def test_the_loss_without_dynamics_is_the_published_one(published: Tokenizer, golden: dict[str, Tensor]) -> None:
    stacks = golden["in.preobs.o_u8"]

    losses = published.loss(stacks, published(stacks), golden["in.preobs.z"])
    losses.total.backward()

    norm = nn.utils.clip_grad_norm_(published.parameters(), 100.0)
    torch.testing.assert_close(losses.total.detach(), golden["out.preobs.obs_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.parts["loss_reconstruction"], golden["out.preobs.dec_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(norm, golden["out.preobs.grad_norm"], rtol=1e-4, atol=0)
    assert "loss_consistency" not in losses.parts


def test_the_entropy_term_raises_a_low_entropy_and_leaves_a_high_one() -> None:
    logits = torch.tensor([8.0, 0.0, 0.0]).expand(2, 4, 3).clone().requires_grad_()
    config = dataclasses.replace(TINY, categoricals=4, categories=3)
    for threshold, moves in ((0.1, True), (0.001, False)):
        tokenizer = Tokenizer(dataclasses.replace(config, entropy_threshold=threshold))
        normal = logits.log_softmax(-1)

        losses = tokenizer.loss(random_stacks(2), normal, most_probable(normal))

        assert (losses.parts["loss_latent_entropy"] > 0) == moves


def test_latents_are_one_hot_draws_that_a_generator_determines() -> None:
    logits = Tokenizer(TINY).encode(random_stacks(3))

    draws = [draw_one_hot(logits, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]

    assert logits.shape == (3, 4, 5)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(3, 4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0].view(3, 4, 5).sum(-1), torch.ones(3, 4))


def test_no_stacks_are_no_latents() -> None:
    assert Tokenizer(TINY).encode(random_stacks(0)).shape == (0, 4, 5)
    assert Tokenizer(TINY).decode(torch.zeros(0, 20)).shape == (0, 4, 64, 64)


def test_initial_weights_have_the_published_scale_and_zero_biases() -> None:
    tokenizer = Tokenizer(TokenizerConfig())
    hidden, last = tokenizer.encoder[2].linear1, tokenizer.encoder[2].linear3

    assert hidden.weight.abs().max().item() == pytest.approx(math.sqrt(3 * 2 / 1536), rel=1e-3)
    assert last.weight.abs().max().item() == pytest.approx(math.sqrt(3 / 512), rel=1e-3)
    assert not hidden.bias.any()
    assert tokenizer.decoder[2].conv_transpose4.bias.any()  # PyTorch's own


def test_the_fingerprint_is_of_the_encoder_alone() -> None:
    tokenizer = Tokenizer(TINY)
    before = tokenizer.fingerprint()

    with torch.no_grad():
        tokenizer.decoder[2].conv_transpose4.bias += 1
    assert tokenizer.fingerprint() == before
    with torch.no_grad():
        tokenizer.encoder[2].linear1.bias += 1
    assert tokenizer.fingerprint() != before


def test_other_shapes_and_settings_are_refused() -> None:
    tokenizer = Tokenizer(TINY)

    with pytest.raises(ShapeError, match="uint8, got"):
        tokenizer.encode(random_stacks(2).float())
    with pytest.raises(ShapeError, match=r"\(2, 64, 64\)"):
        tokenizer.encode(random_stacks(2)[:, 0])
    with pytest.raises(ShapeError, match=r"\(N, 20\). Got \(2, 4\)"):
        tokenizer.decode(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="two classes"):
        TokenizerConfig(categories=1)
