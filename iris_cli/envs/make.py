"""From a spec to an environment that gives frames (64, 64, 3 or 4) uint8 and takes actions 0 to A - 1."""

import gymnasium

from iris_cli.envs.atari import Frame, make_atari
from iris_cli.envs.grey_stacks import GreyStack, make_grey_atari
from iris_cli.envs.gymnasium_env import Frames, make_gymnasium
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import EnvironmentError_


def make(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """One environment.

    Raises:
        EnvironmentError_: if it cannot be made, its actions are not discrete, it shows no images, or making it would
            run code that a file names and no person did.
    """
    if spec.kind == "imported":
        raise EnvironmentError_(
            "this data was imported without an environment, so there is nothing to play", where=spec.id,
            fix="Training, iris imagine and iris diagnose --dataset need none; iris import --env NAME names one.",
        )  # fmt: skip
    if spec.runs_code and not spec.trusted:
        raise EnvironmentError_(
            f"a file names this environment, and making it would run the Python module {spec.id.partition(':')[0]}",
            where=spec.id, fix="If you know that module, add --trust-env.",
        )  # fmt: skip
    if spec.view == "grey-stack":
        return make_grey_atari(spec) if spec.kind == "atari" else GreyStack(make_gymnasium(spec))
    return make_atari(spec) if spec.kind == "atari" else make_gymnasium(spec)


def action_meanings(env: gymnasium.Env[Frame, int]) -> list[str]:
    """One word per action: "NOOP", "FIRE", ..., or its number where the environment has no words."""
    if hasattr(env.unwrapped, "get_action_meanings"):
        return list(env.unwrapped.get_action_meanings())
    return [str(action) for action in range(env.action_space.n)]  # type: ignore[attr-defined]


def note_on_frames(env: gymnasium.Env[Frame, int]) -> str | None:
    """A sentence about frames that are not what the environment observes; None where they are."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, Frames):
            return env.note
        env = env.env
    return None


def achievement_names(env: gymnasium.Env[Frame, int]) -> list[str]:
    """What info["achievements"] counts after each step, in the environments that have such; else nothing."""
    return list(env.unwrapped.get_achievements()) if hasattr(env.unwrapped, "get_achievements") else []
