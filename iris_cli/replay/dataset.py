"""A dataset: all steps of one environment, in a Zarr v3 group with a flat time axis. The only file that knows zarr.

Layout and commit protocol: data/README.md. One writer (a lock names it), any number of readers. What training needs
besides (cursors, counts) lives in the run, so that one dataset serves many runs. Nothing that is loaded can run code.
"""

import copy
import os
import shutil
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from iris_cli.errors import DAMAGE, DatasetError, ShapeError
from iris_cli.replay.attributes import (
    FORMAT_VERSION,
    check_dropping,
    check_same,
    new_attributes,
    own_only,
    plain,
    read_attributes,
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
from iris_cli.replay.lock import take_lock

_DAMAGE = (*DAMAGE, RuntimeError)  # of zarr and its codecs


class Dataset:
    """All steps of one environment on disk. Build it with `create`, `open` or `open_or_create`."""

    def __init__(self, path: Path, attributes: dict[str, Any], lock: int | None) -> None:
        self.path = path
        self._attributes = attributes
        self._episodes = Episodes.none()
        self._unlock = None if lock is None else weakref.finalize(self, os.close, lock)

    # Opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        environment: dict[str, Any],
        action_meanings: Sequence[str],
        achievements: Sequence[str] = (),
        attributes: dict[str, Any] | None = None,
        keeps_finals: bool = False,
    ) -> Self:
        """Make an empty dataset, open for writing. It appears whole or not at all.

        Args:
            path: where; must not exist, missing parents are made.
            environment: JSON-safe mapping that says everything about the environment; compared at later appends.
            action_meanings: one name per action.
            achievements: one name for each that an episode may unlock, in games that have such.
            attributes: more JSON-safe attributes to begin with.
            keeps_finals: whether it shall keep what was seen after the last step of episodes.

        Raises:
            DatasetError: if something is there already, or it cannot be written.
        """
        path = Path(path)
        content = new_attributes(
            environment, action_meanings, achievements, attributes or {}, keeps_finals=keeps_finals
        )
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            if path.exists():
                raise FileExistsError("something is there already")
            path.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.create_group(unfinished, zarr_format=3, attributes=content)
            fields = step_fields(frame_shape(environment), len(achievements))
            finals = {FINALS: finals_field(frame_shape(environment))} if keeps_finals else {}
            for name, field in {**fields, **EPISODE_FIELDS, **finals}.items():
                _create_array(group, name, field)
            dataset = cls(path, content, _lock(unfinished))
            unfinished.rename(path)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DatasetError(f"the dataset cannot be created: {error}", where=path) from None
        return dataset

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> Self:
        """Open a dataset at its last committed step.

        Raises:
            DatasetError: if there is none, it is not ours, of another format version, damaged, or (writable) someone
                else writes to it.
        """
        path = Path(path)
        attributes = read_attributes(path)  # before the lock, so that nothing foreign is touched
        dataset = cls(path, attributes, _lock(path) if writable else None)
        try:
            dataset._attributes = read_attributes(path)  # what was committed until the lock was free
            dataset._check()
        except DatasetError:
            dataset.close()
            raise
        if writable:
            for litter in path.rglob("*.partial"):  # a killed write
                litter.unlink(missing_ok=True)
        return dataset

    @classmethod
    def open_or_create(cls, path: str | Path, *, environment: dict[str, Any], action_meanings: Sequence[str]) -> Self:
        """Continue the dataset at `path`, or begin one; open for writing. Arguments and errors as above.

        Raises:
            DatasetError: also if it holds another environment.
        """
        if not Path(path).exists():
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
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

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
        return self._read(field, self._step_fields[field], start, stop)

    def final_observation(self, episode: int) -> np.ndarray | None:
        """The frame after an episode's last step; None where it was not kept, as in whatever was collected here.

        Raises:
            DatasetError: if it is unreadable.
        """
        if episode >= self._attributes.get(FINALS, 0):
            return None
        return self._read(FINALS, finals_field(self.frame_shape), episode, episode + 1)[0]

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
            "size_bytes": sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()),
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
            for name, values in arrays.items():
                self._write(name, self._step_fields[name], start, values)
            self._write("episode_ends", EPISODE_FIELDS["episode_ends"], 0, episodes.ends)
            self._write("episode_ids", EPISODE_FIELDS["episode_ids"], 0, episodes.ids)
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
        return self._read(f"tokens/{fingerprint}", None, 0, length).astype(np.int64)

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
        self._check_writable()
        if not fingerprint.isalnum():
            raise ShapeError(f"a fingerprint is letters and digits, not {fingerprint!r}")
        if not length:
            shutil.rmtree(self.path / name, ignore_errors=True)  # of a killed write
            _create_array(zarr.open_group(self.path, mode="r+", use_consolidated=False), name, field)
        self._write(name, field, start, tokens)
        self._commit({"tokens": {**self._attributes["tokens"], fingerprint: start + len(tokens)}})

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
        for name, field in self._step_fields.items():
            self._check_array(name, field, self.num_steps)
        if FINALS in self._attributes:
            self._check_array(FINALS, finals_field(self.frame_shape), self._attributes[FINALS])
        for fingerprint, length in self._attributes["tokens"].items():
            self._check_array(f"tokens/{fingerprint}", None, length)
        pieces = self._attributes["committed_episodes"]
        for name, field in EPISODE_FIELDS.items():
            self._check_array(name, field, pieces)
        ends, ids = (self._read(name, field, 0, pieces) for name, field in EPISODE_FIELDS.items())
        # A kill while the last piece was made longer leaves its later end.
        self._episodes = Episodes(np.minimum(ends, self.num_steps), ids)
        if not self._episodes.cover(self.num_steps):
            raise self._damaged("episode_ends or episode_ids", "do not cover the steps")

    def _check_array(self, name: str, field: Field | None, length: int) -> None:
        array = self._array(name, field)
        if array.shape[0] < length:
            raise self._damaged(name, f"has {array.shape[0]} of {length}")
        files = set(os.listdir(self.path / name))  # zarr reads a missing chunk as zeros
        suffix = ".0" * (array.ndim - 1)
        missing = [c for c in range(-(-length // array.chunks[0])) if f"c.{c}{suffix}" not in files]
        if missing:
            raise self._damaged(name, f"lacks {len(missing)} chunks, the first is {missing[0]}")

    def _array(
        self, name: str, field: Field | None
    ) -> "zarr.Array[Any]":  # the oldest zarr that we allow has no such type at run time
        try:
            # Every chunk is written, also one of zeros, so that a missing one is known to be lost.
            with zarr.config.set({"array.write_empty_chunks": True}):
                array = zarr.open_array(self.path / name, mode="r" if self._unlock is None else "r+", zarr_format=3)
        except _DAMAGE as error:
            raise self._damaged(name, f"cannot be opened: {error}") from None
        if field is not None and (array.dtype != field.dtype or array.shape[1:] != field.item_shape):
            raise self._damaged(name, f"has dtype {array.dtype} and shape {array.shape}")
        if field is None and (array.dtype != "uint16" or array.ndim != 2):
            raise self._damaged(name, f"has dtype {array.dtype} and shape {array.shape}")
        return array

    def _read(self, name: str, field: Field | None, start: int, stop: int) -> np.ndarray:
        array = self._array(name, field)
        try:
            return np.asarray(array[start:stop])
        except _DAMAGE as error:
            raise self._damaged(name, f"has unreadable chunks: {error}") from None

    def _write(self, name: str, field: Field, start: int, values: np.ndarray) -> None:
        """Put values at `start`, and cut what lies after them: leftovers of a killed write or a rewind."""
        self._check_writable()
        array = self._array(name, field)
        try:
            array.resize((start + len(values), *field.item_shape))
            array[start:] = np.asarray(values, dtype=field.dtype)
        except _DAMAGE as error:
            raise DatasetError(f"the array {name} cannot be written: {error}", where=self.path) from None

    def _write_finals(self, finals: np.ndarray, episodes: int) -> int:
        """Put the next final frames behind those that are there; how many there are then, of so many episodes."""
        before = self._attributes.get(FINALS)
        if before is None or finals.shape[1:] != self.frame_shape or before + len(finals) > episodes:
            raise ShapeError(f"final observations {finals.shape} do not fit {before} of {episodes} episodes")
        self._write(FINALS, finals_field(self.frame_shape), before, finals)
        return before + len(finals)

    def _commit(self, changes: dict[str, Any]) -> None:
        """Make it count: all attributes are one file, which zarr replaces by a rename."""
        self._check_writable()
        attributes = self._attributes | plain(changes)
        try:
            zarr.open_group(self.path, mode="r+", use_consolidated=False).update_attributes(attributes)
        except _DAMAGE as error:
            raise DatasetError(f"the attributes cannot be written: {error}", where=self.path) from None
        self._attributes = attributes

    def _check_writable(self) -> None:
        if self._unlock is None:
            raise DatasetError("the dataset is not open for writing", where=self.path)

    def _check_unfinished(self, episodes: Sequence[int]) -> None:
        """Refuse to go on with an episode that is over."""
        lasts = [self.pieces(episode)[-1][1] - 1 for episode in episodes if episode < self.num_episodes]
        if lasts and self._over(min(lasts))[np.subtract(lasts, min(lasts))].any():
            raise ShapeError("an episode that is over cannot go on")

    def _over(self, start: int = 0) -> np.ndarray:
        """(steps from `start` on,) bool, whether the step ended its episode."""
        return self.read("terminations", start) | self.read("truncations", start)

    def _damaged(self, name: str, how: str) -> DatasetError:
        return DatasetError(
            f"the dataset is damaged: {name} {how}", where=self.path, fix="Restore it from a copy, or collect it anew."
        )


def _lock(path: Path) -> int:
    # Inside an array, where listing a group's members does not stumble over it.
    return take_lock(path / "actions" / ".lock", what="dataset", where=path, error=DatasetError)


def _create_array(group: zarr.Group, name: str, field: Field) -> None:
    group.create_array(
        name,
        shape=(0, *field.item_shape),
        chunks=(field.chunk, *field.item_shape),
        dtype=field.dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        chunk_key_encoding={"name": "default", "separator": "."},  # all chunks in one folder
        fill_value=False if field.dtype == "bool" else 0,
    )
