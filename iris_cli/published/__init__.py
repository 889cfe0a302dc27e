"""Published per-seed scores on Atari 100k, as files, with where they come from. Nothing is computed here.

    atari100k_scores.json    method -> game -> raw score of each run; also RANDOM and HUMAN, one number a game
    atari100k_sources.json   method -> repository and paper

The numbers are those that the named repositories publish; `learn/scores.py` makes the figures of the papers of them.
"""

import json
from importlib.resources import files

REFERENCES = ("RANDOM", "HUMAN")  # in the file, but no methods

Scores = dict[str, dict[str, list[float]]]


def published_scores() -> Scores:
    """Method -> game -> raw score of each run: the fifteen methods, all on all 26 games."""
    return {method: scores for method, scores in _read("atari100k_scores.json").items() if method not in REFERENCES}


def reference_scores() -> Scores:
    """RANDOM and HUMAN -> game -> its one score."""
    scores = _read("atari100k_scores.json")
    return {name: scores[name] for name in REFERENCES}


def sources() -> dict[str, str]:
    """Method, RANDOM or HUMAN -> where its scores were published."""
    return _read("atari100k_sources.json")


def _read(name: str) -> dict:
    return json.loads((files(__name__) / name).read_text(encoding="utf-8"))
