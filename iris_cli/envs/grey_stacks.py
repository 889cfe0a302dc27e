"""Stacks of four grey frames: Atari games through the wrappers that TWM was published with, and any other environment.

From inside to outside, for Atari: the emulator (no sticky actions, minimal action set), frame skip with the maximum of
the last two grey screens, area averaging to 64x64, FIRE where action 1 is FIRE, no-ops, lost lives, the stack, the time
limit in steps. The stack lies outside the lost lives, so that it is filled anew with each life, and so the time limit
counts from there too.

Source: fact sheet of TWM, section 7; gymnasium's AtariPreprocessing. The traces in tests/golden/twm_env_trace.json were
made by the published classes.
"""

import math
from functools import cache

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from iris_cli.envs.atari import Frame, Info, Step, bare_game
from iris_cli.envs.spec import STACK, EnvSpec

SIZE = 64  # pixels, height and width of a frame
_NOOP, _FIRE = 0, 1
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue


def make_grey_atari(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """The game behind TWM's wrappers: observations (64, 64, 4) uint8, the newest frame last, Discrete(A) actions."""
    env = bare_game(spec)
    fires = env.unwrapped.get_action_meanings()[1:2] == ["FIRE"]  # type: ignore[attr-defined]
    env = GreyFrameSkip(env, spec.frame_skip, noop_max=0 if fires else spec.noop_max)
    if fires:
        env = FireAfterLosses(env)
        env = NoOpSteps(env, spec.noop_max) if spec.noop_max else env
    if spec.life_loss_ends:
        env = EpisodicLives(env)
    env = GreyStack(env)
    return env if spec.max_frames is None else StepLimit(env, spec.max_frames // spec.frame_skip)


def area_averages(image: NDArray[np.uint8], size: int = SIZE) -> NDArray[np.uint8]:
    """(H, W) grey -> (size, size): each pixel the average of the rectangle it covers.

    Equals OpenCV's INTER_AREA for shrinking, bit for bit: the same weights, in the same order, in float32.
    """
    return _averaged(image, size).round().astype(np.uint8)


def _averaged(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    rows, row_weights = _shares(image.shape[0], size)
    columns, column_weights = _shares(image.shape[1], size)
    narrow = np.zeros((image.shape[0], size), np.float32)
    for index, weight in zip(columns, column_weights, strict=True):
        narrow += image[:, index] * weight
    small = np.zeros((size, size), np.float32)
    for index, weight in zip(rows, row_weights, strict=True):
        small += narrow[index] * weight[:, None]
    return small


@cache
def _shares(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of `length` pixels each of `size` averages consists of, and their weights, both (most, size).

    Where one consists of fewer than others, the rest has weight 0.
    """
    scale, taps = length / size, []
    for i in range(size):
        low, high = i * scale, (i + 1) * scale
        width = min(scale, length - low)
        first, last = math.ceil(low), min(math.floor(high), length - 1)
        first = min(first, last)
        parts = [(first - 1, (first - low) / width)] if first - low > 1e-3 else []
        parts += [(j, 1 / width) for j in range(first, last)]
        parts += [(last, min(high - last, 1.0, width) / width)] if high - last > 1e-3 else []
        taps.append(parts)
    most = max(map(len, taps))
    padded = [parts + [(0, 0.0)] * (most - len(parts)) for parts in taps]
    indices = np.array([[index for index, _ in parts] for parts in padded], np.int64)
    weights = np.array([[weight for _, weight in parts] for parts in padded], np.float32)
    return indices.T.copy(), weights.T.copy()


class GreyFrameSkip(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Repeat an action, sum the rewards, give the maximum of the last two grey screens as a frame (64, 64).

    A step that the end of the game cuts short gives what is left of the step before, as published. A reset gives a
    single screen, after 1 to `noop_max` game frames without acting.
    """

    def __init__(self, env: gymnasium.Env[Frame, int], frame_skip: int, *, noop_max: int) -> None:
        super().__init__(env)
        self._frame_skip, self._noop_max = frame_skip, noop_max
        height, width = env.observation_space.shape[:2]  # type: ignore[index]
        self._newest, self._before = np.zeros((2, height, width), np.uint8)
        self.observation_space = Box(0, 255, (SIZE, SIZE), np.uint8)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        _, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(1, self._noop_max + 1) if self._noop_max else 0):
            _, _, terminated, truncated, info = self.env.step(_NOOP)
            if terminated or truncated:
                _, info = self.env.reset(seed=seed, options=options)
        self._look(self._newest)
        self._before[:] = 0
        return self._frame(), info

    def step(self, action: int) -> Step:
        total = 0.0
        for i in range(self._frame_skip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
            if i == self._frame_skip - 2:
                self._look(self._before)
            elif i == self._frame_skip - 1:
                self._look(self._newest)
        return self._frame(), total, terminated, truncated, info

    def _look(self, screen: NDArray[np.uint8]) -> None:
        self.unwrapped.ale.getScreenGrayscale(screen)  # type: ignore[attr-defined]

    def _frame(self) -> Frame:
        if self._frame_skip > 1:
            np.maximum(self._newest, self._before, out=self._newest)
        return area_averages(self._newest)


class FireAfterLosses(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Press FIRE after a reset and after each lost life, for games that wait for it.

    After a reset action 2 follows. The step of a lost life includes FIRE's, which adds its reward and gives the frame.
    """

    def __init__(self, env: gymnasium.Env[Frame, int]) -> None:
        super().__init__(env)
        self._lives = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        frame, info = self.env.reset(seed=seed, options=options)
        for action in (_FIRE, 2):
            frame, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                frame, info = self.env.reset(seed=seed, options=options)
        self._lives = info["lives"]
        return frame, info

    def step(self, action: int) -> Step:
        frame, reward, terminated, truncated, info = self.env.step(action)
        if info["lives"] < self._lives and not (terminated or truncated):
            frame, more, terminated, truncated, info = self.env.step(_FIRE)
            reward = float(reward) + float(more)
        self._lives = info["lives"]
        return frame, float(reward), terminated, truncated, info


class NoOpSteps(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Play 1 to `noop_max` steps, not game frames, without acting after a reset. A life may be lost in them."""

    def __init__(self, env: gymnasium.Env[Frame, int], noop_max: int) -> None:
        super().__init__(env)
        self._noop_max = noop_max

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(1, self._noop_max + 1)):
            frame, _, terminated, truncated, info = self.env.step(_NOOP)
            if terminated or truncated:
                frame, info = self.env.reset(seed=seed, options=options)
        return frame, info


class EpisodicLives(gymnasium.Wrapper[Frame, int, Frame, int]):
    """End the episode with each lost life but the last; only a game that is over is really reset.

    Any other reset plays one step without acting, whose reward is dropped, ignores the seed, and says so by
    info["resumed"]: after a lost life, but also where a time limit outside of here cut the game.
    """

    def __init__(self, env: gymnasium.Env[Frame, int]) -> None:
        super().__init__(env)
        self._lives = 0
        self._over = True

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        resumed = not self._over
        if resumed:
            frame, _, self._over, truncated, info = self.env.step(_NOOP)
            assert not truncated, "the time limit lies outside"
        if self._over:
            frame, info = self.env.reset(seed=seed, options=options)
            resumed = self._over = False
        self._lives = info["lives"]
        return frame, {**info, "resumed": resumed}

    def step(self, action: int) -> Step:
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated
        lost = 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        return frame, float(reward), terminated or lost, truncated, info


class GreyStack(gymnasium.Wrapper[Frame, int, Frame, int]):
    """The last four grey frames as one observation (64, 64, 4), the oldest first. A reset gives the same four times.

    Frames with colours become grey here.
    """

    def __init__(self, env: gymnasium.Env[Frame, int]) -> None:
        super().__init__(env)
        self._stack = np.zeros((SIZE, SIZE, STACK), np.uint8)
        self.observation_space = Box(0, 255, self._stack.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        frame, info = self.env.reset(seed=seed, options=options)
        self._stack = np.repeat(grey(frame)[..., None], STACK, 2)
        return self._stack, info

    def step(self, action: int) -> Step:
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._stack = np.concatenate([self._stack[..., 1:], grey(frame)[..., None]], 2)
        return self._stack, float(reward), terminated, truncated, info


def grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(64, 64, 3) -> (64, 64) by the usual weights; what is grey already stays."""
    return frame if frame.ndim == 2 else (frame @ _LUMA).round().astype(np.uint8)


class StepLimit(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Truncate after so many steps since the last reset of any kind."""

    def __init__(self, env: gymnasium.Env[Frame, int], max_steps: int) -> None:
        super().__init__(env)
        self._max_steps, self._steps = max_steps, 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        self._steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> Step:
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return frame, float(reward), terminated, truncated or self._steps >= self._max_steps, info
