"""How good the world model of TWM is, measured on episodes in memory: figures only, hints are made of them later.

A stack is its most probable latent here, as the policy sees it when it acts; only dreams draw. Pictures are judged by
the newest frame of each stack. The dynamics reads as many steps at once as the last of them can look back on, one
stretch after the other through each episode, padded on the right. Episodes do not tell how they ended, so that a time
limit counts as an end, which this dynamics does not learn to foresee.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents.twm.actor_critic import ActorCritic
from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.learning import learned_rewards
from iris_cli.agents.twm.thoughts import views_along
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.agents.twm.world import TwmDream
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
    latent_figures,
    padded,
)
from iris_cli.nn.categorical import most_probable, normalised_entropies

_BLOCK = 256  # stacks on the device at once
_LEAST = 1e-4  # probability that a sign or an end is given, where expectations leave it none


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
        episodes: held out, of stacks; at least one, none empty.
        trained: names of the components that were trained; nothing is measured that another one would decide.
        horizon: steps of each dream.
        seed: of starts and dreams.
        watch: called now and then.
    """
    logits: list[Tensor] = []  # (T, K, C) normalised, of each episode
    newest = [replace(episode, frames=episode.frames[..., -1:]) for episode in episodes]
    context = min(CONTEXT, dynamics.config.max_blocks)

    def of_tokenizer(looker: Looker | None) -> TokenizerFigures:
        seen = Reconstructions(newest, _device(dynamics), sees_past=False)
        for episode in episodes:
            logits.append(_encoded(tokenizer, episode, seen, watch))
            if looker is not None:
                looker.look(_views(dynamics, actor_critic, most_probable(logits[-1]), episode), first=True)
        together = torch.cat(logits)
        return seen.figures(
            together.argmax(-1), codes=together.shape[2], still_changed=None,
            latent_entropy=float(normalised_entropies(together).mean()),
        )  # fmt: skip

    def of_dreams(starts: Sequence[tuple[int, int]]) -> DreamFigures:
        return _dream_figures(tokenizer, dynamics, logits, newest, starts, context, horizon, seed, watch)

    return diagnosis_of(
        episodes, trained=trained, context=context, horizon=horizon, seed=seed,
        looker=Looker(actor_critic, gamma=dynamics.config.gamma, known_as=np.tanh), tokenizer=of_tokenizer,
        dynamics=lambda: _dynamics_figures(dynamics, logits, episodes, watch), dream=of_dreams,
    )  # fmt: skip


def _views(dynamics: Dynamics, actor_critic: ActorCritic, latents: Tensor, episode: Episode) -> Tensor:
    """What the policy sees of an episode's latents (T, Z)."""
    if not actor_critic.config.reads_hidden:
        return latents
    actions, rewards = (torch.from_numpy(part).to(latents.device) for part in (episode.actions, episode.rewards))
    return views_along(dynamics, latents, actions, rewards)


def _encoded(tokenizer: Tokenizer, episode: Episode, seen: Reconstructions, watch: Watch) -> Tensor:
    """Logits (T, K, C) of an episode. Notes what the tokenizer makes of its stacks."""
    parts: list[Tensor] = []
    previous: Tensor | None = None  # the newest frame of the block before
    for start in range(0, len(episode), _BLOCK):
        stacks = frames_on(episode.frames[start : start + _BLOCK], next(tokenizer.parameters()).device)
        parts.append(tokenizer.encode(stacks))
        frames = stacks[:, -1:]
        earlier = torch.cat([frames[:1] if previous is None else previous, frames[:-1]])
        seen.add(_newest(tokenizer)(most_probable(parts[-1])), frames, earlier)
        previous = frames[-1:]
        watch(len(stacks))
    return torch.cat(parts)


def _newest(tokenizer: Tokenizer) -> Callable[[Tensor], Tensor]:
    """From latents (N, Z) to the newest frames that they decode to, (N, 1, 64, 64) in [0, 1]."""
    return lambda latents: tokenizer.decode(latents)[:, -1:].clamp(0, 1)


def _dynamics_figures(
    dynamics: Dynamics, logits: Sequence[Tensor], episodes: Sequence[Episode], watch: Watch
) -> tuple[TokenFigures | None, ClassifierFigures, ClassifierFigures]:
    """Figures of latents, rewards and ends, each predicted from all that is true before it in its stretch."""
    device, length = _device(dynamics), dynamics.config.max_blocks
    cut = [(e, start) for e, episode in enumerate(episodes) for start in range(0, len(episode), length)]
    size = 8 if device.type == "cpu" else 64
    parts: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(cut), size):
        batch = cut[begin : begin + size]
        actions, rewards, ends = (
            torch.from_numpy(
                np.stack([padded(getattr(episodes[e], name)[s : s + length], length) for e, s in batch])
            ).to(device)
            for name in ("actions", "rewards", "ends")
        )
        real = torch.tensor([[s + t < len(episodes[e]) for t in range(length)] for e, s in batch], device=device)
        leads_on = torch.tensor(
            [[s + t + 1 < len(episodes[e]) for t in range(length)] for e, s in batch], device=device
        )  # steps that another one of their episode follows, in this stretch or the next
        known = torch.stack([_padded(logits[e][s : s + length + 1], length + 1) for e, s in batch])  # (B, L+1, K, C)
        output = dynamics(
            most_probable(known[:, :-1]), actions, learned_rewards(rewards[:, :-1]),
            torch.zeros_like(actions[:, :-1], dtype=torch.bool),
        )  # fmt: skip
        targets, predicted = known[:, 1:][leads_on], output.logits_latents[leads_on]  # (M, K, C)
        parts.append(
            (
                targets.argmax(-1), known[:, :-1][leads_on].argmax(-1),
                -(targets.exp() * predicted).sum(-1), predicted.argmax(-1),
                _by_sign(output.rewards[real]), rewards[real].sign().long() + 1,
                _by_end(output.logits_discounts[real], dynamics.config.gamma), ends[real].long(),
            )
        )  # fmt: skip
        watch(0)
    latents, before, costs, guesses, reward_logits, reward_labels, end_logits, end_labels = (
        torch.cat(column).cpu() for column in zip(*parts, strict=True)
    )
    categories = logits[0].shape[2]
    return (
        latent_figures(latents, before, costs, guesses, categories=categories) if len(latents) else None,
        classifier_figures(reward_logits, reward_labels, REWARDS),
        classifier_figures(end_logits, end_labels, ENDS),
    )


def _padded(logits: Tensor, length: int) -> Tensor:
    """(n, K, C) -> (length, K, C), zeros behind."""
    return F.pad(logits, (0, 0, 0, 0, 0, length - len(logits)))


def _by_sign(rewards: Tensor) -> Tensor:
    """Logits (N, 3) of a reward's sign, reading what is expected (N,) as the chance of a reward of 1 or -1."""
    chances = rewards / learned_rewards(torch.ones(()))
    return _log(torch.stack([-chances, 1 - chances.abs(), chances], 1))


def _by_end(logits_discounts: Tensor, gamma: float) -> Tensor:
    """Logits (N, 2) of going on and ending, reading the expected discount (N,) as the chance to go on, times gamma."""
    goes_on = logits_discounts.sigmoid() / gamma
    return _log(torch.stack([goes_on, 1 - goes_on], 1))


def _log(chances: Tensor) -> Tensor:
    return chances.clamp(_LEAST, 1).log()


def _dream_figures(
    tokenizer: Tokenizer,
    dynamics: Dynamics,
    logits: Sequence[Tensor],
    newest: Sequence[Episode],
    starts: Sequence[tuple[int, int]],
    context: int,
    horizon: int,
    seed: int,
    watch: Watch,
) -> DreamFigures:
    """Dreams from `starts`, (episode, step of the last stack that is read), under the actions that were taken."""
    device, picture = _device(dynamics), _newest(tokenizer)
    before = context - 1  # steps that are read whole
    true = most_probable(torch.stack([logits[e][s - before : s + horizon + 1] for e, s in starts]))  # (B, C + H, Z)
    frames = torch.stack([frames_on(newest[e].frames[s : s + horizon + 1], device) for e, s in starts])
    actions, rewards = (
        torch.from_numpy(np.stack([getattr(newest[e], name)[s - before : s + horizon] for e, s in starts])).to(device)
        for name in ("actions", "rewards")
    )
    told = learned_rewards(rewards[:, :before])

    def played(greedy: bool) -> Dreamt:
        dream = TwmDream(
            dynamics, true[:, :context], actions[:, :before], told, torch.zeros_like(told, dtype=torch.bool),
            generator=torch.Generator(device=device).manual_seed(seed), greedy=greedy,
        )  # fmt: skip
        return dreamt(dream, actions[:, before:], watch, picture=picture)

    shown = picture(true[:, before:].flatten(0, 1)).unflatten(0, (len(starts), horizon + 1))
    return dream_figures(
        frames, [newest[e].rewards[s : s + horizon] for e, s in starts], context=context, played=played,
        seen_start=shown[:, 0], reconstruction=shown[:, 1:],
    )  # fmt: skip


def _device(dynamics: Dynamics) -> torch.device:
    return dynamics.transformer.u_bias.device
