"""Hours of trials, and the table of what was tried, survived and lost. `make soak`, or one that failed, again:

python tests/faults/soak.py --minutes 60 --seed 1 --out tests/faults/results
python tests/faults/soak.py --scenario 'run iris' --trial 1000007
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from trials import ROOT, SCENARIOS, Known, Trial, Zygote, fault_trial, kill_trial, learn, sweep_trial  # noqa: E402 (beside this)

from iris_cli.machine import commit, processor  # noqa: E402 (of this checkout)

KILLS = {"run iris": 12, "run delta-iris": 12, "run twm": 12}  # of a trial; others: 6
FAULTS_AT_ONCE = 3  # after each trial of kills, until each kind of operation on each kind of file has failed
FAULTS = ("full", "full once", "broken", "read only", "interrupt", "interrupt twice", "tear")


def trials(seed: int, only: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Scenario and seed of one trial after the other, for ever."""
    number = seed * 1_000_000
    while True:
        for name in only:
            yield name, number
            number += 1


def soak(
    folder: Path,
    *,
    seed: int,
    minutes: float,
    kills: int | None = None,
    faults: bool = True,
    only: Sequence[str] = tuple(SCENARIOS),
    saved: Path | None = None,
) -> dict[str, Any]:
    """Kill scenarios, and let operations on their files fail, in turn, until the time is over or kills are enough.

    Args:
        folder: where the trials take place; what was lost stays there.
        seed: of all draws.
        minutes: after which no further trial begins.
        kills: after which none begins; None: any number.
        faults: whether to try the faults of operations, too.
        only: the scenarios.
        saved: where the table is written after each trial; None: nowhere.
    """
    begun, done, known, failing = time.monotonic(), list[Trial](), dict[str, Known](), dict[str, list[dict[str, Any]]]()

    def add(trial: Trial) -> None:
        done.append(trial)
        told(trial)
        if saved is not None:
            write(table(done, seed=seed, seconds=time.monotonic() - begun), saved)

    with Zygote(folder) as zygote:
        for name, number in trials(seed, only):
            over = time.monotonic() - begun > 60 * minutes
            if over or (kills is not None and sum(trial.kills for trial in done) >= kills):
                break
            if name not in known:
                known[name] = learn(zygote, SCENARIOS[name], folder)
                failing[name] = known[name].each_kind(FAULTS) if faults else []
                random.Random(seed).shuffle(failing[name])
            add(killed(zygote, known[name], folder / f"{number}", number))
            for index, fault in enumerate(failing[name][:FAULTS_AT_ONCE]):
                add(fault_trial(zygote, known[name], folder / f"fault-{number}-{index}", number, fault))
            del failing[name][:FAULTS_AT_ONCE]
    return table(done, seed=seed, seconds=time.monotonic() - begun)


def killed(zygote: Zygote, known: Known, place: Path, seed: int) -> Trial:
    """Kill a scenario as often as is fit."""
    name = known.scenario.name
    return (sweep_trial if name == "sweep" else kill_trial)(zygote, known, place, seed, kills=KILLS.get(name, 6))


def told(trial: Trial) -> None:
    """Print a line."""
    print(trial.scenario, trial.seed, trial.faults, "LOST: " + ", ".join(trial.lost) if trial.lost else "", flush=True)
    if trial.lost:
        print(trial.said, flush=True)


def table(done: list[Trial], *, seed: int, seconds: float) -> dict[str, Any]:
    """What was tried, survived and lost, by scenario and kind of fault; every trial that was lost; all seeds."""
    rows: dict[str, dict[str, int]] = {}
    for trial in done:
        for fault in trial.faults:
            if "whom" in fault:
                kind = f"kill -9 of {fault['whom']}"
            elif "seconds" in fault:
                kind = "kill -9 at a time"
            else:
                kind = {"kill": "kill -9 at an operation", "tear": "kill -9 inside an operation"}.get(
                    fault["mode"], fault["mode"]
                )
            hit = fault["code"] == -9 if kind.startswith("kill") else fault["code"] != 0
            row = rows.setdefault(f"{trial.scenario}: {kind}", {"tried": 0, "hit": 0, "lost": 0})
            row["tried"] += 1
            row["hit"] += hit
        if trial.faults:
            row["lost"] += bool(trial.lost)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": processor(),
        "python": platform.python_version(),
        "seed": seed,
        "hours": round(seconds / 3600, 2),
        "kills": sum(trial.kills for trial in done),
        "faults": sum(row["hit"] for name, row in rows.items() if "kill -9" not in name),
        "trials": len(done),
        "lost": sum(bool(trial.lost) for trial in done),
        "rows": dict(sorted(rows.items())),
        "lost_trials": [asdict(trial) | {"said": trial.said.replace(f"{ROOT}/", "")} for trial in done if trial.lost],
        "seeds": {name: [t.seed for t in done if t.scenario == name and t.kills] for name in SCENARIOS},
    }


def write(found: dict[str, Any], path: Path) -> None:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Soak, or carry out one trial again."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--minutes", type=float, default=60)
    asked.add_argument("--kills", type=int)
    asked.add_argument("--no-faults", action="store_true")
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked.add_argument("--scenario", choices=SCENARIOS, action="append", help="[default: all]")
    asked.add_argument("--trial", type=int)
    wanted = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    if wanted.trial is not None:
        with Zygote(folder) as zygote:
            [name] = wanted.scenario
            told(killed(zygote, learn(zygote, SCENARIOS[name], folder), folder / "again", wanted.trial))
        return
    path = wanted.out / f"soak-{time.strftime('%Y%m%d-%H%M%S')}.json"
    found = soak(
        folder, seed=wanted.seed, minutes=wanted.minutes, kills=wanted.kills, faults=not wanted.no_faults,
        only=wanted.scenario or tuple(SCENARIOS), saved=path,
    )  # fmt: skip
    print(json.dumps({name: found[name] for name in ("hours", "kills", "trials", "lost", "rows")}, indent=1), path)
    sys.exit(bool(found["lost"]))


if __name__ == "__main__":
    main()
