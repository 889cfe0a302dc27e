"""From figures to sentences: which part of a world model fails, and what to do about it. Knows no agent and no file.

The thresholds are coarse on purpose: each catches a part that is broken, not one that could be better.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from iris_cli.learn.diagnosis import (
    ClassifierFigures,
    Curve,
    Diagnosis,
    DreamFigures,
    PolicyFigures,
    TokenFigures,
    TokenizerFigures,
)

COLLAPSED_PERPLEXITY = 2.0  # of the codebook; one object on an empty board needs more
COLLAPSED_CODES = 4
LOST = 0.5  # share of moving things' contrast that is kept, below which they are lost
AS_MEAN_IMAGE = 0.8  # error on moving pixels, as a share of the mean image's, from which on it is "about as large"
SMALL_LOST = 0.3  # the same of small things, whose edges, blurred, weigh more
FEW_PIXELS = 50  # of small things, below which nothing is said of them
COPYING = 0.1  # share of changed tokens that are hit, below which the dynamics copies
RARE_COUNT = 3  # steps of a class, below which its recall says nothing
MISSED = 0.5  # recall, and mean probability as a share of the class's own, below which a class is missed
IMAGINED = 3.0  # times its share that a class is given, from which on it is imagined ...
IMAGINED_SLACK = 0.005  # ... beyond this probability per step: one in ten dreams of 20 steps
ONE_ACTION = 0.98  # mean probability of an action, from which on the policy is that action
DECIDED = 0.02  # entropy as a share of log A
UNDECIDED = 0.97  # the same, from which on the policy plays at random
FLICKER = 0.2  # share of the patches in which nothing moves that change their token
NOISE = 0.5  # entropy of categoricals as a share of the uniform one, from which on their draws say little
BLIND_VALUE = 0.1  # correlation of values with returns


@dataclass(frozen=True)
class Hint:
    """One sentence or two about one part.

    Attributes:
        part: tokenizer, dynamics, rewards, ends, dream, policy or all.
        text: what is the matter and what to do.
    """

    part: str
    text: str


def hints(
    diagnosis: Diagnosis, *, training_rewards: Mapping[str, int] | None = None, judge_ends: bool = True
) -> tuple[Hint, ...]:
    """What the figures say, from the tokenizer, on which all depends, to the policy; never empty.

    Args:
        diagnosis: the figures.
        training_rewards: steps of the training data by class of reward, named as in the figures; None if unknown.
        judge_ends: whether ends mean here what they meant in training.
    """
    found = [Hint(part, text) for part, text in _untrained(diagnosis)]
    if diagnosis.tokenizer is not None:
        found += [Hint("tokenizer", text) for text in _tokenizer(diagnosis.tokenizer)]
    if diagnosis.dynamics is not None:
        found += [Hint("dynamics", text) for text in _dynamics(diagnosis.dynamics)]
    if diagnosis.rewards is not None:
        found += [Hint("rewards", text) for text in _rewards(diagnosis.rewards, training_rewards)]
    if diagnosis.ends is not None and judge_ends:
        found += [Hint("ends", text) for text in _ends(diagnosis.ends)]
    if diagnosis.dream is not None:
        found += [Hint("dream", text) for text in _dream(diagnosis.dream)]
    world_is_sound = not found
    if diagnosis.policy is not None:
        found += [Hint("policy", text) for text in _policy(diagnosis.policy)]
    if world_is_sound:
        tail = "look at the policy." if found else "the policy needs more updates or more varied data."
        found.append(Hint("all", f"No part of the world model stands out. If scores are low, {tail}"))
    return tuple(found)


def parts(found: Iterable[Hint]) -> str:
    """The parts that hints are about, in words."""
    return ", ".join(dict.fromkeys(hint.part for hint in found if hint.part != "all")) or "none"


def plain(found: Iterable[Hint]) -> list[dict[str, str]]:
    """Hints for JSON."""
    return [{"part": hint.part, "text": hint.text} for hint in found]


def behind_copying(dream: DreamFigures, which: Curve) -> int | None:
    """The first step (from 1) at which dreams are further from what came than the start's frame is; None: never.

    As the tokenizer sees that frame, since dreams see with its eyes: over all pixels, where a dream may put things in
    wrong places, or over those that differ from the start's. Steps at which the reconstruction of what really came is
    no nearer than that say nothing about dreams.
    """
    still, floor = dream.copy_reconstruction, dream.reconstruction
    for step in range(dream.horizon):
        overall = (which.error[step], still.error[step], floor.error[step])
        moving = (which.moving[step], still.moving[step], floor.moving[step])
        for ours, theirs, least in (overall, moving):
            if ours is not None and theirs is not None and least is not None and ours > theirs > least:
                return step + 1
    return None


def _untrained(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    told = set()
    reason = diagnosis.skipped.get("tokenizer", "")
    if reason and not reason.endswith(" was never trained"):
        yield "tokenizer", f"Nothing was measured: {reason}. Measure on more: --steps."
    for part, reason in diagnosis.skipped.items():  # parts that hang on one component come one after the other
        if reason.endswith(" was never trained") and reason not in told:
            told.add(reason)
            component = reason.removeprefix("the ").removesuffix(" was never trained")
            yield (
                part,
                f"The {component} was never trained, so nothing that hangs on it was measured. "
                f"Run: iris train-{component}",
            )


def _tokenizer(figures: TokenizerFigures) -> Iterator[str]:
    drawn = figures.latent_entropy
    cure = (
        "frames look alike to the dynamics. Train the tokenizer longer; codes that learn as moving averages and are "
        "revived (tokenizer.preset=light) do not collapse."
        if figures.past_image is None
        else "transitions look alike to the dynamics. Train the tokenizer longer, or let unused codes be revived for "
        "more updates (tokenizer.revival_updates)."
    )
    if drawn is not None:
        if figures.perplexity**figures.categoricals < COLLAPSED_PERPLEXITY:
            yield (
                f"Collapsed latents: they hardly vary (perplexity {figures.perplexity:.2f} of each categorical), so "
                "that frames look alike to the dynamics. Train the tokenizer longer."
            )
        if drawn > NOISE:
            yield (
                f"Latents are mostly noise: what the tokenizer draws from has {drawn:.0%} of the "
                "entropy of uniform draws. Train the tokenizer longer."
            )
    elif figures.codes_used <= COLLAPSED_CODES or figures.perplexity < COLLAPSED_PERPLEXITY:
        yield (
            f"Collapsed codebook: {figures.codes_used} of {figures.codes} codes are used (perplexity "
            f"{figures.perplexity:.1f}), so that {cure}"
        )
    ours, blind = figures.reconstruction.moving_absolute, figures.blind_image.moving_absolute
    if ours is None or blind is None:
        yield "Nothing moves in these frames, so the tokenizer cannot be judged. Measure on others: --steps, --seed."
    elif ours > AS_MEAN_IMAGE * blind or (figures.kept is not None and figures.kept < LOST):
        yield (
            f"What moves is lost in the reconstructions: the error there is {ours:.3g}, and {blind:.3g} if it is "
            "ignored altogether. Nothing downstream can see it. Train the tokenizer longer, or on more data."
        )
    elif figures.small_kept is not None and figures.small_pixels >= FEW_PIXELS and figures.small_kept < SMALL_LOST:
        yield (
            f"Small things that move, such as a ball, are lost: {max(figures.small_kept, 0):.0%} of their contrast is "
            "kept in reconstructions. Train the tokenizer longer"
            + ("; without perceptual weights, raise tokenizer.max_pixel_weight." if drawn is None else ".")
        )
    if figures.still_changed is not None and figures.still_changed > FLICKER:
        yield (
            f"Tokens flicker: {figures.still_changed:.0%} of the patches in which nothing moves change theirs, which "
            "is noise to the dynamics. Train the tokenizer longer, or with fewer codes (tokenizer.codes)."
        )


def _dynamics(figures: TokenFigures) -> Iterator[str]:
    if figures.cross_entropy >= figures.unigram_entropy > 0:
        yield (
            f"The dynamics predicts tokens no better than their frequencies do ({figures.cross_entropy:.3g} nats, "
            f"{figures.unigram_entropy:.3g} by frequency). Train it longer; after the tokenizer has changed it starts "
            "almost from nothing."
        )
        return
    ours, copying, changed = figures.next_accuracy, figures.copy_accuracy, figures.changed_accuracy
    if ours is None or copying is None or changed is None:
        return
    if figures.tokens_of == "transitions":
        if ours <= copying:
            yield (
                f"The dynamics foresees transitions no better than always saying the most frequent token of each "
                f"place does: {ours:.1%} of tokens right, {copying:.1%} that way ({changed:.1%} where something "
                "moves). Train it longer, or on more data."
            )
    elif ours <= copying:
        yield (
            f"The dynamics is no better than copying the last frame: {ours:.1%} of tokens right, {copying:.1%} by "
            f"copying ({changed:.1%} right of those that change). Train it longer, or on more data."
        )
    elif changed < COPYING:
        yield (
            f"The dynamics mostly copies: it gets {changed:.1%} of the tokens that change. Train it longer, or on more "
            "data."
        )


def _rewards(figures: ClassifierFigures, training: Mapping[str, int] | None) -> Iterator[str]:
    rare = {name: one for name, one in figures.classes.items() if name != "0"}
    never = training is not None and not any(training.get(name, 0) for name in rare)
    if never:
        yield (
            "Rewards were never seen: all of the training data pays 0, so dreams cannot pay either. Collect more "
            "steps, or with a policy that gets somewhere."
        )
    if not any(one.count for one in rare.values()):
        yield "These episodes hold no reward but 0, so its prediction cannot be judged. Measure on more: --steps."
    for name, one in rare.items():
        share = one.count / figures.steps
        seen = "" if training is None else f" (the training data has {training.get(name, 0):,})"
        recall = one.recall or 0.0
        if training is not None and not never and one.count and not training.get(name, 0):
            yield f"The training data holds no reward of {name}, and {one.count:,} came here. Collect more steps."
        elif one.count >= RARE_COUNT and recall < MISSED and one.mean_probability < MISSED * share and not never:
            yield (
                f"Rewards of {name} are missed: {recall:.0%} of {one.count:,} are foreseen{seen}. Collect more of "
                "them, and train the dynamics longer."
            )
        if _is_imagined(one.mean_probability, share):
            yield (
                f"Rewards of {name} are imagined: {one.mean_probability:.2%} of steps are given one, and {share:.2%} "
                f"have one{seen}. Train the dynamics longer; policies exploit rewards that are not there."
            )


def _ends(figures: ClassifierFigures) -> Iterator[str]:
    end = figures.classes["ends"]
    share, recall = end.count / figures.steps, end.recall or 0.0
    if not end.count:
        yield "No episode ended here, so the prediction of ends cannot be judged. Measure on more: --steps."
    if end.count >= RARE_COUNT and recall < MISSED and end.mean_probability < MISSED * share:
        yield (
            f"Ends are missed: {recall:.0%} of {end.count:,} are foreseen, so dreams outlive their episodes and the "
            "policy does not learn to avoid the end. Collect more episodes, and train the dynamics longer."
        )
    if _is_imagined(end.mean_probability, share):
        yield (
            f"Ends are imagined too often: in {end.mean_probability:.2%} of steps, and {share:.2%} are one. Values "
            "come out too small. Train the dynamics longer."
        )


def _is_imagined(probability: float, share: float) -> bool:
    return probability > IMAGINED * share + IMAGINED_SLACK


def _dream(figures: DreamFigures) -> Iterator[str]:
    step = behind_copying(figures, figures.sampled)
    if step is not None:
        greedy = behind_copying(figures, figures.greedy)
        least = "so do greedy ones" if greedy is not None else "greedy ones do not: the uncertainty is in the draws"
        yield (
            f"From step {step} on dreams stray further from what comes than the last frame, standing still, does; "
            f"{least}. Train the dynamics longer, or let the policy dream for fewer steps (actor_critic.horizon)."
        )


def _policy(figures: PolicyFigures) -> Iterator[str]:
    if figures.most_frequent_share >= ONE_ACTION or (figures.actions > 1 and figures.entropy_share < DECIDED):
        yield (
            f"The policy has settled on hardly varying actions (entropy {figures.entropy_share:.1%} of random play's; "
            f"action {figures.most_frequent_action} has {figures.most_frequent_share:.0%}). If scores are low, raise "
            "actor_critic.entropy_weight."
        )
    elif figures.entropy_share > UNDECIDED:
        yield (
            f"The policy still plays at random (entropy {figures.entropy_share:.1%} of random play's). Train the "
            "actor-critic longer; if that changes nothing, dreams hold no rewards that actions decide."
        )
    if figures.value_correlation is not None and figures.value_correlation < BLIND_VALUE:
        yield (
            f"Values do not foresee returns (correlation {figures.value_correlation:.2f}). Train the actor-critic "
            "longer."
        )
