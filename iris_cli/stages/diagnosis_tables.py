"""Figures of a world model as tables for people: what was measured, and beside it what doing nothing clever gives."""

from iris_cli.learn.diagnosis import (
    ClassifierFigures,
    Diagnosis,
    DreamFigures,
    PolicyFigures,
    TokenFigures,
    TokenizerFigures,
)
from iris_cli.learn.hints import Hint
from iris_cli.report import Section

STEPS_SHOWN = (1, 5, 10, 20)  # of dreams, and the last one

Row = tuple[float | int | str | None, ...]


def tables(diagnosis: Diagnosis, hints: tuple[Hint, ...], *, title: str) -> tuple[Section, ...]:
    """One table for each part that was measured, then what was not, then the hints."""
    sections = [Section(title, (), ())]
    if diagnosis.tokenizer is not None:
        sections.append(_tokenizer(diagnosis.tokenizer))
    if diagnosis.dynamics is not None:
        sections.append(_dynamics(diagnosis.dynamics))
        if diagnosis.dynamics.position_accuracy and diagnosis.dynamics.tokens_of != "latents":
            sections.append(_places(diagnosis.dynamics))
    classifiers = [(name, x) for name, x in (("reward", diagnosis.rewards), ("end", diagnosis.ends)) if x is not None]
    if classifiers:
        sections.append(_classes(classifiers))
    if diagnosis.dream is not None:
        sections.append(_dream(diagnosis.dream))
    if diagnosis.policy is not None:
        sections.append(_policy(diagnosis.policy))
    if diagnosis.skipped:
        sections.append(Section("Not measured", ("part", "why"), tuple(diagnosis.skipped.items())))
    rows = tuple((hint.part, hint.text) for hint in hints)
    return (*sections, Section("Hints", ("part", "what to do"), rows))


def _tokenizer(figures: TokenizerFigures) -> Section:
    ours, blind = figures.reconstruction, figures.blind_image
    image = "the mean image" if figures.past_image is None else "as in the frame before"
    rows: tuple[Row, ...] = (
        ("pixel error, absolute (0 to 1)", ours.absolute, f"{blind.absolute:.4g} if all were {image}"),
        ("PSNR, dB", ours.psnr, "-" if blind.psnr is None else f"{blind.psnr:.4g}"),
        (
            "pixel error where things move",
            ours.moving_absolute,
            "-"
            if blind.moving_absolute is None
            else f"{blind.moving_absolute:.4g}; {figures.moving_share:.2%} of pixels",
        ),
        ("moving things kept", _percent(figures.kept), f"of their contrast with {image.removeprefix('as in ')}"),
        ("small ones kept, such as a ball", _percent(figures.small_kept), f"of {figures.small_pixels:,} pixels"),
        *(
            [("tokens that change where nothing moves", _percent(figures.still_changed), "less is better")]
            if figures.past_image is None and figures.latent_entropy is None
            else []
        ),
        *_codes(figures),
    )
    return Section("Tokenizer", ("", "here", "beside it"), rows)


def _codes(figures: TokenizerFigures) -> tuple[Row, ...]:
    if figures.latent_entropy is None:
        return (
            ("codes used", figures.codes_used, f"of {figures.codes:,}"),
            ("perplexity of their use", figures.perplexity, f"at most {figures.codes:,}"),
        )
    categories = figures.codes // figures.categoricals
    return (
        ("classes used", figures.codes_used, f"of {figures.codes:,} of {figures.categoricals} categoricals"),
        ("perplexity of their use, mean", figures.perplexity, f"at most {categories}"),
        ("entropy of what is drawn from", _percent(figures.latent_entropy), "of uniform draws"),
    )


def _dynamics(figures: TokenFigures) -> Section:
    guessing = figures.cross_entropy / figures.cross_entropy_share if figures.cross_entropy_share else 0.0
    transitions = figures.tokens_of == "transitions"
    copying = {
        "transitions": "always the most frequent of its place",
        "latents": "copying the last latent",
    }.get(figures.tokens_of, "copying the last frame")
    rows: tuple[Row, ...] = (
        (
            "token cross-entropy, nats",
            figures.cross_entropy,
            f"{figures.unigram_entropy:.4g} by frequency, {guessing:.4g} by guessing",
        ),
        ("tokens right", _percent(figures.next_accuracy), f"{_percent(figures.copy_accuracy)} {copying}"),
        (
            "tokens right where something moves" if transitions else "tokens right that changed",
            _percent(figures.changed_accuracy),
            f"{_percent(figures.changed_copy_accuracy)} likewise; {figures.changed:,} of {figures.tokens:,}"
            if transitions
            else f"0 % copying; {figures.changed:,} of {figures.tokens:,} changed",
        ),
        ("their cross-entropy, nats", figures.changed_cross_entropy, ""),
    )
    return Section("Dynamics, given the true past", ("", "here", "beside it"), rows)


def _places(figures: TokenFigures) -> Section:
    places = list(zip(figures.position_accuracy, figures.position_copy_accuracy, strict=True))
    side = round(len(places) ** 0.5)
    rows = tuple(
        tuple(f"{ours:.0%} | {copying:.0%}" for ours, copying in places[start : start + side])
        for start in range(0, len(places), side)
    )
    other = "always the most frequent" if figures.tokens_of == "transitions" else "copying"
    return Section(f"Tokens right by place in the frame | {other}", ("",) * side, rows)


def _classes(classifiers: list[tuple[str, ClassifierFigures]]) -> Section:
    rows = tuple(
        (
            f"{part} {name}" if part == "reward" else name,
            one.count,
            _percent(one.count / figures.steps),
            _percent(one.mean_probability),
            _percent(one.recall),
            _percent(one.precision),
            one.f1,
        )
        for part, figures in classifiers
        for name, one in figures.classes.items()
    )
    accuracies = ", ".join(
        f"{part}s right {x.accuracy:.2%} (always the most frequent: {x.most_frequent:.2%})" for part, x in classifiers
    )
    columns = ("", "steps", "share", "mean probability", "found", "of those said", "F1")
    return Section(f"Rewards and ends: {accuracies}", columns, rows)


def _dream(figures: DreamFigures) -> Section:
    shown = sorted({step for step in (*STEPS_SHOWN, figures.horizon) if step <= figures.horizon})
    curves = {
        "dream": figures.sampled, "dream, most probable": figures.greedy, "last frame, standing still": figures.copy,
        "its reconstruction, likewise": figures.copy_reconstruction,
        "reconstruction (the floor)": figures.reconstruction,
    }  # fmt: skip
    if figures.copy_reconstruction == figures.copy:  # dreams see frames
        del curves["its reconstruction, likewise"]
    rows: list[Row] = [(name, *(curve.error[step - 1] for step in shown)) for name, curve in curves.items()]
    rows.append(("where it differs from the start:", *("" for _ in shown)))
    rows += [(name, *(curve.moving[step - 1] for step in shown)) for name, curve in curves.items()]
    title = (
        f"Dreams: pixel error after n steps, {figures.starts} starts, {figures.context} frames read; "
        f"rewards a dream {figures.dreamt_rewards:.3g} (real {figures.real_rewards:.3g}), "
        f"ends {figures.dreamt_ends:.3g} (real 0)"
    )
    return Section(title, ("", *(str(step) for step in shown)), tuple(rows))


def _policy(figures: PolicyFigures) -> Section:
    rows: tuple[Row, ...] = (
        ("entropy", _percent(figures.entropy_share), "of random play"),
        (
            "most frequent action",
            figures.most_frequent_action,
            f"{figures.most_frequent_share:.0%} of the time; {1 / figures.actions:.0%} at random",
        ),
        ("value", figures.mean_value, "-" if figures.mean_return is None else f"{figures.mean_return:.4g} really came"),
        ("value follows return, correlation", figures.value_correlation, "1 is best"),
    )
    return Section("Policy", ("", "here", "beside it"), rows)


def _percent(share: float | None) -> str | None:
    """`0.5 %`, `99.93 %`: with digits where they matter."""
    if share is None:
        return None
    digits = 0 if share in (0, 1) else 1 if 0.001 <= share <= 0.999 else 3
    return f"{share:.{digits}%}".replace("%", " %")
