"""Settings of the TWM agent. Defaults are the published values (fact sheet of TWM, section 8).

Where paper and released program differ, the released program's value stands, but for the latent loss of the paper's
equation (4), which the released program never computes. One section for each component and one for the schedule;
`PRESETS` holds whole agents by name. A field in a section's `MUTABLE` may change while a run goes on; every other one
is part of the network.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from iris_cli.errors import ConfigError
from iris_cli.learn.settings import between, positive

IMAGE_SIZE = 64  # pixels, height and width of a frame
VIEW = "grey-stack"  # what it sees of an environment
STACK = 4  # grey frames that one observation consists of, the oldest first


def _widths(section: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not getattr(config, name) or min(getattr(config, name)) < 1:
            raise ConfigError(
                f"{name} are {getattr(config, name)}, but must be at least one positive number",
                where=f"{section}.{name}",
            )


_OPTIMIZER = frozenset({"batch_size", "learning_rate", "adam_epsilon", "l2_penalty", "clip_norm"})


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The observation model: stacks of grey frames to categorical latents and back, and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = _OPTIMIZER | {"entropy_weight", "entropy_threshold", "consistency_weight"}

    preset: str = "published"
    categoricals: int = 32  # distributions of a latent
    categories: int = 32  # classes of each
    base_channels: int = 48  # channels of the first convolution; the further ones have 2, 4 and 8 times as many
    hidden_widths: tuple[int, ...] = (512, 512)  # of the layers between convolutions and logits
    entropy_weight: float = 5.0  # alpha 1
    entropy_threshold: float = 0.1  # of the batch's mean entropy, 1 being uniform; above it the entropy costs nothing
    consistency_weight: float = 0.01  # alpha 2, of the cross-entropy with what the dynamics predicted
    batch_size: int = 1600  # stacks per update while it is trained alone
    learning_rate: float = 1e-4  # Adam, constant
    adam_epsilon: float = 1e-5
    l2_penalty: float = 1e-6  # Adam's coupled weight decay, on every parameter
    clip_norm: float = 100.0  # of the gradient

    def __post_init__(self) -> None:
        positive("tokenizer", self, ("base_channels", "batch_size", "learning_rate", "adam_epsilon", "clip_norm"))
        between("tokenizer", self, ("entropy_threshold", "l2_penalty"), 0, 1)
        between("tokenizer", self, ("entropy_weight", "consistency_weight"), 0, float("inf"))
        _widths("tokenizer", self, ("hidden_widths",))
        if self.categoricals < 1 or self.categories < 2:
            raise ConfigError(
                f"a latent needs at least one categorical of two classes, not {self.categoricals} of {self.categories}",
                where="tokenizer.categories",
            )


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """The Transformer-XL over latents, actions and rewards, and how it learns."""

    MUTABLE: ClassVar[frozenset[str]] = _OPTIMIZER | {
        "segment_length", "dropout", "gamma", "latent_weight", "reward_weight", "discount_weight",
        "sampling_temperature",
    }  # fmt: skip

    layers: int = 10
    heads: int = 4
    head_width: int = 64
    width: int = 256  # E
    feedforward: int = 1024  # hidden width of each layer's two linear maps
    memory: int = 16  # M, steps before the present one that a token may look at
    reads_rewards: bool = True  # whether rewards are tokens too; false is the paper's ablation
    latent_widths: tuple[int, ...] = (512, 512, 512, 512)  # hidden widths of the head of next latents
    reward_widths: tuple[int, ...] = (256, 256, 256, 256)
    discount_widths: tuple[int, ...] = (256, 256, 256, 256)
    dropout: float = 0.1  # on positions, attention weights, residual branches and in the head of next latents
    segment_length: int = 16  # T, steps per segment that are learned from; one more comes before them
    gamma: float = 0.99  # discount per step where the episode goes on; what the head of discounts learns to say
    latent_weight: float = 1.0  # of the cross-entropy of next latents; 0 is the released program
    reward_weight: float = 10.0  # beta 1
    discount_weight: float = 50.0  # beta 2
    sampling_temperature: float | None = 20.0  # tau: steps drawn often before are drawn less; None: uniformly
    batch_size: int = 100  # segments per update
    learning_rate: float = 1e-4  # Adam, constant
    adam_epsilon: float = 1e-5
    l2_penalty: float = 1e-6  # Adam's coupled weight decay, on every parameter
    clip_norm: float = 100.0

    def __post_init__(self) -> None:
        positive("dynamics", self, ("layers", "heads", "head_width", "feedforward", "memory", "segment_length"))
        positive("dynamics", self, ("batch_size", "learning_rate", "adam_epsilon", "clip_norm", "width"))
        if self.sampling_temperature is not None:
            positive("dynamics", self, ("sampling_temperature",))
        between("dynamics", self, ("dropout", "gamma", "l2_penalty"), 0, 1)
        between("dynamics", self, ("latent_weight", "reward_weight", "discount_weight"), 0, float("inf"))
        _widths("dynamics", self, ("latent_widths", "reward_widths", "discount_widths"))
        if self.width % 2:
            raise ConfigError(f"width is {self.width}, but half of it are sines", where="dynamics.width")

    @property
    def max_blocks(self) -> int:
        """Steps that the present one can look at, itself included."""
        return self.memory + 1

    @property
    def tokens_per_step(self) -> int:
        """Latent, action and, if it is read, reward."""
        return 3 if self.reads_rewards else 2


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The policy and value on latents, and how they learn in imagination."""

    MUTABLE: ClassVar[frozenset[str]] = _OPTIMIZER | {
        "horizon", "lam", "entropy_weight", "entropy_threshold", "restart_below", "critic_learning_rate",
        "cuda_graphs",
    }  # fmt: skip

    actor_widths: tuple[int, ...] = (512, 512, 512, 512)
    critic_widths: tuple[int, ...] = (512, 512, 512, 512)
    # Whether the policy sees, besides the latent, what the dynamics thought after the step before: the paper's ablation
    # on [z, h]. It then needs the dynamics to act.
    reads_hidden: bool = False
    horizon: int = 15  # H, imagined steps
    lam: float = 0.95  # 0 one-step ... 1 Monte Carlo
    entropy_weight: float = 0.01
    # Gamma, of the mean entropy, 1 being uniform; above it the entropy earns nothing. 1: it always does, which is the
    # paper's ablation without threshold.
    entropy_threshold: float = 0.1
    restart_below: float = 0.1  # product of imagined discounts at which an imagined episode counts as ended
    batch_size: int = 400  # imagined rollouts per update
    learning_rate: float = 1e-4  # of the actor, Adam, constant
    critic_learning_rate: float = 1e-5
    adam_epsilon: float = 1e-5
    l2_penalty: float = 1e-6  # Adam's coupled weight decay, on every parameter
    clip_norm: float = 1.0  # of the actor's gradient and of the critic's, each for itself
    cuda_graphs: bool = True  # on a GPU, capture the steps of its dreams and replay them; the same draws, far sooner

    def __post_init__(self) -> None:
        positive("actor_critic", self, ("horizon", "batch_size", "learning_rate", "critic_learning_rate"))
        positive("actor_critic", self, ("adam_epsilon", "clip_norm"))
        between("actor_critic", self, ("lam", "restart_below", "entropy_threshold", "l2_penalty"), 0, 1)
        between("actor_critic", self, ("entropy_weight",), 0, float("inf"))
        _widths("actor_critic", self, ("actor_widths", "critic_widths"))

    @property
    def starts(self) -> int:
        """Windows or rollouts of an update."""
        return self.batch_size

    @property
    def burn_in(self) -> int:
        """Steps that the policy reads before it acts: it has no memory to fill."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How much is learned when. The published budget is counted in samples: frames read by a component's update."""

    steps: int = 100_000  # of the environment, in all
    prefill: int = 5_000  # of them played at random before anything is learned
    budget: int = 1_000_000_000  # samples, pre-training included
    pretraining_budget: int = 50_000_000  # samples
    tokenizer_share: float = 0.6  # of the pre-training budget
    dynamics_share: float = 0.3
    # The released program takes 1 - 0.6 + 0.3 = 0.7 where it means 1 - (0.6 + 0.3) = 0.1. Nobody knows which one the
    # paper's scores were made with (fact sheet, 0.2).
    actor_critic_share: float = 0.7

    def __post_init__(self) -> None:
        positive("schedule", self, ("steps", "prefill", "budget"))
        between("schedule", self, ("tokenizer_share", "dynamics_share", "actor_critic_share"), 0, 1)
        if not self.prefill < self.steps or not 0 <= self.pretraining_budget < self.budget:
            raise ConfigError(
                f"prefill {self.prefill} and pretraining_budget {self.pretraining_budget} must be parts of "
                f"steps {self.steps} and budget {self.budget}",
                where="schedule",
            )


@dataclass(frozen=True, kw_only=True)
class TwmConfig:
    """The whole agent."""

    preset: str = "published"  # published | small | tiny
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


SECTION_PRESETS = {"tokenizer": {"published": TokenizerConfig()}}

PRESETS = {
    "published": TwmConfig(),
    # A laptop's CPU: the same stages and losses, with small networks, which bear ten times the published learning rates
    # on Catch (pipelines/catch-twm.yaml); on no real game yet.
    "small": TwmConfig(
        preset="small",
        tokenizer=TokenizerConfig(
            categoricals=16, categories=16, base_channels=16, hidden_widths=(256,), batch_size=64, learning_rate=1e-3
        ),
        dynamics=DynamicsConfig(
            layers=4, heads=4, head_width=32, width=128, feedforward=512, latent_widths=(256, 256),
            reward_widths=(128, 128), discount_widths=(128, 128), dropout=0.0, batch_size=16, learning_rate=1e-3,
        ),
        actor_critic=ActorCriticConfig(
            actor_widths=(256, 256), critic_widths=(256, 256), batch_size=64, learning_rate=1e-3,
            critic_learning_rate=1e-3,
        ),
        schedule=ScheduleConfig(steps=20_000, prefill=2_000, budget=12_000_000, pretraining_budget=2_000_000),
    ),
    # For tests: every code path in a second.
    "tiny": TwmConfig(
        preset="tiny",
        tokenizer=TokenizerConfig(
            categoricals=4, categories=5, base_channels=4, hidden_widths=(32,), batch_size=8, learning_rate=1e-3
        ),
        dynamics=DynamicsConfig(
            layers=2, heads=2, head_width=8, width=16, feedforward=32, memory=4, latent_widths=(16,),
            reward_widths=(16,), discount_widths=(16,), segment_length=4, batch_size=4, learning_rate=1e-3,
        ),
        actor_critic=ActorCriticConfig(
            actor_widths=(16,), critic_widths=(16,), horizon=5, batch_size=4, learning_rate=1e-3
        ),
        schedule=ScheduleConfig(steps=200, prefill=20, budget=6_000, pretraining_budget=1_000),
    ),
}  # fmt: skip
