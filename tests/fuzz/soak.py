"""Foreign bytes for as long as there is time: `python tests/fuzz/soak.py --minutes 30`, a part of `make soak`.

Each target has a process of its own. Where atheris is installed (pip install atheris) it chooses what to change by the
lines of our package that an input reached; elsewhere, and for a tenth of the time, the seeded engine of `fuzzing` does.
A process that dies of an input, by whatever signal, counts as a crash too. The results are one JSON file: inputs,
crashes (with the bytes, in base 64), and on what, of which commit and for how long.
"""

import argparse
import base64
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
SHOWN = 4096  # bytes of an input that the results keep


def main() -> None:
    """Try inputs, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the results; by default tests/fuzz/results/DATE.json")
    parser.add_argument("--keep", type=Path, help="where inputs that reached something new are kept between two runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # of the processes: target, engine, seconds, results, corpus
    parser.add_argument("targets", nargs="*")
    given = parser.parse_args()
    if given.one:
        name, engine, seconds, out, corpus = given.one.split(",")
        {"atheris": _guided, "seeded": _seeded}[engine](name, given.seed, float(seconds), Path(out), Path(corpus))
        return
    out = given.out or RESULTS / f"{time.strftime('%Y-%m-%d')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"inputs": 0, "hours": 0.0, "crashes": 0}
    for results in soak(given.targets, minutes=given.minutes, seed=given.seed, keep=given.keep):
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")  # a kill loses one target at most
    print(f"{results['inputs']:,} inputs in {results['hours']:.2f} hours, {results['crashes']} crashes: {out}")
    sys.exit(1 if results["crashes"] else 0)


def soak(names: list[str], *, minutes: float, seed: int, keep: Path | None) -> Iterator[dict[str, Any]]:
    """Try one target after the other, the seeded engine first; what came of all so far, as plain values."""
    from targets import TARGETS

    from iris_cli.machine import commit, processor

    begun, found, of = time.monotonic(), dict[str, Any](), commit()
    engines = [("seeded", 0.1), ("atheris", 0.9)] if find_spec("atheris") else [("seeded", 1.0)]
    names = names or sorted(TARGETS)
    with tempfile.TemporaryDirectory(prefix="iris-fuzz-") as place:
        for name in names:
            corpus = (keep or Path(place)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            parts = [
                _process(name, engine, minutes * 60 / len(names) * share, seed, Path(place), corpus)
                for engine, share in engines
            ]
            found[name] = {
                "inputs": sum(part["inputs"] for part in parts),
                "seconds": round(sum(part["seconds"] for part in parts), 1),
                "engines": [engine for engine, _ in engines],
                "crashes": [crash for part in parts for crash in part["crashes"]],
            }
            print(f"{name}: {found[name]['inputs']:,} inputs, {len(found[name]['crashes'])} crashes", flush=True)
            yield {
                "date": time.strftime("%Y-%m-%d"),
                "commit": of,
                "device": processor(),
                "python": platform.python_version(),
                "seed": seed,
                "hours": round((time.monotonic() - begun) / 3600, 3),
                "inputs": sum(target["inputs"] for target in found.values()),
                "crashes": sum(len(target["crashes"]) for target in found.values()),
                "targets": found,
            }


def _process(name: str, engine: str, seconds: float, seed: int, place: Path, corpus: Path) -> dict[str, Any]:
    """One target by one engine, in a process that may die."""
    out = place / f"{name}-{engine}.json"
    one = f"{name},{engine},{max(1.0, seconds)},{out},{corpus}"
    command = [sys.executable, str(FOLDER / "soak.py"), "--seed", str(seed), "--one", one]
    begun = time.monotonic()
    with (place / f"{name}-{engine}.log").open("w+b") as log:
        try:
            code = subprocess.run(command, cwd=place, stdout=log, stderr=log, timeout=600 + 20 * seconds).returncode
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        log.seek(0, 2)
        log.seek(max(0, log.tell() - 2000))
        said = log.read().decode("utf-8", "replace")
    found = json.loads(out.read_text()) if out.exists() else {"inputs": 0, "crashes": []}
    if code != 0:
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        left = [path.read_bytes() for path in place.glob("crash-*")] + [p.read_bytes() for p in place.glob("timeout-*")]
        found["crashes"].append(_plain(what, "the process", said[-500:], left[0] if left else b""))
        for path in [*place.glob("crash-*"), *place.glob("timeout-*"), *place.glob("oom-*")]:
            path.unlink()
    return {**found, "seconds": time.monotonic() - begun}


def _seeded(name: str, seed: int, seconds: float, out: Path, corpus: Path) -> None:
    from fuzzing import fuzz
    from targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="iris-fuzz-") as root:
        tried, crashes = fuzz(TARGETS[name], seed=seed, inputs=10**9, root=Path(root), seconds=seconds)
    found = [_plain(crash.kind, crash.where, crash.message, crash.data) for crash in crashes]
    out.write_text(json.dumps({"inputs": tried, "crashes": found}))


def _guided(name: str, seed: int, seconds: float, out: Path, corpus: Path) -> None:
    """By atheris, which goes on after a crash of ours and ends the process by itself."""
    import atheris

    with atheris.instrument_imports(include=["iris_cli"], enable_loader_override=False):
        from fuzzing import Sandbox
        from targets import TARGETS
    target, draws = TARGETS[name], random.Random(seed)
    crashes: dict[tuple[str, str, str], dict[str, str]] = {}
    tried, written = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="iris-fuzz-") as root, Sandbox(Path(root)) as sandbox:
        prepared = sandbox.prepare(target)
        for number, data in enumerate(prepared.seeds):
            (corpus / f"seed-{number}").write_bytes(data)
        sandbox.limit_memory()

        def one(data: bytes) -> None:
            nonlocal tried, written
            tried += 1
            crash = sandbox.attempt(target, prepared, data)
            if crash is not None:
                crashes.setdefault(crash.key, _plain(crash.kind, crash.where, crash.message, crash.data))
            if time.monotonic() > written + 1 or crash is not None:  # the process ends without a word
                written = time.monotonic()
                out.write_text(json.dumps({"inputs": tried, "crashes": list(crashes.values())}))

        def mutate(data: bytes, most: int, number: int) -> bytes:
            if number % 4 == 0:
                return atheris.Mutate(data, most)
            return target.mutate(data, draws)[:most]

        arguments = [
            "soak", f"-max_total_time={int(seconds)}", f"-max_len={target.limit}", f"-seed={seed + 1}", "-timeout=3000",
            "-rss_limit_mb=0", "-print_final_stats=1", "-verbosity=0", str(corpus),
        ]  # fmt: skip
        atheris.Setup(arguments, one, custom_mutator=mutate)
        atheris.Fuzz()


def _plain(kind: str, where: str, message: str, data: bytes) -> dict[str, str]:
    return {"kind": kind, "where": where, "message": message, "input": base64.b64encode(data[:SHOWN]).decode()}


if __name__ == "__main__":
    main()
