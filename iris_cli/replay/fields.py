"""What a dataset keeps of each step, and whether given values are that. Knows no files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iris_cli.errors import ShapeError

FRAME_SHAPE = (64, 64, 3)
STACK_SHAPE = (64, 64, 4)  # of environments whose view is grey-stack; whole stacks, so that no reset has to be guessed


class Field(NamedTuple):
    """The array of one field, of which each item belongs to a step (or to a piece of an episode)."""

    dtype: str
    item_shape: tuple[int, ...]
    chunk: int  # items; small chunks for frames, as an append rewrites the partly filled one


_OTHER_FIELDS = {
    "actions": Field("int64", (), 16384),
    "rewards": Field("float32", (), 16384),
    "terminations": Field("bool", (), 16384),
    "truncations": Field("bool", (), 16384),
}
FINALS = "final_observations"  # of whole episodes: what was seen after the last step, where a dataset keeps that
EPISODE_FIELDS = {"episode_ends": Field("int64", (), 16384), "episode_ids": Field("int64", (), 16384)}


def frame_shape(environment: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of the observations of an environment, given all that is said about it."""
    return STACK_SHAPE if environment.get("view") == "grey-stack" else FRAME_SHAPE


def step_fields(shape: tuple[int, int, int], achievements: int = 0) -> dict[str, Field]:
    """What is kept of each step whose frame has this shape, in a game with so many achievements.

    Of those, which ones the step's episode had unlocked by then.
    """
    fields = {"observations": Field("uint8", shape, 64), **_OTHER_FIELDS}
    return {**fields, "achievements": Field("bool", (achievements,), 16384)} if achievements else fields


def finals_field(shape: tuple[int, int, int]) -> Field:
    """That of the frames after the last steps of episodes."""
    return Field("uint8", shape, 64)


def tokens_field(tokens_per_frame: int) -> Field:
    """That of the tokens of one tokenizer."""
    return Field("uint16", (tokens_per_frame,), 4096)


def check_steps(
    values: dict[str, np.ndarray], fields: Mapping[str, Field], lengths: list[int], num_actions: int
) -> None:
    """Refuse what is not these step fields of consecutive pieces of episodes.

    Raises:
        ShapeError: naming what does not fit.
    """
    steps = len(values["actions"])
    for name, field in fields.items():
        expected = (steps, *field.item_shape)
        if values[name].shape != expected:
            raise ShapeError(f"{name} must have shape {expected}, got {values[name].shape}")
        if not np.can_cast(values[name].dtype, field.dtype, "same_kind"):
            raise ShapeError(f"{name} must be {field.dtype}, got {values[name].dtype}")
    if sum(lengths) != steps:
        raise ShapeError(f"pieces of {lengths} steps do not make up {steps} steps")
    if steps and not 0 <= values["actions"].min() <= values["actions"].max() < num_actions:
        raise ShapeError(f"actions must lie in [0, {num_actions})")
    over = np.flatnonzero(values["terminations"] | values["truncations"]) + 1
    if not np.isin(over, np.cumsum(lengths)).all():
        raise ShapeError("only the last step of an episode may end it")


def check_tokens(tokens: np.ndarray) -> None:
    """Refuse what is not (n, K) integers in [0, 65535].

    Raises:
        ShapeError: naming what does not fit.
    """
    if tokens.ndim != 2:
        raise ShapeError(f"tokens must have shape (steps, tokens per frame), got {tokens.shape}")
    if not np.can_cast(tokens.dtype, np.int64) or (tokens.size and not 0 <= tokens.min() <= tokens.max() <= 65535):
        raise ShapeError("tokens must be whole numbers in [0, 65535]")
