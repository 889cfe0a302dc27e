"""How good the world model of IRIS is, measured on episodes in memory: figures only, hints are made of them elsewhere.

The dynamics is asked as its loss asks it (dynamics.py): segments of as many blocks as the positions reach, one after
the other through each episode, padded on the right; what is padded does not count, nor does a segment's first token.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents.iris.actor_critic import ActorCritic
from iris_cli.agents.iris.config import GRID, IMAGE_SIZE, TOKENS_PER_FRAME
from iris_cli.agents.iris.dynamics import Dynamics, labels_of
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.agents.iris.world import IrisDream
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
    token_figures,
)

_BLOCK = 256  # frames on the device at once


@torch.no_grad()
def diagnose(
    tokenizer: Tokenizer,
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
    tokens: list[Tensor] = []  # (T, 16) of each episode
    context = min(CONTEXT, dynamics.config.max_blocks)

    def of_tokenizer(looker: Looker | None) -> TokenizerFigures:
        figures, made = _tokenizer_figures(tokenizer, episodes, looker, watch)
        tokens.extend(made)
        return figures

    return diagnosis_of(
        episodes, trained=trained, context=context, horizon=horizon, seed=seed,
        looker=Looker(actor_critic, gamma=actor_critic.config.gamma), tokenizer=of_tokenizer,
        dynamics=lambda: _dynamics_figures(dynamics, tokens, episodes, watch),
        dream=lambda starts: _dream_figures(
            tokenizer, dynamics, tokens, episodes, starts, context, horizon, seed, watch
        ),
    )  # fmt: skip


def _tokenizer_figures(
    tokenizer: Tokenizer, episodes: Sequence[Episode], looker: Looker | None, watch: Watch
) -> tuple[TokenizerFigures, list[Tensor]]:
    """Figures of the tokenizer, and each episode's tokens (T, 16). Lets the policy see the same reconstructions."""
    device = tokenizer.embedding.weight.device
    seen = Reconstructions(episodes, device, sees_past=False)
    patches = np.zeros(2)  # in which nothing moves, and those of them whose token changes
    tokens = []
    for episode in episodes:
        parts: list[Tensor] = []
        previous: Tensor | None = None  # the frame before the block
        for start in range(0, len(episode), _BLOCK):
            frames = frames_on(episode.frames[start : start + _BLOCK], device)  # (n, 3, 64, 64) uint8
            earlier_tokens = parts[-1][-1:] if parts else None
            parts.append(tokenizer.encode(frames))
            images = tokenizer.decode(parts[-1])
            earlier = torch.cat([frames[:1] if previous is None else previous, frames[:-1]])
            moving, previous = seen.add(images, frames, earlier), frames[-1:]
            patches += _still_patches(moving, parts[-1], earlier_tokens)
            if looker is not None:
                looker.look(images, first=start == 0)
            watch(len(frames))
        tokens.append(torch.cat(parts))
    flicker = float(patches[1] / patches[0]) if patches[0] else None
    return seen.figures(torch.cat(tokens), codes=tokenizer.config.codes, still_changed=flicker), tokens


def _still_patches(moving: Tensor, tokens: Tensor, before: Tensor | None) -> np.ndarray:
    """How many patches hold no moving pixel, and how many of those change their token from the previous frame's.

    Args:
        moving: (n, 64, 64) bool, pixels of consecutive frames.
        tokens: (n, 16) of these frames.
        before: (1, 16) of the frame before them; None at an episode's start.
    """
    first = 0 if before is not None else 1
    sequence = tokens if before is None else torch.cat([before, tokens])
    still = F.max_pool2d(moving[first:, None].float(), IMAGE_SIZE // GRID).flatten(1) == 0  # (n, 16)
    changes = sequence[1:] != sequence[:-1]
    return np.array([int(still.sum()), int((still & changes).sum())])


def _dynamics_figures(
    dynamics: Dynamics, tokens: Sequence[Tensor], episodes: Sequence[Episode], watch: Watch
) -> tuple[TokenFigures, ClassifierFigures, ClassifierFigures]:
    """Figures of tokens, rewards and ends, each predicted from all that is true before it in its segment."""
    device, length = dynamics.embed_tokens.weight.device, dynamics.config.max_blocks
    cut = [
        (frames[start : start + length], episode, start)
        for frames, episode in zip(tokens, episodes, strict=True)
        for start in range(0, len(episode), length)
    ]
    size = 8 if device.type == "cpu" else 64
    parts: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(cut), size):
        batch = cut[begin : begin + size]
        mask = torch.tensor([[step < len(part) for step in range(length)] for part, _, _ in batch])
        actions, rewards, ends = (
            torch.from_numpy(np.stack([padded(getattr(e, name)[s : s + length], length) for _, e, s in batch]))
            for name in ("actions", "rewards", "ends")
        )
        frames = torch.stack([F.pad(part, (0, 0, 0, length - len(part))) for part, _, _ in batch])  # (B, L, 16)
        real = mask.to(device)
        output = dynamics(frames, actions.to(device))
        logits = output.logits_tokens[:, :-1]  # (B, L*16 - 1, V): from the second token on
        labels = frames.flatten(1)[:, 1:]
        costs = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        by_frame = [F.pad(x, (1, 0)).unflatten(1, (-1, TOKENS_PER_FRAME))[real] for x in (costs, logits.argmax(-1))]
        _, reward_labels, end_labels = labels_of(frames, rewards.to(device), ends.to(device), real)
        firsts = torch.zeros_like(real)
        firsts[:, 0] = True
        parts.append(
            (
                frames[real], *by_frame, firsts[real],
                output.logits_rewards[real], reward_labels[real.flatten()],
                output.logits_ends[real], end_labels[real.flatten()],
            )
        )  # fmt: skip
        watch(0)
    true, costs, guesses, firsts, reward_logits, reward_labels, end_logits, end_labels = (
        torch.cat(column).cpu() for column in zip(*parts, strict=True)
    )
    codes = dynamics.embed_tokens.num_embeddings
    return (
        token_figures(true, costs, guesses, firsts, codes=codes),
        classifier_figures(reward_logits, reward_labels, REWARDS),
        classifier_figures(end_logits, end_labels, ENDS),
    )


def _dream_figures(
    tokenizer: Tokenizer,
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
    device = tokens[0].device
    seen = torch.stack([tokens[e][s - context + 1 : s + 1] for e, s in starts])  # (B, C, 16)
    actions = torch.from_numpy(np.stack([episodes[e].actions[s - context + 1 : s + horizon] for e, s in starts])).to(
        device
    )  # (B, C - 1 + H): up to the one that led to the last frame to compare with
    frames = torch.stack([frames_on(episodes[e].frames[s : s + horizon + 1], device) for e, s in starts])

    def played(greedy: bool) -> Dreamt:
        generator = torch.Generator(device=device).manual_seed(seed)
        dream = IrisDream(
            tokenizer, dynamics, seen, actions[:, : context - 1], generator=generator, greedy=greedy, keep=context
        )
        return dreamt(dream, actions[:, context - 1 :], watch)

    came = torch.stack([tokens[e][s + 1 : s + horizon + 1] for e, s in starts])  # (B, H, 16)
    return dream_figures(
        frames, [episodes[e].rewards[s : s + horizon] for e, s in starts], context=context, played=played,
        seen_start=tokenizer.decode(seen[:, -1]),
        reconstruction=tokenizer.decode(came.flatten(0, 1)).unflatten(0, came.shape[:2]),
    )  # fmt: skip
