"""What a dataset keeps of each step, and whether given values are that. Knows no files."""

from typing import NamedTuple

import numpy as np

from iris_cli.errors import ShapeError

FRAME_SHAPE = (64, 64, 3)


class Field(NamedTuple):
    """The array of one field, of which each item belongs to a step (or to a piece of an episode)."""

    dtype: str
    item_shape: tuple[int, ...]
    chunk: int  # items; small chunks for frames, as an append rewrites the partly filled one


STEP_FIELDS = {
    "observations": Field("uint8", FRAME_SHAPE, 64),
    "actions": Field("int64", (), 16384),
    "rewards": Field("float32", (), 16384),
    "terminations": Field("bool", (), 16384),
    "truncations": Field("bool", (), 16384),
}
EPISODE_FIELDS = {"episode_ends": Field("int64", (), 16384), "episode_ids": Field("int64", (), 16384)}


def achievements_field(count: int) -> Field:
    """That of what each step's episode had unlocked by then, in a game with so many achievements."""
    return Field("bool", (count,), 16384)


def tokens_field(tokens_per_frame: int) -> Field:
    """That of the tokens of one tokenizer."""
    return Field("uint16", (tokens_per_frame,), 4096)


def check_steps(values: dict[str, np.ndarray], fields: dict[str, Field], lengths: list[int], num_actions: int) -> None:
    """Refuse what is not the step fields of consecutive pieces of episodes.

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
