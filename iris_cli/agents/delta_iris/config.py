"""Settings of the Δ-IRIS agent. Defaults are the published values for Atari; `PRESETS["crafter"]` is the other preset.

Three sections, one for each component; `PRESETS` holds whole agents by name. A field in a section's `MUTABLE` may
change while a run goes on; every other one is part of the network.

Source: fact sheet of Δ-IRIS, sections 1 to 7.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from iris_cli.errors import ConfigError
from iris_cli.learn.settings import between, one_of, positive

IMAGE_SIZE = 64  # pixels, height and width of a frame
GRID = 2  # tokens per side of what the encoder makes of a transition
TOKENS_PER_TRANSITION = GRID * GRID
TOKENS_PER_BLOCK = TOKENS_PER_TRANSITION + 2  # frame, action, and the tokens of the transition they lead to

_LEARNING = frozenset({"batch_size", "learning_rate", "clip_norm", "priority"})  # what may change in every section


class Levels(Protocol):
    """The part of a section's settings that says how its residual networks look at frames."""

    @property
    def channel_multipliers(self) -> tuple[int, ...]: ...
    @property
    def halvings(self) -> tuple[int, ...]: ...
    @property
    def patch(self) -> int: ...


def map_size(levels: Levels, image_size: int = IMAGE_SIZE) -> int:
    """Pixels, height and width, that a residual network leaves of a frame."""
    return image_size // levels.patch >> sum(levels.halvings)


def _network(section: str, levels: Levels, *bases: int) -> None:
    """Go on only with sizes that a residual network can have."""
    multipliers, halvings = levels.channel_multipliers, levels.halvings
    if levels.patch not in (1, 2, 4, 8):
        raise ConfigError(f"patch is {levels.patch}, but must be 1, 2, 4 or 8", where=f"{section}.patch")
    if len(multipliers) != len(halvings) or not multipliers:
        raise ConfigError(
            f"there are {len(multipliers)} multipliers and {len(halvings)} halvings, but each level has one of both",
            where=f"{section}.halvings",
        )
    if any(value not in (0, 1) for value in halvings) or map_size(levels) < 2 * GRID:
        raise ConfigError(
            f"halvings are {halvings}, but must be 0 or 1 and leave {2 * GRID} pixels", where=f"{section}.halvings"
        )
    if any(width < 32 or width % 32 for width in bases) or min(multipliers) < 1:
        raise ConfigError("channels of a residual network are multiples of 32", where=f"{section}.base_channels")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The autoencoder of transitions and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = _LEARNING | {
        "commitment_weight", "l1_weight", "l2_weight", "max_pixel_weight", "revival_updates", "segment_length",
        "weight_decay",
    }  # fmt: skip

    latent_channels: int = 64  # channels the encoder ends with
    base_channels: int = 64  # of the encoder and the decoder
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # one per level
    halvings: tuple[int, ...] = (1, 0, 1, 1, 0)  # 1 for each level that ends by halving the image
    patch: int = 1  # pixels per side that become channels of one at the entrance; more is for laptops
    past_channels: int = 16  # channels that the decoder sees of the past frame (Crafter: 8)
    past_base_channels: int = 32  # of the network that makes them (Crafter: 64); its levels are the encoder's
    action_channels: int = 4  # planes that the decoder sees of the action
    codes: int = 1024  # V, entries of the codebook
    code_width: int = 64  # numbers per code
    revival_updates: int = 400  # first updates in which unevenly used codes are revived (Crafter: 0)
    commitment_weight: float = 0.02  # of the pull of the latents to their codes
    l1_weight: float = 0.1
    l2_weight: float = 1.0
    max_pixel_weight: float = 0.01  # of each frame's largest squared error
    segment_length: int = 21  # frames per training segment, one more than transitions
    batch_size: int = 16  # segments per update (Crafter: 32)
    learning_rate: float = 1e-4  # constant
    weight_decay: float = 0.0  # on the weights of linear layers only (Crafter: 0.01)
    clip_norm: float = 10.0  # of the gradient
    priority: float = 1.0  # alpha: an episode drawn n times before weighs (1 + n)**-alpha (Crafter: 5)
    variant: str = "convolutional"  # published; transformer: the workshop paper's, which also sees what came before
    # Of the variant transformer alone; the workshop paper's sizes are not known, so these are ours.
    patch_pixels: int = 8  # height and width of what it cuts frames into
    layers: int = 2  # before and after each halving of the grid of patches, and likewise on the way back
    heads: int = 4
    width: int = 256  # E
    max_transitions: int = 20  # in a row that its positions reach

    def __post_init__(self) -> None:
        _network("tokenizer", self, self.base_channels, self.past_base_channels)
        positive(
            "tokenizer", self,
            ("latent_channels", "past_channels", "action_channels", "codes", "code_width", "batch_size",
             "learning_rate", "clip_norm"),
        )  # fmt: skip
        between("tokenizer", self, ("weight_decay",), 0, 1)
        _transitions("tokenizer", self.segment_length)
        one_of("tokenizer.variant", self.variant, ("convolutional", "transformer"))
        if self.variant == "transformer":
            self._check_transformer()

    def _check_transformer(self) -> None:
        positive("tokenizer", self, ("layers", "heads", "width", "max_transitions"))
        if self.patch_pixels not in (4, 8, 16, 32):
            raise ConfigError(
                f"patch_pixels is {self.patch_pixels}, but must be 4, 8, 16 or 32", where="tokenizer.patch_pixels"
            )
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}", where="tokenizer.width")
        if self.segment_length - 1 > self.max_transitions:
            raise ConfigError(
                f"segment_length is {self.segment_length}, but the positions reach {self.max_transitions} transitions",
                where="tokenizer.segment_length",
            )


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """The GPT over blocks of a frame, an action and the tokens of their transition, and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = _LEARNING | {
        "segment_length", "weight_decay", "tokens_weight", "rewards_weight", "ends_weight", "dream_blocks"
    }  # fmt: skip

    base_channels: int = 32  # of the frame encoder
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    halvings: tuple[int, ...] = (1, 0, 1, 1, 0)
    patch: int = 1
    layers: int = 3
    heads: int = 4  # (Crafter: 8)
    width: int = 256  # E, all of the frame encoder's output: 4 channels of 8x8 (Crafter: 512)
    max_blocks: int = 26  # blocks of 6 tokens that the positions (and the cache) reach (Crafter: 21)
    # Blocks that a dream fills before it forgets; None: all, as published. The last block of a training segment never
    # learns tokens, so that dreams that come as far as the last position need one less than segment_length.
    dream_blocks: int | None = None
    init_std: float = 0.02  # of the first weights; narrow networks learn sooner from larger ones
    rewards: str = "sign"  # sign: three classes; symlog: 255 two-hot buckets (Crafter)
    tokens_weight: float = 0.1  # (Crafter: 1)
    rewards_weight: float = 1.0
    ends_weight: float = 0.1  # (Crafter: 1)
    segment_length: int = 26  # steps per training segment (Crafter: 21)
    batch_size: int = 64  # segments per update (Crafter: 32)
    learning_rate: float = 1e-4  # AdamW, constant
    weight_decay: float = 0.01  # on the weights of linear layers only
    clip_norm: float = 10.0
    priority: float = 1.0  # (Crafter: 5)

    def __post_init__(self) -> None:
        _network("dynamics", self, self.base_channels)
        one_of("dynamics.rewards", self.rewards, ("sign", "symlog"))
        positive("dynamics", self, ("layers", "heads", "width", "init_std", "batch_size", "learning_rate", "clip_norm"))
        between("dynamics", self, ("weight_decay",), 0, 1)
        _transitions("dynamics", self.segment_length)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}", where="dynamics.width")
        pixels = map_size(self) ** 2
        if self.width % pixels:
            raise ConfigError(
                f"width is {self.width}, but must be a multiple of the {pixels} pixels that the frame encoder leaves",
                where="dynamics.width",
            )
        if self.segment_length > self.max_blocks:
            raise ConfigError(
                f"segment_length is {self.segment_length}, but the positions reach {self.max_blocks} blocks",
                where="dynamics.segment_length",
            )
        if self.dream_blocks is not None and not 1 <= self.dream_blocks <= self.max_blocks:
            raise ConfigError(
                f"dream_blocks is {self.dream_blocks}, but must be 1 to max_blocks, {self.max_blocks}",
                where="dynamics.dream_blocks",
            )


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The residual-CNN-LSTM policy and value, their slow copy, and how they learn in imagination."""

    MUTABLE: ClassVar[frozenset[str]] = _LEARNING | {
        "horizon", "burn_in", "gamma", "lam", "entropy_weight", "target_decay", "cuda_graphs"
    }  # fmt: skip

    latent_channels: int = 16  # channels the frame encoder ends with
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    halvings: tuple[int, ...] = (1, 0, 1, 1, 0)
    patch: int = 1
    lstm_width: int = 512
    values: str = "scalar"  # scalar: squared error; symlog: 255 two-hot buckets, cross-entropy (Crafter)
    target_decay: float = 0.995  # of the slow copy, per update
    horizon: int = 20  # H, imagined steps; the view after the last gives only the bootstrap value (Crafter: 15)
    burn_in: int = 5  # real steps read before imagining, to fill the LSTM
    gamma: float = 0.995  # discount per step (Crafter: 0.997)
    lam: float = 0.95  # 0 one-step ... 1 Monte Carlo
    entropy_weight: float = 0.002  # nats (Crafter: 0.001)
    batch_size: int = 64  # imagined rollouts per update (Crafter: 86)
    learning_rate: float = 1e-4  # Adam, constant
    clip_norm: float = 10.0
    priority: float = 1.0  # (Crafter: 5)
    cuda_graphs: bool = True  # on a GPU, capture the steps of its dreams and replay them; the same draws, far sooner

    def __post_init__(self) -> None:
        _network("actor_critic", self, self.base_channels)
        one_of("actor_critic.values", self.values, ("scalar", "symlog"))
        positive(
            "actor_critic", self,
            ("latent_channels", "lstm_width", "horizon", "burn_in", "batch_size", "learning_rate", "clip_norm"),
        )  # fmt: skip
        between("actor_critic", self, ("gamma", "lam", "target_decay"), 0, 1)

    @property
    def starts(self) -> int:
        """Real steps drawn per update, that rollouts begin at."""
        return self.batch_size


def _transitions(section: str, segment_length: int) -> None:
    if segment_length < 2:
        raise ConfigError(
            f"segment_length is {segment_length}, but a transition needs 2 frames", where=f"{section}.segment_length"
        )


@dataclass(frozen=True, kw_only=True)
class DeltaIrisConfig:
    """The whole agent."""

    preset: str = "atari"  # atari | crafter | small | tiny
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)

    def __post_init__(self) -> None:
        steps = self.actor_critic.burn_in + 1
        if steps > self.dynamics.max_blocks:
            raise ConfigError(
                f"burn_in is {self.actor_critic.burn_in}, but with the step after it the positions reach "
                f"{self.dynamics.max_blocks} blocks", where="actor_critic.burn_in",
            )  # fmt: skip


_ATARI = DeltaIrisConfig()
_CRAFTER = DeltaIrisConfig(
    preset="crafter",
    tokenizer=TokenizerConfig(
        past_channels=8, past_base_channels=64, revival_updates=0, batch_size=32, weight_decay=0.01, priority=5.0
    ),
    dynamics=DynamicsConfig(
        heads=8, width=512, max_blocks=21, rewards="symlog", tokens_weight=1.0, ends_weight=1.0, segment_length=21,
        batch_size=32, priority=5.0,
    ),
    actor_critic=ActorCriticConfig(
        values="symlog", horizon=15, gamma=0.997, entropy_weight=0.001, batch_size=86, priority=5.0
    ),
)  # fmt: skip
# A laptop's CPU: the same stages and losses, with small networks.
_SMALL = DeltaIrisConfig(
    preset="small",
    tokenizer=TokenizerConfig(
        latent_channels=16, base_channels=32, channel_multipliers=(1, 2), halvings=(1, 0), patch=4, past_channels=16,
        codes=256, code_width=32, segment_length=6, batch_size=8, learning_rate=2e-3, width=128, max_transitions=10,
    ),
    dynamics=DynamicsConfig(
        channel_multipliers=(1, 2), halvings=(1, 0), patch=4, width=128, max_blocks=22, init_std=0.05,
        segment_length=21, batch_size=8, learning_rate=5e-4,
    ),
    actor_critic=ActorCriticConfig(
        channel_multipliers=(1, 2), halvings=(1, 0), patch=4, latent_channels=8, lstm_width=256, horizon=15,
        batch_size=32, learning_rate=3e-4,
    ),
)  # fmt: skip
# For tests: every code path in a second.
_TINY = DeltaIrisConfig(
    preset="tiny",
    tokenizer=TokenizerConfig(
        latent_channels=4, base_channels=32, channel_multipliers=(1, 1), halvings=(1, 0), patch=2, past_channels=4,
        action_channels=2, codes=32, code_width=8, revival_updates=5, segment_length=4, batch_size=2,
        learning_rate=1e-3, patch_pixels=16, layers=1, heads=2, width=32, max_transitions=3,
    ),
    dynamics=DynamicsConfig(
        channel_multipliers=(1, 1), halvings=(1, 1), patch=2, layers=2, heads=2, width=64, max_blocks=7,
        segment_length=5, batch_size=2,
    ),
    actor_critic=ActorCriticConfig(
        channel_multipliers=(1, 1), halvings=(1, 1), patch=2, latent_channels=1, lstm_width=32, horizon=4, burn_in=2,
        batch_size=2, learning_rate=1e-3,
    ),
)  # fmt: skip

PRESETS = {"published": _ATARI, "atari": _ATARI, "crafter": _CRAFTER, "small": _SMALL, "tiny": _TINY}

SECTION_PRESETS: dict[str, dict[str, object]] = {}  # no section has presets of its own
