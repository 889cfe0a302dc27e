"""A sound world model has no hint but one; each broken part has its own."""

from dataclasses import replace
from typing import Any

import pytest

from iris_cli.learn.diagnosis import (
    ClassFigures,
    ClassifierFigures,
    Curve,
    Diagnosis,
    DreamFigures,
    ImageFigures,
    PolicyFigures,
    TokenFigures,
    TokenizerFigures,
)
from iris_cli.learn.hints import behind_copying, hints, parts

TRAINING = {"-1": 60, "0": 9900, "+1": 40}


def one_class(count: int, probability: float, recall: float | None = None) -> ClassFigures:
    return ClassFigures(count=count, predicted=0, mean_probability=probability, precision=None, recall=recall, f1=None)


def classifier(**classes: ClassFigures) -> ClassifierFigures:
    return ClassifierFigures(steps=1000, accuracy=0.99, most_frequent=0.9, cross_entropy=0.1, classes=classes)


TOKENIZER = TokenizerFigures(
    reconstruction=ImageFigures(absolute=0.01, squared=0.001, psnr=30.0, moving_absolute=0.1, moving_squared=0.01),
    mean_image=ImageFigures(absolute=0.05, squared=0.01, psnr=20.0, moving_absolute=0.4, moving_squared=0.2),
    moving_share=0.01, kept=0.9, small_kept=0.8, small_pixels=500, still_changed=0.05, codes=512, codes_used=200,
    perplexity=40.0, entropy=3.7,
)  # fmt: skip
DYNAMICS = TokenFigures(
    cross_entropy=0.5, cross_entropy_share=0.08, unigram_entropy=3.7, accuracy=0.9, next_accuracy=0.92,
    copy_accuracy=0.8, next_cross_entropy=0.4, changed=300, changed_accuracy=0.7, changed_cross_entropy=1.0,
    position_cross_entropy=[], position_accuracy=[], position_copy_accuracy=[], tokens=1500,
)  # fmt: skip
REWARDS = classifier(**{"-1": one_class(20, 0.02, 0.8), "0": one_class(970, 0.97, 1.0), "+1": one_class(10, 0.01, 0.9)})
ENDS = classifier(**{"goes on": one_class(995, 0.995, 1.0), "ends": one_class(5, 0.005, 0.6)})
DREAM = DreamFigures(
    starts=16, horizon=2, context=4, sampled=Curve(error=[0.02, 0.03], moving=[0.1, 0.2]),
    greedy=Curve(error=[0.02, 0.03], moving=[0.1, 0.2]), copy=Curve(error=[0.03, 0.05], moving=[0.3, 0.3]),
    copy_reconstruction=Curve(error=[0.04, 0.05], moving=[0.3, 0.3]),
    reconstruction=Curve(error=[0.01, 0.01], moving=[0.05, 0.05]), real_rewards=0.5, dreamt_rewards=0.5,
    dreamt_ends=0.1,
)  # fmt: skip
POLICY = PolicyFigures(
    actions=6, entropy=0.9, entropy_share=0.5, most_frequent_action=2, most_frequent_share=0.4, mean_value=1.0,
    mean_return=1.1, value_correlation=0.7,
)  # fmt: skip
SOUND = Diagnosis(
    episodes=3, steps=1000, tokenizer=TOKENIZER, dynamics=DYNAMICS, rewards=REWARDS, ends=ENDS, dream=DREAM,
    policy=POLICY,
)  # fmt: skip


def broken(part: str, **changes: Any) -> Diagnosis:
    return replace(SOUND, **{part: replace(getattr(SOUND, part), **changes)})


def with_class(part: str, name: str, one: ClassFigures) -> Diagnosis:
    return broken(part, classes={**getattr(SOUND, part).classes, name: one})


def test_a_sound_world_points_to_the_policy() -> None:
    [hint] = hints(SOUND, training_rewards=TRAINING)

    assert hint.part == "all"
    assert "No part of the world model stands out" in hint.text
    assert parts([hint]) == "none"


@pytest.mark.parametrize(
    ("diagnosis", "part", "says"),
    [
        (broken("tokenizer", codes_used=3, perplexity=2.5), "tokenizer", "Collapsed codebook: 3 of 512"),
        (broken("tokenizer", perplexity=1.1), "tokenizer", "Collapsed codebook"),
        (broken("tokenizer", kept=0.2), "tokenizer", "What moves is lost"),
        (
            broken("tokenizer", reconstruction=replace(TOKENIZER.reconstruction, moving_absolute=0.35)),
            "tokenizer", "What moves is lost",
        ),
        (broken("tokenizer", small_kept=0.1), "tokenizer", "such as a ball, are lost"),
        (broken("tokenizer", still_changed=0.5), "tokenizer", "Tokens flicker: 50%"),
        (
            broken("tokenizer", reconstruction=replace(TOKENIZER.reconstruction, moving_absolute=None)),
            "tokenizer", "Nothing moves",
        ),
        (broken("dynamics", cross_entropy=3.8), "dynamics", "no better than their frequencies"),
        (broken("dynamics", next_accuracy=0.8), "dynamics", "no better than copying"),
        (broken("dynamics", changed_accuracy=0.05, next_accuracy=0.81), "dynamics", "mostly copies"),
        (with_class("rewards", "+1", one_class(10, 0.001, 0.1)), "rewards", "+1 are missed: 10% of 10"),
        (with_class("rewards", "-1", one_class(20, 0.2, 0.8)), "rewards", "-1 are imagined"),
        (with_class("ends", "ends", one_class(5, 0.001, 0.0)), "ends", "Ends are missed"),
        (with_class("ends", "ends", one_class(5, 0.1, 1.0)), "ends", "Ends are imagined too often: in 10.00%"),
        (with_class("ends", "ends", one_class(0, 0.001)), "ends", "No episode ended here"),
        (broken("dream", sampled=Curve(error=[0.02, 0.06], moving=[0.1, 0.2])), "dream", "From step 2 on"),
    ],
)  # fmt: skip
def test_each_broken_part_has_its_hint_and_no_other(diagnosis: Diagnosis, part: str, says: str) -> None:
    [hint] = hints(diagnosis, training_rewards=TRAINING)

    assert hint.part == part
    assert says in hint.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"most_frequent_share": 0.99}, "settled on hardly varying actions"),
        ({"entropy_share": 0.01}, "settled on hardly varying actions"),
        ({"entropy_share": 0.99}, "still plays at random"),
        ({"value_correlation": -0.2}, "Values do not foresee returns"),
    ],
)
def test_a_broken_policy_in_a_sound_world_is_said_to_be_that(changes: dict[str, float], says: str) -> None:
    first, second = hints(broken("policy", **changes), training_rewards=TRAINING)

    assert (first.part, second.part) == ("policy", "all")
    assert says in first.text
    assert second.text.endswith("look at the policy.")


def test_rewards_that_training_never_saw_are_named() -> None:
    nothing = classifier(**{name: one_class(1000 * (name == "0"), 0.0) for name in ("-1", "0", "+1")})

    texts = [h.text for h in hints(replace(SOUND, rewards=nothing), training_rewards={"-1": 0, "0": 500, "+1": 0})]

    assert "Rewards were never seen" in texts[0]
    assert "hold no reward but 0" in texts[1]


def test_one_sign_that_training_never_saw_is_named() -> None:
    [hint] = hints(SOUND, training_rewards={**TRAINING, "+1": 0})

    assert "The training data holds no reward of +1, and 10 came here" in hint.text


def test_ends_that_mean_something_else_here_are_not_judged() -> None:
    [hint] = hints(with_class("ends", "ends", one_class(5, 0.1, 1.0)), judge_ends=False)

    assert hint.part == "all"


def test_an_untrained_part_is_named_once_with_its_command() -> None:
    skipped = dict.fromkeys(("policy",), "the actor-critic was never trained")

    [hint] = hints(replace(SOUND, policy=None, skipped=skipped), training_rewards=TRAINING)

    assert (hint.part, hint.text.rpartition(": ")[2]) == ("policy", "iris train-actor-critic")


def test_dreams_are_not_blamed_for_what_the_tokenizer_cannot_show() -> None:
    dream = replace(DREAM, sampled=Curve(error=[0.06, 0.06], moving=[None, None]))

    assert behind_copying(dream, dream.sampled) == 1
    blind = replace(dream, reconstruction=DREAM.copy_reconstruction)
    assert behind_copying(blind, blind.sampled) is None


def test_tokens_of_transitions_are_not_said_to_copy_a_frame() -> None:
    beaten = broken("dynamics", tokens_of="transitions", next_accuracy=0.5, copy_accuracy=0.5, changed_accuracy=0.3)

    [hint] = hints(beaten, training_rewards=TRAINING)

    assert hint.part == "dynamics"
    assert "most frequent token of each place" in hint.text
    assert "copying" not in hint.text
