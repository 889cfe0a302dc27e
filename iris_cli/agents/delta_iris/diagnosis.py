"""How good the world model of Δ-IRIS is, measured on episodes in memory: figures only, hints are made of them later.

A token describes a transition, not a frame: the tokenizer is asked what it makes of a frame behind the real one before
it, and whoever ignores what happens shows that one again. The dynamics is asked as its loss asks it (dynamics.py):
segments of as many blocks as the positions reach, one after the other through each episode, padded on the right; the
tokens of a segment's last step do not count, nor does what is padded.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents.delta_iris.actor_critic import ActorCritic
from iris_cli.agents.delta_iris.config import GRID, IMAGE_SIZE, TOKENS_PER_TRANSITION
from iris_cli.agents.delta_iris.dynamics import Dynamics
from iris_cli.agents.delta_iris.transition_tokenizer import TransitionTokenizer
from iris_cli.agents.delta_iris.world import DeltaIrisDream, to_8_bits, view_of
from iris_cli.learn.diagnosis import (
    ClassifierFigures,
    Diagnosis,
    DreamFigures,
    Episode,
    TokenFigures,
    TokenizerFigures,
)
from iris_cli.learn.measuring import (
    CONTEXT,
    ENDS,
    REWARDS,
    Dreamt,
    Looker,
    Reconstructions,
    Watch,
    classifier_figures,
    diagnosis_of,
    dream_figures,
    dreamt,
    frames_on,
    padded,
    transition_token_figures,
)

_BLOCK = 256  # frames on the device at once


@torch.no_grad()
def diagnose(
    tokenizer: TransitionTokenizer,
    dynamics: Dynamics,
    actor_critic: ActorCritic,
    episodes: Sequence[Episode],
    *,
    trained: Collection[str],
    horizon: int,
    seed: int,
    watch: Watch = lambda frames: None,
) -> Diagnosis:
    """Measure all parts that were trained. The networks are in eval mode, torch's global random stream stays.

    Args:
        tokenizer, dynamics, actor_critic: of one agent, on one device.
        episodes: held out; at least one, none empty.
        trained: names of the components that were trained; nothing is measured that another one would decide.
        horizon: steps of each dream.
        seed: of starts and dreams.
        watch: called now and then.
    """
    if max(map(len, episodes)) < 2:
        parts = ("tokenizer", "dynamics", "rewards", "ends", "dream", "policy")
        skipped = dict.fromkeys(parts, "no episode has two frames, and a token describes what lies between them")
        return Diagnosis(episodes=len(episodes), steps=len(episodes), skipped=skipped)
    tokens: list[Tensor] = []  # (T - 1, 4) of each episode
    moving: list[Tensor] = []  # (T - 1, 4) bool, whether a pixel moves in the patch of each
    context = min(CONTEXT, dynamics.config.max_blocks)

    def of_tokenizer(looker: Looker | None) -> TokenizerFigures:
        seen = Reconstructions(episodes, _device(dynamics), sees_past=True)
        for episode in episodes:
            made, moves = _transitions(tokenizer, episode, seen, looker, watch)
            tokens.append(made)
            moving.append(moves)
        return seen.figures(torch.cat(tokens), codes=tokenizer.config.codes, still_changed=None)

    return diagnosis_of(
        episodes, trained=trained, context=context, horizon=horizon, seed=seed,
        looker=_looker(actor_critic, dynamics), tokenizer=of_tokenizer,
        dynamics=lambda: _dynamics_figures(dynamics, tokens, moving, episodes, watch),
        dream=lambda starts: _dream_figures(
            tokenizer, dynamics, tokens, episodes, starts, context, horizon, seed, watch
        ),
    )  # fmt: skip


def _looker(actor_critic: ActorCritic, dynamics: Dynamics) -> Looker:
    """The policy, whose values are of the rewards that the dynamics gives: as they are, or their signs."""
    known_as = np.asarray if dynamics.config.rewards == "symlog" else np.sign
    return Looker(actor_critic, gamma=actor_critic.config.gamma, known_as=known_as)


def _transitions(
    tokenizer: TransitionTokenizer, episode: Episode, seen: Reconstructions, looker: Looker | None, watch: Watch
) -> tuple[Tensor, Tensor]:
    """Tokens (T - 1, 4) of an episode's transitions, and in which of their patches a pixel moves, bool.

    Notes what the tokenizer makes of them; lets the policy see the frames.
    """
    device = tokenizer.encoder_act_emb.weight.device
    tokens = [torch.zeros(0, TOKENS_PER_TRANSITION, dtype=torch.int64, device=device)]
    moving = [torch.zeros(0, TOKENS_PER_TRANSITION, dtype=torch.bool, device=device)]
    for start in range(0, len(episode), _BLOCK):
        first = max(start - 1, 0)  # with the last frame of the block before
        frames = frames_on(episode.frames[first : start + _BLOCK], device)
        actions = torch.from_numpy(episode.actions[first : first + len(frames) - 1]).to(device)
        past, after = frames[:-1], frames[1:]
        if len(past):
            made = tokenizer.encode_rows(frames[None], actions[None])[0]
            moves = seen.add(tokenizer.decode_rows(past[None], actions[None], made[None])[0], after, past)
            tokens.append(made)
            moving.append(F.max_pool2d(moves[:, None].float(), IMAGE_SIZE // GRID).flatten(1) > 0)
        if looker is not None:
            looker.look(view_of(frames[start - first :]), first=start == 0)
        watch(len(frames) - (start - first))
    return torch.cat(tokens), torch.cat(moving)


def _dynamics_figures(
    dynamics: Dynamics,
    tokens: Sequence[Tensor],
    moving: Sequence[Tensor],
    episodes: Sequence[Episode],
    watch: Watch,
) -> tuple[TokenFigures, ClassifierFigures, ClassifierFigures]:
    """Figures of tokens, rewards and ends, each predicted from all that is true before it in its segment."""
    device, length = _device(dynamics), dynamics.config.max_blocks
    cut = [(e, start) for e, episode in enumerate(episodes) for start in range(0, len(episode), length)]
    size = 8 if device.type == "cpu" else 64
    parts: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(cut), size):
        batch = cut[begin : begin + size]
        frames, actions, rewards, ends = (
            torch.from_numpy(
                np.stack([padded(getattr(episodes[e], name)[s : s + length], length) for e, s in batch])
            ).to(device)
            for name in ("frames", "actions", "rewards", "ends")
        )
        real = torch.tensor([[s + step < len(episodes[e]) for step in range(length)] for e, s in batch], device=device)
        leads_on = F.pad(real[:, 1:], (0, 1))  # (B, L), steps whose transition is in the segment
        labels, moves = (_cut(values, batch, length) for values in (tokens, moving))  # (B, L, 4)
        output = dynamics(frames.permute(0, 1, 4, 2, 3), actions, labels * leads_on[:, :, None])
        logits = output.logits_tokens.unflatten(1, labels.shape[1:])[leads_on]  # (M, 4, V)
        true = labels[leads_on]
        costs = F.cross_entropy(logits.transpose(1, 2), true, reduction="none")
        parts.append(
            (
                true, costs, logits.argmax(-1), moves[leads_on],
                _by_sign(dynamics, output.logits_rewards[real]), rewards[real].sign().long() + 1,
                output.logits_ends[real], ends[real].long(),
            )
        )  # fmt: skip
        watch(0)
    true, costs, guesses, moves, reward_logits, reward_labels, end_logits, end_labels = (
        torch.cat(column).cpu() for column in zip(*parts, strict=True)
    )
    return (
        transition_token_figures(true, costs, guesses, moves, codes=dynamics.embed_tokens.num_embeddings),
        classifier_figures(reward_logits, reward_labels, REWARDS),
        classifier_figures(end_logits, end_labels, ENDS),
    )


def _cut(values: Sequence[Tensor], batch: Sequence[tuple[int, int]], length: int) -> Tensor:
    """(B, L, 4) of each episode's transitions (T - 1, 4) from (episode, start) on, zeros behind."""
    rows = [values[e][s : s + length] for e, s in batch]
    return torch.stack([torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])]) for row in rows])


def _by_sign(dynamics: Dynamics, logits: Tensor) -> Tensor:
    """Logits (N, 3) of a reward's sign. Of buckets (N, 255): below, at and above 0, where their chances add up.

    A reward between 0 and the next bucket shares its chances with 0 even where it is foreseen.
    """
    if dynamics.config.rewards != "symlog":
        return logits
    middle = logits.shape[1] // 2
    sides = (logits[:, :middle], logits[:, middle : middle + 1], logits[:, middle + 1 :])
    return torch.stack([side.logsumexp(1) for side in sides], 1)


def _dream_figures(
    tokenizer: TransitionTokenizer,
    dynamics: Dynamics,
    tokens: Sequence[Tensor],
    episodes: Sequence[Episode],
    starts: Sequence[tuple[int, int]],
    context: int,
    horizon: int,
    seed: int,
    watch: Watch,
) -> DreamFigures:
    """Dreams from `starts`, (episode, step of the last frame that is read), under the actions that were taken."""
    device = _device(dynamics)
    before = context - 1  # transitions that are read
    frames = torch.stack([frames_on(episodes[e].frames[s - before : s + horizon + 1], device) for e, s in starts])
    actions = torch.from_numpy(np.stack([episodes[e].actions[s - before : s + horizon] for e, s in starts])).to(device)
    true = torch.stack([tokens[e][s - before : s + horizon] for e, s in starts])  # (B, C - 1 + H, 4)
    start = frames[:, before]  # (B, 3, 64, 64) uint8

    def played(greedy: bool) -> Dreamt:
        generator = torch.Generator(device=device).manual_seed(seed)
        dream = DeltaIrisDream(
            tokenizer, dynamics, frames[:, :context], actions[:, :before], true[:, :before], generator=generator,
            greedy=greedy, keep=context,
        )  # fmt: skip
        return dreamt(dream, actions[:, before:], watch)

    painted, present = [], start
    paint = tokenizer.painter(frames[:, :context], actions[:, :before], true[:, :before], keep=context)
    for step in range(before, before + horizon):
        present = to_8_bits(paint(present, actions[:, step], true[:, step]))
        painted.append(view_of(present))
    return dream_figures(
        frames[:, before:], [episodes[e].rewards[s : s + horizon] for e, s in starts], context=context,
        played=played, seen_start=None, reconstruction=torch.stack(painted, 1),
    )  # fmt: skip


def _device(dynamics: Dynamics) -> torch.device:
    return dynamics.embed_tokens.weight.device
