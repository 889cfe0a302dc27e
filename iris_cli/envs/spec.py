"""What an environment is: an id and every setting of its wrappers. Pure data; `make.py` builds it.

Source of the defaults: eloialonso/iris config/env/default.yaml, for training on Atari 100k.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from iris_cli.errors import ConfigError, EnvironmentError_

FRAME_SHAPE = (64, 64, 3)  # pixels and RGB of the frames that environments give
STACK = 4  # grey frames of an observation, where an environment gives stacks instead
IMPORTED = "imported:"  # begins the id of what data is of that came without an environment
_UNWRAPPED: dict[str, Any] = {"frame_skip": 1, "noop_max": 0, "max_frames": None, "life_loss_ends": False}
_NAME = re.compile(r"[^\x00-\x20\x7f-\x9f\ud800-\udfff]{1,200}")  # of an environment, whoever thought of it


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """An environment and its wrappers. The defaults are those of training; `for_testing` gives those of scores."""

    id: str  # "ALE/Pong-v5", any other Gymnasium id, "module:Class", or "imported:NAME"
    kind: str  # atari | gymnasium (as it is, without the wrappers below) | imported (data without an environment)
    frame_skip: int = 4  # game frames per step; the last two are merged by their maximum
    noop_max: int = 30  # a real reset plays 1 to this many game frames without acting; 0: none
    max_frames: int | None = 20_000  # game frames per episode, no-ops included (not with stacks); None: no limit
    life_loss_ends: bool = True  # a lost life ends the episode, and the game goes on in the next one
    clip_rewards: bool = False  # each game frame's reward becomes its sign
    resize: str = "pil-bilinear"  # of each game frame, before the maximum over two; area: after it, for grey stacks
    view: str = "rgb"  # rgb: one frame in colours (IRIS); grey-stack: the last four grey frames (TWM)
    # A person named it, so that the module of a "module:Class" may be imported. Never kept: no file can say so.
    trusted: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in ("atari", "gymnasium", "imported"):
            raise ConfigError(f"{self.kind!r} is not one of atari, gymnasium, imported", where="environment.kind")
        if self.view not in ("rgb", "grey-stack"):
            raise ConfigError(f"{self.view!r} is not one of rgb, grey-stack", where="environment.view")
        resize = "area" if self.kind == "atari" and self.view == "grey-stack" else "pil-bilinear"
        if self.resize != resize:
            raise ConfigError(
                f"{self.resize!r} is not {resize}, the only resize of such frames", where="environment.resize"
            )
        if self.frame_skip < 1 or self.noop_max < 0 or (self.max_frames is not None and self.max_frames < 1):
            raise ConfigError(
                f"frame_skip {self.frame_skip} and max_frames {self.max_frames} must be positive, "
                f"noop_max {self.noop_max} not negative",
                where="environment",
            )
        wrapped = self.frame_skip > 1 or self.noop_max or self.max_frames or self.life_loss_ends or self.clip_rewards
        if self.kind != "atari" and wrapped:
            raise ConfigError(
                f"frame_skip, noop_max, max_frames, life_loss_ends and clip_rewards are for Atari, not {self.id}",
                where="environment",
            )

    @property
    def name(self) -> str:
        """What people say, and what `training_spec` turns back into this environment: "Pong", "CartPole-v1"."""
        return _game(self.id) if self.kind == "atari" else self.id

    @property
    def stem(self) -> str:
        """The name for files: "pong", "cartpole_v1"."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower())

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of what the environment gives: (64, 64, 3) RGB, or (64, 64, 4) grey frames, the newest last."""
        return FRAME_SHAPE if self.view == "rgb" else (*FRAME_SHAPE[:2], STACK)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for YAML and JSON. RGB is not named: datasets from before there were stacks stay equal."""
        values = asdict(self)
        del values["trusted"]
        return {name: value for name, value in values.items() if (name, value) != ("view", "rgb")}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "EnvSpec":
        """The inverse of `to_mapping`; what it gives is not trusted.

        Raises:
            ConfigError: if a key is unknown, `id` or `kind` is missing, or a value is of another kind or not allowed.
        """
        unknown = mapping.keys() - ({field.name for field in fields(cls)} - {"trusted"})
        missing = {"id", "kind"} - mapping.keys()
        if unknown or missing:
            raise ConfigError(
                "unknown: " + ", ".join(sorted(unknown)) if unknown else "missing: " + ", ".join(sorted(missing)),
                where="environment",
            )
        for name, value in mapping.items():
            if type(value) not in _KINDS[name] or (isinstance(value, str) and not _NAME.fullmatch(value)):
                raise ConfigError(f"{name} is {str(value)[:60]!r}, which it cannot be", where=f"environment.{name}")
        return cls(**mapping)

    @property
    def runs_code(self) -> bool:
        """Whether making it imports a Python module that its id names."""
        return self.kind == "gymnasium" and ":" in self.id

    def as_trusted(self) -> "EnvSpec":
        """The same environment, named by a person rather than by a file."""
        return replace(self, trusted=True)

    def for_testing(self) -> "EnvSpec":
        """The published settings for scores: 30 minutes of play, one no-op (stacks: none), whole games, raw rewards."""
        if self.kind != "atari":
            return self
        if self.view == "grey-stack":
            return replace(self, max_frames=108_000, noop_max=0, life_loss_ends=False, clip_rewards=False)
        return replace(self, max_frames=108_000, noop_max=1, life_loss_ends=False, clip_rewards=False)

    def as_grey_stacks(self) -> "EnvSpec":
        """The same environment as TWM was published to train in: grey stacks, 27,000 steps at most from any reset."""
        if self.kind != "atari":
            return replace(self, view="grey-stack")
        return replace(self, view="grey-stack", resize="area", max_frames=108_000)


_KINDS: dict[str, tuple[type, ...]] = {  # of the values of a mapping
    "id": (str,),
    "kind": (str,),
    "frame_skip": (int,),
    "noop_max": (int,),
    "max_frames": (int, type(None)),
    "life_loss_ends": (bool,),
    "clip_rewards": (bool,),
    "resize": (str,),
    "view": (str,),
}


def training_spec(name: str) -> EnvSpec:
    """The environment that people mean by `name`, with its settings for training.

    Args:
        name: an Atari game in any spelling ("Pong", "ms_pacman", "ALE/Pong-v5", "PongNoFrameskip-v4"), another
            registered Gymnasium id, "module:Class" (taken as it is, and looked for when the environment is made), or
            "imported:NAME" (that of an imported dataset). It counts as trusted: call this for what a person typed.

    Raises:
        EnvironmentError_: if there is none of that name; lists the nearest ones.
    """
    if ":" in name and not _NAME.fullmatch(name):
        raise EnvironmentError_(
            f"{name[:60]!r} is no name of an environment", fix="Such as Pong, CartPole-v1 or module:Class."
        )
    if name.startswith(IMPORTED):
        return imported_spec(name)
    # Here, so that reading the spec of a dataset or a run does not start the emulator's library.
    import ale_py
    import gymnasium

    import iris_cli.envs.catch
    import iris_cli.envs.crafter
    import iris_cli.envs.doors  # noqa: F401 - registers Doors

    gymnasium.register_envs(ale_py)
    games = {_letters(id): id for id in gymnasium.registry if id.startswith("ALE/")}
    if _letters(name) in games:
        return EnvSpec(id=games[_letters(name)], kind="atari")
    others = [id for id, entry in gymnasium.registry.items() if not str(entry.entry_point).startswith("ale_py")]
    if name in others or ":" in name:
        return EnvSpec(id=name, kind="gymnasium", **_UNWRAPPED, trusted=True)
    titles = [_game(id) for id in games.values()]
    spellings = {title.lower(): title for title in others + titles} | {_snake(title): title for title in titles}
    matches = difflib.get_close_matches(_game(name).lower(), spellings, n=6, cutoff=0.5)
    nearest = list(dict.fromkeys(spellings[match] for match in matches))[:3]
    raise EnvironmentError_(
        f"there is no game or environment {name!r}",
        fix=f"Did you mean {', '.join(nearest)}?" if nearest else f"{len(games)} Atari games are there, such as Pong.",
    )


def imported_spec(name: str) -> EnvSpec:
    """What data is of that came without an environment: "imported:NAME"."""
    return EnvSpec(id=IMPORTED + name.removeprefix(IMPORTED), kind="imported", **_UNWRAPPED)


def _game(name: str) -> str:
    """An id without what surrounds the game: ALE/MsPacman-v5 -> MsPacman, PongNoFrameskip-v4 -> Pong."""
    return re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", name.removeprefix("ALE/"))


def _letters(name: str) -> str:
    """One spelling of a game, however people write it: "ALE/MsPacman-v5" and "ms_pacman" are "mspacman"."""
    return re.sub(r"[^a-z0-9]", "", _game(name).lower())


def _snake(name: str) -> str:
    """MsPacman -> ms_pacman."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
