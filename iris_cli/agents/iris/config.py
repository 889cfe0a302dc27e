"""Settings of the IRIS agent. Defaults are the published values (fact sheet: Micheli, Alonso, Fleuret, ICLR 2023).

Three sections, one for each component, and one for a variant; `PRESETS` holds whole agents by name, `SECTION_PRESETS`
tokenizers alone.
A field in a section's `MUTABLE` may change while a run goes on; every other one is part of the network.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from iris_cli.errors import ConfigError
from iris_cli.learn.settings import PRECISIONS, between, one_of, positive

IMAGE_SIZE = 64  # pixels, height and width of a frame
GRID = 4  # tokens per side of a frame
TOKENS_PER_FRAME = GRID * GRID
TOKENS_PER_BLOCK = TOKENS_PER_FRAME + 1  # the frame's tokens, then its action


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The VQ autoencoder and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"lpips", "l2_weight", "max_pixel_weight", "batch_size", "micro_batch", "learning_rate", "clip_norm"}
        | {"ema_decay", "revive_after", "precision"}
    )

    preset: str = "published"  # published | light
    network: str = "residual"  # residual: the published one; strided: a light one, for laptops
    codes: int = 512  # V, entries of the codebook
    code_width: int = 512  # numbers per code (strided: learned ones; the pixels of its patch come on top)
    latent_channels: int = 512  # channels the encoder ends with (strided: unused)
    base_channels: int = 64  # width of the first level
    # One multiplier per level; each level but the last halves the image (strided: the first two levels are unused).
    channel_multipliers: tuple[int, ...] = (1, 1, 1, 1, 1)
    res_blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more (strided: unused)
    attention_resolutions: tuple[int, ...] = (8, 16)  # pixels; levels with self-attention (strided: unused)
    mean_image: bool = True  # strided: learn only what differs from the mean of all frames; for static backgrounds
    dropout: float = 0.0  # in the residual blocks
    commitment_weight: float = 1.0  # beta, weight of the encoder's side of the VQ loss
    codebook: str = "gradient"  # gradient: published; ema: moving average of the assigned latents
    ema_decay: float = 0.99  # per update, with codebook ema
    revive_after: int = 0  # updates that a code may go unused before it is drawn anew from the batch; 0: never
    lpips: str = "auto"  # auto: the fetched weights if there are any; none; or the path of a weights file
    l2_weight: float = 1.0  # of the squared error, in the weights-free loss only
    max_pixel_weight: float = 0.01  # of each frame's largest squared error, in the weights-free loss only
    batch_size: int = 256  # frames per update
    micro_batch: int = 0  # frames per backward pass, which changes no gradient; 0: 16 on a CPU, elsewhere 64
    learning_rate: float = 1e-4  # Adam, constant
    clip_norm: float = 10.0  # of the gradient
    precision: str = "auto"  # of products while it learns; auto: bfloat16 where the processor multiplies it

    def __post_init__(self) -> None:
        one_of("tokenizer.network", self.network, ("residual", "strided"))
        one_of("tokenizer.codebook", self.codebook, ("gradient", "ema"))
        one_of("tokenizer.precision", self.precision, PRECISIONS)
        levels = len(self.channel_multipliers)
        if levels != 5:
            raise ConfigError(
                f"channel_multipliers has {levels} levels, but 64 pixels become a 4x4 grid in 5",
                where="tokenizer.channel_multipliers",
            )
        positive(
            "tokenizer", self,
            ("codes", "code_width", "latent_channels", "base_channels", "res_blocks", "batch_size", "learning_rate",
             "clip_norm"),
        )  # fmt: skip
        between("tokenizer", self, ("dropout", "ema_decay"), 0, 1)
        if self.micro_batch < 0:
            raise ConfigError(
                f"micro_batch is {self.micro_batch}, but cannot be negative", where="tokenizer.micro_batch"
            )
        widths = [self.base_channels * multiplier for multiplier in (1, *self.channel_multipliers)]
        if min(widths) < 1 or (self.network == "residual" and any(width % 32 for width in widths)):
            raise ConfigError(
                f"the levels have {', '.join(map(str, widths))} channels, but need at least 1, and a residual network "
                "multiples of 32", where="tokenizer.channel_multipliers",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """The GPT over blocks of 16 frame tokens and an action, and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"segment_length", "batch_size", "learning_rate", "weight_decay", "clip_norm", "gradient_checkpointing"}
        | {"embedding_dropout", "attention_dropout", "residual_dropout", "precision", "compiled"}
    )

    layers: int = 10
    heads: int = 4
    width: int = 256  # E
    max_blocks: int = 20  # blocks of 17 tokens that the positions (and the cache) reach
    init_std: float = 0.02  # of the first weights; narrow networks learn sooner from larger ones
    attention: str = "causal"  # causal: published; block-causal: a token also sees the rest of its own block
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    segment_length: int = 20  # steps per training segment
    batch_size: int = 64  # segments per update
    learning_rate: float = 1e-4  # AdamW, constant
    weight_decay: float = 0.01  # on the weights of linear layers only
    clip_norm: float = 10.0
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third slower
    precision: str = "auto"  # of products while it learns; auto: bfloat16 where the processor multiplies it
    compiled: bool = False  # on a GPU, learn through torch.compile; needs Triton and a C compiler; not yet measured

    def __post_init__(self) -> None:
        one_of("dynamics.attention", self.attention, ("causal", "block-causal"))
        one_of("dynamics.precision", self.precision, PRECISIONS)
        positive("dynamics", self, ("layers", "heads", "width", "max_blocks", "segment_length", "batch_size"))
        positive("dynamics", self, ("init_std", "learning_rate", "clip_norm"))
        between("dynamics", self, ("embedding_dropout", "attention_dropout", "residual_dropout", "weight_decay"), 0, 1)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}", where="dynamics.width")
        if self.segment_length > self.max_blocks:
            raise ConfigError(
                f"segment_length is {self.segment_length}, but the positions reach {self.max_blocks} blocks",
                where="dynamics.segment_length",
            )


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The CNN-LSTM policy and value, and how they learn in imagination."""

    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"horizon", "burn_in", "gamma", "lam", "entropy_weight", "batch_size", "learning_rate", "clip_norm"}
        | {"objective", "clip_ratio", "passes", "rollouts_per_start", "precision", "cuda_graphs", "compiled"}
    )

    network: str = "pooled"  # pooled: the published one; strided: strides in place of the large maps, for laptops
    channels: tuple[int, int, int, int] = (32, 32, 64, 64)  # of the four convolutions
    lstm_width: int = 512
    horizon: int = 20  # H, imagined views; the last gives only the bootstrap value
    burn_in: int = 20  # real steps read before imagining, to fill the LSTM
    gamma: float = 0.995  # discount per step (4 game frames)
    lam: float = 0.95  # 0 one-step ... 1 Monte Carlo
    entropy_weight: float = 1e-3  # nats
    batch_size: int = 64  # imagined rollouts per update
    learning_rate: float = 1e-4  # Adam, constant
    clip_norm: float = 10.0
    precision: str = "auto"  # of its dreams; auto: bfloat16 where the processor multiplies it
    cuda_graphs: bool = True  # on a GPU, capture the steps of its dreams and replay them; the same draws, far sooner
    compiled: bool = False  # on a GPU, decode dreams in bfloat16 through torch.compile; as in the dynamics
    # Variants, not in the paper or released code:
    objective: str = "reinforce"  # reinforce: published; clipped: of the probability ratio (Schulman et al. 2017, PPO)
    clip_ratio: float = 0.2  # with objective clipped; PPO's value
    passes: int = 3  # optimizer steps over the rollouts of one update, with objective clipped; PPO's in Atari
    rollouts_per_start: int = 1  # imagined from each real start, so that batch_size / this many starts are drawn

    def __post_init__(self) -> None:
        one_of("actor_critic.network", self.network, ("pooled", "strided"))
        one_of("actor_critic.objective", self.objective, ("reinforce", "clipped"))
        one_of("actor_critic.precision", self.precision, PRECISIONS)
        positive("actor_critic", self, ("lstm_width", "burn_in", "batch_size", "learning_rate", "clip_norm"))
        positive("actor_critic", self, ("clip_ratio", "passes", "rollouts_per_start"))
        if self.batch_size % self.rollouts_per_start:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of rollouts_per_start {self.rollouts_per_start}",
                where="actor_critic.rollouts_per_start",
            )
        if min(self.channels) < 1:
            raise ConfigError(f"channels are {self.channels}, but must be positive", where="actor_critic.channels")
        if self.horizon < 2:
            raise ConfigError(f"horizon is {self.horizon}, but must be at least 2", where="actor_critic.horizon")
        between("actor_critic", self, ("gamma", "lam"), 0, 1)

    @property
    def starts(self) -> int:
        """Real steps drawn per update, that rollouts begin at."""
        return self.batch_size // self.rollouts_per_start


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig:
    """A bonus for views that are novel, on the rewards of imagined steps. A variant, not in the paper or released code.

    Random network distillation (Burda et al. 2018): learn/novelty.py.
    """

    MUTABLE: ClassVar[frozenset[str]] = frozenset({"weight", "learning_rate", "clip_norm"})

    bonus: str = "none"  # none: published; imagined: novel among imagined views; collected: among collected frames
    weight: float = 0.5  # of the normalised bonus beside the rewards (signs); Burda et al.: 1 beside 2
    width: int = 512  # of the random features
    learning_rate: float = 1e-4  # Adam, constant
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        one_of("exploration.bonus", self.bonus, ("none", "imagined", "collected"))
        positive("exploration", self, ("weight", "width", "learning_rate", "clip_norm"))
        if self.width % 16:
            raise ConfigError(f"width is {self.width}, but must be a multiple of 16", where="exploration.width")


@dataclass(frozen=True, kw_only=True)
class IrisConfig:
    """The whole agent."""

    preset: str = "published"  # published | small | tiny
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)


_LIGHT = TokenizerConfig(
    preset="light", network="strided", codes=512, code_width=128, latent_channels=128, base_channels=16,
    channel_multipliers=(1, 1, 2, 4, 8), codebook="ema", ema_decay=0.95, revive_after=100, batch_size=32,
    micro_batch=32, learning_rate=1e-3, precision="float32",
)  # fmt: skip
_TINY_TOKENIZER = TokenizerConfig(
    preset="light", network="strided", codes=32, code_width=16, latent_channels=16, base_channels=8,
    codebook="ema", revive_after=5, batch_size=8, micro_batch=8, learning_rate=1e-3, precision="float32",
)  # fmt: skip

SECTION_PRESETS = {"tokenizer": {"published": TokenizerConfig(), "light": _LIGHT}}

PRESETS = {
    "published": IrisConfig(),
    # A laptop's CPU: the same stages and losses, with small networks.
    "small": IrisConfig(
        preset="small",
        tokenizer=_LIGHT,
        dynamics=DynamicsConfig(
            layers=4, heads=4, width=128, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
            init_std=0.05, max_blocks=16, segment_length=16, batch_size=10, learning_rate=5e-4,
            precision="float32",
        ),
        actor_critic=ActorCriticConfig(
            network="strided", channels=(16, 16, 32, 32), lstm_width=256, horizon=15, burn_in=5, batch_size=32,
            learning_rate=3e-4, precision="float32",
        ),
    ),
    # For tests: every code path in a second.
    "tiny": IrisConfig(
        preset="tiny",
        tokenizer=_TINY_TOKENIZER,
        dynamics=DynamicsConfig(
            layers=2, heads=2, width=32, max_blocks=6, segment_length=5, batch_size=4, precision="float32"
        ),
        actor_critic=ActorCriticConfig(
            network="strided", channels=(4, 4, 8, 8), lstm_width=32, horizon=5, burn_in=3, batch_size=4,
            learning_rate=1e-3, precision="float32",
        ),
        exploration=ExplorationConfig(width=32, learning_rate=1e-3),
    ),
}  # fmt: skip
