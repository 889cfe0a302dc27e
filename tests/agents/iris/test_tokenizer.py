import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris.config import PRESETS, IrisConfig, TokenizerConfig
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.nn.lpips import LPIPS

TINY = PRESETS["tiny"].tokenizer


@pytest.fixture
def published(golden: dict[str, Tensor], golden_agent_config: IrisConfig) -> Tokenizer:
    """The golden tokenizer."""
    tokenizer = Tokenizer(golden_agent_config.tokenizer).eval()
    prefix = "tokenizer."
    tokenizer.load_state_dict({k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)})
    return tokenizer


@pytest.fixture
def frames(golden: dict[str, Tensor]) -> Tensor:
    return golden["in.tokenizer.observations"][:, 0]


def random_frames(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_the_default_network_has_4027523_parameters() -> None:
    assert sum(p.numel() for p in Tokenizer(TokenizerConfig()).parameters()) == 4_027_523


@pytest.mark.parity
def test_tokens_equal_the_published_ones(published: Tokenizer, golden: dict[str, Tensor], frames: Tensor) -> None:
    assert torch.equal(published.encode(frames), golden["out.tokenizer.tokens"][:, 0])


@pytest.mark.parity
def test_latents_and_reconstructions_equal_the_published_ones(
    published: Tokenizer, golden: dict[str, Tensor], frames: Tensor
) -> None:
    with torch.no_grad():
        latents = published.pre_quant_conv(published.encoder(frames.float() / 255 * 2 - 1))
        quantized = published.embedding(latents)
        reconstructions = published.decoder(published.post_quant_conv(quantized.latents))

    torch.testing.assert_close(latents, golden["out.tokenizer.z"][:, 0], atol=3e-4, rtol=0)
    torch.testing.assert_close(quantized.latents, golden["out.tokenizer.z_quantized"][:, 0], atol=3e-4, rtol=0)
    torch.testing.assert_close(reconstructions, golden["out.tokenizer.reconstruction"][:, 0], atol=3e-4, rtol=0)


@pytest.mark.parity
def test_decoding_gives_the_published_reconstruction_in_0_1(published: Tokenizer, golden: dict[str, Tensor]) -> None:
    images = published.decode(golden["out.tokenizer.tokens"][:, 0])

    expected = (golden["out.tokenizer.reconstruction"][:, 0] + 1).div(2).clamp(0, 1)
    torch.testing.assert_close(images, expected, atol=3e-4, rtol=0)


@pytest.mark.parity
def test_losses_equal_the_published_ones(published: Tokenizer, golden: dict[str, Tensor], frames: Tensor) -> None:
    parts = published.loss(frames, perceptual=None).parts

    for name in ("commitment_loss", "reconstruction_loss"):
        torch.testing.assert_close(parts[name], golden[f"out.tokenizer.{name}"], rtol=1e-5, atol=0)


@pytest.mark.parity
def test_gradient_norms_equal_the_published_ones(
    published: Tokenizer, golden: dict[str, Tensor], frames: Tensor, golden_agent_config: IrisConfig
) -> None:
    published.config = dataclasses.replace(golden_agent_config.tokenizer, l2_weight=0.0, max_pixel_weight=0.0)

    published.loss(frames, perceptual=None).total.backward()

    modules = ("encoder", "pre_quant_conv", "embedding", "post_quant_conv", "decoder")
    found = {f"total.{name}": gradient_norm(published.get_submodule(name)) for name in modules}
    found["total"] = gradient_norm(published)
    for name, norm in found.items():
        torch.testing.assert_close(norm, golden[f"out.grad_norm.tokenizer.{name}"], rtol=1e-3, atol=0, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("term", ["commitment_loss", "reconstruction_loss"])
def test_gradient_norm_of_each_term_equals_the_published_one(
    published: Tokenizer, golden: dict[str, Tensor], frames: Tensor, term: str
) -> None:
    images = frames.float() / 255 * 2 - 1
    quantized = published.embedding(published.pre_quant_conv(published.encoder(images)))
    if term == "commitment_loss":
        quantized.loss.backward()
    else:
        (published.decoder(published.post_quant_conv(quantized.latents)) - images).abs().mean().backward()

    torch.testing.assert_close(gradient_norm(published), golden[f"out.grad_norm.tokenizer.{term}"], rtol=1e-3, atol=0)


@pytest.mark.parity
def test_lpips_equals_the_published_one(golden: dict[str, Tensor], frames: Tensor) -> None:
    lpips = LPIPS().eval()
    lpips.load_state_dict(recipe_weights(lpips))
    x = frames[:2].float() / 255 * 2 - 1
    y = golden["out.tokenizer.reconstruction"][:2, 0].clone().requires_grad_()

    value = lpips(x, y)
    value.mean().backward()
    rms = torch.stack([features.square().mean().sqrt() for features in lpips.net(lpips.scaling_layer(x))])

    torch.testing.assert_close(value, golden["out.lpips.value"], rtol=1e-5, atol=0)
    torch.testing.assert_close(rms, golden["out.lpips.feature_rms_x"], rtol=1e-4, atol=0)
    torch.testing.assert_close(y.grad.norm(), golden["out.lpips.grad_norm_y"], rtol=3e-3, atol=0)


def recipe_weights(lpips: LPIPS) -> dict[str, Tensor]:
    """The integer hash that the golden file describes in `lpips_recipe`."""

    def uniform(shape: torch.Size, stream: int) -> np.ndarray:
        x = np.arange(1, shape.numel() + 1, dtype=np.uint32) + np.uint32(1_000_003 * stream)
        x *= np.uint32(2_654_435_761)
        x ^= x >> np.uint32(15)
        x *= np.uint32(2_246_822_519)
        x ^= x >> np.uint32(13)
        return (x / 2**32).reshape(shape)

    weights, convolution = lpips.state_dict(), 0
    for name, value in weights.items():
        if name.startswith("lin"):
            weights[name] = torch.from_numpy(uniform(value.shape, 100 + int(name[3])) * 0.5)
        elif name.endswith("weight"):
            scale = (6 / (9 * value.shape[1])) ** 0.5
            weights[name] = torch.from_numpy((2 * uniform(value.shape, 2 * convolution) - 1) * scale)
        elif name.endswith("bias"):
            weights[name] = torch.from_numpy((2 * uniform(value.shape, 2 * convolution + 1) - 1) * 0.05)
            convolution += 1
    return weights


def test_the_published_loss_is_l1_and_codebook_terms_and_lpips(published: Tokenizer, frames: Tensor) -> None:
    losses = published.loss(frames[:1], perceptual=LPIPS().eval())

    names = ("commitment_loss", "reconstruction_loss", "perceptual_loss")
    assert set(losses.parts) == {*names, "perplexity", "codes_used"}
    torch.testing.assert_close(losses.total.detach(), sum(losses.parts[name] for name in names))


def test_the_weights_free_loss_adds_the_largest_pixel_error() -> None:
    losses = Tokenizer(TINY).loss(random_frames(2), perceptual=None)

    names = ("commitment_loss", "reconstruction_loss", "l2_loss", "max_pixel_loss")
    assert set(losses.parts) == {*names, "perplexity", "codes_used"}
    torch.testing.assert_close(losses.total.detach(), sum(losses.parts[name] for name in names))


@pytest.mark.parametrize("network", ["strided", "residual"])
def test_tokens_of_a_frame_do_not_depend_on_its_company(network: str) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, network=network, base_channels=32, res_blocks=1)
    tokenizer, frames = Tokenizer(config).eval(), random_frames(11)

    together = tokenizer.encode(frames)

    assert together.shape == (11, 16)
    assert together.dtype == torch.int64
    for alone, tokens in zip(frames.split(1), together, strict=True):
        assert torch.equal(tokenizer.encode(alone)[0], tokens)
    assert torch.equal(tokenizer.encode(frames[3:]), together[3:])


def test_tokens_do_not_depend_on_the_memory_format() -> None:
    tokenizer, frames = Tokenizer(TINY).eval(), random_frames(5)

    channels_last = frames.contiguous(memory_format=torch.channels_last)

    assert torch.equal(tokenizer.encode(channels_last), tokenizer.encode(frames))


def test_no_frames_give_no_tokens_and_no_images() -> None:
    tokenizer = Tokenizer(TINY).eval()

    tokens = tokenizer.encode(random_frames(0))

    assert tokens.shape == (0, 16)
    assert tokenizer.decode(tokens).shape == (0, 3, 64, 64)


def test_decoded_pixels_lie_in_0_1() -> None:
    images = Tokenizer(TINY).eval().decode(torch.arange(9 * 16).view(9, 16) % TINY.codes)

    assert images.shape == (9, 3, 64, 64)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("wrong", [random_frames(2).float(), random_frames(2)[0], random_frames(2).permute(0, 2, 3, 1)])
def test_other_frames_are_refused_with_both_shapes(wrong: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"\(N, 3, 64, 64\) and dtype uint8, got"):
        Tokenizer(TINY).encode(wrong)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(N, 16\), got \(2, 15\)"):
        Tokenizer(TINY).decode(torch.zeros(2, 15, dtype=torch.int64))


def test_micro_batches_give_the_gradient_and_codebook_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, max_pixel_weight=0.5, revive_after=0)
    whole, parts, frames = Tokenizer(config), Tokenizer(config), random_frames(8)
    whole.loss(frames, perceptual=None)  # fixes the mean image
    whole.update_codebook()
    parts.load_state_dict(whole.state_dict())

    whole.loss(frames, perceptual=None).total.backward()
    for share in frames.split(2):
        (parts.loss(share, perceptual=None).total / 4).backward()
    whole.update_codebook()
    parts.update_codebook()

    torch.testing.assert_close(gradient_norm(parts), gradient_norm(whole), rtol=1e-4, atol=0)
    torch.testing.assert_close(parts.embedding.weight, whole.embedding.weight)


def test_perplexity_counts_codes_by_their_use() -> None:
    tokenizer = Tokenizer(TINY)

    parts = tokenizer.loss(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), perceptual=None).parts

    tokens = tokenizer.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[0]
    shares = tokens.bincount() / len(tokens)
    assert parts["codes_used"] == (shares > 0).sum()
    torch.testing.assert_close(parts["perplexity"], torch.special.entr(shares).sum().exp())


def test_the_fingerprint_follows_what_encode_depends_on_and_nothing_else() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TINY)
    before = tokenizer.fingerprint()
    assert len(before) == 16

    with torch.no_grad():
        next(tokenizer.decoder.parameters()).add_(1)
    assert tokenizer.fingerprint() == before

    tokenizer.config = dataclasses.replace(TINY, learning_rate=0.5)
    assert tokenizer.fingerprint() == before

    with torch.no_grad():
        tokenizer.embedding.weight[3, 1] += 1e-6
    assert tokenizer.fingerprint() != before


def test_without_a_mean_image_there_is_none_to_keep_or_subtract() -> None:
    torch.manual_seed(0)
    tokenizer, frames = Tokenizer(dataclasses.replace(TINY, mean_image=False)), random_frames(4)

    for _ in range(2):
        tokenizer.loss(frames, perceptual=None).total.backward()
        tokenizer.update_codebook()

    assert tokenizer.mean_image is None
    names = tokenizer.state_dict().keys()
    assert names == {name for name in Tokenizer(TINY).state_dict() if not name.startswith("mean_image.")}
    with torch.no_grad():
        images = frames.float() / 127.5 - 1
        torch.testing.assert_close(tokenizer._latents(images), tokenizer.encoder(images))


def test_the_fingerprint_tells_whether_there_is_a_mean_image() -> None:
    with_mean, without = Tokenizer(TINY), Tokenizer(dataclasses.replace(TINY, mean_image=False))
    missing, unexpected = with_mean.load_state_dict(without.state_dict(), strict=False)

    assert (sorted(missing), unexpected) == (["mean_image.mean", "mean_image.updates"], [])
    assert with_mean.fingerprint() != without.fingerprint()


def test_a_few_updates_lower_the_loss_and_open_the_codebook() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TINY).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    frames = random_frames(8) // 64 * 16
    frames[:, :, 16:48, 16:48] = 200
    totals = []

    for _ in range(40):
        optimizer.zero_grad()
        losses = tokenizer.loss(frames, perceptual=None)
        losses.total.backward()
        optimizer.step()
        tokenizer.update_codebook()
        totals.append(losses.total.item())

    assert totals[-1] < 0.6 * totals[0]
    assert losses.parts["codes_used"] > 4


def gradient_norm(module: torch.nn.Module) -> Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
