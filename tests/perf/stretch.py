"""Hold a stretch of a real run against what `iris bench` predicts for it.

    iris bench --out bench.json && iris run tests/perf/stretch.yaml
    python tests/perf/stretch.py bench.json runs/stretch --out stretch.json

The first round, in which kernels are chosen and graphs captured, is left out.
The tokens of a round are encoded within `train-dynamics`, so the prediction of that stage holds both.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

AGREES = 0.15  # share by which a prediction may be off


def predicted(bench: Mapping[str, Any], steps: int, updates: int, collected: int) -> dict[str, float]:
    """Seconds of each stage of a round, with `steps` in the dataset."""
    speed = {name: row["throughput"] for name, row in bench["stages"].items()}
    return {
        "collect": collected / speed["collect"],
        "train-tokenizer": updates / speed["tokenizer"],
        "train-dynamics": updates / speed["dynamics"] + steps / speed["tokenize"],
        "train-actor-critic": updates / speed["actor_critic"],
    }


def measured(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Seconds of each stage in each round but the first, from the lines of metrics.jsonl."""
    stages = [line for line in lines if line.get("event") == "stage" and line["phase"] == "round" and line["round"] > 1]
    return {name: [s["seconds"] for s in stages if s["stage"] == name] for name in {s["stage"] for s in stages}}


def compare(bench: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Predicted and measured seconds of a round, and whether they agree."""
    closed = [line for line in lines if line.get("event") == "stage"]
    last = {line["stage"]: line["figures"] for line in closed}
    rounds = sum(line["stage"] == "train-tokenizer" for line in closed)
    updates = last["train-tokenizer"]["updates"] // rounds
    foreseen = predicted(bench, last["collect"]["steps_in_all"], updates, last["collect"]["steps"])
    seconds = {name: mean(found) for name, found in measured(lines).items()}
    ratio = sum(seconds.values()) / sum(foreseen.values())
    return {
        "rounds": len(measured(lines)["collect"]),
        "stages": {name: {"predicted": foreseen[name], "measured": seconds[name]} for name in foreseen},
        "ratio": ratio,
        "agrees": abs(ratio - 1) <= AGREES,
        **{name: bench[name] for name in ("device", "torch", "date", "predicted_hours")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    text = json.dumps(compare(json.loads(options.bench.read_text()), lines), indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
