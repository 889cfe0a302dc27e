"""The README.md of a shared run, made from the run: a model card in the hub's form. Text in, text out."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from iris_cli.config import dump_yaml

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")  # how the hub writes them: mit, apache-2.0, cc-by-4.0


def model_card(
    facts: Mapping[str, Any], report: Mapping[str, Any] | None, *, name: str, departures: Iterable[str] = ()
) -> str:
    """The card.

    Args:
        facts: of config.json.
        report: of the final evaluation; None where there is none.
        name: of the repository or the folder.
        departures: from the published protocol, in words.
    """
    game = facts["environment"]["id"]
    parts = [
        "---\n" + dump_yaml(_front_matter(facts, report, game)) + "---\n",
        f"# {_text(facts['agent'])} on {_text(game)}\n",
        "An agent that learned inside its own world model, made by `iris-wm`: weights and settings of one run.\n",
        f"```\npip install iris-wm\niris pull {name}\niris evaluate --run runs/{name.rpartition('/')[2]}\n```\n",
        "## Scores\n",
        _scores(facts, report, list(departures)),
        "## How it was trained\n",
        _table(_training(facts)),
        "## Licence\n",
        f"{_licence_words(facts)}\n",
        "## Settings\n",
        "```yaml\n" + dump_yaml({"environment": facts["environment"], **facts["config"]}) + "```\n",
    ]
    return "\n".join(parts)


def _front_matter(facts: Mapping[str, Any], report: Mapping[str, Any] | None, game: str) -> dict[str, Any]:
    licence = facts["licence"].lower()
    known = bool(_LICENCE.fullmatch(licence))
    matter: dict[str, Any] = {
        "license": licence if known else "other",
        **({} if known else {"license_name": facts["licence"]}),
        "library_name": "iris-wm",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "world-model", facts["agent"], game],
    }
    if report is not None and not report["cut"]:  # what games that were cut gave is no score
        metric = {"type": "mean_reward", "name": "mean score", "value": report["mean"]}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": task, "dataset": {"type": game, "name": game}, "metrics": [metric]}
        matter["model-index"] = [{"name": facts["agent"], "results": [result]}]
    return matter


def _scores(facts: Mapping[str, Any], report: Mapping[str, Any] | None, departures: list[str]) -> str:
    if report is None:
        return "Nobody has evaluated these weights.\n"
    low, high = report["confidence_interval"]
    protocol = report["protocol"]
    rows = {
        "mean score": f"{report['mean']:.6g}",
        "95 % interval": f"{low:.6g} to {high:.6g}",
        "standard error": f"{report['standard_error']:.4g}",
        "human-normalised": "-" if report["human_normalised"] is None else f"{report['human_normalised']:.4g}",
        "games": f"{len(report['scores'])}, each from its own seed ({protocol['seed']})",
        "best and worst": f"{max(report['scores']):.6g} and {min(report['scores']):.6g}",
        "temperature, epsilon": f"{protocol['temperature']}, {protocol['epsilon']}",
        "score": protocol["score"],
        "evaluated weights": _same(facts, report),
        "at": report["time"],
    }
    words = f"Other than the published protocol: {'; '.join(departures)}.\n" if departures else ""
    return _table(rows) + ("\n" + _text(words) + "\n" if words else "")


def _same(facts: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    same = report["fingerprint"] == facts["fingerprint"]
    return f"{report['fingerprint']} ({'these' if same else 'of an earlier checkpoint, not these'})"


def _training(facts: Mapping[str, Any]) -> dict[str, Any]:
    dataset = facts["dataset"] or {}
    imported = dataset.get("imported", {})
    return {
        "agent": f"{facts['agent']}, preset {facts['config'].get('preset')}",
        "seed": facts["seed"],
        "updates": ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in facts["updates"].items()),
        "tokenizer's loss": facts["tokenizer_loss"] or "-",
        "environment steps": "-" if facts["collected_steps"] is None else f"{facts['collected_steps']:,}",
        "dataset": f"{dataset['steps']:,} steps, {dataset['episodes']:,} episodes" if dataset else "not at hand",
        "who played": ", ".join(dataset.get("collected_by", [])) or "-",
        **(
            {"dataset imported from": f"{imported.get('source')}, licence {imported.get('licence')}"}
            if imported
            else {}
        ),
        **({"weights imported from": facts["imported"].get("file", "-")} if "imported" in facts else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "made": facts["created"],
    }


def _licence_words(facts: Mapping[str, Any]) -> str:
    if facts["licence"] == "unknown":
        return "Whoever shared these weights named no licence for them."
    return f"The weights are shared under: {_text(facts['licence'])}."


def _table(rows: Mapping[str, Any]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {_text(name)} | {_text(value)} |\n" for name, value in rows.items())


def _text(value: object) -> str:
    """Of a cell or a line: nothing in it begins a new one, a link, or markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(value).split()))
