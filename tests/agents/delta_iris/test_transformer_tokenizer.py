"""The workshop paper's tokenizer: it sees what came before and nothing after, and is asked like the published one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iris_cli.agents import build
from iris_cli.agents.delta_iris.checkpoint import to_published
from iris_cli.agents.delta_iris.config import PRESETS, TokenizerConfig
from iris_cli.agents.delta_iris.transformer_tokenizer import TransformerTokenizer
from iris_cli.errors import CheckpointError, ConfigError, ShapeError
from iris_cli.replay.segments import Segments

TINY = replace(PRESETS["tiny"].tokenizer, variant="transformer")
LONGEST = TINY.max_transitions
ACTIONS = 4


def tiny(**changes: object) -> TransformerTokenizer:
    """In which weights are large enough that all inputs matter."""
    torch.manual_seed(0)
    tokenizer = TransformerTokenizer(replace(TINY, **changes), num_actions=ACTIONS).eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        tokenizer.quantizer.codebook.normal_()
        project = tokenizer.quantizer.pre_quant_proj  # so that vectors go in all directions, and tokens differ
        frames, actions = trajectories(4, tokenizer.config.max_transitions, seed=9)
        project.bias -= project(tokenizer.vectors_of_rows(frames.float() / 255, actions)).mean((0, 1))
    return tokenizer


def trajectories(count: int, transitions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames (B, T + 1, 3, 64, 64) uint8 and actions (B, T)."""
    draws = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, transitions + 1, 3, 64, 64), generator=draws).to(torch.uint8)
    return frames, torch.randint(0, ACTIONS, (count, transitions), generator=draws)


def test_what_is_asked_of_it_has_the_shapes_of_the_contract() -> None:
    frames, actions = trajectories(5, 1)
    tokenizer = tiny()

    tokens = tokenizer.encode(frames[:, 0], actions[:, 0], frames[:, 1])
    decoded = tokenizer.decode(frames[:, 0], actions[:, 0], tokens)

    assert (tokens.shape, tokens.dtype) == ((5, 4), torch.int64)
    assert 0 <= tokens.min() < tokens.max() < TINY.codes
    assert (decoded.shape, decoded.dtype) == ((5, 3, 64, 64), torch.float32)
    assert 0 <= decoded.min() < decoded.max() <= 1
    assert tokenizer.encode(frames[:0, 0], actions[:0, 0], frames[:0, 1]).shape == (0, 4)
    assert tokenizer.decode(frames[:0, 0], actions[:0, 0], tokens[:0]).shape == (0, 3, 64, 64)
    assert tokenizer.encode_rows(frames[:, :1], actions[:, :0]).shape == (5, 0, 4)


@pytest.mark.parametrize("preset", ["atari", "crafter", "small", "tiny"])
def test_every_preset_can_have_it_and_half_as_many_patches_remain_at_each_stage(preset: str) -> None:
    tokenizer = TransformerTokenizer(replace(PRESETS[preset].tokenizer, variant="transformer"), num_actions=ACTIONS)

    per_block = [
        (stage.max_tokens // blocks) - beside
        for part, blocks, beside in (
            (tokenizer.encoder, tokenizer.config.max_transitions + 1, 1),
            (tokenizer.decoder, tokenizer.config.max_transitions, 2),
        )
        for stage in part.stages
    ]
    grids = {8: [64, 16, 4], 16: [16, 4]}[tokenizer.config.patch_pixels]
    assert per_block == grids + grids[::-1]


def test_tokens_know_what_came_before_and_nothing_that_comes_after() -> None:
    frames, actions = trajectories(2, LONGEST)
    tokenizer, images = tiny(), frames.float() / 255

    vectors = tokenizer.vectors_of_rows(images, actions).unflatten(0, actions.shape)
    later, earlier, act = images.clone(), images.clone(), actions.clone()
    later[:, 2:], earlier[:, 0], act[:, 1] = 0, 0, (act[:, 1] + 1) % ACTIONS
    without_later = tokenizer.vectors_of_rows(later, actions).unflatten(0, actions.shape)
    without_earlier = tokenizer.vectors_of_rows(earlier, actions).unflatten(0, actions.shape)
    another_action = tokenizer.vectors_of_rows(images, act).unflatten(0, actions.shape)

    torch.testing.assert_close(without_later[:, 0], vectors[:, 0])
    assert (without_later[:, 1:] - vectors[:, 1:]).abs().amin((0, 2)).max() > 1e-3
    assert (without_earlier - vectors).abs().amax((0, 2, 3)).min() > 1e-3
    torch.testing.assert_close(another_action[:, 0], vectors[:, 0])
    assert (another_action[:, 1:] - vectors[:, 1:]).abs().amax((0, 2, 3)).min() > 1e-3


def test_a_decoded_frame_depends_on_all_frames_actions_and_tokens_up_to_it_alone() -> None:
    frames, actions = trajectories(1, LONGEST)
    tokenizer, past = tiny(), frames[:, :-1]
    tokens = torch.randint(0, TINY.codes, (1, LONGEST, 4), generator=torch.Generator().manual_seed(1))
    images = tokenizer.next_images(past, actions, tokens)

    for step in range(LONGEST):
        black, acts, codes = past.clone(), actions.clone(), tokens.clone()
        black[:, step], acts[:, step] = 0, (acts[:, step] + 1) % ACTIONS
        codes[:, step] = (codes[:, step] + 1) % TINY.codes
        for changed in ((black, actions, tokens), (past, acts, tokens), (past, actions, codes)):
            differences = (tokenizer.next_images(*changed) - images).abs().amax((0, 2, 3, 4))
            assert differences[:step].max().item() < 1e-5 if step else True
            assert differences[step:].min() > 1e-4


def test_alone_and_in_a_row_are_the_same_for_the_first_transition_only() -> None:
    frames, actions = trajectories(3, 2)
    tokenizer = tiny()

    rows = tokenizer.encode_rows(frames, actions)
    alone = [tokenizer.encode(frames[:, t], actions[:, t], frames[:, t + 1]) for t in range(2)]
    decoded = tokenizer.decode_rows(frames[:, :-1], actions, rows)

    assert torch.equal(rows[:, 0], alone[0])
    assert not torch.equal(rows[:, 1], alone[1])
    torch.testing.assert_close(decoded[:, 0], tokenizer.decode(frames[:, 0], actions[:, 0], rows[:, 0]))
    assert not torch.allclose(decoded[:, 1], tokenizer.decode(frames[:, 1], actions[:, 1], rows[:, 1]))


def test_rows_beyond_its_positions_are_read_in_parts() -> None:
    frames, actions = trajectories(2, 2 * LONGEST + 1)
    tokenizer = tiny()

    tokens = tokenizer.encode_rows(frames, actions)
    decoded = tokenizer.decode_rows(frames[:, :-1], actions, tokens)

    assert tokens.shape == (2, 2 * LONGEST + 1, 4)
    for start, stop in ((0, LONGEST), (LONGEST, 2 * LONGEST), (2 * LONGEST, 2 * LONGEST + 1)):
        part = tokenizer.encode_rows(frames[:, start : stop + 1], actions[:, start:stop])
        assert torch.equal(tokens[:, start:stop], part)
        again = tokenizer.decode_rows(frames[:, start:stop], actions[:, start:stop], part)
        torch.testing.assert_close(decoded[:, start:stop], again)


def test_tokens_do_not_depend_on_the_company() -> None:
    frames, actions = trajectories(9, 2)
    tokenizer = tiny()

    together = tokenizer.encode_rows(frames, actions)

    assert torch.equal(together, torch.cat([tokenizer.encode_rows(frames[[i]], actions[[i]]) for i in range(9)]))


@pytest.mark.parametrize("known", range(LONGEST))
def test_painting_one_after_the_other_equals_decoding_all_at_once(known: int) -> None:
    frames, actions = trajectories(2, LONGEST)
    tokens = torch.randint(0, TINY.codes, (2, LONGEST, 4), generator=torch.Generator().manual_seed(1))
    tokenizer = tiny()
    expected = tokenizer.decode_rows(frames[:, :-1], actions, tokens)

    paint = tokenizer.painter(frames[:, : known + 1], actions[:, :known], tokens[:, :known])
    painted = [paint(frames[:, t], actions[:, t], tokens[:, t]) for t in range(known, LONGEST)]

    torch.testing.assert_close(torch.stack(painted, 1), expected[:, known:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keep", [1, 2, 99])
def test_where_positions_are_used_up_painting_goes_on_from_what_is_kept(keep: int) -> None:
    count = 3 * LONGEST
    frames, actions = trajectories(2, count)
    tokens = torch.randint(0, TINY.codes, (2, count, 4), generator=torch.Generator().manual_seed(1))
    tokenizer = tiny()

    paint = tokenizer.painter(frames[:, :1], actions[:, :0], tokens[:, :0], keep=keep)
    painted = [paint(frames[:, t], actions[:, t], tokens[:, t]) for t in range(count)]

    start = 0
    for step in range(count):
        if step - start == LONGEST:
            start = step - min(keep, LONGEST) + 1
        seen = slice(start, step + 1)
        expected = tokenizer.decode_rows(frames[:, seen], actions[:, seen], tokens[:, seen])[:, -1]
        torch.testing.assert_close(painted[step], expected, atol=1e-5, rtol=1e-5)


def test_a_painter_of_a_long_past_knows_the_last_that_fits() -> None:
    frames, actions = trajectories(1, 2 * LONGEST)
    tokens = torch.randint(0, TINY.codes, (1, 2 * LONGEST, 4), generator=torch.Generator().manual_seed(1))
    tokenizer, last = tiny(), slice(LONGEST, 2 * LONGEST)

    paint = tokenizer.painter(frames[:, :-1], actions[:, :-1], tokens[:, :-1])

    expected = tokenizer.decode_rows(frames[:, last], actions[:, last], tokens[:, last])[:, -1]
    torch.testing.assert_close(paint(frames[:, -2], actions[:, -1], tokens[:, -1]), expected, atol=1e-5, rtol=1e-5)


def segments_of(frames: Tensor, actions: Tensor) -> Segments:
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    actions = torch.cat([actions, actions[:, :1]], 1)
    return Segments(frames, actions, mask.float(), ~mask, mask, None)


def test_all_of_it_learns_from_reconstruction() -> None:
    torch.manual_seed(0)
    tokenizer = TransformerTokenizer(TINY, num_actions=ACTIONS).train()

    tokenizer.loss(segments_of(*trajectories(2, LONGEST))).total.backward()

    still = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert tokenizer.encoder_act_emb.weight.grad[ACTIONS].any()  # that there was none before is an input too


def test_the_fingerprint_changes_with_what_tokens_depend_on() -> None:
    tokenizer = tiny()
    before = tokenizer.fingerprint()
    with torch.no_grad():
        tokenizer.decoder.head.weight.add_(1)
        tokenizer.decoder_act_emb.weight.add_(1)
    assert tokenizer.fingerprint() == before

    with torch.no_grad():
        tokenizer.encoder.embed.weight.add_(1)
    assert tokenizer.fingerprint() != before


def test_the_published_format_has_no_place_for_it() -> None:
    agent = build("delta-iris", replace(PRESETS["tiny"], tokenizer=TINY), ACTIONS)

    with pytest.raises(CheckpointError, match="no place for a transformer tokenizer"):
        to_published(agent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "recurrent"}, "not one of convolutional, transformer. In tokenizer.variant"),
        ({"patch_pixels": 12}, "patch_pixels is 12"),
        ({"width": 33}, "not a multiple of heads"),
        ({"layers": 0}, "layers"),
        ({"segment_length": LONGEST + 2}, f"the positions reach {LONGEST} transitions"),
    ],
)
def test_what_it_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


def test_its_settings_bind_the_published_tokenizer_to_nothing() -> None:
    assert TokenizerConfig(segment_length=99, width=7, patch_pixels=5).variant == "convolutional"


def test_wrong_arguments_say_what_was_expected() -> None:
    frames, actions = trajectories(2, 1)
    tokenizer = tiny()

    with pytest.raises(ShapeError, match=r"uint8, got \(2, 3, 64, 64\) and float32"):
        tokenizer.encode(frames[:, 0].float(), actions[:, 0], frames[:, 1])
    with pytest.raises(ShapeError, match=r"\(2, 4\). Got \(2, 16\)"):
        tokenizer.decode(frames[:, 0], actions[:, 0], torch.zeros(2, 16, dtype=torch.int64))
