"""Whatever is appended, taken back and read again is what a list of steps would hold; so are segments drawn of it."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_cli.errors import IrisError
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.episodes import Episodes
from iris_cli.replay.segments import Replay, Segments
from iris_cli.replay.windows import draw_starts, gather_windows

CPU = torch.device("cpu")
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


@st.composite
def histories(draw: st.DrawFn) -> list[list[tuple[int, int]] | int]:
    """Commits, each a list of (episode, steps) or the steps that are kept when the rest is taken back."""
    history: list[list[tuple[int, int]] | int] = []
    for _ in range(draw(st.integers(1, 4))):
        if history and draw(st.booleans()):
            history.append(draw(st.integers(0, 100)))  # percent
        history.append([(draw(st.integers(0, 3)), draw(st.integers(1, 5))) for _ in range(draw(st.integers(1, 3)))])
    return history


class Model:
    """Steps and their episodes as plain lists."""

    def __init__(self) -> None:
        self.steps: list[int] = []  # a number of its own for each
        self.episode_of: list[int] = []
        self.count = 0

    def pieces(self, wanted: list[tuple[int, int]], over: set[int]) -> list[tuple[int, int]]:
        """Ids for (which, steps): one of those under way, or a new one; none twice."""
        under_way = [episode for episode in sorted(set(self.episode_of)) if episode not in over]
        ids: list[tuple[int, int]] = []
        following = max(self.episode_of, default=-1) + 1
        for which, length in wanted:
            free = [episode for episode in under_way if episode not in [number for number, _ in ids]]
            if which < len(free):
                ids.append((free[which], length))
            else:
                ids.append((following, length))
                following += 1
        return ids


@settings(max_examples=max(4, settings().max_examples // 3))
@given(histories(), st.integers(0, 2**31))
def test_a_dataset_holds_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[tuple[int, int]] | int], seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "held.zarr"
    shutil.rmtree(path, ignore_errors=True)
    draws, model, over = np.random.default_rng(seed), Model(), set[int]()
    with Dataset.create(path, environment={"id": "x"}, action_meanings=list("abcd")) as dataset:
        held: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
        for commit in history:
            if isinstance(commit, int):
                kept = len(model.episode_of) * commit // 100
                dataset.rewind(kept, writer="w")
                del model.episode_of[kept:]
                for values in held.values():
                    del values[kept:]
                over = {model.episode_of[i] for i in range(kept) if held["terminations"][i] or held["truncations"][i]}
                continue
            ids = model.pieces(commit, over)
            steps = sum(length for _, length in ids)
            ends = np.zeros((2, steps), bool)
            for last, (episode, _) in zip(np.cumsum([length for _, length in ids]) - 1, ids, strict=True):
                kind = int(draws.integers(3))
                if kind < 2:
                    ends[kind, last] = True
                    over.add(episode)
            pixels = draws.integers(0, 256, (steps, 1, 1, 1), np.uint8)
            new = {
                "observations": np.broadcast_to(pixels, (steps, 64, 64, 3)),
                "actions": draws.integers(0, 4, steps), "rewards": draws.normal(size=steps).astype(np.float32),
                "terminations": ends[0], "truncations": ends[1],
            }  # fmt: skip
            dataset.append(
                **new,
                episode_lengths=[length for _, length in ids],
                episode_ids=[number for number, _ in ids],
                writer="w",
            )
            for name in FIELDS:
                held[name] += list(new[name])
            model.episode_of += [episode for episode, length in ids for _ in range(length)]

    with Dataset.open(path) as found:
        assert found.num_steps == len(model.episode_of)
        for name in FIELDS:
            expected = np.array(held[name]) if held[name] else np.zeros((0, *found.read(name).shape[1:]))
            assert np.array_equal(found.read(name), expected)
        lengths = np.diff(found.episode_ends, prepend=0)
        assert np.repeat(found.episode_ids, lengths).tolist() == model.episode_of
        if found.num_steps:
            _segments_are_slices(found, held, model.episode_of, seed)


def _segments_are_slices(dataset: Dataset, held: dict[str, list[np.ndarray]], episode_of: list[int], seed: int) -> None:
    """Every draw is a stretch of one episode, in its order, with zeros around it."""
    replay = Replay(CPU)
    replay.refresh(dataset)
    replay.set_tokens(torch.arange(len(episode_of))[:, None] + torch.tensor([0, 1000]))
    rows = {episode: [i for i, own in enumerate(episode_of) if own == episode] for episode in set(episode_of)}
    for sampler in (replay.from_start, replay.from_end, replay.around, replay.reaching):
        drawn = sampler(5, 4, torch.Generator().manual_seed(seed), frames=True, tokens=True)
        for b in range(5):
            mask = drawn.mask[b].tolist()
            real = [t for t in range(4) if mask[t]]
            assert real
            assert real == list(range(real[0], real[-1] + 1))
            own = rows[int(drawn.episodes[b])]
            assert drawn.tokens is not None
            first = own.index(int(drawn.tokens[b, real[0], 0]))
            chosen = own[first : first + len(real)]
            _equal_slice(drawn, b, real, chosen, held)
            if sampler == replay.from_start:
                assert real[0] == 0
                assert len(real) == 4 or chosen[-1] == own[-1]
            if sampler == replay.from_end:
                assert real[-1] == 3
                assert len(real) == 4 or chosen[0] == own[0]


def _equal_slice(
    drawn: Segments, b: int, real: list[int], chosen: list[int], held: dict[str, list[np.ndarray]]
) -> None:
    padding = [t for t in range(4) if t not in real]
    assert drawn.frames is not None
    assert drawn.tokens is not None
    ends = [bool(held["terminations"][i] or held["truncations"][i]) for i in chosen]
    assert drawn.actions[b, real].tolist() == [held["actions"][i] for i in chosen]
    assert drawn.rewards[b, real].tolist() == [float(held["rewards"][i]) for i in chosen]
    assert drawn.ends[b, real].tolist() == ends
    assert drawn.tokens[b, real].tolist() == [[i, i + 1000] for i in chosen]
    assert [int(frame.flatten()[0]) for frame in drawn.frames[b, real]] == [
        int(held["observations"][i].flat[0]) for i in chosen
    ]
    for values in (drawn.actions, drawn.rewards, drawn.ends, drawn.tokens, drawn.frames):
        assert not values[b, padding].any()


@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 6)), max_size=8), st.integers(0, 40))
def test_episodes_take_pieces_that_follow_and_refuse_others(pieces: list[tuple[int, int]], kept: int) -> None:
    """Piece by piece; what is refused leaves what was there as it was."""
    episodes, expected = Episodes.none(), list[int]()
    for episode, length in pieces:
        fits = length >= 1 and 0 <= episode <= max(expected, default=-1) + 1
        try:
            episodes = episodes.extended([length], [episode])
        except IrisError:
            assert not fits
            continue
        assert fits
        expected += [episode] * length

    kept = min(kept, len(expected))
    for found, own in ((episodes, expected), (episodes.cut(kept), expected[:kept])):
        assert found.cover(len(own))
        assert np.repeat(found.ids, np.diff(found.ends, prepend=0)).tolist() == own
        laid = [
            step for number in range(found.count) for start, stop in found.pieces(number) for step in range(start, stop)
        ]
        assert sorted(laid) == list(range(len(own)))


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 50), st.integers(0, 2**31))
def test_windows_are_slices_and_every_start_is_counted(
    steps: int, length: int, batch: int, heat: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    visits = torch.randint(3, (steps,), generator=generator)
    if steps - length + 1 < batch:
        with pytest.raises(IrisError):
            draw_starts(visits, steps=steps, length=length, batch=batch, temperature=heat, generator=generator)
        return
    starts, after = draw_starts(visits, steps=steps, length=length, batch=batch, temperature=heat, generator=generator)
    numbers = torch.arange(steps)

    windows = gather_windows(
        starts, length, stacks=None, actions=numbers + 1, rewards=numbers.float(), terminations=numbers % 3 == 0,
        truncations=numbers % 5 == 0,
    )  # fmt: skip

    assert len(set(starts.tolist())) == batch
    assert (after - visits).sum() == batch
    for row, start in enumerate(starts.tolist()):
        assert 0 <= start <= steps - length
        assert windows.actions[row, 1:].tolist() == [i + 1 for i in range(start, start + length)]
        assert windows.actions[row, 0] == (0 if start == 0 else start)
        assert windows.ends[row, 1:].tolist() == [i % 3 == 0 or i % 5 == 0 for i in range(start, start + length)]
