"""Chapters of a report: what a run took, its settings, and how to make it again."""

import shlex
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from iris_cli import console
from iris_cli.evaluations import Evaluation, final_of
from iris_cli.html_report.markup import Cell, Html, join, table, tag
from iris_cli.metrics import numbers_of
from iris_cli.stages.report_subject import (
    Subject,
    code,
    date,
    flattened,
    plain,
    preset_of,
    remark,
)
from iris_cli.stages.run_facts import Facts


def timings(subject: Subject) -> Html:
    facts, rows = subject.facts, list[Sequence[Cell]]()
    parts: list[Html] = []
    by_stage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in facts.stages:
        by_stage[line["stage"]].append(line)
    if by_stage:
        total = sum(line["seconds"] for line in facts.stages)
        for stage, lines in sorted(by_stage.items(), key=lambda item: -sum(line["seconds"] for line in item[1])):
            seconds = sum(line["seconds"] for line in lines)
            figures = [numbers_of(line) for line in lines]
            speeds = [(key, f[key]) for f in figures for key in f if key.endswith("_per_second")]
            speed = f"{console.number(float(np.median([v for _, v in speeds])))} {speeds[0][0].split('_')[0]}/s" \
                if speeds else "–"  # fmt: skip
            share = f"{seconds / (total or 1):.1%}".replace("%", " %")
            rows.append([stage, len(lines), console.duration(seconds), share, speed])
        parts.append(table(["stage", "times", "in all", "share", "median speed"], rows))
    else:
        parts.append(remark("No times of stages are recorded: only pipelines write them."))
    if facts.starts:
        rows = []
        for start in facts.starts:
            machine = start.machine
            what = ", ".join(str(machine[key]) for key in ("gpu", "processor") if key in machine)
            size = f"{machine.get('cores')} cores, {machine.get('memory_gb')} GB, {machine.get('system')}"
            versions = ", ".join(f"{name} {value}" for name, value in start.versions.items())
            rows.append([date(start.time), f"{what} ({size}), on {machine.get('device')}", versions])
        parts.append(table(["started", "machine", "versions"], rows))
    else:
        devices = sorted({str(e.device) for e in facts.evaluations if e.device})
        known = f" Its evaluations ran on {', '.join(devices)}." if devices else ""
        parts.append(remark(f"The machine is not recorded: the run is of an earlier version.{known}"))
    versions = ", ".join(f"{name} {value}" for name, value in facts.card["versions"].items())
    parts.append(remark(f"Made with {versions}."))
    return join(parts)


def settings(subjects: Sequence[Subject]) -> Html:
    settings = [flattened(subject.facts.card["config"]) for subject in subjects]
    names = list(dict.fromkeys(name for one in settings for name in one))
    if len(subjects) == 1:
        presets = preset_of(subjects[0].facts)
        changed = {name for name, value in settings[0].items() if presets is not None and presets.get(name) != value}
        groups: dict[str, list[list[Any]]] = defaultdict(list)
        for name in names:
            section, _, short = name.rpartition(".")
            mark = " (not the preset's)" if name in changed else ""
            groups[section].append([short, f"{plain(settings[0][name])}{mark}"])
        blocks = [
            tag("details", tag("summary", f"{section}, {len(rows)} settings"), table(["", ""], rows))
            for section, rows in groups.items()
            if section
        ]
        words = f"{len(changed)} of them differ from the preset." if changed else "All of them are the preset's."
        if presets is None:
            words = "The preset is not known to this version, so what differs from it is not marked."
        environment = [[name, plain(value)] for name, value in subjects[0].facts.card["environment"].items()]
        game = tag("details", tag("summary", "environment"), table(["", ""], environment))
        return join([remark(words), *blocks, game])
    missing = object()
    rows = [
        [name, *(plain(one[name]) if name in one else "–" for one in settings)]
        for name in names
        if any(one.get(name, missing) != settings[0].get(name, missing) for one in settings)
    ]
    if not rows:
        return remark("All settings are the same in these runs.")
    return join([remark("Only what differs."), table(["setting", *(s.name for s in subjects)], rows)])


def reproduce(subject: Subject) -> Html:
    facts = subject.facts
    parts: list[Html] = []
    commands = list(dict.fromkeys(start.command for start in facts.starts if start.command))
    if commands:
        parts += [remark("What was typed, in this order:"), code("\n".join(commands))]
    else:
        parts += [
            remark("The commands were not recorded. A run with these settings is made by"),
            code(_settings_command(facts)),
            remark("and the stages after it; how many updates each of them did stands above and in metrics.jsonl."),
        ]  # fmt: skip
    if facts.plan is not None and isinstance(facts.plan.get("text"), str):
        summary = tag("summary", f"The pipeline file as it was read: {facts.plan.get('source')}")
        parts.append(tag("details", summary, code(facts.plan["text"])))
    if (final := final_of(facts.evaluations)) is not None:
        parts += [remark(f"Its final evaluation ({final.path.name}):"), code(_evaluation_command(facts, final))]
    parts.append(
        remark("On a CPU with the same versions and number of threads the same seed gives the same run; elsewhere, a "
              "run of the same kind.")
    )  # fmt: skip
    return join(parts)


def _settings_command(facts: Facts) -> str:
    card, changes = facts.card, []
    presets, mine = preset_of(facts) or {}, flattened(facts.card["config"])
    for name, value in mine.items():
        if name in presets and presets[name] != value:
            changes += ["--set", f"{name}={plain(value).replace(', ', ',')}"]
    words = [
        "iris", "train-agent" if card["agent"] == "twm" else "train-tokenizer", card["dataset"], "--agent",
        card["agent"], "--preset", str(card["config"].get("preset")), "--seed", str(card["seed"]), "--run",
        str(facts.path), *changes,
    ]  # fmt: skip
    return shlex.join(words)


def _evaluation_command(facts: Facts, final: Evaluation) -> str:
    protocol = final.protocol
    words = ["iris", "evaluate", "--run", str(facts.path), "--episodes", str(len(final.scores))]
    for name in ("temperature", "epsilon", "seed", "max_steps", "num_envs"):
        if protocol.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(protocol[name])]
    return shlex.join(words)
