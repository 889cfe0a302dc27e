"""Atari games through the published wrappers, pixel for pixel.

From inside to outside: the emulator (no sticky actions, minimal action set, RGB 210x160), reward signs, the time limit
in game frames, no-ops, frame skip, lost lives. The published order resizes each game frame first of all; here the frame
skip does it, for the last two frames only, which gives the same pixels for half the work.

Source: fact sheet section 9 (eloialonso/iris src/envs/wrappers.py, after OpenAI Baselines).
"""

from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from iris_cli.envs.pictures import resize
from iris_cli.envs.spec import FRAME_SHAPE, EnvSpec

Frame = NDArray[np.uint8]
Info = dict[str, Any]
Step = tuple[Frame, float, bool, bool, Info]


def make_atari(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """The game behind the published wrappers: observations (64, 64, 3) uint8, Discrete(A) actions."""
    env = bare_game(spec)
    if spec.clip_rewards:
        env = gymnasium.wrappers.TransformReward(env, lambda reward: float(np.sign(float(reward))))
    if spec.max_frames is not None:
        env = FrameLimit(env, spec.max_frames)
    if spec.noop_max:
        env = NoOpReset(env, spec.noop_max)
    env = FrameSkip(env, spec.frame_skip)
    return LifeLossEnds(env) if spec.life_loss_ends else env


def bare_game(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """The emulator alone: one game frame a step, no sticky actions, no time limit."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner from every worker
    gymnasium.register_envs(ale_py)
    env: gymnasium.Env[Frame, int] = ale_py.AtariEnv(
        game=gymnasium.spec(spec.id).kwargs["game"],
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        max_num_frames_per_episode=None,  # our own wrappers count
    )
    return env


class FrameLimit(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Truncate after so many game frames."""

    def __init__(self, env: gymnasium.Env[Frame, int], max_frames: int) -> None:
        super().__init__(env)
        self._max_frames = max_frames
        self._frames = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        self._frames = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> Step:
        screen, reward, terminated, truncated, info = self.env.step(action)
        self._frames += 1
        return screen, float(reward), terminated, truncated or self._frames >= self._max_frames, info


class NoOpReset(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Play 1 to `noop_max` game frames without acting after a reset; how many is drawn from the game's generator."""

    def __init__(self, env: gymnasium.Env[Frame, int], noop_max: int) -> None:
        super().__init__(env)
        self._noop_max = noop_max

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        screen, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(1, self._noop_max + 1)):
            screen, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                screen, info = self.env.reset()
        return screen, info


class FrameSkip(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Repeat an action, sum the rewards, give the maximum of the last two game frames, each resized before.

    A step that the end of the game cuts short gives the maximum of its own last two frames. The published wrapper
    gives older ones there; nobody stores or acts on that frame. A reset gives a single frame.
    """

    def __init__(self, env: gymnasium.Env[Frame, int], frame_skip: int) -> None:
        super().__init__(env)
        self._frame_skip = frame_skip
        self.observation_space = Box(0, 255, FRAME_SHAPE, np.uint8)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        screen, info = self.env.reset(seed=seed, options=options)
        return resize(screen), info

    def step(self, action: int) -> Step:
        screens: list[Frame] = []
        total = 0.0
        for _ in range(self._frame_skip):
            screen, reward, terminated, truncated, info = self.env.step(action)
            screens = [*screens[-1:], screen]
            total += float(reward)
            if terminated or truncated:
                break
        frame = np.maximum(resize(screens[0]), resize(screens[-1]))
        return frame, total, terminated, truncated, info


class LifeLossEnds(gymnasium.Wrapper[Frame, int, Frame, int]):
    """End the episode with each lost life but the last; the next reset then goes on with the same game.

    Such a reset plays one step of no-ops, whose reward and end are dropped, ignores the seed, restarts neither the time
    limit nor the no-ops, and says so by info["resumed"]. Any other reset is a real one. (The published wrapper also
    resumes when it is reset in mid-game, which its training never does.)
    """

    def __init__(self, env: gymnasium.Env[Frame, int]) -> None:
        super().__init__(env)
        self._lives = 0
        self._life_lost = False

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        resumed = self._life_lost
        if resumed:
            frame, _, _, _, info = self.env.step(0)
        else:
            frame, info = self.env.reset(seed=seed, options=options)
        self._life_lost, self._lives = False, info["lives"]
        return frame, {**info, "resumed": resumed}

    def step(self, action: int) -> Step:
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._life_lost = 0 < info["lives"] < self._lives and not (terminated or truncated)
        self._lives = info["lives"]
        return frame, float(reward), terminated or self._life_lost, truncated, info
