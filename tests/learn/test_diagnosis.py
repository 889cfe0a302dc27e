"""Figures of a world model go to JSON and come back."""

import json

import pytest

from iris_cli.learn.diagnosis import (
    ClassFigures,
    ClassifierFigures,
    Curve,
    Diagnosis,
    DreamFigures,
    ImageFigures,
    PolicyFigures,
    TokenizerFigures,
)

IMAGE = ImageFigures(absolute=0.1, squared=0.01, psnr=None, moving_absolute=0.2, moving_squared=None)
CURVE = Curve(error=[0.1, 0.2], moving=[None, 0.3])
DIAGNOSIS = Diagnosis(
    episodes=2,
    steps=30,
    tokenizer=TokenizerFigures(
        reconstruction=IMAGE, mean_image=IMAGE, moving_share=0.1, kept=None, small_kept=0.5, small_pixels=9,
        still_changed=None, codes=32, codes_used=7, perplexity=3.0, entropy=1.1,
    ),
    ends=ClassifierFigures(
        steps=30, accuracy=1.0, most_frequent=0.9, cross_entropy=0.1,
        classes={"ends": ClassFigures(count=3, predicted=3, mean_probability=0.1, precision=1.0, recall=1.0, f1=1.0)},
    ),
    dream=DreamFigures(
        starts=4, horizon=2, context=1, sampled=CURVE, greedy=CURVE, copy=CURVE, copy_reconstruction=CURVE,
        reconstruction=CURVE, real_rewards=1.0, dreamt_rewards=2.0, dreamt_ends=0.0,
    ),
    policy=PolicyFigures(
        actions=6, entropy=1.0, entropy_share=0.5, most_frequent_action=2, most_frequent_share=0.4, mean_value=0.1,
        mean_return=None, value_correlation=None,
    ),
    skipped={"dynamics": "never trained"},
)  # fmt: skip


def test_a_diagnosis_comes_back_from_json_as_it_was() -> None:
    stored = json.loads(json.dumps(DIAGNOSIS.to_mapping()))

    assert Diagnosis.from_mapping({**stored, "held_out": "other keys"}) == DIAGNOSIS


@pytest.mark.parametrize(
    "spoiled", [{"steps": None}, {"tokenizer": 3}, {"tokenizer": {}}, {"ends": {"classes": 1}}, {"dream": []}]
)
def test_what_is_no_diagnosis_is_refused(spoiled: dict) -> None:
    stored = DIAGNOSIS.to_mapping() | spoiled
    if spoiled == {"steps": None}:
        del stored["steps"]

    with pytest.raises((KeyError, TypeError, ValueError)):
        Diagnosis.from_mapping(stored)
