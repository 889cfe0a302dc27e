"""From a spec to an environment that gives frames (64, 64, 3 or 4) uint8 and takes actions 0 to A - 1."""

import gymnasium

from iris_cli.envs.atari import Frame, make_atari
from iris_cli.envs.grey_stacks import GreyStack, make_grey_atari
from iris_cli.envs.gymnasium_env import make_gymnasium
from iris_cli.envs.spec import EnvSpec


def make(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """One environment.

    Raises:
        EnvironmentError_: if it cannot be made, its actions are not discrete, or it shows no images.
    """
    if spec.view == "grey-stack":
        return make_grey_atari(spec) if spec.kind == "atari" else GreyStack(make_gymnasium(spec))
    return make_atari(spec) if spec.kind == "atari" else make_gymnasium(spec)


def action_meanings(env: gymnasium.Env[Frame, int]) -> list[str]:
    """One word per action: "NOOP", "FIRE", ..., or its number where the environment has no words."""
    if hasattr(env.unwrapped, "get_action_meanings"):
        return list(env.unwrapped.get_action_meanings())
    return [str(action) for action in range(env.action_space.n)]  # type: ignore[attr-defined]


def achievement_names(env: gymnasium.Env[Frame, int]) -> list[str]:
    """What info["achievements"] counts after each step, in the environments that have such; else nothing."""
    return list(env.unwrapped.get_achievements()) if hasattr(env.unwrapped, "get_achievements") else []
