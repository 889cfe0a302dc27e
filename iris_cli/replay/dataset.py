"""A dataset: all steps of one environment, in a Zarr v3 group with a flat time axis (arrays.py).

Layout and commit protocol: data/README.md. One writer (a lock names it), any number of readers. What training needs
besides (cursors, counts) lives in the run, so that one dataset serves many runs. Nothing that is loaded can run code.
"""

import copy
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from iris_cli.errors import DatasetError, ShapeError, reason_of
from iris_cli.object_store import Location, StoreURL, located, lock_file
from iris_cli.replay.arrays import Arrays
from iris_cli.replay.attributes import (
    FORMAT_VERSION,
    check_dropping,
    check_same,
    new_attributes,
    own_only,
    read_attributes,
    sealed,
    with_writer,
)
from iris_cli.replay.episodes import Episodes
from iris_cli.replay.fields import (
    EPISODE_FIELDS,
    FINALS,
    Field,
    check_steps,
    check_tokens,
    finals_field,
    frame_shape,
    step_fields,
    tokens_field,
)
from iris_cli.replay.finding import Finding
from iris_cli.replay.lock import Lock, take_lock

UNFINISHED = {"unfinished": "iris-dataset"}  # attributes of one that is being made in an object store


class Dataset:
    """All steps of one environment, on disk or in an object store. Build it with `create`, `open`, `open_or_create`."""

    def __init__(self, path: Location, attributes: dict[str, Any], lock: Lock | None) -> None:
        self.path = path
        self._arrays = Arrays(path, are_writable=lock is not None)
        self._attributes = attributes
        self._episodes = Episodes.none()
        self._lock = lock
        self._unlock = None if lock is None else weakref.finalize(self, os.close, lock.descriptor)

    # Opening

    @staticmethod
    def exists(path: str | Location) -> bool:
        """Whether there is a dataset, or something else that has its name."""
        path = located(path)
        return path.exists() and not (isinstance(path, StoreURL) and _is_unfinished(path))

    @classmethod
    def create(
        cls,
        path: str | Location,
        *,
        environment: dict[str, Any],
        action_meanings: Sequence[str],
        achievements: Sequence[str] = (),
        attributes: dict[str, Any] | None = None,
        keeps_finals: bool = False,
    ) -> Self:
        """Make an empty dataset, open for writing. It appears whole or not at all.

        Args:
            path: where, a path or s3://bucket/name; must not exist, missing parents are made.
            environment: JSON-safe mapping that says everything about the environment; compared at later appends.
            action_meanings: one name per action.
            achievements: one name for each that an episode may unlock, in games that have such.
            attributes: more JSON-safe attributes to begin with.
            keeps_finals: whether it shall keep what was seen after the last step of episodes.

        Raises:
            DatasetError: if something is there already, or it cannot be written.
        """
        path = located(path)
        content = new_attributes(
            environment, action_meanings, achievements, attributes or {}, keeps_finals=keeps_finals
        )
        fields = {**step_fields(frame_shape(environment), len(achievements)), **EPISODE_FIELDS}
        if keeps_finals:
            fields[FINALS] = finals_field(frame_shape(environment))
        if isinstance(path, StoreURL):
            return cls._create_in_store(path, content, fields)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            if path.exists():
                raise FileExistsError("something is there already")
            path.parent.mkdir(parents=True, exist_ok=True)
            Arrays(unfinished, are_writable=True).make(content, fields)
            dataset = cls(path, content, _lock(unfinished))
            unfinished.rename(path)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DatasetError(f"the dataset cannot be created: {reason_of(error)}", where=path) from None
        return dataset

    @classmethod
    def _create_in_store(cls, path: StoreURL, content: dict[str, Any], fields: Mapping[str, Field]) -> Self:
        """Nothing can be renamed there, so until the last request the group says that it is unfinished."""
        dataset = cls(path, content, _lock(path))
        try:
            if path.exists() and not _is_unfinished(path):
                raise DatasetError("the dataset cannot be created: something is there already", where=path)
            dataset._arrays.make(UNFINISHED, fields)
            dataset._arrays.note_commit()
            dataset._arrays.put_attributes(content)
        except BaseException:
            dataset.close()
            raise
        return dataset

    @classmethod
    def open(cls, path: str | Location, *, writable: bool = False) -> Self:
        """Open a dataset at its last committed step.

        Raises:
            DatasetError: if there is none, it is not ours, of another format version, damaged, or (writable) someone
                else writes to it.
        """
        path = located(path)
        attributes = read_attributes(path)  # before the lock, so that nothing foreign is touched
        dataset = cls(path, attributes, _lock(path) if writable else None)
        try:
            if writable:
                dataset._arrays.note_commit()
                dataset._attributes = read_attributes(path)  # what was committed until the lock was free
            dataset._check()
        except BaseException:
            dataset.close()
            raise
        if writable:
            for litter in list(dataset._arrays.litter()):
                litter.unlink(missing_ok=True)
        return dataset

    @classmethod
    def open_or_create(
        cls, path: str | Location, *, environment: dict[str, Any], action_meanings: Sequence[str]
    ) -> Self:
        """Continue the dataset at `path`, or begin one; open for writing. Arguments and errors as above.

        Raises:
            DatasetError: also if it holds another environment.
        """
        if not cls.exists(path):
            return cls.create(path, environment=environment, action_meanings=action_meanings)
        dataset = cls.open(path, writable=True)
        try:
            dataset.check_environment(environment)
        except DatasetError:
            dataset.close()
            raise
        return dataset

    def close(self) -> None:
        """Let others write; reading goes on working."""
        self._arrays.are_writable = False
        if self._unlock is not None:
            self._unlock()
            self._lock = self._unlock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_environment(self, environment: dict[str, Any]) -> None:
        """Refuse another environment, or the same one with other settings.

        Raises:
            DatasetError: naming each setting that differs.
        """
        check_same(self._attributes["environment"], environment, where=self.path)

    # What is in it

    @property
    def num_steps(self) -> int:
        """Committed steps."""
        return self._attributes["committed_steps"]

    @property
    def num_episodes(self) -> int:
        """Episodes of the game, the unfinished ones included."""
        return self._episodes.count

    @property
    def num_actions(self) -> int:
        """Actions of the environment."""
        return len(self._attributes["action_meanings"])

    @property
    def achievements(self) -> list[str]:
        """What an episode may unlock, in games that have such; else nothing."""
        return list(self._attributes.get("achievements", []))

    @property
    def environment(self) -> dict[str, Any]:
        """Mapping that says everything about the environment."""
        return copy.deepcopy(self._attributes["environment"])

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of an observation: (64, 64, 3) RGB, or (64, 64, 4) grey frames, the newest last."""
        return frame_shape(self._attributes["environment"])

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy of all attributes, as committed."""
        return copy.deepcopy(self._attributes)

    @property
    def generation(self) -> tuple[str, int]:
        """Changes whenever steps that were once committed may read differently: another dataset, or a rewind."""
        return self._attributes["created"], self._attributes["rewinds"]

    @property
    def episode_ends(self) -> np.ndarray:
        """(pieces,) int64, the step after the last of each piece of an episode; rising, the last is `num_steps`."""
        return self._episodes.ends.copy()

    @property
    def episode_ids(self) -> np.ndarray:
        """(pieces,) int64, the episode each piece belongs to: 0, 1, 2 and so on, in the order of first pieces."""
        return self._episodes.ids.copy()

    def pieces(self, episode: int) -> list[tuple[int, int]]:
        """(first step, step after the last) of each piece of an episode, in order."""
        return self._episodes.pieces(episode)

    def read(self, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Steps start..stop (all by default) of `observations`, `actions`, `rewards`, `terminations` or `truncations`.

        Where the game has achievements, `achievements` (steps, achievements) bool says which the episode had by then.

        Raises:
            DatasetError: if chunks are unreadable.
            ShapeError: if the steps are not all there.
        """
        stop = self.num_steps if stop is None else stop
        if not 0 <= start <= stop <= self.num_steps:
            raise ShapeError(f"steps {start} to {stop} of {self.num_steps} were asked for", where=self.path)
        return self._arrays.read(field, self._step_fields[field], start, stop)

    def final_observation(self, episode: int) -> np.ndarray | None:
        """The frame after an episode's last step; None where it was not kept, as in whatever was collected here.

        Raises:
            DatasetError: if it is unreadable.
        """
        if episode >= self._attributes.get(FINALS, 0):
            return None
        return self._arrays.read(FINALS, finals_field(self.frame_shape), episode, episode + 1)[0]

    def scores(self) -> np.ndarray:
        """(finished episodes,) float64, the sum of raw rewards of each. A lost life may have ended it."""
        return self._episodes.scores(self.read("rewards"), self._over())

    def unlocked(self) -> np.ndarray:
        """(finished episodes, achievements) bool, whether each unlocked them, in the order of their ends.

        Empty where the game has none.

        Raises:
            DatasetError: if chunks are unreadable.
        """
        if not self.achievements:
            return np.zeros((0, 0), bool)
        return self.read("achievements")[self._over()]

    def summary(self) -> dict[str, Any]:
        """What `iris info` shows; JSON-safe."""
        scores = self.scores()
        return {
            "steps": self.num_steps,
            "episodes": self.num_episodes,
            "complete_episodes": len(scores),
            "mean_score": float(scores.mean()) if len(scores) else None,
            "mean_length": self.num_steps / self.num_episodes if self.num_episodes else None,
            "environment": self._attributes["environment"].get("id"),
            "environment_settings": self.environment,
            "actions": self.num_actions,
            "action_meanings": list(self._attributes["action_meanings"]),
            "tokens": dict(self._attributes["tokens"]),
            "size_bytes": self._arrays.size(),
            "created": self._attributes["created"],
            **self._imported(),
            "format_version": FORMAT_VERSION,
        }

    # Writing

    def append(
        self,
        *,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
        achievements: np.ndarray | None = None,
        episode_lengths: Sequence[int],
        episode_ids: Sequence[int],
        writer: str,
        attributes: dict[str, Any] | None = None,
        finals: np.ndarray | None = None,
    ) -> None:
        """Add n steps in one commit: after a kill at any instant either all of them are there, or none.

        Args:
            observations: (n, *frame_shape) uint8, the frame each action was chosen on.
            actions: (n,) integers in [0, num_actions).
            rewards: (n,) raw.
            terminations: (n,) bool, only the last step of a piece may have one.
            truncations: (n,) bool, likewise.
            achievements: (n, achievements) bool, unlocked in the episode so far; None where the game has none.
            episode_lengths: steps of each consecutive piece of an episode; their sum is n.
            episode_ids: the episode of each piece: an unfinished one that goes on, or a new one; new ones are
                `num_episodes` and so on. A piece that goes on with the last one of the dataset makes that longer.
            writer: who collected these steps; only the same may rewind them.
            attributes: JSON-safe, committed with the steps; others stay as they are.
            finals: (m, *frame_shape) uint8, the frames after the last steps of the next m episodes that have none yet,
                of a dataset that keeps them.

        Raises:
            DatasetError: if the dataset is not open for writing, or cannot be written.
            ShapeError: if the arguments do not fit together.
        """
        arrays = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminations": terminations,
            "truncations": truncations,
        }
        if (achievements is None) == bool(self.achievements):
            raise ShapeError(f"achievements are to be given where there are such, and there are {self.achievements}")
        if achievements is not None:
            arrays["achievements"] = achievements
        steps = len(actions)
        check_steps(arrays, self._step_fields, list(episode_lengths), self.num_actions)
        episodes = self._episodes.extended(episode_lengths, episode_ids)
        self._check_unfinished(episode_ids)
        start = self.num_steps
        if steps:
            self._check_alone()
            fields, rows = self._step_fields, {"episode_ends": episodes.ends, "episode_ids": episodes.ids}
            self._arrays.write_all([(name, fields[name], start, values) for name, values in arrays.items()])
            self._arrays.write_all([(name, EPISODE_FIELDS[name], 0, values) for name, values in rows.items()])
        writers = self._attributes["writers"]
        counts = {"committed_steps": start + steps, "committed_episodes": len(episodes.ends)}
        if finals is not None and len(finals):
            counts[FINALS] = self._write_finals(finals, episodes.count)
        own = own_only(attributes or {})
        self._commit({**own, **counts, "writers": with_writer(writers, writer, start) if steps else writers})
        self._episodes = episodes

    def rewind(self, steps: int, *, writer: str, attributes: dict[str, Any] | None = None) -> None:
        """Drop everything after the first `steps` steps; an episode that is cut becomes unfinished.

        Args:
            steps: at most `num_steps`.
            writer: who wrote the steps that are dropped.
            attributes: restored in the same commit.

        Raises:
            DatasetError: if there are fewer steps, or someone else wrote any of those to drop.
        """
        check_dropping(self._attributes, steps, writer, where=self.path)
        cut = steps < self.num_steps
        episodes = self._episodes.cut(steps)
        tokens = {name: min(length, steps) for name, length in self._attributes["tokens"].items()}
        self._commit(
            {
                **own_only(attributes or {}),
                "committed_steps": steps,
                "committed_episodes": len(episodes.ends),
                **({FINALS: min(self._attributes[FINALS], episodes.count - cut)} if FINALS in self._attributes else {}),
                "rewinds": self._attributes["rewinds"] + cut,
                "writers": [entry for entry in self._attributes["writers"] if entry["start"] < steps],
                "tokens": tokens,
            }
        )
        self._episodes = episodes

    # Tokens

    def tokens_length(self, fingerprint: str) -> int:
        """Steps whose tokens of this tokenizer are stored."""
        return self._attributes["tokens"].get(fingerprint, 0)

    def read_tokens(self, fingerprint: str) -> np.ndarray | None:
        """(tokens_length, K) int64, or None if there are none.

        Raises:
            DatasetError: if they are unreadable.
        """
        length = self.tokens_length(fingerprint)
        if not length:
            return None
        return self._arrays.read(f"tokens/{fingerprint}", None, 0, length).astype(np.int64)

    def write_tokens(self, fingerprint: str, start: int, tokens: np.ndarray) -> None:
        """Store the tokens of the next steps and commit them.

        Args:
            fingerprint: of the tokenizer that made them.
            start: the first of them, which is `tokens_length(fingerprint)`.
            tokens: (n, K) integers in [0, 65535].

        Raises:
            DatasetError: if the dataset is not open for writing, or cannot be written.
            ShapeError: if the tokens leave a gap, go beyond the last step, or are no tokens.
        """
        length = self.tokens_length(fingerprint)
        check_tokens(tokens)
        if start != length or start + len(tokens) > self.num_steps:
            raise ShapeError(
                f"tokens {tokens.shape} cannot be stored from step {start}: {length} are there, of {self.num_steps}"
            )
        name, field = f"tokens/{fingerprint}", tokens_field(tokens.shape[1])
        self._arrays.check_writable()
        if not fingerprint.isalnum():
            raise ShapeError(f"a fingerprint is letters and digits, not {fingerprint!r}")
        self._check_alone()
        if not length:
            self._arrays.make_anew(name, field)
        self._arrays.write(name, field, start, tokens)
        self._commit({"tokens": {**self._attributes["tokens"], fingerprint: start + len(tokens)}})

    # Looking for damage, and mending what can be mended

    @classmethod
    def examine(cls, path: str | Location) -> list[Finding]:
        """Read all that is committed, against its checksums, and say of each part what was found.

        Raises:
            DatasetError: if it is no dataset of ours, or its attributes are damaged: then nothing else is known.
        """
        path = located(path)
        dataset = cls(path, read_attributes(path), None)
        files = dataset._arrays.files()
        words = f"{dataset.num_steps:,} steps committed"
        found = [Finding("attributes", words), *(dataset._examined(*part, files) for part in dataset._parts())]
        if not any(finding.is_wrong for finding in found):
            try:
                dataset._read_episodes()
                found.append(Finding("episodes", f"{dataset.num_episodes:,}, which cover the steps"))
            except DatasetError as error:
                found.append(Finding("episodes", error.what, is_wrong=True))
        return [
            *found,
            *(Finding(part, f"left by a process that was stopped: {what}") for part, what in dataset._left()),
        ]

    @classmethod
    def repair(cls, path: str | Location, *, dry_run: bool = False) -> list[str]:
        """Cut everything to what is committed, and drop tokens that are damaged, which can be made again.

        Args:
            path: of the dataset.
            dry_run: whether to say only what would be done.

        Returns:
            A sentence for each thing that was done, or would be.

        Raises:
            DatasetError: if steps or episodes are damaged, which nothing can bring back, or someone writes to it; it is
                then left as it was.
        """
        path = located(path)
        with cls(path, read_attributes(path), None if dry_run else _lock(path)) as dataset:
            dataset._arrays.note_commit()
            dataset._attributes = read_attributes(path)
            wrong = [finding for finding in cls.examine(path) if finding.is_wrong]
            lost = [finding for finding in wrong if not finding.part.startswith("tokens/")]
            if lost:
                raise DatasetError(
                    f"what is lost cannot be brought back: {'; '.join(finding.found for finding in lost)}", where=path,
                    fix="Nothing was changed. Restore it from a copy, or collect it anew.",
                )  # fmt: skip
            done = [f"dropped {finding.part}, which iris tokenize makes again ({finding.found})" for finding in wrong]
            done += [f"removed {part}: {what}" for part, what in dataset._left()]
            if not dry_run:
                dataset._mend({finding.part.removeprefix("tokens/") for finding in wrong})
            return done

    def _examined(self, name: str, field: Field | None, length: int, files: Callable[[str], set[str]]) -> Finding:
        """One array, every chunk of it read."""
        bad = []
        try:
            self._arrays.check(name, field, length, files(name))
            size = self._arrays.chunk(name, field)
        except DatasetError as error:
            return Finding(name, error.what.removeprefix("the dataset is damaged: "), is_wrong=True)
        for start in range(0, length, size):
            try:
                values = self._arrays.read(name, field, start, min(start + size, length))
                if name == "actions" and not 0 <= values.min() <= values.max() < self.num_actions:
                    bad.append(start)
            except DatasetError:
                bad.append(start)
        if bad:
            where = f"the first holds {bad[0]:,} to {min(bad[0] + size, length) - 1:,}"
            count = f"{len(bad)} of its chunks are" if len(bad) > 1 else "one of its chunks is"
            return Finding(name, f"{count} damaged, {where} of {length:,}", is_wrong=True)
        return Finding(name, f"{length:,}, as they were written")

    def _left(self) -> list[tuple[str, str]]:
        """What lies in the folder and is not committed: its place, and what it is."""
        left = []
        for name, field, length in self._parts():
            with suppress(DatasetError):  # examine tells of that
                beyond = self._arrays.length(name, field) - length
                if beyond > 0:
                    left.append((name, f"{beyond:,} beyond the {length:,} that are committed"))
        names = self._arrays.names_below("tokens")
        left += [(f"tokens/{n}", "tokens never committed") for n in names if n not in self._attributes["tokens"]]
        return left + [(str(file.relative_to(str(self.path))), "half a file") for file in sorted(self._arrays.litter())]

    def _mend(self, damaged_tokens: set[str]) -> None:
        """Commit that damaged tokens are gone; then cut and remove whatever is not committed."""
        tokens = {name: length for name, length in self._attributes["tokens"].items() if name not in damaged_tokens}
        if damaged_tokens:
            self._commit({"tokens": tokens})
        for file in list(self._arrays.litter()):
            file.unlink()
        for part, _ in self._left():
            if part.startswith("tokens/") and part.removeprefix("tokens/") not in tokens:
                self._arrays.remove(part)
        for name, field, length in self._parts():
            self._arrays.cut(name, field, length)

    # Private

    @property
    def _step_fields(self) -> dict[str, Field]:
        return step_fields(self.frame_shape, len(self.achievements))

    def _imported(self) -> dict[str, Any]:
        """Where imported steps come from, in short; nothing of what was collected here."""
        facts = self._attributes.get("imported")
        if not isinstance(facts, dict):
            return {}
        return {"imported": {name: facts.get(name) for name in ("source", "format", "licence")}}

    def _check(self) -> None:
        """Read the episodes, and check that all that is committed has its files; frames are read when asked for."""
        self._arrays.check_all(self._parts())
        self._read_episodes()

    def _parts(self) -> list[tuple[str, Field | None, int]]:
        """Name, field and committed length of every array; the fields of tokens are their own."""
        pieces = self._attributes["committed_episodes"]
        finals = {FINALS: finals_field(self.frame_shape)} if FINALS in self._attributes else {}
        return [
            *((name, field, self.num_steps) for name, field in self._step_fields.items()),
            *((name, field, self._attributes[FINALS]) for name, field in finals.items()),
            *((name, field, pieces) for name, field in EPISODE_FIELDS.items()),
            *((f"tokens/{fingerprint}", None, length) for fingerprint, length in self._attributes["tokens"].items()),
        ]

    def _read_episodes(self) -> None:
        pieces = self._attributes["committed_episodes"]
        ends, ids = self._arrays.read_all(EPISODE_FIELDS, pieces)
        # A kill while the last piece was made longer leaves its later end.
        self._episodes = Episodes(np.minimum(ends, self.num_steps), ids)
        if not self._episodes.cover(self.num_steps):
            raise self._arrays.damaged("episode_ends or episode_ids", "do not cover the steps")

    def _write_finals(self, finals: np.ndarray, episodes: int) -> int:
        """Put the next final frames behind those that are there; how many there are then, of so many episodes."""
        before = self._attributes.get(FINALS)
        if before is None or finals.shape[1:] != self.frame_shape or before + len(finals) > episodes:
            raise ShapeError(f"final observations {finals.shape} do not fit {before} of {episodes} episodes")
        self._arrays.write(FINALS, finals_field(self.frame_shape), before, finals)
        return before + len(finals)

    def _commit(self, changes: dict[str, Any]) -> None:
        """Make it count: all attributes are replaced at once."""
        self._arrays.check_writable()
        self._check_lock()
        attributes = sealed(self._attributes | changes)
        self._arrays.put_attributes(attributes)
        self._attributes = attributes

    def _check_alone(self) -> None:
        """Refuse to write data where somebody else has begun to."""
        self._arrays.check_writable()
        self._arrays.check_unchanged()
        self._check_lock()

    def _check_lock(self) -> None:
        if self._lock is not None and not isinstance(self.path, StoreURL):
            self._lock.check(_lock_file(self.path), where=self.path)

    def _check_unfinished(self, episodes: Sequence[int]) -> None:
        """Refuse to go on with an episode that is over."""
        lasts = [self.pieces(episode)[-1][1] - 1 for episode in episodes if episode < self.num_episodes]
        if lasts and self._over(min(lasts))[np.subtract(lasts, min(lasts))].any():
            raise ShapeError("an episode that is over cannot go on")

    def _over(self, start: int = 0) -> np.ndarray:
        """(steps from `start` on,) bool, whether the step ended its episode."""
        return self.read("terminations", start) | self.read("truncations", start)


def _lock_file(path: Location) -> Path:
    # Inside an array, where listing a group's members does not stumble over it.
    return lock_file(path) if isinstance(path, StoreURL) else path / "actions" / ".lock"


def _lock(path: Location) -> Lock:
    return take_lock(_lock_file(path), what="dataset", where=path, error=DatasetError)


def _is_unfinished(path: StoreURL) -> bool:
    """Whether all that is there was left by a kill while a dataset was made."""
    try:
        return json.loads((path / "zarr.json").read_bytes())["attributes"] == UNFINISHED
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
