"""The tokenizer of transitions against the published numbers, and its surface."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import PRESETS, DeltaIrisConfig
from iris_cli.agents.delta_iris.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.nn.cosine_quantizer import CosineQuantizer
from iris_cli.replay.segments import Segments

from .conftest import Golden, assert_close, assert_same_frames

TINY = PRESETS["tiny"].tokenizer
EMA_CASES = (
    "fresh_unnormalised", "fresh_revival_allowed", "mid_training", "low_entropy_beyond_max_updates",
    "low_entropy_within_max_updates", "low_entropy_max_updates_none", "low_entropy_at_limit",
    "collapsed_beyond_max_updates", "collapsed_small_batch",
)  # fmt: skip
LOSSES = {  # published name -> ours
    "commitment_loss": "commitment_loss",
    "reconstruction_loss_l1": "l1_loss",
    "reconstruction_loss_l2": "l2_loss",
    "reconstruction_loss_l2_worst_pixel": "max_pixel_loss",
}


@pytest.fixture(scope="session")
def transitions(batch: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """Past frames, actions and frames of the golden batch, flattened to N = 3 * 6."""
    return batch.frames[:, :-1].flatten(0, 1), batch.actions[:, :-1].flatten(), batch.frames[:, 1:].flatten(0, 1)


@pytest.mark.parametrize(
    ("preset", "actions", "parameters"), [("crafter", 17, 5_409_611), ("atari", 18, 4_126_643), ("atari", 4, 4_065_715)]
)
def test_the_published_networks_have_as_many_parameters_as_published(
    preset: str, actions: int, parameters: int
) -> None:
    tokenizer = Tokenizer(PRESETS[preset].tokenizer, num_actions=actions)

    assert sum(p.numel() for p in tokenizer.parameters()) == parameters


@pytest.mark.parity
def test_tokens_equal_the_published_ones(tokenizer: Tokenizer, golden: Golden, transitions: tuple) -> None:
    assert torch.equal(tokenizer.encode(*transitions), golden["out.tokenizer.tokens"].flatten(0, 1))


@pytest.mark.parity
@torch.no_grad()
def test_what_lies_between_frames_and_tokens_equals_the_published_numbers(
    tokenizer: Tokenizer, golden: Golden, transitions: tuple
) -> None:
    past, actions, frames = (x.float() / 255 if x.dtype == torch.uint8 else x for x in transitions)
    found: dict[str, Tensor] = {"frame_cnn_past": tokenizer.frame_cnn(past)}
    tokenizer.encoder.register_forward_hook(lambda module, given, output: found.update(encoder_output=output))

    found["token_features"] = tokenizer.vectors(past, actions, frames)
    found["projected"] = tokenizer.quantizer.pre_quant_proj(found["token_features"])
    found["projected_unit"] = tokenizer.quantizer.directions(found["token_features"])
    quantized = tokenizer.quantizer(found["token_features"])
    found["quantized"] = quantized.vectors
    found["embed_tokens"] = tokenizer.quantizer.lookup(quantized.tokens)
    found["reconstruction"] = tokenizer.images_of(past, actions, quantized.vectors)

    for name, value in found.items():
        assert_close(value, golden[f"out.tokenizer.{name}"].flatten(0, 1))
    if "out.tokenizer.cosine_similarity" in golden.tensors:
        cosines = found["projected_unit"] @ tokenizer.quantizer.codebook.T
        assert_close(cosines, golden["out.tokenizer.cosine_similarity"].flatten(0, 1))
        best = cosines.topk(2).values
        assert_close(best[..., 0] - best[..., 1], golden["out.tokenizer.token_margin"].flatten(0, 1))


@pytest.mark.parity
def test_decoding_gives_the_published_frames(tokenizer: Tokenizer, golden: Golden, transitions: tuple) -> None:
    past, actions, _ = transitions

    frames = tokenizer.decode(past, actions, golden["out.tokenizer.tokens"].flatten(0, 1))

    assert_close(frames, golden["out.tokenizer.reconstruction"].flatten(0, 1).clamp(0, 1))
    rounded = (frames * 255).round().to(torch.uint8)
    assert_same_frames(rounded, golden["out.tokenizer.reconstruction_clamped_u8"].flatten(0, 1))


@pytest.mark.parity
def test_losses_and_gradients_equal_the_published_ones(tokenizer: Tokenizer, golden: Golden, batch: Segments) -> None:
    losses = tokenizer.loss(batch)
    losses.total.backward()

    assert_close(losses.total, golden["out.tokenizer.loss.total"])
    for theirs, ours in LOSSES.items():
        assert_close(losses.parts[ours], golden[f"out.tokenizer.loss.{theirs}"], atol=1e-7)
    gradients = golden.below("out.tokenizer.grad.")
    assert len(gradients) >= 6
    for name, gradient in gradients.items():
        assert_close(tokenizer.get_parameter(name).grad, gradient, atol=1e-6)
    norm = nn.utils.get_total_norm([p.grad for p in tokenizer.parameters() if p.grad is not None])
    assert_close(norm, golden["out.tokenizer.grad_norm"])


@pytest.mark.parity
def test_the_first_optimizer_step_is_the_published_one(
    tokenizer: Tokenizer, golden: Golden, golden_config: DeltaIrisConfig, batch: Segments
) -> None:
    optimizer = make_optimizer(tokenizer, golden_config.tokenizer)
    tokenizer.loss(batch).total.backward()
    nn.utils.clip_grad_norm_(tokenizer.parameters(), golden_config.tokenizer.clip_norm)

    optimizer.step()

    after = golden.below("out.tokenizer.after_step.")
    assert len(after) >= 4
    for name, expected in after.items():
        parameter = tokenizer.get_parameter(name)
        sure = parameter.grad.abs() > 1e-6  # Adam's first step is the sign of the gradient
        assert sure.any()
        assert_close(parameter[sure], expected[sure], atol=1e-6)


@pytest.mark.parity
def test_a_training_update_moves_the_codebook_as_published(
    tokenizer: Tokenizer, golden: Golden, batch: Segments
) -> None:
    losses = tokenizer.train().loss(batch)
    revived = tokenizer.quantizer.update_codebook(revival_updates=tokenizer.config.revival_updates)

    expected = golden.below("out.tokenizer_train_mode.")
    for theirs, ours in LOSSES.items():
        assert_close(losses.parts[ours], expected[f"loss.{theirs}"], atol=1e-7)
    assert_same_book(tokenizer.quantizer, revived, expected)


@pytest.mark.parity
@pytest.mark.parametrize("case", EMA_CASES)
def test_codebook_updates_and_revivals_are_the_published_ones(
    golden: Golden, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, expected, sizes = golden.below(f"in.ema.{case}."), golden.below(f"out.ema.{case}."), golden.info["ema_cases"]
    quantizer = CosineQuantizer(
        sizes[case]["codebook_size"], sizes[case]["codebook_dim"], width=sizes[case]["input_dim"]
    )  # fmt: skip
    quantizer.load_state_dict(
        {
            "codebook": given["codebook_before"],
            "codewords_freqs": given["codewords_freqs_before"],
            "num_codebook_updates": given["num_codebook_updates_before"],
        }
        | {name: value for name, value in given.items() if "quant_proj" in name}
    )
    permutations = [given[f"randperm{i}"] for i in range(sizes[case]["num_randperm"])]
    monkeypatch.setattr(torch, "randperm", lambda count, **where: drawn(permutations, count))

    quantized = quantizer(given["features"])
    revived = quantizer.update_codebook(revival_updates=sizes[case]["max_codebook_updates_with_revival"])

    assert not permutations
    assert torch.equal(quantized.tokens, expected["tokens"])
    assert_close(quantized.vectors, expected["quantized"])
    assert_close(0.02 * quantized.distance, expected["commitment_loss"], atol=1e-8)
    assert_same_book(quantizer, revived, expected)


def drawn(permutations: list[Tensor], count: int) -> Tensor:
    """The next recorded permutation."""
    assert len(permutations[0]) == count
    return permutations.pop(0)


def assert_same_book(quantizer: CosineQuantizer, revived: Tensor, expected: dict[str, Tensor]) -> None:
    assert_close(quantizer.codebook, expected["codebook_after"], atol=1e-6)
    assert_close(quantizer.codewords_freqs, expected["codewords_freqs_after"], atol=1e-7)
    assert_close(quantizer.entropy(), expected["codebook_entropy"])
    assert torch.equal(quantizer.num_codebook_updates, expected["num_codebook_updates_after"])
    assert torch.equal(revived, expected["codewords_revived"])


def random_transitions(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    past, frames = torch.randint(0, 256, (2, count, 3, 64, 64), generator=draws).to(torch.uint8)
    return past, torch.randint(0, 4, (count,), generator=draws), frames


def tiny(**changes: object) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(replace(TINY, **changes), num_actions=4).eval()


def test_encoding_and_decoding_have_the_shapes_of_the_contract() -> None:
    past, actions, frames = random_transitions(5)
    tokenizer = tiny()

    tokens = tokenizer.encode(past, actions, frames)
    decoded = tokenizer.decode(past, actions, tokens)

    assert (tokens.shape, tokens.dtype) == ((5, 4), torch.int64)
    assert (decoded.shape, decoded.dtype) == ((5, 3, 64, 64), torch.float32)
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert tokenizer.encode(past[:0], actions[:0], frames[:0]).shape == (0, 4)


def test_tokens_do_not_depend_on_the_company_nor_on_the_memory_layout() -> None:
    past, actions, frames = random_transitions(6)
    tokenizer = tiny()

    together = tokenizer.encode(past, actions, frames)

    alone = [tokenizer.encode(past[i : i + 1], actions[i : i + 1], frames[i : i + 1]) for i in range(6)]
    layout = {"memory_format": torch.channels_last}
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, tokenizer.encode(past.contiguous(**layout), actions, frames.contiguous(**layout)))


def test_a_frame_decodes_otherwise_after_another_past_or_action() -> None:
    past, actions, frames = random_transitions(2)
    tokenizer = tiny()
    tokens = tokenizer.encode(past, actions, frames)

    decoded = tokenizer.decode(past, actions, tokens)

    assert not torch.equal(decoded, tokenizer.decode(past.flip(0), actions, tokens))
    assert not torch.equal(decoded, tokenizer.decode(past, (actions + 1) % 4, tokens))


def segments_of(frames: Tensor, mask: Tensor) -> Segments:
    """(B, T) steps with these frames."""
    zeros = torch.zeros(mask.shape)
    return Segments(frames, zeros.long(), zeros, zeros.bool(), mask, None)


def test_padding_does_not_count_as_reconstruction() -> None:
    frames = torch.randint(0, 256, (2, 4, 3, 64, 64), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    tokenizer = tiny(commitment_weight=0.0)

    with torch.no_grad():
        loss = tokenizer.loss(segments_of(frames, mask)).total
        frames[0, 3], frames[1, 0] = 255, 255
        other = tokenizer.loss(segments_of(frames, mask)).total

    assert torch.equal(loss, other)


def test_a_segment_without_any_transition_gives_no_reconstruction_loss() -> None:
    frames = torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8)

    parts = tiny().loss(segments_of(frames, torch.tensor([[False, False, True]]))).parts

    assert parts["l1_loss"] == parts["l2_loss"] == parts["max_pixel_loss"] == 0


def test_learning_by_parts_of_a_batch_moves_the_codebook_as_the_whole_batch_does() -> None:
    whole = tiny(revival_updates=0).train()
    parts = copy.deepcopy(whole)
    frames = torch.randint(0, 256, (2, 3, 3, 64, 64), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    mask = torch.ones(2, 3, dtype=torch.bool)

    whole.loss(segments_of(frames, mask))
    for row in range(2):
        parts.loss(segments_of(frames[row : row + 1], mask[:1]))
    for tokenizer in (whole, parts):
        tokenizer.update_codebook()

    torch.testing.assert_close(whole.quantizer.codebook, parts.quantizer.codebook, atol=1e-6, rtol=0)
    assert whole.quantizer.num_codebook_updates == parts.quantizer.num_codebook_updates == 1


def test_the_fingerprint_changes_with_the_tokens_and_with_nothing_else() -> None:
    tokenizer = tiny()
    before = tokenizer.fingerprint()

    with torch.no_grad():
        tokenizer.decoder_act_emb.weight.add_(1)
        tokenizer.quantizer.post_quant_proj.weight.add_(1)
        tokenizer.quantizer.codewords_freqs.add_(1)
    assert tokenizer.fingerprint() == before
    for tensor in (tokenizer.quantizer.codebook, tokenizer.encoder_act_emb.weight, tokenizer.encoder.encoder[0].bias):
        with torch.no_grad():
            tensor.add_(1)
        assert tokenizer.fingerprint() != before
        before = tokenizer.fingerprint()


def test_wrong_arguments_say_what_was_expected() -> None:
    past, actions, frames = random_transitions(2)
    tokenizer = tiny()

    with pytest.raises(ShapeError, match=r"uint8, got \(2, 3, 64, 64\) and float32"):
        tokenizer.encode(past.float(), actions, frames)
    with pytest.raises(ShapeError, match=r"\(N,\)=\(2,\).*Got \(3,\)"):
        tokenizer.encode(past, torch.zeros(3, dtype=torch.int64), frames)
    with pytest.raises(ShapeError, match=r"\(2, 4\). Got \(2, 16\)"):
        tokenizer.decode(past, actions, torch.zeros(2, 16, dtype=torch.int64))
    with pytest.raises(ShapeError, match="two frames"):
        tokenizer.loss(segments_of(frames[:, None], torch.ones(2, 1, dtype=torch.bool)))
