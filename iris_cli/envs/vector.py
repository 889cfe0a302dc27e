"""Several environments at once, each in a process of its own; a single one in this process.

What happened to each since its last real reset is kept, which is enough to build the same environment again.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_cli.envs.atari import Frame
from iris_cli.envs.make import achievement_names, action_meanings, make, note_on_frames
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import EnvironmentError_, IrisError

ANSWER_SECONDS = float(os.environ.get("IRIS_ENV_SECONDS", "600"))  # that a worker may take; a restored game is replayed
RESET = -1  # in a state's list of actions: a reset that went on with the same game


@dataclass(frozen=True)
class Steps:
    """What E environments gave for one action each."""

    frames: NDArray[np.uint8]  # (E, 64, 64, 3), or 4 for grey stacks, after the action
    rewards: NDArray[np.float32]  # (E,) raw
    terminations: NDArray[np.bool_]  # (E,) the game is over or, in training, a life was lost
    truncations: NDArray[np.bool_]  # (E,) the time limit was reached
    achievements: NDArray[np.bool_]  # (E, achievements) unlocked in this episode so far; no columns in most games


class VectorEnv:
    """E environments that are stepped together. Nothing is reset by itself.

    After an error, Ctrl-C inside a call included, it is closed, and only `close` may still be called.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        """Start the processes.

        Raises:
            EnvironmentError_: if the environment cannot be made.
        """
        self.num_envs = num_envs
        self._seats: list[_Here | _Worker] = []
        try:
            for _ in range(num_envs):
                self._seats.append(_Here(spec) if num_envs == 1 else _Worker(spec))
            self.action_meanings: list[str] = self._ask("meanings", dict.fromkeys(range(num_envs), ()))[0]
            self.achievements: list[str] = self._ask("achievements", {0: ()})[0]
            self.note: str | None = self._ask("note", {0: ()})[0]  # on what its frames are, where that is a surprise
        except BaseException:
            self.close()
            raise
        self.num_actions = len(self.action_meanings)
        self._frames = np.zeros((num_envs, *spec.frame_shape), np.uint8)

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, seeds: Sequence[int | None]) -> NDArray[np.uint8]:
        """Reset the environments that have a seed; (E, 64, 64, 3) current frames of all.

        A real reset depends on its seed alone. Right after a lost life the seed is not used, and one step of no-ops
        goes on with the same game.
        """
        for e, frame in self._ask("reset", {e: (seed,) for e, seed in enumerate(seeds) if seed is not None}).items():
            self._frames[e] = frame
        return self._frames.copy()

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_] | None = None) -> Steps:
        """Act in all environments, or in the active ones.

        Args:
            actions: (E,) in 0 to A - 1.
            active: (E,); the others keep their frame, with no reward, end or achievement. None: all.
        """
        rewards = np.zeros(self.num_envs, np.float32)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        achievements = np.zeros((self.num_envs, len(self.achievements)), bool)
        stepped = range(self.num_envs) if active is None else np.flatnonzero(active).tolist()
        for e, answer in self._ask("step", {e: (int(actions[e]),) for e in stepped}).items():
            self._frames[e], rewards[e], terminations[e], truncations[e], achievements[e] = answer
        return Steps(self._frames.copy(), rewards, terminations, truncations, achievements)

    def state(self) -> list[dict[str, Any]]:
        """{"seed": int, "actions": [int]} for each environment, plain values for JSON; see `restore`."""
        return list(self._ask("state", dict.fromkeys(range(self.num_envs), ())).values())

    def restore(self, states: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
        """Build the environments again by playing their states; (E, 64, 64, 3) current frames."""
        for e, frame in self._ask("restore", {e: (dict(state),) for e, state in enumerate(states)}).items():
            self._frames[e] = frame
        return self._frames.copy()

    def close(self) -> None:
        """End the processes. May be called again."""
        seats, self._seats = self._seats, []
        for seat in seats:
            seat.close()

    def _ask(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some environments, all at the same time."""
        if not self._seats:
            raise EnvironmentError_("the environments are closed")
        try:
            for e, args in arguments.items():
                self._seats[e].ask(method, args)
            return {e: self._seats[e].answer() for e in arguments}
        except BaseException:  # some answers may be under way: what follows would read the wrong ones
            self.close()
            raise


class _Game:
    """An environment, and what was done to it since its last real reset."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._env = make(spec)
        self._achievements = achievement_names(self._env)
        self._seed: int | None = None
        self._actions: list[int] = []

    def meanings(self) -> list[str]:
        return action_meanings(self._env)

    def achievements(self) -> list[str]:
        return self._achievements

    def note(self) -> str | None:
        return note_on_frames(self._env)

    def reset(self, seed: int | None) -> Frame:
        frame, info = self._env.reset(seed=seed)
        if info.get("resumed"):
            self._actions.append(RESET)
        else:
            self._seed, self._actions = seed, []
        return frame

    def step(self, action: int) -> tuple[Frame, float, bool, bool, list[bool]]:
        self._actions.append(action)
        frame, reward, terminated, truncated, info = self._env.step(action)
        unlocked = [info["achievements"][name] > 0 for name in self._achievements]
        return frame, float(reward), terminated, truncated, unlocked

    def state(self) -> dict[str, Any]:
        return {"seed": self._seed, "actions": list(self._actions)}

    def restore(self, state: dict[str, Any]) -> Frame:
        self._env.close()
        self._env, self._seed, self._actions = make(self._spec), None, []  # a new one: a reset would be a resumption
        frame: Frame = np.zeros(self._spec.frame_shape, np.uint8)
        if state["seed"] is not None:
            frame = self.reset(state["seed"])
        for action in state["actions"]:
            frame = self.reset(None) if action == RESET else self.step(action)[0]
        return frame

    def close(self) -> None:
        self._env.close()


class _Here:
    """A game in this process, which hangs where the game hangs: Ctrl-C twice stops both."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._game: _Game = _attempt(spec, _Game, spec)

    def ask(self, method: str, args: tuple[Any, ...]) -> None:
        self._answer = _attempt(self._spec, getattr(self._game, method), *args)

    def answer(self) -> Any:
        return self._answer

    def close(self) -> None:
        self._game.close()


class _Worker:
    """A game in a process of its own, which ends when its pipe closes."""

    def __init__(self, spec: EnvSpec) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, not by each worker
        self._spec = spec
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, args: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # a worker that has ended left its reason in the pipe, or an end of file
            self._pipe.send((method, args))

    def answer(self) -> Any:
        try:
            if not self._pipe.poll(ANSWER_SECONDS):
                raise EnvironmentError_(
                    f"an environment gave no answer for {ANSWER_SECONDS:g} s, so it was stopped", where=self._spec.id,
                    fix="If it is only slow: IRIS_ENV_SECONDS=N waits N seconds.",
                )  # fmt: skip
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(timeout=1)
            raise EnvironmentError_(
                f"the process of an environment ended (exit code {self._process.exitcode})",
                where=self._spec.id,
                fix="If memory was short, use fewer environments.",
            ) from None
        if isinstance(answer, IrisError):
            raise type(answer)(answer.what, where=answer.where, fix=answer.fix)
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(pipe: Connection, spec: EnvSpec) -> None:
    """Answer until the pipe closes or the game raises."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the parent, which closes the pipe when it is ready
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        try:
            game: _Game = _attempt(spec, _Game, spec)
            while True:
                method, args = pipe.recv()
                pipe.send(_attempt(spec, getattr(game, method), *args))
        except IrisError as error:
            pipe.send(error)


def _attempt(spec: EnvSpec, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), with whatever an environment raises as our error."""
    try:
        return function(*args)
    except IrisError:
        raise
    except Exception as error:
        raise EnvironmentError_(f"the environment raised {type(error).__name__}: {error}", where=spec.id) from error
