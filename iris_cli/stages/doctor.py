"""`iris doctor`: does everything that a run needs work on this machine? Each part is really tried, and alone.

What is imported for a check is imported within it, so that a broken package fails its own check and no other.
Nothing is left behind, and nothing is downloaded.
"""

import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iris_cli.report import Report, Section
from iris_cli.version import VERSION

OK, WARN, FAIL = "ok", "warn", "fail"
PYTHONS = ((3, 11), (3, 13))  # tested, first and last
STEPS = 100_000  # environment steps of the plan for memory and disk
WORKING_BYTES = (
    6.2e9  # peak of training and dreaming at published size, measured on a CPU (README, Hardware and memory)
)
DISK_BYTES = (1e9, 5e9)  # a full-size run with its dataset, checkpoints and films: at least, with room


@dataclass(frozen=True)
class Check:
    """What was found of one part.

    Attributes:
        name: of the part.
        status: ok; warn: works, but something is worth knowing; fail: something that is needed does not work.
        found: in words.
        fix: what to do; None where nothing is to be done.
    """

    name: str
    status: str
    found: str
    fix: str | None = None


def doctor(*, device: str = "auto", directory: Path = Path()) -> list[Check]:
    """Try every part.

    Args:
        device: where a run would compute.
        directory: where its data and runs would lie.
    """
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("extras", _extras),
        ("device", lambda: _device(device)),
        ("precision", lambda: _precision(device)),
        ("memory", lambda: _memory(device)),
        ("game", _game),
        ("dataset", _dataset),
        ("films", _films),
        ("writing", lambda: _writing(directory)),
        ("disk", lambda: _disk(directory)),
        ("perceptual weights", _perceptual),
    )
    return [_tried(name, check) for name, check in checks]


def facts_of(checks: list[Check]) -> dict[str, Any]:
    """The checks as plain values for JSON, and whether all that is needed works."""
    return {"healthy": not any(check.status == FAIL for check in checks), "checks": [asdict(check) for check in checks]}


def report_of(checks: list[Check]) -> Report:
    """The checks as a table for people."""
    rows: list[tuple[str, str, str]] = []
    for check in checks:
        rows.append((check.status, check.name, check.found))
        if check.fix is not None:
            rows.append(("", "", f"-> {check.fix}"))
    return Report(stage="doctor", sections=(Section(f"iris {VERSION}", ("", "part", "found"), tuple(rows)),))


def _tried(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ImportError as error:
        missing = error.name or str(error)
        return Check(
            name, FAIL, f"{missing} cannot be imported", f"Install it anew: pip install --force-reinstall {missing}"
        )
    except Exception as error:  # whatever a broken package raises is what this command is for
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return Check(
            name, FAIL, f"{type(error).__name__}: {reason}", "See the message; the other parts were tried too."
        )


def _python() -> Check:
    found, (first, last) = f"{platform.python_version()} ({sys.executable})", PYTHONS
    if sys.version_info[:2] < first:
        return Check("python", FAIL, found, f"Use Python {first[0]}.{first[1]} to {last[0]}.{last[1]}.")
    if sys.version_info[:2] > last:
        return Check("python", WARN, found, f"Tested are {first[0]}.{first[1]} to {last[0]}.{last[1]}.")
    return Check("python", OK, found)


def _packages() -> Check:
    """Versions of what is needed, against what the installed package asks for."""
    names, problems, fix = [], [], set()
    for name, least, extra in _requirements():
        if extra is not None:
            continue
        version = _version(name)
        if version is None:
            problems.append(f"{name} is missing")
        elif _numbers(version) < _numbers(least):
            problems.append(f"{name} is {version}, needed is {least}")
        else:
            names.append(f"{name} {version}")
            continue
        fix.add(f"'{name}>={least}'" if least else name)
    if problems:
        return Check("packages", FAIL, ", ".join(problems), f"pip install {' '.join(sorted(fix))}")
    if not names:
        return Check("packages", WARN, "iris-wm is not installed, so versions cannot be judged", "pip install -e .")
    return Check("packages", OK, ", ".join(names))


def _extras() -> Check:
    """Which optional parts are there. None of them is needed."""
    there: dict[str, bool] = {}
    for name, _, extra in _requirements():
        if extra not in (None, "dev"):
            there[extra] = there.get(extra, True) and _version(name) is not None
    missing = [extra for extra, is_there in there.items() if not is_there]
    found = f"installed: {', '.join(extra for extra, is_there in there.items() if is_there) or 'none'}"
    if not missing:
        return Check("extras", OK, found)
    return Check("extras", OK, f"{found}; not: {', '.join(missing)}", f"If wanted: pip install 'iris-wm[{missing[0]}]'")


def _device(name: str) -> Check:
    import torch  # here: see above

    from iris_cli.device import choose_device
    from iris_cli.machine import cores, processor

    device = choose_device(name)
    product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
    if float(product.sum()) != 64.0**3:
        return Check("device", FAIL, f"{device} multiplies wrongly", "Try another: --device cpu.")
    if device.type == "cuda":
        return Check("device", OK, f"{device}: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    words = f"{device}: {processor()}, {cores()} cores, {torch.get_num_threads()} threads"
    if name == "auto" and list(Path("/dev").glob("nvidia[0-9]*")):
        built = "has no CUDA" if torch.version.cuda is None else "cannot use it"
        fix = "Install a CUDA build of torch that fits the driver."
        return Check(
            "device", WARN, f"{words}; there is an NVIDIA GPU, but this torch ({torch.__version__}) {built}", fix
        )
    return Check("device", OK, words, "A full-size run wants a GPU; --preset small is for CPUs.")


def _precision(name: str) -> Check:
    from iris_cli.device import choose_device  # here: see above
    from iris_cli.nn.precision import compute_dtype

    device = choose_device(name)
    dtype = str(compute_dtype("auto", device)).removeprefix("torch.")
    why = "the processor multiplies it" if dtype == "bfloat16" else "the processor has no fast bfloat16"
    return Check("precision", OK, f"auto means {dtype} on {device}: {why}")


def _memory(name: str) -> Check:
    import torch  # here: see above

    from iris_cli.agents import build, presets_for
    from iris_cli.device import choose_device
    from iris_cli.machine import memory

    device = choose_device(name)
    with torch.device("meta"):
        agent = build("iris", presets_for("iris")["published"], 18)
    frames = STEPS * 64 * 64 * 3
    learned = sum(parameter.numel() for parameter in agent.parameters()) * 4 * 4
    need = frames + learned + WORKING_BYTES
    total, available = torch.cuda.mem_get_info(device)[::-1] if device.type == "cuda" else memory()
    words = (
        f"{STEPS:,} steps at published size: frames {_gb(frames)}, weights, gradients and moments {_gb(learned)}, work "
        f"about {_gb(WORKING_BYTES)} (measured on a CPU): {_gb(need)}; here {_gb(available)} of {_gb(total)} are free"
    )
    if available > need:
        return Check("memory", OK, words)
    fix = "Take --preset small, or less at once: --set tokenizer.micro_batch=8, dynamics.gradient_checkpointing=true."
    return Check("memory", WARN, words, fix)


def _game() -> Check:
    """A game is reset and stepped, so its ROM is there and the emulator runs."""
    import numpy as np  # here: see above

    from iris_cli.envs.spec import training_spec
    from iris_cli.envs.vector import VectorEnv

    with VectorEnv(training_spec("Pong"), 1) as envs:
        seen = [envs.reset([0])]
        seen += [envs.step(np.array([step % envs.num_actions])).frames for step in range(40)]
    if not any((frame != seen[0]).any() for frame in seen):
        return Check("game", FAIL, "Pong was stepped, but its picture never changed", "pip install --upgrade ale-py")
    return Check("game", OK, f"Pong: 40 steps played, {envs.num_actions} actions (ROMs of ale-py {_version('ale-py')})")


def _dataset() -> Check:
    """An episode is written and read back."""
    import numpy as np  # here: see above

    from iris_cli.envs.spec import training_spec
    from iris_cli.replay.dataset import Dataset

    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "try.zarr"
        with Dataset.create(path, environment=training_spec("Pong").to_mapping(), action_meanings=["NOOP"]) as dataset:
            over = np.array([False, False, False, True])
            dataset.append(
                observations=frames, actions=np.zeros(4, np.int64), rewards=np.zeros(4, np.float32), terminations=over,
                truncations=np.zeros(4, bool), episode_lengths=[4], episode_ids=[0], writer="doctor",
            )  # fmt: skip
        with Dataset.open(path) as dataset:
            same = bool((dataset.read("observations") == frames).all())
    if not same:
        return Check("dataset", FAIL, "frames came back from Zarr as others", "pip install --upgrade zarr numcodecs")
    return Check("dataset", OK, f"4 steps written and read (zarr {_version('zarr')})")


def _films() -> Check:
    """Films are written and read back."""
    import numpy as np  # here: see above

    from iris_cli.errors import IrisError
    from iris_cli.render import frames_of, write_media

    frames = np.zeros((6, 64, 96, 3), np.uint8)
    frames[:, :, 48:] = np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None]
    works: list[str] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for kind in ("mp4", "gif"):
            try:
                back = frames_of(write_media(frames, Path(place) / f"try.{kind}"))
                near = back.shape == frames.shape and np.abs(back.astype(int) - frames).mean() < 4
                (works if near else broken).append(kind)
            except (IrisError, OSError, RuntimeError) as error:
                broken.append(f"{kind} ({str(error).splitlines()[0]})")
    found = f"{' and '.join(works) or 'nothing'} written and read back"
    if broken:
        fix = "pip install --force-reinstall imageio-ffmpeg; until then name films .gif or .png"
        return Check("films", WARN, f"{found}; not {', '.join(broken)}", fix)
    return Check("films", OK, found)


def _writing(directory: Path) -> Check:
    """Files can be made where data, runs and fetched weights go; directories that are missing are not made."""
    from iris_cli.stages.fetch import default_lpips_path  # here: see above

    refused = []
    wanted = (directory / "data", directory / "runs", default_lpips_path().parent, Path(tempfile.gettempdir()))
    for path in wanted:
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            refused.append(f"{there} ({error.strerror})")
    if refused:
        return Check(
            "writing", FAIL, f"cannot write to {', '.join(refused)}", "Mend the permissions, or work elsewhere."
        )
    return Check("writing", OK, f"data and runs in {directory.absolute()}, weights in {wanted[2]}")


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory.absolute()).free
    least, room = DISK_BYTES
    words = f"{_gb(free)} free; a full-size run takes about {_gb(least)}"
    if free < least:
        return Check("disk", FAIL, words, "Make room, or work on another disk.")
    return Check("disk", WARN, words, "Make room soon.") if free < room else Check("disk", OK, words)


def _perceptual() -> Check:
    from iris_cli.stages.fetch import default_lpips_path  # here: see above

    path = default_lpips_path()
    if path.exists():
        return Check("perceptual weights", OK, str(path))
    found = "not fetched: the tokenizer of iris learns with a weights-free loss"
    return Check("perceptual weights", WARN, found, "For the published loss: iris fetch lpips")


def _requirements() -> list[tuple[str, str, str | None]]:
    """Name, least version and extra of what the installed package asks for; nothing where it is not installed."""
    try:
        lines = importlib.metadata.requires("iris-wm") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        least, extra = re.search(r"[>=]=\s*([\w.]+)", line), re.search(r"extra == ['\"](\w+)['\"]", line)
        if name and name.group() != "iris-wm":
            found.append((name.group(), least.group(1) if least else "", extra.group(1) if extra else None))
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
