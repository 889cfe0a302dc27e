"""Every parser of foreign bytes against changed inputs, a few and always the same ones; `make soak` tries many.

What was found in this way stands below the rest, with the input that showed it.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import Prepared, Sandbox, fuzz
from targets import TARGETS

QUICK = {  # inputs for those that take a thousandth of a second; the others open a run or a dataset for each
    "yaml": 60, "pipeline": 40, "set-options": 40, "environment-name": 40, "csv": 60, "script": 60, "page-message": 60,
    "page-orders": 20, "npz": 30, "minari": 10,
}  # fmt: skip
FEW = 5
NEEDS = {"minari": "minari"}  # extras


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_inputs_are_read_or_refused(name: str, root: Path) -> None:
    pytest.importorskip(NEEDS.get(name, "torch"))

    tried, crashes = fuzz(TARGETS[name], seed=0, inputs=QUICK.get(name, FEW), root=root)

    assert tried == QUICK.get(name, FEW)
    assert crashes == [], crashes[0].data[:300]


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_many_changed_inputs_are_read_or_refused(name: str, root: Path) -> None:
    pytest.importorskip(NEEDS.get(name, "torch"))

    _, crashes = fuzz(TARGETS[name], seed=1, inputs=100_000, root=root, seconds=60)

    assert crashes == [], crashes[0].data[:300]


def changed(*keys: str | int, to: Any) -> Callable[[bytes], bytes]:
    """JSON with one value replaced."""

    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        place = tree
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        return json.dumps(tree).encode()

    return change


def without(*keys: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        place = tree
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        return json.dumps(tree).encode()

    return change


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def other(data: bytes) -> Callable[[bytes], bytes]:
    return lambda seed: data


def npz_header(text: bytes) -> Callable[[bytes], bytes]:
    """An archive whose first array says `text` of itself."""

    def change(data: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
            for info in old.infolist():
                content = old.read(info)
                if info.filename == "actions.npy":
                    content = content[:8] + len(text).to_bytes(2, "little") + text + content[128:]
                new.writestr(info.filename, content)
        return target.getvalue()

    return change


def saved(content: object) -> Callable[[bytes], bytes]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return other(buffer.getvalue())


def in_metrics(name: str, value: str) -> Callable[[bytes], bytes]:
    """metrics.jsonl with something else where a figure of each stage stood."""
    return lambda data: re.sub(rf'"{name}": [-0-9.]+'.encode(), f'"{name}": {value}'.encode(), data)


DEEP = b"[" * 100_000
FOUND = {
    "yaml: a number without digits": ("yaml", other(b'a: !!int ""')),
    "yaml: a word that is no truth value": ("yaml", other(b"a: !!bool maybe")),
    "yaml: a word that is no time": ("yaml", other(b"a: !!timestamp x")),
    "yaml: an alias within itself": ("yaml", other(b"a: &a [*a]")),
    "pipeline: aliases of aliases": (
        "pipeline",
        other(
            b"a: &a [x, x, x, x, x, x, x, x, x]\n"
            + b"\n".join(
                b"%c: &%c [%s]" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in range(ord("b"), ord("j"))
            )
        ),
    ),
    "pipeline: a path of any width": ("pipeline", other(b"run: '{seed:>99999999999}'\ngame: Pong\nthen: [collect]\n")),
    "pipeline: rounds without end": ("pipeline", other(b"game: Pong\nrounds: 1e12\nround: [collect]\n")),
    "pipeline: a number of too many digits": ("pipeline", other(b"seed: 0x" + b"f" * 5000 + b"\ngame: Pong\n")),
    "run-latest: a name longer than files have": ("run-latest", other(b"9" * 5000)),
    "run-latest: a name that leaves the folder": ("run-latest", other(b"../../../etc")),
    "run-state: a list of progress": ("run-state", changed("progress", to=[1])),
    "run-state: progress of no stage": ("run-state", without("progress", "stage")),
    "run-state: random states that are a mapping": ("run-state", changed("progress", "draws", to={"a": 1})),
    "run-state: random states that are no text in base 64": ("run-state", changed("progress", "torch", to="abcde")),
    "run-state: random states of another length": ("run-state", changed("progress", "dreams", to="abcd")),
    "run-state: a checkpoint's number as text": ("run-state", changed("number", to="2")),
    "run-state: visits within visits": ("run-state", changed("visits", "dynamics", to=[[1], [2]])),
    "run-state: visits without end": ("run-state", changed("visits", "dynamics", to=[10**30])),
    "run-state: passes that are a list": ("run-state", changed("passes", to=[1])),
    "run-state: updates of nobody": ("run-state", changed("updates", to={})),
    "run-state: deep": ("run-state", other(DEEP)),
    "run-state-read: deep": ("run-state-read", other(DEEP)),
    "plan: amounts that are mappings": ("plan", changed("stages", 1, 3, to={"a": 1})),
    "plan: a round as text": ("plan", changed("stages", 0, 1, to="1")),
    "metrics: half of a character": ("metrics", replaced(b'"train-dynamics"', b'"train-\\ud800"')),
    "evaluation: deep": ("evaluation", other(DEEP)),
    "evaluation: steps as text": ("evaluation", changed("collected_steps", to="many")),
    "evaluation: updates that are lists": ("evaluation", changed("updates", "dynamics", to=[1])),
    "evaluation: a score beyond floats": ("evaluation", changed("scores", to=[10**400])),
    "evaluation: a score that is none": ("evaluation", changed("scores", to=[float("nan")])),
    "evaluation: a checkpoint that is a list": ("evaluation", changed("checkpoint", to=[])),
    "evaluation: a game that is a list": ("evaluation", changed("environment", to=[])),
    "run-card: a game that is a mapping": ("run-card", replaced(b"id: Catch-v0", b"id: {a: 1}")),
    "run-card: a game that is a number": ("run-card", replaced(b"id: Catch-v0", b"id: 3")),
    "run-card: a game that steers the terminal": ("run-card", replaced(b"id: Catch-v0", b'id: "\\e[2J"')),
    "run-settings: a network without end": ("run-settings", replaced(b"width: 32", b"width: 1000000")),
    "run-settings: layers without end": ("run-settings", replaced(b"layers: 2", b"layers: 1000000000")),
    "dataset-attributes: deep": ("dataset-attributes", other(DEEP)),
    "dataset-array: a shape far beyond its chunks": ("dataset-array", changed("shape", 0, to=10**9)),
    "dataset-array: chunks of nothing": (
        "dataset-array",
        changed("chunk_grid", "configuration", "chunk_shape", to=[0, 64, 64, 3]),
    ),
    "dataset-chunk: a few bytes that pose as gigabytes": (
        "dataset-chunk",
        other(bytes.fromhex("28b52ffda4000002f78500003008001000140003500200ebff190f0179561cc3")),
    ),
    "dataset-episodes: chunks of no shape": (
        "dataset-episodes",
        changed("chunk_grid", "configuration", "chunk_shape", to=False),
    ),
    "dataset-episodes: a shape beyond numbers": ("dataset-episodes", changed("shape", to=[10**30])),
    "yaml: a number of more digits than can be written": ("yaml", other(b"a: 0x" + b"f" * 4000)),
    "set-options: a preset of a preset": ("set-options", other(b"tokenizer.preset.preset=light")),
    "pipeline: a preset that is a mapping": (
        "pipeline",
        other(b"preset: tiny\ngame: Pong\nrun: x\nsettings: {tokenizer: {preset: {a: 1}}}\nfirst: [tokenize]\n"),
    ),
    "metrics: a score of letters": ("metrics", in_metrics("mean_score", '"a"')),
    "metrics: steps of letters": ("metrics", in_metrics("steps_in_all", '"a"')),
    "metrics: seconds of letters": ("metrics", in_metrics("seconds", '"a"')),
    "npz: a header of words without end": ("npz", npz_header(b"{'descr': '''" + b" " * 105)),
    "published-checkpoint: a small storage that poses as a huge tensor": (
        "published-checkpoint",
        saved(
            {
                "tokenizer.embedding.weight": torch.zeros(1, 1).expand(10**6, 10**6),
                "world_model.pos_emb.weight": torch.zeros(1, 1).expand(10**6, 10**5),
            }
        ),
    ),
    "published-checkpoint: a tensor that is not whole": (
        "published-checkpoint",
        saved({"tokenizer.embedding.weight": torch.zeros(4, 4).to_sparse()}),
    ),
    "published-checkpoint: a tensor for a setting": (
        "published-checkpoint",
        saved({"config": {"env_grayscale": torch.ones(2)}, "state_dict": {}}),
    ),
}


@pytest.fixture(scope="module")
def prepared(root: Path) -> dict[str, Prepared]:
    """Targets as they were prepared, each once."""
    return {}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_what_was_found_stays_mended(name: str, sandbox: Sandbox, prepared: dict[str, Prepared]) -> None:
    target, change = TARGETS[FOUND[name][0]], FOUND[name][1]
    if target.name not in prepared:
        prepared[target.name] = sandbox.prepare(target)
    before = prepared[target.name].seeds[0]
    sandbox.limit_memory()

    crash = sandbox.attempt(target, prepared[target.name], change(before))

    assert crash is None, crash
