"""Every parser of bytes that may come from others, as a target of `fuzzing`."""

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from fuzzing import (
    Mutate,
    Prepared,
    Target,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    mutate_yaml,
    mutate_zip,
    unwatched,
)
from safetensors.torch import save

from iris_cli.agents import AGENTS, build, presets_for, published_format
from iris_cli.card import read_card
from iris_cli.checkpoints import read_checkpoint
from iris_cli.config import dump_yaml, load_yaml, parse_assignments
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.errors import IrisError, PlayError
from iris_cli.formats.npz import read_npz
from iris_cli.formats.video import FilmWriter, read_rows, read_video
from iris_cli.open_run import configured
from iris_cli.plan import make_plan
from iris_cli.play.keys import Keyboard, read_script
from iris_cli.play.protocol import moment_bytes, read_order, start_of
from iris_cli.play.session import Session, Start
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages import scores as scores_of
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.exchange import import_checkpoint
from iris_cli.stages.import_data import Import, import_data
from iris_cli.stages.info import info
from iris_cli.stages.report import WriteReport, report
from iris_cli.stages.share import Push, pull, push
from iris_cli.stages.watch import Watcher

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
CPU = torch.device("cpu")
GAME = "Catch-v0"
STEPS = 20


# -- what is parsed, when it is as it should be ----------------------------------------------------------------------


def stored_steps(steps: int = STEPS, size: int = 8) -> dict[str, Any]:
    """Two episodes and the beginning of a third, with small pictures."""
    draws = np.random.default_rng(0)
    return {
        "observations": draws.integers(0, 256, (steps, size, size, 3), np.uint8),
        "actions": np.arange(steps) % 3,
        "rewards": draws.normal(size=steps).astype(np.float32),
        "terminations": np.arange(steps) % 8 == 7,
        "truncations": np.zeros(steps, bool),
    }


def make_dataset(path: Path) -> None:
    """A dataset of Catch, with tokens."""
    spec, values = training_spec(GAME), stored_steps(size=64)
    with Dataset.create(path, environment=spec.to_mapping(), action_meanings=["LEFT", "STAY", "RIGHT"]) as dataset:
        dataset.append(**values, episode_lengths=[8, 8, 4], episode_ids=[0, 1, 2], writer="random")
        dataset.write_tokens("ab12", 0, np.arange(STEPS * 4).reshape(STEPS, 4))


@cache
def made_run(root: Path) -> Path:
    """A tiny run of Catch that says it has been trained, evaluated and interrupted, and its dataset."""
    run_path, data = root / "run", root / "data.zarr"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    make_dataset(data)
    run = Run.create(
        run_path, agent="iris", config=presets_for("iris")["tiny"], environment=training_spec(GAME), num_actions=3,
        dataset=data, seed=0, device=CPU,
    )  # fmt: skip
    run.updates, run.tokenizer_loss, run.collected = dict.fromkeys(COMPONENTS, 7), "weights-free", {
        "steps": STEPS, "collector": None,
    }  # fmt: skip
    run.cursor = {"position": 1, "written": "0123456789abcdef"}
    run.visits("dynamics").of(3)
    run.optimizer("dynamics")
    progress = run.begin("train-dynamics", 9)
    progress.done = 4
    evaluate(run, Evaluate(episodes=1, measured_steps=0), name="round-0001")
    for update in (1, 2):
        run.log(stage="train-dynamics", update=update, loss_tokens=2.5, updates_per_second=3.0)
    for stage, figures in (
        ("collect", {"steps_in_all": STEPS}), ("train-dynamics", {"updates": 2}),
        ("evaluate", {"mean_score": -0.5, "confidence_interval": "-1 to 0", "human_normalised": 0.1}),
    ):  # fmt: skip
        run.round = 1
        run.log(event="stage", stage=stage, phase="round", seconds=1.5, figures=figures)
    plan = {"source": "p.yaml", "text": "game: Catch-v0\n", "rounds": 2}
    stages = [["round", number, stage, 20] for number in (1, 2) for stage in ("collect", "train-dynamics", "evaluate")]
    (run_path / "plan.json").write_text(json.dumps({**plan, "stages": stages}))
    start = {"time": 1.0, "command": "iris run p.yaml", "machine": {"processor": "x"}, "versions": {"torch": "2"}}
    (run_path / "history.jsonl").write_text(json.dumps(start) + "\n")
    run.save()
    run.close()
    shutil.rmtree(run_path / "checkpoints" / "000001", ignore_errors=True)
    (run_path / ".lock").unlink(missing_ok=True)
    return run_path


# -- settings --------------------------------------------------------------------------------------------------------


def _pipeline(folder: Path) -> Prepared:
    seeds = [path.read_bytes() for path in sorted(PIPELINES.glob("*.yaml"))]
    seeds.append(
        b"agent: iris\ngame: Pong\nseed: 3\ndataset: data/{game}.zarr\nrun: runs/{agent}-{game}-{seed}\n"
        b"log: tensorboard\n"
        b"settings: {dynamics: {layers: 2, heads: 2}, tokenizer: {preset: light}}\nrounds: 3\n"
        b"round:\n  - collect: {steps: 200, until: 2}\n  - train-tokenizer: {updates: 2, every: 2, from: 2}\n"
        b"then:\n  - evaluate: {episodes: 2, temperature: 0.5}\n  - imagine: {render: a.mp4, num: 1}\n  - tokenize\n"
    )
    seeds.append(b"a: &a [x, y]\nb: &b [*a, *a]\ngame: *b\n")

    def parse(data: bytes) -> None:
        Path("p.yaml").write_bytes(data)
        plan = make_plan(Path("p.yaml"), game="Pong")
        plan.totals()

    return Prepared(seeds, parse)


def _set_options(folder: Path) -> Prepared:
    seeds = [
        b"tokenizer.codes=256\ndynamics.layers=2", b"dynamics.precision=float32\ntokenizer.lpips=auto",
        b"actor_critic.gamma=1e-3", b"dynamics.sampling_temperature=none\nactor_critic.entropy_threshold=1",
        b"tokenizer.channel_multipliers=1,1,2,4,8", b"tokenizer.preset=light\nexploration.bonus=imagined",
    ]  # fmt: skip

    def parse(data: bytes) -> None:
        texts = tuple(data.decode("utf-8", "replace").split("\n"))
        problems = []
        for agent in AGENTS:
            for preset in ("published", "tiny"):
                try:
                    configured(agent, preset, parse_assignments(texts))
                except IrisError as error:
                    problems.append(error)
        if problems:
            raise problems[0]

    return Prepared(seeds, parse)


def _env_names(folder: Path) -> Prepared:
    seeds = [
        b"Pong",
        b"ms_pacman",
        b"ALE/Pong-v5",
        b"CartPole-v1",
        b"module:Class",
        b"imported:clip",
        b"../../x",
        b"a/b:c",
    ]

    def parse(data: bytes) -> None:
        spec = training_spec(data.decode("utf-8", "replace"))
        if "/" in spec.stem or ".." in spec.stem or "\x00" in spec.stem or not spec.stem.isascii():
            raise AssertionError(f"the stem {spec.stem!r} is no name of a file")
        if EnvSpec.from_mapping(json.loads(json.dumps(spec.to_mapping()))) != spec:
            raise AssertionError("the spec does not survive JSON")

    return Prepared(seeds, parse)


# -- runs ------------------------------------------------------------------------------------------------------------


def _run_file(name: str, folder: Path, *, uses: Callable[[Path], object]) -> Prepared:
    """A run of which one file is foreign."""
    whole = made_run(folder.parent / "made")
    seed = next(whole.glob(name)).read_bytes()

    def parse(data: bytes) -> None:
        _copy(whole, Path("runs/r"), ignore="*.safetensors" if uses is not _opened else None)
        next(Path("runs/r").glob(name)).write_bytes(data)
        uses(Path("runs/r"))

    return Prepared([seed], parse)


def _read_all(path: Path) -> None:
    """What reads a run without its agent; each may refuse it."""
    problem: IrisError | None = None
    for use in (_look, info, _scores, _report):
        try:
            json.dumps(use(path), default=str)
        except IrisError as error:
            problem = error
    if problem is not None:
        raise problem


def _look(path: Path) -> None:
    watcher = Watcher(path)
    for _ in range(2):
        watcher.look()


def _scores(path: Path) -> object:
    with patch.object(scores_of, "aggregate_intervals", return_value=None):  # slow
        return scores_of.scores([path])


def _report(path: Path) -> None:
    report([path], WriteReport(pictures=False))


def _read_card(path: Path) -> None:
    card = read_card(path)
    EnvSpec.from_mapping(card["environment"])
    _read_all(path)


def _opened(path: Path) -> None:
    with contextlib.closing(Run.open(path, device=CPU, training=True)) as run:
        assert all(type(count) is int for count in run.updates.values())
        _ = run.unfinished, run.is_trained("dynamics"), run.command("evaluate"), run.fingerprint()
        for component in COMPONENTS:
            run.visits(component).of(3)
            run.optimizer(component)
        if run.resumable("train-dynamics") is not None:
            run.begin("train-dynamics", 9)
        run.seeds("collect", 2)
        run.save()
        run.log(stage="x")


def _checkpoint(folder: Path) -> Prepared:
    whole = made_run(folder.parent / "made")
    path = next(whole.glob("checkpoints/0*"))
    weights, optimizers = (path / "weights.safetensors").read_bytes(), (path / "optimizers.pt").read_bytes()
    seeds = [b"W" + save({"a": torch.zeros(2)}), b"O" + optimizers, b"W" + weights]

    def parse(data: bytes) -> None:
        Path("c").mkdir()
        (Path("c") / "state.json").write_bytes((path / "state.json").read_bytes())
        kind, content = data[:1], data[1:]
        (Path("c") / "weights.safetensors").write_bytes(content if kind == b"W" else weights)
        (Path("c") / "optimizers.pt").write_bytes(optimizers if kind == b"W" else content)
        read_checkpoint(Path("c"), CPU, optimizers=True)

    return Prepared(seeds, parse)


def _mutate_checkpoint(data: bytes, draws: random.Random) -> bytes:
    inner = mutate_safetensors if data[:1] == b"W" else mutate_zip(mutate_bytes)
    return data[:1] + inner(data[1:], draws)


def _published(folder: Path) -> Prepared:
    seeds = []
    for name in AGENTS:
        agent = build(name, _smallest(name), 3)
        content = published_format(name).to_published(agent)
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            seeds.append(buffer.getvalue())

    def parse(data: bytes) -> None:
        Path("last.pt").write_bytes(data)
        import_checkpoint(Path("last.pt"), env=GAME, run=Path("runs/r"), device="cpu")

    return Prepared(seeds, parse)


def _smallest(name: str) -> Any:
    """The settings of tiny agents that the published formats have a place for."""
    from dataclasses import replace

    config = presets_for(name)["tiny"]
    if name == "iris":
        tokenizer = replace(
            presets_for(name)["published"].tokenizer, codes=8, code_width=4, latent_channels=4, base_channels=32,
            channel_multipliers=(1, 1, 1, 1, 1), res_blocks=1, attention_resolutions=(),
        )  # fmt: skip
        return replace(config, tokenizer=tokenizer)
    if name == "delta-iris":
        levels = {"tokenizer": (1, 1, 0), "dynamics": (1, 1, 1), "actor_critic": (1, 1, 1)}
        sections = {
            name: replace(getattr(config, name), patch=1, channel_multipliers=(1, 1, 1), halvings=halvings)
            for name, halvings in levels.items()
        }
        return replace(config, **sections)
    return replace(config, tokenizer=replace(config.tokenizer, hidden_widths=(512, 512)))


# -- data ------------------------------------------------------------------------------------------------------------


def _dataset_file(name: str, folder: Path) -> Prepared:
    made = folder.parent / "data.zarr"
    if not made.exists():
        make_dataset(made)
    seeds = [(made / name).read_bytes()]

    def parse(data: bytes) -> None:
        _copy(made, Path("d.zarr"))
        Path("d.zarr", name).write_bytes(data)
        with Dataset.open("d.zarr") as dataset:
            json.dumps(dataset.summary())
            for field in ("observations", "actions", "rewards", "terminations", "truncations"):
                dataset.read(field)
            for fingerprint in dataset.attributes["tokens"]:
                dataset.read_tokens(fingerprint)
            EnvSpec.from_mapping(dataset.environment)
            replay = Replay(CPU)
            replay.refresh(dataset)
            replay.from_end(4, 5, torch.Generator().manual_seed(0), frames=True)
        info(Path("d.zarr"))
        with Dataset.open("d.zarr", writable=True) as dataset:
            dataset.rewind(min(5, dataset.num_steps), writer="random")
            values = {name: value[:1] for name, value in stored_steps(size=64).items()}
            dataset.append(**values, episode_lengths=[1], episode_ids=[dataset.num_episodes], writer="random")

    return Prepared(seeds, parse)


def _npz(folder: Path) -> Prepared:
    seeds = []
    for write, more in ((np.savez, {}), (np.savez_compressed, {"episode_ends": np.array([8, 16, 20])})):
        buffer = io.BytesIO()
        write(buffer, **stored_steps(), **more)
        seeds.append(buffer.getvalue())
    objects = io.BytesIO()
    np.savez(objects, **{**stored_steps(), "rewards": np.array([print] * STEPS, dtype=object)})
    seeds.append(objects.getvalue())

    def parse(data: bytes) -> None:
        Path("x.npz").write_bytes(data)
        for block in read_npz(Path("x.npz"), most_values=100_000).blocks:
            assert len(block.images) == len(block.actions) == sum(block.lengths)
        import_data("x.npz", Import(out=Path("d.zarr")))

    return Prepared(seeds, parse)


def _csv(folder: Path) -> Prepared:
    seeds = [
        b"action,reward,terminated,truncated,episode\n0,1.5,0,0,1\n1,0,1,false,1\n2,-3,0,true,2\n",
        b"action\n0\n1\n2\n", b"\xef\xbb\xbfaction,episode\r\n1,0\r\n0,1\r\n",
    ]  # fmt: skip

    def parse(data: bytes) -> None:
        Path("x.csv").write_bytes(data)
        steps = read_rows(Path("x.csv"))
        assert len(steps) == len(steps.rewards) == int(steps.ends[-1])

    return Prepared(seeds, parse)


def _film(folder: Path) -> Prepared:
    writer = FilmWriter(folder / "a.mp4", folder / "a.csv", size=(16, 16), fps=10, lossless=True)
    from iris_cli.formats.recording import Block

    values = stored_steps(4, 16)
    images = values.pop("observations")
    writer.write(Block(images=images, lengths=(4,), **{**values, "rewards": values["rewards"]}), 0)
    writer.close()
    rows = folder / "a.csv"

    def parse(data: bytes) -> None:
        Path("x.mp4").write_bytes(data)
        for block in read_video(Path("x.mp4"), rows, most_pixels=10_000).blocks:
            assert len(block.images) == len(block.actions)

    return Prepared([(folder / "a.mp4").read_bytes()], parse)


def _minari(folder: Path) -> Prepared:
    from iris_cli.formats.minari import MinariWriter, read_minari

    values = stored_steps(4)
    images = values.pop("observations")
    if not (folder / "m").exists():
        writer = MinariWriter(
            folder / "m", name="a/b-v0", shape=(8, 8, 3), num_actions=3, first_action=0, env_spec=None, description="x"
        )
        writer.write(observations=np.concatenate([images, images[:1]]), **values)
    seed = (folder / "m" / "data" / "metadata.json").read_bytes()

    def parse(data: bytes) -> None:
        _copy(folder / "m", Path("m"))
        Path("m/data/metadata.json").write_bytes(data)
        for block in read_minari(Path("m"), most_values=100_000).blocks:
            assert len(block.images) == len(block.actions)

    return Prepared([seed], parse)


# -- the page --------------------------------------------------------------------------------------------------------

_ORDERS = (
    {"op": "start", "world": "real", "seed": 1}, {"op": "keys", "held": ["ArrowLeft"]}, {"op": "step"}, {"op": "step"},
    {"op": "record"}, {"op": "control", "who": "you"}, {"op": "rewind", "to": 0}, {"op": "branch", "number": 0},
    {"op": "along", "on": True}, {"op": "dream"}, {"op": "speed", "fps": 30}, {"op": "play"}, {"op": "pause"},
    {"op": "save", "kind": "mp4", "name": "a"}, {"op": "drop"},
)  # fmt: skip


def _message(folder: Path) -> Prepared:
    def parse(data: bytes) -> None:
        order = read_order(data.decode("utf-8", "replace"))
        if order.op == "start":
            start_of(order)
        if (
            order.op == "save"
            and order.values["name"] is not None
            and Path(order.values["name"]).name != order.values["name"]
        ):
            raise AssertionError(order.values["name"])

    return Prepared([json.dumps(order).encode() for order in _ORDERS], parse)


def _orders(folder: Path) -> Prepared:
    """A person's orders to a session, one after the other, as the server carries them out."""
    session = Session(training_spec(GAME).for_testing())

    def parse(data: bytes) -> None:
        moment, held = session.start(Start()), ()
        for text in data.decode("utf-8", "replace").split("\n")[:40]:
            try:
                order = read_order(text)
                match order.op:
                    case "start":
                        moment = session.start(start_of(order))
                    case "keys":
                        held = order.values["held"]
                    case "step" | "play":
                        moment = session.advance(held)
                    case "control":
                        session.hand_to(order.values["who"])
                    case "rewind":
                        moment = session.rewind(order.values["to"])
                    case "branch":
                        moment = session.take_branch(order.values["number"])
                    case "dream":
                        moment = session.dream_from_here()
                    case "record":
                        session.record()
                    case "save" | "drop":
                        session.recorded()
                moment_bytes(moment, {})
            except PlayError:
                continue

    return Prepared(["\n".join(map(json.dumps, _ORDERS)).encode()], parse)


def _script(folder: Path) -> Prepared:
    keyboard = Keyboard(["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPFIRE"])
    seeds = [b"# wait\nnoop 20\nup+fire 3\ndown\nagent 60 # it acts\nstored 10\n"]

    def parse(data: bytes) -> None:
        Path("keys.txt").write_bytes(data)
        presses = read_script(Path("keys.txt"), keyboard)
        assert all(press.steps > 0 and (press.action is None or 0 <= press.action < 7) for press in presses)

    return Prepared(seeds, parse)


# -- shared runs -----------------------------------------------------------------------------------------------------


@cache
def _shared(root: Path) -> Path:
    whole = made_run(root / "made")
    target = root / "shared"
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.closing(Run.open(whole, device=CPU)) as run:
        push(run, Push(to=target, licence="MIT"))
    return target


def _shared_file(name: str, folder: Path) -> Prepared:
    shared = _shared(folder.parent)
    path = next(shared.glob(name))

    def parse(data: bytes) -> None:
        _copy(shared, Path("in"))
        next(Path("in").glob(name)).write_bytes(data)
        pull("in", out=Path("runs/pulled"))
        _read_all(Path("runs/pulled"))

    return Prepared([path.read_bytes()], parse)


def _shared_folder(folder: Path) -> Prepared:
    """A folder whose files have any name and kind; the bytes are a list of what is done to a good one."""
    shared = _shared(folder.parent)
    seeds = [
        json.dumps(changes).encode()
        for changes in (
            [], [["link", "config.json", "/etc/passwd"]], [["link", "reports", "/etc"]], [["rename", "reports", "r"]],
            [["write", "reports/evaluate-../../x.json", "{}"]], [["write", "../../escape", "x"]],
            [["link", "model.safetensors", "../in/config.json"], ["write", "code.py", "import os"]],
            [["folder", "README.md", ""]], [["pipe", "config.json", ""]],
        )
    ]  # fmt: skip

    def parse(data: bytes) -> None:
        try:
            changes = json.loads(data)
        except (ValueError, RecursionError):
            return
        _copy(shared, Path("in"))
        for change in changes if isinstance(changes, list) else ():
            if isinstance(change, list) and len(change) == 3 and all(isinstance(word, str) for word in change):
                with unwatched():
                    _change(Path("in"), *change)
        pull("in", out=Path("runs/pulled"))

    return Prepared(seeds, parse)


def _change(place: Path, kind: str, name: str, other: str) -> None:
    """What somebody else did to a folder of theirs, within it."""
    inner = [part for part in name.split("/") if part not in ("", ".", "..") and "\x00" not in part][:4]
    path = place.joinpath(*(part[:50] for part in inner))
    if not inner:
        return
    with contextlib.suppress(OSError, ValueError, shutil.Error):
        if kind in ("link", "folder", "pipe") and path.exists():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "link":
                path.symlink_to(other)
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "write" if not path.is_symlink():
                path.write_text(other)
            case "rename":
                path.rename(place / other.replace("/", "_"))


def _copy(source: Path, target: Path, *, ignore: str | None = None) -> None:
    """A copy of a folder, by links to its files; whoever writes one replaces it."""
    for root, _, names in os.walk(source):
        here = target / Path(root).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            if ignore is None or not Path(name).match(ignore):
                shutil.copyfile(Path(root, name), here / name)


def _read_yaml(folder: Path) -> Prepared:
    """Any YAML: what comes out is plain, and is the same once it was written."""
    seeds = [path.read_bytes() for path in sorted(PIPELINES.glob("*.yaml"))[:2]]
    seeds += [
        b"a: [1, 2.5, true, null, 2026-11-21, 'x', 0x1f, 1_000]\nb: {c: |\n  text\n}\n",
        b"&a [*a]",
        b"!!set {a, b}",
    ]

    def parse(data: bytes) -> None:
        Path("x.yaml").write_bytes(data)
        found = load_yaml(Path("x.yaml")).data
        Path("y.yaml").write_text(dump_yaml(found), encoding="utf-8")
        again = load_yaml(Path("y.yaml")).data
        if repr(again) != repr(found):
            raise AssertionError(f"{found!r} became {again!r}"[:200])

    return Prepared(seeds, parse)


def _file(prepare: Callable[..., Prepared], name: str, mutate: Mutate, **uses: Any) -> dict[str, Any]:
    return {"prepare": partial(prepare, name, **uses), "mutate": mutate}


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("yaml", _read_yaml, mutate_yaml),
        Target("pipeline", _pipeline, mutate_yaml),
        Target("set-options", _set_options, mutate_lines(mutate_bytes)),
        Target("environment-name", _env_names, mutate_bytes),
        Target("run-card", **_file(_run_file, "run.yaml", mutate_yaml, uses=_read_card)),
        Target("run-state", **_file(_run_file, "checkpoints/0*/state.json", mutate_json, uses=_opened)),
        Target("run-state-read", **_file(_run_file, "checkpoints/0*/state.json", mutate_json, uses=_read_all)),
        Target("run-latest", **_file(_run_file, "checkpoints/latest", mutate_bytes, uses=_read_all)),
        Target("run-settings", **_file(_run_file, "run.yaml", mutate_yaml, uses=_opened)),
        Target("metrics", **_file(_run_file, "metrics.jsonl", mutate_lines(mutate_json), uses=_read_all)),
        Target("history", **_file(_run_file, "history.jsonl", mutate_lines(mutate_json), uses=_read_all)),
        Target("plan", **_file(_run_file, "plan.json", mutate_json, uses=_read_all)),
        Target("evaluation", **_file(_run_file, "reports/evaluate-*.json", mutate_json, uses=_read_all)),
        Target("checkpoint", _checkpoint, _mutate_checkpoint),
        Target("published-checkpoint", _published, mutate_zip(mutate_bytes), limit=4 << 20),
        Target("dataset-attributes", **_file(_dataset_file, "zarr.json", mutate_json)),
        Target("dataset-array", **_file(_dataset_file, "observations/zarr.json", mutate_json)),
        Target("dataset-episodes", **_file(_dataset_file, "episode_ends/zarr.json", mutate_json)),
        Target("dataset-chunk", **_file(_dataset_file, "episode_ends/c.0", mutate_bytes)),
        Target("npz", _npz, mutate_zip(mutate_bytes)),
        Target("csv", _csv, mutate_lines(mutate_bytes)),
        Target("film", _film, mutate_bytes, may_spawn=True),
        Target("minari", _minari, mutate_json),
        Target("page-message", _message, mutate_json),
        Target("page-orders", _orders, mutate_lines(mutate_json)),
        Target("script", _script, mutate_lines(mutate_bytes)),
        Target("shared-settings", **_file(_shared_file, "config.json", mutate_json)),
        Target("shared-weights", **_file(_shared_file, "model.safetensors", mutate_safetensors)),
        Target("shared-report", **_file(_shared_file, "reports/evaluate-*.json", mutate_json)),
        Target("shared-folder", _shared_folder, mutate_json),
    )
}
