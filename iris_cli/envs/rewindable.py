"""One environment that can be put back to any moment that was saved: what a person plays.

The emulator gives copies of its whole state (14 KB for an Atari game), and each wrapper is copied beside it, so that a
game goes on from there exactly as it did. Other environments are built again from their seed and the actions since
the reset, as `vector.py` does; that is exact where the seed decides everything, and takes as long as playing did.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ale_py
import gymnasium

from iris_cli.envs.atari import Frame
from iris_cli.envs.make import achievement_names, action_meanings, make
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import EnvironmentError_, IrisError

T = TypeVar("T")

# Of a Gymnasium wrapper: what it wraps, and what describes it, neither of which changes while it is played.
_FIXED = (
    "env",
    "_action_space",
    "_observation_space",
    "_metadata",
    "_cached_spec",
    "observation_space",
    "action_space",
)


@dataclass(frozen=True)
class GameStep:
    """What one action gave."""

    frame: Frame  # (64, 64, 3), or 4 for grey stacks
    reward: float  # raw
    terminated: bool  # the game is over or, in training, a life was lost
    truncated: bool  # the time limit was reached
    achievements: tuple[bool, ...]  # unlocked in this episode so far; empty in most games


@dataclass(frozen=True)
class _Deed:
    """An action, or a reset, and what was done before: a game's past, whose beginnings are shared."""

    before: "_Deed | None"
    action: int | None = None  # None: a reset
    seed: int | None = None


@dataclass(frozen=True)
class SavedGame:
    """Where a game was; `Rewindable.restore` takes it back there."""

    past: _Deed | None
    emulator: Any = None  # a copy of the emulator's state, where there is one
    wrappers: tuple[dict[str, Any], ...] = ()
    draws: Any = None  # the state of the environment's generator


class Rewindable:
    """A game in this process, with one person or policy in it.

    Args:
        spec: the environment.

    Attributes:
        action_meanings: one word per action.
        achievements: what an episode may unlock; nothing in most games.

    Raises:
        EnvironmentError_: if it cannot be made, or raises later.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._env = self._attempt(make, spec)
        self._past: _Deed | None = None
        self.action_meanings = action_meanings(self._env)
        self.achievements = achievement_names(self._env)

    def reset(self, seed: int | None) -> Frame:
        """The first frame of an episode. Right after a lost life the same game goes on, and the seed is not used."""
        frame, info = self._attempt(self._env.reset, seed=seed)
        self._past = _Deed(self._past if info.get("resumed") else None, None, seed)
        return frame

    def step(self, action: int) -> GameStep:
        """Act once: 0 to A - 1."""
        frame, reward, terminated, truncated, info = self._attempt(self._env.step, action)
        self._past = _Deed(self._past, action)
        unlocked = tuple(bool(info["achievements"][name] > 0) for name in self.achievements)
        return GameStep(frame, float(reward), terminated, truncated, unlocked)

    def save(self) -> SavedGame:
        """All that `restore` needs."""
        game = self._env.unwrapped
        if not isinstance(game, ale_py.AtariEnv):
            return SavedGame(self._past)
        return SavedGame(
            self._past,
            game.clone_state(include_rng=True),
            tuple(copy.deepcopy(_changing(wrapper)) for wrapper in _wrappers(self._env)),
            copy.deepcopy(game.np_random.bit_generator.state),
        )

    def restore(self, saved: SavedGame) -> None:
        """Go back to where the game was saved; what is shown there, the caller has."""
        game = self._env.unwrapped
        if not isinstance(game, ale_py.AtariEnv):
            self._play_again(saved.past)
            return
        game.restore_state(saved.emulator)
        game.np_random.bit_generator.state = saved.draws
        for wrapper, kept in zip(_wrappers(self._env), saved.wrappers, strict=True):
            vars(wrapper).update(copy.deepcopy(kept))
        self._past = saved.past

    def close(self) -> None:
        """End the game. May be called again."""
        self._env.close()

    def _play_again(self, past: _Deed | None) -> None:
        deeds = []
        while past is not None:
            deeds.append(past)
            past = past.before
        self._env.close()
        self._env, self._past = self._attempt(make, self._spec), None
        for deed in reversed(deeds):
            if deed.action is None:
                self.reset(deed.seed)
            else:
                self.step(deed.action)

    def _attempt(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        try:
            return function(*args, **named)
        except IrisError:
            raise
        except Exception as error:  # an environment may raise anything
            raise EnvironmentError_(
                f"the environment raised {type(error).__name__}: {error}", where=self._spec.id
            ) from error


def _wrappers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Wrapper[Any, Any, Any, Any]]:
    """From the outermost in."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def _changing(wrapper: gymnasium.Wrapper[Any, Any, Any, Any]) -> dict[str, Any]:
    """What a wrapper keeps of the game."""
    return {name: value for name, value in vars(wrapper).items() if name not in _FIXED}
