"""A run: one agent, its optimizers, counters and random states, in a directory that can be killed at any instant.

    runs/pong/
      run.yaml             agent, environment, seed, every resolved setting, versions
      checkpoints/         see checkpoints.py
      metrics.jsonl        one line per report of a stage
      history.jsonl        one line per command that trained it, plan.json of a pipeline: see history.py
      media/  reports/     failures/ where an update was not finite: see failures.py
      .lock                names the process that trains it

Weights cross stages only through `Run`. Environments, replay, tokens and models stay warm in it while a pipeline
runs in one process.
"""

import hashlib
import json
import os
import platform
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from iris_cli.agents import build, config_for, section_presets_for, view_of
from iris_cli.agents.plausible import check_plausible
from iris_cli.card import FORMAT, read_card
from iris_cli.checkpoints import Checkpoint, read_checkpoint, sizes_in, write_checkpoint
from iris_cli.config import dump_yaml, to_mapping, updated
from iris_cli.envs.spec import EnvSpec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, DatasetError, RunError, StoreError, TrainingError, reason_of
from iris_cli.files import write_atomically
from iris_cli.latest import check_state, latest_checkpoint
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.visits import Visits
from iris_cli.object_store import Location, StoreURL, located
from iris_cli.progress import Progress
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.lock import Lock, take_lock
from iris_cli.replay.segments import Replay
from iris_cli.version import VERSION
from iris_cli.working_copy import WorkingCopy

SAVE_SECONDS = float(os.environ.get("IRIS_SAVE_SECONDS", "60"))  # between two checkpoints of a training stage
FRAMES = os.environ.get("IRIS_FRAMES")  # where frames are kept: device, memory or disk; None: where they fit
COMPONENTS = ("tokenizer", "dynamics", "actor_critic")
TOKENIZE_BLOCK = 1024  # frames encoded between two looks at the clock


class Listener(Protocol):
    """Is told of each checkpoint of a run."""

    def saved(self, metrics_bytes: int) -> None:
        """A checkpoint is on disk; lines of metrics.jsonl up to this length will never be taken back."""

    def close(self) -> None:
        """The run is being closed."""


class Run:
    """An agent's run directory, opened. Make one with `Run.create` or `Run.open`.

    One process at a time has it open for training; any number read it. Of several that train as one, one has it open
    for training, and the others follow: they do all it does, but write nothing.
    """

    def __init__(self, directory: Path, card: dict[str, Any], config: Any, device: torch.device) -> None:
        self.directory = directory
        self.card = card
        self.config = config
        self.device = device
        self.agent_name: str = card["agent"]
        self.seed: int = card["seed"]
        self.dataset_path = located(card["dataset"])
        self.environment = EnvSpec.from_mapping(card["environment"])
        with torch.random.fork_rng(devices=[]):  # the caller's random stream stays where it is
            torch.manual_seed(self.seed)
            self.agent = build(self.agent_name, config, card["num_actions"]).to(device).eval()
        self.updates = dict.fromkeys(COMPONENTS, 0)
        self.tokenizer_loss: str | None = "published, imported" if "imported" in card else None  # once trained
        self.cursor: dict[str, Any] | None = None  # where a pipeline stands
        self.collected: dict[str, Any] = {"steps": 0, "collector": None}  # the dataset as of the last checkpoint
        self.steps_seen = 0  # environment steps in the dataset when a stage last learned from it
        self.progress: Progress | None = None
        self.checkpoint_number = 0
        self.round: int | None = None  # of the pipeline that is being carried out, for metrics
        self._visits: dict[str, Visits] = {}
        self._invocations: dict[str, int] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._optimizer_states: dict[str, Any] = {}
        self._saved_progress: dict[str, Any] | None = None
        self._metrics_bytes: int | None = None
        self._saved_at = time.monotonic()
        self._is_new = False
        self.is_follower = False
        self.environments: VectorEnv | None = None  # as the last collection left them
        self._replay: Replay | None = None
        self._tokens_of: str | None = None
        self._lock: Lock | None = None  # while open for training
        self._unlock: weakref.finalize | None = None
        self.listeners: list[Listener] = []  # closed with the run
        self._copy: WorkingCopy | None = None  # of a run in an object store, which `directory` stands for

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Location,
        *,
        agent: str,
        config: Any,
        environment: EnvSpec,
        num_actions: int,
        dataset: Location,
        seed: int,
        device: torch.device,
        weights: dict[str, Tensor] | None = None,
        imported: dict[str, str] | None = None,
        beside: dict[str, dict[str, Tensor]] | None = None,
        updates: dict[str, int] | None = None,
        tokenizer_loss: str | None = None,
        pulled: dict[str, str] | None = None,
    ) -> "Run":
        """Make a run and its first checkpoint, with fresh weights (from `seed`) unless some are given.

        Args:
            directory: must not hold a run; may be a place in an object store.
            agent, config: its name and settings.
            environment, num_actions: what it plays.
            dataset: path, need not exist yet.
            seed: of weights, games and draws.
            device: where it lives.
            weights: of the whole agent, instead of fresh ones.
            imported: where those came from; all components then count as trained.
            beside: more files of tensors for the directory, name.safetensors -> tensors.
            updates, tokenizer_loss: what the weights have been through, where they are of another run.
            pulled: where that run came from.

        Raises:
            ConfigError: for a seed that is none, or an environment that the agent cannot see.
            RunError: if the directory already holds a run, or another process is making one there.
        """
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed is {seed}, but must lie in 0 to 2^32 - 1", where="seed")
        if environment.view != view_of(agent):
            raise ConfigError(
                f"{agent} sees {view_of(agent)} frames, but these are {environment.view}", where=dataset,
                fix=(
                    "Data without an environment is for agents that see colours."
                    if environment.kind == "imported"
                    else f"Collect others: iris collect --env {environment.name} --agent {agent} --out data/NAME.zarr"
                ),
            )  # fmt: skip
        if (directory / "run.yaml").exists():
            raise RunError("there is a run already", where=directory, fix="Name another with --run.")
        copy: WorkingCopy | None = None
        if isinstance(directory, StoreURL):
            copy = WorkingCopy(directory)
            directory = copy.directory
        config = _with_found_files(config, directory, beside or {})
        card = {
            "format": FORMAT,
            "id": uuid.uuid4().hex,
            "agent": agent,
            "environment": environment.to_mapping(),
            "num_actions": num_actions,
            "dataset": str(dataset),
            "seed": seed,
            "config": to_mapping(config),
            "versions": {"iris-wm": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **({"imported": imported} if imported else {}),
            **({"pulled": pulled} if pulled else {}),
        }
        draft = directory.with_name(f".{directory.name}.partial")  # may be left by a kill, and is then written over
        try:
            draft.mkdir(parents=True, exist_ok=True)
            if copy is not None:
                copy.lock_here(draft)
        except OSError as error:
            raise RunError(
                f"the run cannot be made: {reason_of(error)}", where=directory, fix="Name another with --run."
            ) from None
        with ExitStack() as open_lock:
            lock = _lock(draft)
            open_lock.callback(lock.release)
            try:
                run = cls(draft, card, config, device)
                run.environment = environment
                run._lock, run._unlock = lock, weakref.finalize(run, open_lock.pop_all().close)
                if weights is not None:
                    run.agent.load_state_dict(weights)
                run.updates |= {name: count for name, count in (updates or {}).items() if name in run.updates}
                run.tokenizer_loss = tokenizer_loss or run.tokenizer_loss
                for name, tensors in (beside or {}).items():
                    save_file(tensors, draft / name)
                run.save()
                write_atomically(draft / "run.yaml", dump_yaml(card))
                draft.rename(directory)  # which may be there if it is empty
            except BaseException as error:
                shutil.rmtree(draft, ignore_errors=True)
                if not isinstance(error, OSError):
                    raise
                raise RunError(
                    f"the run cannot be made: {reason_of(error)}", where=directory, fix="Name another: --run."
                ) from None
        run.directory, run._is_new, run._copy = directory, True, copy
        run.publish()
        return run

    @classmethod
    def open(
        cls, directory: Location, *, device: torch.device, training: bool = False, follower: bool = False
    ) -> "Run":
        """Open a run at its latest checkpoint.

        Args:
            directory: of the run, or its URL.
            device: where the agent goes.
            training: whether to write to it, as its only process; also loads the states of the optimizers.
            follower: whether to train it without writing, beside the process that does.

        Raises:
            RunError: if it is missing, damaged, written by another format, or (training) open for training elsewhere.
        """
        copy: WorkingCopy | None = None
        if isinstance(directory, StoreURL):
            copy = WorkingCopy(directory)
            directory = copy.fetch(weights=True, optimizers=training or follower)
        card = read_card(directory)  # before the lock, so that nothing foreign is touched
        with ExitStack() as open_lock:
            if training:
                lock = _lock(directory)
                open_lock.callback(lock.release)
                if copy is not None:
                    copy.fetch(weights=True, optimizers=True)
                card = read_card(directory)  # as it is now that nobody else writes
            path = latest_checkpoint(directory / "checkpoints")
            try:
                published = config_for(card["agent"])
                config = updated(published, card["config"], where=lambda *keys: str(directory / "run.yaml"), presets={})
                if path is not None:  # before anything is made that is as large as run.yaml says
                    sizes, where = sizes_in(path), directory / "run.yaml"
                    check_plausible(card["agent"], config, card["num_actions"], sizes, where=where)
                run = cls(directory, card, config, device)
            except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                raise RunError(f"run.yaml lacks or spoils something ({error})", where=directory / "run.yaml") from None
            if path is None:
                raise RunError("the run has no checkpoint", where=directory)
            run._load(path, optimizers=training or follower)
            run.is_follower, run._copy = follower, copy
            if training:
                run._lock, run._unlock = lock, weakref.finalize(run, open_lock.pop_all().close)
        return run

    def close(self) -> None:
        """Let other processes train it, and end its environments; reading goes on working."""
        if self.environments is not None:
            self.environments.close()
            self.environments = None
        while self.listeners:
            self.listeners.pop().close()
        if self._unlock is not None:
            self._unlock()
            self._lock = self._unlock = None

    def _load(self, path: Path, *, optimizers: bool) -> None:
        checkpoint = read_checkpoint(path, self.device, optimizers=optimizers)
        state = checkpoint.state
        try:
            check_state(state)
            self.agent.load_state_dict(checkpoint.weights)
            self.updates = {name: state["updates"][name] for name in COMPONENTS}
            self.tokenizer_loss = state["tokenizer_loss"]
            self.cursor, self.collected = state["cursor"], state["collected"]
            self.steps_seen = state.get("steps_seen", 0)
            self.checkpoint_number = state["number"]
            self._invocations, self._saved_progress = state["invocations"], state["progress"]
            self._metrics_bytes = state["metrics_bytes"]
            passes = state.get("passes", {})
            self._visits = {name: Visits(counts, passes.get(name)) for name, counts in state.get("visits", {}).items()}
            self._optimizer_states = checkpoint.optimizers
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the checkpoint does not fit run.yaml ({reason_of(error)})", where=path) from None

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint: weights, optimizers, random states, counters and the dataset's length, as one unit.

        A follower counts it and writes nothing.

        Raises:
            RunError: if the run is not open for training, was taken over, or the checkpoint cannot be written.
            StoreError: if it lives in an object store that does not take it; there the one before stays the latest.
        """
        if self.is_follower:
            self.checkpoint_number, self._saved_at = self.checkpoint_number + 1, time.monotonic()
            return self.directory / "checkpoints"
        self._check_writable()
        self.checkpoint_number += 1
        optimizers = {**self._optimizer_states, **{name: opt.state_dict() for name, opt in self._optimizers.items()}}
        state = {
            "format": FORMAT,
            "number": self.checkpoint_number,
            "updates": self.updates,
            "tokenizer_loss": self.tokenizer_loss,
            "invocations": self._invocations,
            "progress": self._saved_progress if self.progress is None else self.progress.state(),
            "cursor": self.cursor,
            "collected": self.collected,
            "steps_seen": self.steps_seen,
            "visits": {name: visits.counts.tolist() for name, visits in self._visits.items()},
            "passes": {name: visits.left.tolist() for name, visits in self._visits.items()},
            "metrics_bytes": self._metrics_bytes or 0,
            "time": time.time(),
        }
        weights = dict(self.agent.state_dict())
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise TrainingError(
                f"{broken[0]} is not finite any more, so nothing was saved", where=self.directory,
                fix="The last checkpoint is untouched; continue from it with a smaller learning rate.",
            )  # fmt: skip
        path = write_checkpoint(
            self.directory / "checkpoints", self.checkpoint_number, Checkpoint(weights, optimizers, state),
            check=self._check_writable,
        )  # fmt: skip
        self._saved_at = time.monotonic()
        self.tell()
        self.publish()
        return path

    def tell(self) -> None:
        """Tell the listeners of the checkpoint that was written or opened last."""
        for listener in self.listeners:
            listener.saved(self._metrics_bytes or 0)

    def publish(self) -> None:
        """Bring what is new in the directory to the object store, for a run that lives in one.

        Raises:
            StoreError: if the store refuses or does not answer.
        """
        if self._copy is not None:
            self._copy.publish()

    def withdraw(self) -> None:
        """Take the directory away if it was made just now and nothing was learned or collected: a false start."""
        kept = (self.directory / "failures").exists()
        is_empty = not any(self.updates.values()) and not self.collected["steps"]
        if self._is_new and not kept and is_empty and not self._has_written():
            self._check_writable()
            self.remove()

    def _has_written(self) -> bool:
        """Whether the dataset holds steps of this run, which a collection that failed left, and no other may drop."""
        try:
            return any(entry["who"] == self.writer for entry in self.dataset().attributes["writers"])
        except DatasetError:  # there is none, or it is somebody else's
            return False
        except StoreError:  # it cannot be known now
            return True

    def remove(self) -> None:
        """Take the directory away, and what the object store has of it if that answers."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._copy is not None:
            with suppress(StoreError):
                self._copy.withdraw()

    def save_if_due(
        self, *, before: Callable[[], None] = lambda: None, agreed: Callable[[bool], bool] = lambda due: due
    ) -> None:
        """Save if the last checkpoint is older than `SAVE_SECONDS`, after a last look `before`, which may raise.

        `agreed` tells whether it is due in any of the processes that train as one.
        """
        if agreed(time.monotonic() - self._saved_at >= SAVE_SECONDS):
            before()
            self.save()

    def log(self, **metrics: Any) -> None:
        """Append a line to metrics.jsonl; lines written after the checkpoint a run was opened at are dropped first.

        A follower does not.
        """
        if self.is_follower:
            return
        self._check_writable()
        path = self.directory / "metrics.jsonl"
        line = json.dumps({"time": round(time.time(), 3), "round": self.round, **metrics}) + "\n"
        with path.open("ab") as file:
            if self._metrics_bytes is not None and file.tell() > self._metrics_bytes:
                file.truncate(self._metrics_bytes)
                file.seek(0, os.SEEK_END)  # else the position counts what is gone
            file.write(line.encode())
            self._metrics_bytes = file.tell()

    def change(self, changes: dict[str, Any], *, where: Callable[..., str]) -> list[str]:
        """Change settings of how a component learns, in run.yaml too; sentences that say what changed.

        Raises:
            ConfigError: for an unknown setting, or one that is part of the network.
            RunError: if the run is not open for training.
        """
        self._check_writable()
        config = updated(self.config, changes, where=where, presets=section_presets_for(self.agent_name))
        config = _with_found_files(config, self.directory, {})
        sentences = []
        sections = [field.name for field in fields(config) if is_dataclass(getattr(config, field.name))]
        for component in sections:
            old, new = getattr(self.config, component), getattr(config, component)
            for name, value in to_mapping(new).items():
                before = to_mapping(old)[name]
                if value == before or name == "preset":
                    continue
                if name not in new.MUTABLE:
                    raise ConfigError(
                        f"{component}.{name} is {before} in this run's network, so it cannot become {value}",
                        where=self.directory, fix="Start another run: --run runs/NAME.",
                    )  # fmt: skip
                sentences.append(f"{component}.{name}: {before} -> {value}")
        if sentences:
            self.config = config
            self.agent.configure(config)
            self._optimizers.clear()
            self.card["config"] = to_mapping(config)
            write_atomically(self.directory / "run.yaml", dump_yaml(self.card))
        return sentences

    @property
    def is_writable(self) -> bool:
        """Whether it is open for training."""
        return self._unlock is not None

    def _check_writable(self) -> None:
        if self._lock is None:
            raise RunError("the run is not open for training", where=self.directory)
        self._lock.check(self.directory / ".lock", where=self.directory)

    def is_trained(self, component: str) -> bool:
        """Whether a component has seen any update, here or where it was imported from."""
        return self.updates[component] > 0 or "imported" in self.card

    def command(self, stage: str) -> str:
        """What to type for a stage of this run."""
        where = "" if self.directory == Path("runs") / self.dataset_path.stem else f" --run {self.directory}"
        return f"iris {stage} {self.dataset_path}{where}"

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The saved progress of whatever stage the last checkpoint was written in the middle of."""
        return self._saved_progress

    @property
    def writer(self) -> str:
        """The name that datasets know this run by."""
        return f"run {self.card['id']}"

    # -- what stages work with ---------------------------------------------------------------------------------------

    def dataset(self) -> Dataset:
        """The run's dataset, for reading."""
        return Dataset.open(self.dataset_path)

    def replay(self) -> Replay:
        """All steps of the dataset, up to date, on the training device; frames that do not fit there, elsewhere.

        Raises:
            ConfigError: if the place that IRIS_FRAMES names is none.
        """
        if self._replay is None:
            self._replay = Replay(self.device, place=FRAMES)
        self._replay.refresh(self.dataset())
        return self._replay

    def tokenized_replay(self, on_block: Callable[[int], None] = lambda frames: None) -> Replay:
        """The replay with tokens of the present tokenizer: from the dataset's store, or encoded now, never stale.

        Only what is new is encoded, in the blocks in which everything would be: a run that was killed gets the same.
        """
        replay, fingerprint = self.replay(), self.agent.tokenizer.fingerprint()
        if not replay.is_tokenized or self._tokens_of != fingerprint:
            stored = self.dataset().read_tokens(fingerprint)
            parts = [] if stored is None else [torch.from_numpy(stored)[: replay.num_steps].to(self.device)]
            start = sum(map(len, parts))
            if replay.tokens is not None and self._tokens_of == fingerprint:
                blocks = max(0, len(replay.tokens) - start) // TOKENIZE_BLOCK
                parts.append(replay.tokens[start : start + blocks * TOKENIZE_BLOCK])
                start += len(parts[-1])
            for begin in range(start, replay.num_steps, TOKENIZE_BLOCK):
                parts.append(self.encode_steps(begin, min(begin + TOKENIZE_BLOCK, replay.num_steps)))
                on_block(len(parts[-1]))
            replay.set_tokens(torch.cat(parts))
            self._tokens_of = fingerprint
        return replay

    def encode_steps(self, start: int, stop: int) -> Tensor:
        """Tokens (stop - start, K) int64 of steps of the replay."""
        assert self._replay is not None
        return self.agent.tokenizer.encode(self._replay.frames_at(slice(start, stop)))

    def optimizer(self, component: str) -> torch.optim.Optimizer:
        """The component's optimizer, with its state from the checkpoint."""
        if component not in self._optimizers:
            optimizer = make_optimizer(getattr(self.agent, component), getattr(self.config, component))
            if component in self._optimizer_states:
                saved = self._optimizer_states[component]
                try:  # the moments are the checkpoint's; all settings are of now, as is what fits the device
                    groups = [
                        {**now, "params": then["params"]}
                        for now, then in zip(optimizer.param_groups, saved["param_groups"], strict=True)
                    ]
                    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise RunError(
                        f"the optimizer of {component} does not fit ({error})", where=self.directory
                    ) from None
            self._optimizers[component] = optimizer
        return self._optimizers[component]

    def visits(self, component: str) -> Visits:
        """How often a component drew each episode or step of the dataset, and what is left of its pass."""
        return self._visits.setdefault(component, Visits([]))

    def fingerprint(self) -> str:
        """16 hex digits of all weights: which agent a report is about."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.agent.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- stages under way --------------------------------------------------------------------------------------------

    def resumable(self, stage: str) -> dict[str, Any] | None:
        """The saved progress of `stage`, if the last checkpoint was written in the middle of it."""
        saved = self._saved_progress
        return saved if saved is not None and saved["stage"] == stage else None

    def begin(self, stage: str, total: int) -> Progress:
        """Start a stage of `total` updates with its own random streams, or go on with the one a kill left open."""
        saved = self.resumable(stage)
        if saved is not None and saved["total"] == total:
            try:
                progress = Progress.restored(saved, self.device)
            except (ValueError, TypeError, RuntimeError, KeyError) as error:
                raise RunError(
                    f"the random states of the checkpoint cannot be used ({' '.join(str(error).split())[:120]})",
                    where=self.directory, fix="Start the stage again in another run, or from an older checkpoint.",
                ) from None  # fmt: skip
        else:
            if self._saved_progress is not None:  # given up: its random streams are not to be drawn again
                self.end(self._saved_progress["stage"])
            progress = Progress.started(stage, total, self.seeds(stage, 3), self.device)
        self._saved_progress, self.progress = None, progress
        return progress

    def end(self, stage: str) -> None:
        """The stage is complete: its next start draws from new random streams."""
        self.progress = self._saved_progress = None
        self._invocations[stage] = self._invocations.get(stage, 0) + 1

    def seeds(self, stage: str, count: int) -> list[int]:
        """Seeds for the present start of `stage`, a function of the run's seed and how often it has run."""
        words = [self.seed, int.from_bytes(stage.encode(), "little"), self._invocations.get(stage, 0)]
        state = np.random.SeedSequence(words).generate_state(count, np.uint64)
        return [int(seed) >> 1 for seed in state]


def _with_found_files(config: Any, directory: Path, beside: Collection[str]) -> Any:
    """The settings with the path of the perceptual weights made absolute, or left a name within the run directory.

    Raises:
        ConfigError: if there is no such file.
    """
    name = getattr(config.tokenizer, "lpips", "none")  # not every agent has them
    if name in ("auto", "none") or name in beside or (directory / name).exists():
        return config
    if not Path(name).exists():
        raise ConfigError("there are no such perceptual weights", where=name, fix="Get them: iris fetch lpips")
    return replace(config, tokenizer=replace(config.tokenizer, lpips=str(Path(name).absolute())))


def _lock(directory: Path) -> Lock:
    return take_lock(directory / ".lock", what="run", where=directory, error=RunError)
