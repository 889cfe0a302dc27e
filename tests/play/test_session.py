"""One person in one world: act, hand over, go back, branch, begin anywhere, record."""

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from iris_cli.agents.twm.thoughts import views_along
from iris_cli.errors import PlayError
from iris_cli.play import session as rules
from iris_cli.play.moment import Moment, film_of
from iris_cli.play.session import Session, Start
from iris_cli.render import write_media
from iris_cli.replay.dataset import Dataset

NewSession = Callable[..., Session]
KEYS = [["ArrowUp"], ["ArrowUp"], [], ["ArrowDown", "Space"], ["ArrowDown"]] * 3
AGENTS = ["iris", "twm-thinking", *(pytest.param(agent, marks=pytest.mark.pipeline) for agent in ("delta-iris", "twm"))]


def shown(moment: Moment) -> tuple[object, ...]:
    """All that a person sees of a moment."""
    look = None if moment.look is None else (moment.look.value, moment.look.chances)
    pictures = {label: (panel.picture.tobytes(), panel.reward, panel.end) for label, panel in moment.panels.items()}
    return moment.step, moment.action, pictures, moment.score, moment.over, moment.tokens, moment.expected, look


def played(session: Session, keys: list[list[str]]) -> list[tuple[object, ...]]:
    return [shown(session.advance(held)) for held in keys]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("world", ["real", "dream"])
def test_going_back_and_doing_the_same_is_the_same_and_other_things_are_others(
    new_session: NewSession, world: str, agent: str
) -> None:
    session = new_session(agent)
    session.start(Start(world=world, seed=5))
    first = played(session, KEYS)

    for back in (11, 5):  # neither is a step that is saved
        session.rewind(back)
        assert shown(session.present) == first[back - 1]
        assert played(session, KEYS[back:]) == first[back:]
    session.rewind(11)
    other = played(session, [[]] * 3)

    assert [moment[2][world] for moment in other] != [moment[2][world] for moment in first[11:14]]
    assert [tip.step for tip in session.branches] == [15, 15, 15]


@pytest.mark.pipeline
def test_a_line_that_was_left_can_be_taken_again(new_session: NewSession) -> None:
    session = new_session()
    session.start(Start(world="dream"))
    first = played(session, KEYS)
    session.rewind(10)
    other = played(session, [[]] * 5)

    assert shown(session.take_branch(0)) == first[-1]
    assert shown(session.rewind(12)) == first[11]
    assert [tip.step for tip in session.branches] == [15]
    assert played(session, KEYS[12:14]) == first[12:14]
    session.take_branch(0)
    assert shown(session.present) == other[-1]
    assert session.present.step == 15


@pytest.mark.parametrize("world", ["real", "dream"])
@pytest.mark.pipeline
def test_equal_seeds_and_keys_are_equal_sessions(new_session: NewSession, world: str) -> None:
    seen = []
    for seed in (1, 1, 2):
        session = new_session()
        begun = shown(session.start(Start(world=world, seed=seed)))
        session.hand_to("agent")
        agents = played(session, [[]] * 3)
        session.hand_to("you")
        seen.append([begun, *agents, *played(session, KEYS[:4])])

    assert seen[0] == seen[1] != seen[2]


def test_the_agent_takes_over_and_gives_back(new_session: NewSession) -> None:
    session = new_session()
    session.start(Start(world="dream"))
    session.advance(["ArrowUp"])

    session.hand_to("agent")
    agents = [session.advance(["ArrowUp"]) for _ in range(12)]
    session.hand_to("you")
    mine = session.advance(["ArrowUp"])

    assert {moment.who for moment in agents} == {"agent"}
    assert len({moment.action for moment in agents}) > 1  # a tiny untrained policy is nearly uniform
    assert (mine.who, session.action_meanings[mine.action]) == ("you", "RIGHT")


def test_the_real_game_and_a_dream_along_start_and_act_alike(new_session: NewSession) -> None:
    session = new_session()
    first = session.start(Start(seed=3))
    moment = session.advance(["ArrowUp"])

    assert list(first.panels) == list(moment.panels) == ["real", "reconstruction", "dream"]
    difference = first.panels["reconstruction"].picture.astype(int) - first.panels["dream"].picture
    assert np.abs(difference).max() <= 1
    assert len(moment.tokens) == 16
    assert 0 <= moment.expected.end <= 1
    assert sum(moment.look.chances) == pytest.approx(1)


@pytest.mark.pipeline
def test_a_dream_along_begins_anew_at_the_present_frame(new_session: NewSession) -> None:
    session = new_session()
    session.start(Start(seed=3))
    played(session, KEYS[:10])
    session.rewind(7)
    old = session.present

    here = session.dream_from_here()

    difference = here.panels["reconstruction"].picture.astype(int) - here.panels["dream"].picture
    assert np.abs(difference).max() <= 1
    assert here.panels["real"].picture is old.panels["real"].picture
    anew = played(session, KEYS[7:10])
    session.rewind(7)
    assert played(session, KEYS[7:10]) == anew
    session.take_branch(0)  # the line of the old dream, which goes on as it would have
    session.rewind(7)
    assert session.present is old
    session.rewind(9)
    session.advance()


def test_a_dream_of_a_stored_episode_begins_at_its_step_and_shows_it_beside(
    new_session: NewSession, stored: Path
) -> None:
    dataset, session = Dataset.open(stored), new_session()
    frames, actions = dataset.read("observations"), dataset.read("actions")

    first = session.start(Start(world="dream", episode=0, at=20))
    session.hand_to("stored")
    followed = [session.advance() for _ in range(10)]
    session.hand_to("you")
    other = next(action for action in range(6) if action != actions[30])
    left = session.act(other)

    assert np.array_equal(first.panels["stored"].picture, frames[20])
    for step, moment in enumerate(followed, start=21):
        assert np.array_equal(moment.panels["stored"].picture, frames[step])
        assert moment.action == actions[step - 1]
    assert list(left.panels) == ["dream"]  # what came of other actions, nobody knows
    session.rewind(10)
    assert "stored" in session.act(int(actions[30])).panels


@pytest.mark.pipeline
def test_a_stored_episode_that_runs_out_says_so(new_session: NewSession, stored: Path) -> None:
    session, last = new_session(), Dataset.open(stored).num_steps - 1
    session.start(Start(world="dream", episode=0, at=last))
    session.hand_to("stored")
    session.advance()

    with pytest.raises(PlayError, match="no more steps"):
        session.advance()
    session.hand_to("agent")
    assert session.advance().step == 2


@pytest.mark.parametrize(
    ("agent", "start", "said"),
    [
        ("iris", {"world": "dream", "episode": 7}, "no episode 7: 1 are stored"),
        ("iris", {"world": "dream", "episode": 0, "at": 10_000}, "no step 10000: it has 150"),
        (None, {"world": "dream"}, "no world model here"),
    ],
)
def test_a_start_that_cannot_be_leaves_all_as_it_was(
    new_session: NewSession, agent: str | None, start: dict, said: str
) -> None:
    session = new_session(agent)
    session.start(Start())
    before = session.advance(["ArrowUp"])

    with pytest.raises(PlayError, match=said):
        session.start(Start(**start))

    assert session.present is before
    assert session.advance().step == 2


@pytest.mark.parametrize(
    "start", [{"world": "moon"}, {"seed": -1}, {"at": -1}, {"world": "real", "episode": 0}, {"seed": 2**31}]
)
def test_a_start_that_means_nothing_is_refused(start: dict) -> None:
    with pytest.raises(PlayError):
        Start(**start)


def test_what_cannot_be_done_says_why_and_changes_nothing(new_session: NewSession) -> None:
    session = new_session(None)
    with pytest.raises(PlayError, match="nothing has begun"):
        session.advance()
    session.start(Start())
    for wrong, said in (
        (lambda: session.hand_to("agent"), "cannot act here"),
        (lambda: session.hand_to("stored"), "cannot act here"),
        (lambda: session.rewind(1), "not among 0 to 0"),
        (lambda: session.take_branch(0), "no branch 0"),
        (lambda: session.act(6), "no action 6"),
        (lambda: session.dream_from_here(), "no world model"),
        (lambda: session.recorded(), "nothing was recorded"),
    ):
        with pytest.raises(PlayError, match=said):
            wrong()
    assert session.advance(["ArrowUp"]).step == 1


def test_a_real_game_that_is_over_ends_and_one_can_go_back(new_session: NewSession) -> None:
    session = new_session(None)
    session.start(Start())
    session._game.step = over(session._game.step, after=5)
    for _ in range(5):
        session.advance()

    assert session.present.over
    with pytest.raises(PlayError, match="the episode is over"):
        session.advance()
    session.rewind(3)
    assert not session.advance().over


def over(step: Callable, *, after: int) -> Callable:
    """The game ends with that step."""
    calls = [0]

    def stepped(action: int) -> rules.GameStep:
        calls[0] += 1
        result = step(action)
        return rules.GameStep(result.frame, 1.0, calls[0] == after, False, ())

    return stepped


def test_an_imagined_end_is_shown_and_stops_nothing(new_session: NewSession) -> None:
    session = new_session()
    session.start(Start(world="dream"))
    step = session._dream.step
    session._dream.step = lambda action: rules.replace(step(action), end=session.present.step == 2)
    moments = [session.advance() for _ in range(5)]

    assert [moment.over for moment in moments] == [False, False, True, True, True]


@pytest.mark.pipeline
def test_the_oldest_moments_are_forgotten_and_the_rest_stays_exact(
    new_session: NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "HISTORY", 20)
    session = new_session()
    session.start(Start(world="dream"))
    first = played(session, KEYS * 3)

    oldest = session.line[0].step
    assert len(session.line) <= 20
    assert oldest > 20
    with pytest.raises(PlayError, match="can be shown"):
        session.rewind(oldest - 1)
    session.rewind(oldest + 1)
    assert played(session, (KEYS * 3)[oldest + 1 :]) == first[oldest + 1 :]


def test_few_branches_are_kept(new_session: NewSession) -> None:
    session = new_session(None)
    session.start(Start())
    for _ in range(rules.MAX_BRANCHES + 3):
        session.advance()
        session.rewind(0)

    session.advance()
    assert len(session.branches) == rules.MAX_BRANCHES


def test_branches_hold_no_more_than_can_be_gone_back(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "HISTORY", 20)
    session = new_session(None)
    session.start(Start())
    for steps in (12, 10, 10):  # a third line of ten beside the present one would be too many
        for _ in range(steps):
            session.advance()
        session.rewind(2)
    session.advance()
    assert [tip.step for tip in session.branches] == [12, 12]
    for _ in range(30):  # and what forks off a forgotten moment goes with it
        session.advance()
    assert session.branches == []


def test_a_recording_is_a_film_without_what_was_left(new_session: NewSession, tmp_path: Path) -> None:
    session = new_session()
    session.start(Start(world="dream"))
    played(session, KEYS[:4])
    session.record()
    played(session, KEYS[4:12])
    session.rewind(8)
    played(session, [[]] * 3)

    moments = session.recorded()

    assert [moment.step for moment in moments] == list(range(4, 12))
    assert moments[-1] is session.present
    assert session.recording is None
    path = write_media(film_of(moments, session.action_meanings), tmp_path / "film.mp4")
    film = imageio.imread(path, index=None)
    assert len(film) == 8
    assert film.shape[2] > 3 * film.shape[1] * 0.6  # three columns beside each other


def test_grey_stacks_are_shown_by_their_newest_frame(new_session: NewSession) -> None:
    session = new_session("twm")
    real = session.start(Start(seed=1))
    dreamt = session.start(Start(world="dream", seed=1))
    session.advance()
    stored = session.start(Start(world="dream", episode=0, at=20))

    for moment, leading in ((real, "real"), (dreamt, "dream"), (stored, "dream")):
        assert {panel.picture.shape for panel in moment.panels.values()} == {(64, 64, 3)}
        assert leading in moment.panels
        assert "reconstruction" in moment.panels
        assert len(moment.tokens) == 4  # categoricals of the tiny latents
    assert "stored" in stored.panels
    assert session.tokens_of == "latent"


def test_a_policy_that_sees_thoughts_has_those_of_the_moments_before(new_session: NewSession) -> None:
    session = new_session("twm-thinking")
    session.start(Start(seed=1))
    last = [session.advance(["ArrowUp"]) for _ in range(3)][-1]
    session.rewind(1)
    branch = [session.advance(["ArrowDown"]) for _ in range(3)][-1]

    for moment in (last, branch):
        expected = moment.look.value
        assert values_along(session, moment)[-1] == pytest.approx(expected, abs=1e-5)
        assert values_along(session, moment, told=1.0)[-1] != pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def values_along(session: Session, moment: Moment, told: float = 0.0) -> list[float]:
    """What the policy expects at each moment of a game, computed from all of it at once; `told` adds to each reward."""
    moments = [moment]
    while moments[0].before is not None:
        moments.insert(0, moments[0].before)
    stacks = torch.from_numpy(np.stack([each.observation for each in moments])).permute(0, 3, 1, 2)
    actions = torch.tensor([each.action for each in moments[1:]] + [0])
    rewards = torch.tensor([each.panels["real"].reward + told for each in moments[1:]] + [0.0])
    agent = session._agent
    return agent.actor_critic(views_along(agent.dynamics, agent.see(stacks), actions, rewards)).values.tolist()
