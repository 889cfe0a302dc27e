"""One person in one world: a session. It knows no web, no thread and no clock; every call does its work and returns.

A session is a line of moments. Its world is the real game, with a dream along that sees the same actions; or the dream
leads, with the real game along where the dream began in it, or the stored episode where it began in that one, for as
long as that one's own actions are taken. Whoever acts, the policy looks at every moment of the leading world, so that
the agent can take over at any of them.

Going back (`rewind`) moves the present along the line and costs nothing. The next step from there is a branch: the
rest of the line is kept under its last moment (`branches`), and the worlds are restored from the last save before the
present by taking the same actions again, draws included. So the same actions lead to the same moments, and others to
others.

Equal seeds and equal calls give equal sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_cli.envs.rewindable import GameStep, Rewindable, SavedGame
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import PlayError
from iris_cli.play.keys import AGENT, CONTROLS, STORED, YOU, Keyboard
from iris_cli.play.moment import MAX_FILM_FRAMES, Look, Moment, Panel
from iris_cli.play.worlds import DreamWorld, SavedDream, picture_of, pixels
from iris_cli.replay.dataset import Dataset

REAL, DREAM = "real", "dream"
WORLDS = (REAL, DREAM)
SAVE_EVERY = 8  # steps between two saves of the worlds
HISTORY = 1800  # moments one can go back: two minutes at 15 a second
MAX_BRANCHES = 8  # the oldest is forgotten
CONTEXT = 4  # real frames that the world model reads before a dream, where there are as many
WARM_UP = 80  # steps of the real game before a dream that begins in it: MsPacman stands still for 65
STORED_STEPS = 1000  # of a stored episode that are shown beside a dream
MAX_SEED = 2**31 - 1
_ONLY = np.zeros(1, np.int64)  # the one environment that is played, among one


class Notebook(Protocol):
    """What hears of every real step, so that it becomes data."""

    def check(self, step: int) -> None:
        """Raise PlayError if the step before `step` can no more be followed by another."""

    def note(self, step: int, observation: NDArray[np.uint8], action: int, who: str, result: GameStep) -> None:
        """The step that led to moment `step`; what was noted of that and later ones is dropped."""

    def close_episode(self) -> None:
        """What comes next does not follow what was noted."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a session begins."""

    world: str = REAL
    episode: int | None = None  # stored, to dream from; None: the game itself
    at: int = 0  # step of that episode
    seed: int = 0

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise PlayError(f"'{self.world}' is not one of {', '.join(WORLDS)}", where="world")
        if not 0 <= self.seed <= MAX_SEED or self.at < 0 or (self.episode is not None and self.episode < 0):
            raise PlayError("seed, episode and step must be whole numbers from 0 on", where="start")
        if self.episode is not None and self.world != DREAM:
            raise PlayError("a stored episode can be dreamt from, not played on", where="start")


@dataclass(frozen=True)
class _Saved:
    game: SavedGame | None
    world: DreamWorld | None  # the dream that was on, and where it was
    dream: SavedDream | None


@dataclass(frozen=True)
class _Episode:
    """What was stored after the step a dream began at."""

    frames: NDArray[np.uint8]  # (n, 64, 64, 3), the dream's first frame at 0
    actions: NDArray[np.int64]  # (n,)
    rewards: NDArray[np.float32]  # (n,) after each
    over: bool  # whether the episode ended with the last step


class Session:
    """A person in a world. Call `start` first.

    Args:
        environment: what is played.
        agent: in eval mode, or None; then there is the real game alone.
        dataset: to begin dreams from, or None.
        trained: names of the agent's components that were trained.
        temperature: of the agent's actions.
        notebook: hears of every real step.

    Attributes:
        keyboard: the game's keys.
        world: which leads, real or dream.
        control: who acts: you, agent or stored.
        line: the moments from the oldest that is known to the newest, and `present` the one that is shown.
        branches: the last moments of lines that were left.
        dreams_along: whether the next start of the real game has a dream along.
    """

    def __init__(
        self,
        environment: EnvSpec,
        *,
        agent: Any = None,
        dataset: Dataset | None = None,
        trained: Sequence[str] = (),
        temperature: float = 1.0,
        notebook: Notebook | None = None,
    ) -> None:
        self._environment, self._agent, self._dataset = environment, agent, dataset
        self._temperature, self._notebook = temperature, notebook
        self._game = Rewindable(environment)
        self._dream: DreamWorld | None = None
        self._episode: _Episode | None = None
        self._stands: Moment | None = None  # where game and dream are
        # What tells the policy what the dynamics thinks of the real game, of agents whose policy may see that.
        self._thoughts: Any = agent.thoughts(1) if hasattr(agent, "thoughts") else None
        self._seed = 0
        self._recording: list[Moment] | None = None
        self.keyboard = Keyboard(self._game.action_meanings)
        self.can_dream = agent is not None and "tokenizer" in trained
        self.dreams_along = self.can_dream and "dynamics" in trained and notebook is None
        self.world, self.control = REAL, YOU
        self.line: list[Moment] = []
        self.branches: list[Moment] = []
        self._place = 0

    @property
    def present(self) -> Moment:
        """What is shown."""
        if not self.line:
            raise PlayError("nothing has begun yet", fix="Start the game or a dream first.")
        return self.line[self._place]

    @property
    def recording(self) -> int | None:
        """Frames recorded so far, or None."""
        return None if self._recording is None else len(self._recording)

    @property
    def action_meanings(self) -> list[str]:
        """One word per action."""
        return self._game.action_meanings

    @property
    def tokens_of(self) -> str | None:
        """What the leading picture's tokens stand for, where there is an agent."""
        return None if self._agent is None else self._agent.tokens_of

    def controls(self) -> list[str]:
        """Who may act here: you, and the agent or the stored episode where there is one."""
        possible = {YOU: True, AGENT: self._agent is not None, STORED: self._episode is not None}
        return [who for who in CONTROLS if possible[who]]

    # -- beginning ---------------------------------------------------------------------------------------------------

    def start(self, start: Start) -> Moment:
        """Begin anew; what was recorded and not taken is dropped.

        Raises:
            PlayError: if there is nothing to dream with, or no such stored step.
        """
        if start.world == DREAM:
            self._check_dreams()
        episode = None if start.episode is None else self._stored(start.episode, start.at)
        if self._notebook is not None:
            self._notebook.close_episode()
        self._seed, self.world = start.seed, start.world
        self._dream = self._episode = None
        self.branches, self._recording = [], None
        self._forget_thoughts()
        if episode is not None:
            first = self._dream_of_stored(*episode)
        elif start.world == DREAM:
            first = self._dream_of_game()
        else:
            first = self._real_game()
        first.saved = self._save()
        self.line, self._place, self._stands = [first], 0, first
        if self.control not in self.controls():
            self.control = YOU
        return first

    def _real_game(self) -> Moment:
        frame = self._game.reset(self._seed)
        look = self._look(self._seen(frame), None)
        if self.dreams_along:
            self._dream = DreamWorld(self._agent, frame[None], [], [], seed=self._seed)
        return self._moment(None, None, None, frame=frame, look=look)

    def _dream_of_game(self) -> Moment:
        """The agent plays the real game for a moment, and the dream begins there; both then follow the same actions."""
        draws = np.random.default_rng([self._seed, WARM_UP])
        frames, actions, rewards, look = [self._game.reset(self._seed)], [], [], None
        for _ in range(WARM_UP):
            look = self._look(self._seen(frames[-1]), None if look is None else look.memory)
            assert look is not None
            actions.append(int(draws.choice(len(look.chances), p=look.chances)))
            step = self._game.step(actions[-1])
            frames.append(step.frame)
            rewards.append(step.reward)
            self._took(actions[-1], step.reward)
            if step.terminated or step.truncated:  # right at the beginning: the dream begins in the next game
                frames, actions, rewards, look = [self._game.reset(self._seed)], [], [], None
                self._forget_thoughts()
        before = min(CONTEXT, len(frames)) - 1  # steps that lead to the last frame
        frames, actions, rewards = frames[-CONTEXT:], actions[len(actions) - before :], rewards[len(rewards) - before :]
        self._dream = DreamWorld(self._agent, np.stack(frames), actions, rewards, seed=self._seed)
        look = self._look(self._dream.view, None if look is None else look.memory)
        return self._moment(None, None, None, frame=frames[-1], look=look)

    def _dream_of_stored(
        self, frames: NDArray[np.uint8], actions: list[int], rewards: list[float], episode: _Episode
    ) -> Moment:
        look = None
        for frame, action, reward in zip(frames[:-1], actions, rewards, strict=True):
            look = self._look(self._seen(frame), None if look is None else look.memory)
            self._took(action, reward)
        self._dream, self._episode = DreamWorld(self._agent, frames, actions, rewards, seed=self._seed), episode
        look = self._look(self._dream.view, None if look is None else look.memory)
        return self._moment(None, None, None, look=look)

    def _stored(self, number: int, at: int) -> tuple[NDArray[np.uint8], list[int], list[float], _Episode]:
        """Frames, actions and rewards that lead to a stored step, and what came after it.

        Raises:
            PlayError: if there is no dataset, episode or step of that number.
        """
        if self._dataset is None or not self._dataset.num_episodes:
            raise PlayError("there is no stored episode", fix="Collect some: iris collect --run RUN")
        if number >= self._dataset.num_episodes:
            raise PlayError(f"there is no episode {number}: {self._dataset.num_episodes} are stored, from 0 on")
        steps = np.concatenate([np.arange(*piece) for piece in self._dataset.pieces(number)])
        if at >= len(steps):
            raise PlayError(f"episode {number} has no step {at}: it has {len(steps)}, from 0 on")
        begun = max(0, at - CONTEXT + 1)
        chosen = steps[begun : at + STORED_STEPS]
        pieces = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)
        frames, actions, rewards, terminated, truncated = (
            np.concatenate([self._dataset.read(field, int(p[0]), int(p[-1]) + 1) for p in pieces])
            for field in ("observations", "actions", "rewards", "terminations", "truncations")
        )
        now = at - begun
        over = bool(terminated[-1] or truncated[-1])
        rest = _Episode(frames[now:], actions[now:], rewards[now:], over)
        return frames[: now + 1], actions[:now].tolist(), rewards[:now].tolist(), rest

    def _check_dreams(self) -> None:
        if self._agent is None:
            raise PlayError("there is no world model here, only the real game", fix="Name a run: iris play runs/NAME")
        if not self.can_dream:
            raise PlayError("the tokenizer has not been trained yet, so there is nothing to dream with")

    # -- going on ----------------------------------------------------------------------------------------------------

    def hand_to(self, who: str) -> None:
        """Let someone else act from the present on: you, agent or stored.

        Raises:
            PlayError: if there is none here.
        """
        if who not in self.controls():
            raise PlayError(f"'{who}' cannot act here", fix=f"There is {', '.join(self.controls())}.")
        self.control = who

    def advance(self, held: Sequence[str] = ()) -> Moment:
        """Go on by one step, as whoever has the control chooses; `held` are the keys that a person holds.

        Raises:
            PlayError: if the real episode is over, or the stored one has no more steps.
        """
        return self.act(self._choice(held), self.control)

    def act(self, action: int, who: str = YOU) -> Moment:
        """Take an action at the present; a branch, if that is not the newest moment.

        Raises:
            PlayError: if the real episode is over, or the action is none.
        """
        now = self.present
        if now.over and self.world == REAL:  # an imagined end stops nothing
            raise PlayError("the episode is over", fix="Start again, or go back to an earlier moment.")
        if not 0 <= action < len(self.action_meanings):
            raise PlayError(f"there is no action {action}: there are {len(self.action_meanings)}, from 0 on")
        if self._notebook is not None:
            self._notebook.check(now.step + 1)
        self._stand_at(now)
        self._branch()
        moment = self._step(now, action, who)
        if moment.step % SAVE_EVERY == 0:
            moment.saved = self._save()
        self.line.append(moment)
        self._place, self._stands = len(self.line) - 1, moment
        self._record(moment)
        self._forget_the_oldest()
        return moment

    def rewind(self, step: int) -> Moment:
        """Show an earlier or later moment of the line; nothing is lost until the next step.

        Raises:
            PlayError: if the line has no such step any more, or not yet.
        """
        first, last = (self.line[0].step, self.line[-1].step) if self.line else (0, -1)
        if not first <= step <= last:
            raise PlayError(f"step {step} is not among {first} to {last}, which can be shown")
        self._place = step - first
        return self.present

    def dream_from_here(self) -> Moment:
        """Let the dream along begin anew at the present real frame, or begin at all; what lay behind it is a branch.

        Raises:
            PlayError: if the dream leads, or there is nothing to dream with.
        """
        self._check_dreams()
        now = self.present
        if self.world != REAL or now.observation is None:
            raise PlayError("only beside the real game a dream can begin anew", fix="Start the real game.")
        self._stand_at(now)
        self._branch()
        past = [now]
        while len(past) < CONTEXT and past[0].before is not None:
            past.insert(0, past[0].before)
        frames = np.stack([moment.observation for moment in past if moment.observation is not None])
        actions = [moment.action for moment in past[1:] if moment.action is not None]
        rewards = [moment.panels[REAL].reward for moment in past[1:]]
        self._dream = DreamWorld(self._agent, frames, actions, rewards, seed=self._seed + now.step)
        again = replace(now, panels={**now.panels, DREAM: Panel(self._dream.picture)}, saved=self._save())
        self.line[self._place] = self._stands = again
        return again

    def take_branch(self, number: int) -> Moment:
        """Go to the last moment of a line that was left; the present one is kept in its place.

        Raises:
            PlayError: if there is none of that number.
        """
        if not 0 <= number < len(self.branches):
            raise PlayError(f"there is no branch {number}: there are {len(self.branches)}")
        moment: Moment | None = self.branches[number]
        kept = [*self.branches[:number], self.line[-1], *self.branches[number + 1 :]]
        self.line = []
        while moment is not None:
            self.line.append(moment)
            moment = moment.before
        self.line.reverse()
        self.branches = self._that_fit(kept)
        self._place = len(self.line) - 1
        return self.present

    def _choice(self, held: Sequence[str]) -> int:
        now = self.present
        if self.control == YOU:
            return self.keyboard.action(held)
        if self.control == STORED:
            assert self._episode is not None
            if now.step >= len(self._episode.actions):
                raise PlayError("the stored episode has no more steps", fix="Take over, or let the agent.")
            return int(self._episode.actions[now.step])
        assert now.look is not None
        draws = np.random.default_rng([self._seed, now.step])  # of the step alone: going back changes nothing
        return int(draws.choice(len(now.look.chances), p=now.look.chances))

    def _step(self, now: Moment, action: int, who: str) -> Moment:
        """Take an action in all worlds, which stand at `now`."""
        game = None
        if now.observation is not None and not (REAL in now.panels and now.panels[REAL].end):
            game = self._game.step(action)
            if self._notebook is not None:
                self._notebook.note(now.step + 1, now.observation, action, who, game)
        dreamt = None
        if self._dream is not None:
            dreamt = self._dream.step(action)
        view = None
        if self.world == DREAM:
            assert self._dream is not None
            view = self._dream.view
        elif game is not None:
            self._took(action, game.reward)
            view = self._seen(game.frame)
        look = None if now.look is None else self._look(view, now.look.memory)
        frame = now.observation if game is None else game.frame
        seen = view if self.world == REAL else None
        moment = self._moment(now, action, who, frame=frame, look=look, seen=seen)
        if dreamt is not None:
            moment.expected = dreamt.expected
            moment.panels[DREAM] = Panel(dreamt.picture, dreamt.reward, dreamt.end or now.panels[DREAM].end)
        if game is not None:
            moment.panels[REAL] = Panel(picture_of(game.frame), game.reward, game.terminated or game.truncated)
        lead = moment.panels[self.world]
        moment.reward, moment.over, moment.score = lead.reward, lead.end, now.score + lead.reward
        return moment

    def _moment(
        self,
        before: Moment | None,
        action: int | None,
        who: str | None,
        *,
        look: Look | None,
        frame: NDArray[np.uint8] | None = None,
        seen: Tensor | None = None,
    ) -> Moment:
        """What is there to be seen now; a step fills in what it paid."""
        step = 0 if before is None else before.step + 1
        panels: dict[str, Panel] = {}
        if frame is not None:
            ended = before is not None and before.panels[REAL].end
            panels[REAL] = Panel(picture_of(frame), 0.0, ended)
        elif (stored := self._stored_panel(before, step, action)) is not None:
            panels[STORED], frame = stored
        if self.can_dream and frame is not None:
            panels["reconstruction"] = Panel(self._reconstruction(before, frame, action, seen))
        if self._dream is not None:
            panels[DREAM] = Panel(self._dream.picture)
        tokens = self._tokens(frame)
        observation = None if STORED in panels or REAL not in panels else frame
        return Moment(step, before, action, who, panels, 0.0, False, 0.0, observation, tokens, None, look)

    def _stored_panel(
        self, before: Moment | None, step: int, action: int | None
    ) -> tuple[Panel, NDArray[np.uint8]] | None:
        """The stored frame, for as long as the episode's own actions were taken."""
        stored = self._episode
        if stored is None or step >= len(stored.frames) or (before is not None and STORED not in before.panels):
            return None
        if before is not None and action != stored.actions[before.step]:
            return None
        reward = 0.0 if before is None else float(stored.rewards[before.step])
        over = stored.over and step == len(stored.frames) - 1
        return Panel(picture_of(stored.frames[step]), reward, over), stored.frames[step]

    # -- what the agent makes of it ----------------------------------------------------------------------------------

    @torch.no_grad()
    def _seen(self, frame: NDArray[np.uint8]) -> Tensor | None:
        """What the policy looks at of a frame: (1, ...)."""
        if self._agent is None:
            return None
        view = self._agent.see(self._image(frame))
        return view if self._thoughts is None else self._thoughts.view(view, _ONLY)

    def _took(self, action: int, reward: float) -> None:
        """Tell the thoughts, if there are any, what was done on the frame that was seen last."""
        if self._thoughts is not None:
            self._thoughts.took(np.array([action]), np.array([reward]), _ONLY)

    def _forget_thoughts(self) -> None:
        if self._thoughts is not None:
            self._thoughts.forget(np.ones(1, bool))

    def _think_again(self, moment: Moment) -> None:
        """Have the thoughts that led to a moment of the real game, as far back as they reach."""
        if self._thoughts is None or self.world != REAL:
            return
        self._forget_thoughts()
        past = [moment]
        while len(past) <= self._thoughts.steps and past[0].before is not None:
            past.insert(0, past[0].before)
        for now, then in pairwise([*past, None]):
            assert now is not None
            assert now.observation is not None
            self._seen(now.observation)
            if then is not None:
                assert then.action is not None
                self._took(then.action, then.panels[REAL].reward)

    @torch.no_grad()
    def _look(self, view: Tensor | None, memory: Any) -> Look | None:
        if view is None:
            return None
        output = self._agent.actor_critic(view, memory)
        logits = output.logits_actions[0].double() / self._temperature
        return Look(float(output.values[0]), tuple(logits.softmax(-1).tolist()), output.memory)

    @torch.no_grad()
    def _reconstruction(
        self, before: Moment | None, frame: NDArray[np.uint8], action: int | None, seen: Tensor | None
    ) -> NDArray[np.uint8]:
        """What the tokenizer makes of a frame, or of a transition if tokens are of those; a policy saw it as `seen`."""
        if self._agent.frames_have_tokens:  # the policy sees reconstructions
            view = self._seen(frame) if seen is None else seen
            assert view is not None
            return pixels(view)[0]
        past = None if before is None else before.panels.get(REAL, before.panels.get(STORED))
        if past is None or action is None or past.picture.shape != frame.shape:
            images, between = self._image(frame), self._actions([])
        else:
            images = torch.cat([self._image(past.picture), self._image(frame)])
            between = self._actions([action])
        return pixels(self._agent.reconstruct(images, between)[-1:])[0]

    @torch.no_grad()
    def _tokens(self, frame: NDArray[np.uint8] | None) -> tuple[int, ...] | None:
        """Of the leading picture: the dream's, or those of a real frame where frames have such."""
        if self.world == DREAM and self._dream is not None:
            return self._dream.tokens
        tokens = self._agent.tokens_shown(self._image(frame)) if frame is not None and self.can_dream else None
        return None if tokens is None else tuple(tokens[0].tolist())

    def _image(self, frame: NDArray[np.uint8]) -> Tensor:
        """(1, channels, 64, 64) uint8 on the agent's device."""
        device = next(self._agent.parameters()).device
        return torch.from_numpy(frame.copy()).to(device).permute(2, 0, 1)[None]

    def _actions(self, actions: list[int]) -> Tensor:
        return torch.tensor(actions, dtype=torch.int64, device=next(self._agent.parameters()).device)

    # -- going back --------------------------------------------------------------------------------------------------

    def _save(self) -> _Saved:
        game = None if self._episode is not None else self._game.save()
        return _Saved(game, self._dream, None if self._dream is None else self._dream.save())

    def _stand_at(self, moment: Moment) -> None:
        """Bring game and dream to a moment of the line: from the save before it, by the actions that led here."""
        if self._stands is moment:
            return
        self._think_again(moment)
        actions, known = [], moment
        while known.saved is None:
            assert known.action is not None
            assert known.before is not None
            actions.append((known.before, known.action))
            known = known.before
        self._stands = None
        if known.saved.game is not None:
            self._game.restore(known.saved.game)
        self._dream = known.saved.world
        if self._dream is not None:
            self._dream.restore(known.saved.dream)
        for before, action in reversed(actions):
            if before.observation is not None and not before.panels[REAL].end:
                self._game.step(action)
            if self._dream is not None:
                self._dream.step(action)
        self._stands = moment

    def _branch(self) -> None:
        """Keep what lies behind the present as a branch, if anything does."""
        left = self.line[self._place + 1 :]
        if left:
            del self.line[self._place + 1 :]
            self.branches = self._that_fit([*self.branches, left[-1]])

    def _that_fit(self, branches: list[Moment]) -> list[Moment]:
        """The newest of the branches that fork off the line, and hold no more than `HISTORY` moments beside it."""
        known, left = set(map(id, self.line)), HISTORY
        kept: list[Moment] = []
        for tip in reversed(branches):
            own, moment = [], tip
            while moment.before is not None and id(moment) not in known:
                own.append(id(moment))
                moment = moment.before
            if id(moment) in known and len(own) <= left and len(kept) < MAX_BRANCHES:
                kept.append(tip)
                known.update(own)
                left -= len(own)
        return kept[::-1]

    def _forget_the_oldest(self) -> None:
        if len(self.line) <= HISTORY:
            return
        first = next(index for index, moment in enumerate(self.line) if index and moment.saved is not None)
        self.line[first].before = None
        del self.line[:first]
        self._place -= first
        self.branches = self._that_fit(self.branches)

    # -- recording ---------------------------------------------------------------------------------------------------

    def record(self) -> None:
        """Record from the present on."""
        self._recording = [self.present]

    def recorded(self) -> list[Moment]:
        """End the recording: its moments, without those of lines that were left.

        Raises:
            PlayError: if nothing was recorded.
        """
        moments, self._recording = self._recording, None
        if not moments or len(moments) < 2:
            raise PlayError("nothing was recorded", fix="Start recording, play, and stop.")
        return moments

    def _record(self, moment: Moment) -> None:
        """Go on with the recording; a branch takes the place of what it left. A full one stays as it is."""
        if self._recording is None or len(self._recording) >= MAX_FILM_FRAMES:
            return
        self._recording = [known for known in self._recording if known.step < moment.step] + [moment]

    def close(self) -> None:
        """End the game. May be called again."""
        if self._notebook is not None:
            self._notebook.close_episode()
        self._game.close()
