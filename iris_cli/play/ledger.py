"""A person's play as data: every real step, with who acted, in the dataset's own form.

Steps are kept until their episode ends, or there are many, and are then committed: who goes back before that and plays
on drops what was noted behind that moment. An episode that is left before its end counts as cut (truncated).
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from iris_cli.envs.rewindable import GameStep
from iris_cli.errors import PlayError
from iris_cli.play.keys import YOU
from iris_cli.replay.dataset import Dataset

COMMIT_STEPS = 1000  # of an episode under way
HUMAN = "human"  # what datasets call a person


@dataclass(frozen=True)
class _Entry:
    observation: NDArray[np.uint8]
    action: int
    who: str
    result: GameStep

    @property
    def over(self) -> bool:
        return self.result.terminated or self.result.truncated


class Ledger:
    """What a session's real steps become.

    Args:
        dataset: open for writing, of the environment that is played.
        writers: who acted -> the name that the dataset knows them by; a person is `human`.
        most: steps to commit in all; then no more are taken.

    Attributes:
        steps: committed so far.
        episodes: complete ones among them.
        scores: of those.
    """

    def __init__(self, dataset: Dataset, *, writers: dict[str, str], most: int) -> None:
        self._dataset, self._writers, self._most = dataset, {YOU: HUMAN, **writers}, most
        self._entries: list[_Entry] = []  # of the episode under way, not yet committed
        self._first = 1  # moment that the first of them led to
        self._episode: int | None = None  # of which steps are committed
        self._score = 0.0
        self.steps, self.episodes = 0, 0
        self.scores: list[float] = []

    @property
    def is_full(self) -> bool:
        """Whether all steps that were asked for are there."""
        return self.steps + len(self._entries) >= self._most

    def check(self, step: int) -> None:
        """Refuse a step that would follow one which is stored with another behind it.

        Raises:
            PlayError: then, or if there are as many steps as were asked for.
        """
        if step < self._first:
            raise PlayError(
                "what came after this moment is stored already",
                fix=f"Play on from step {self._first - 1}, or start anew.",
            )
        if self.steps + step - self._first >= self._most:
            raise PlayError(f"all {self._most:,} steps are collected", fix="Stop with Ctrl-C, or collect again.")

    def note(self, step: int, observation: NDArray[np.uint8], action: int, who: str, result: GameStep) -> None:
        """Keep the step that led to moment `step`, in place of that one and those after it."""
        del self._entries[step - self._first :]
        self._entries.append(_Entry(observation, action, who, result))
        if self._entries[-1].over:
            self._commit()
            self._episode, self._score = None, 0.0
        elif len(self._entries) >= COMMIT_STEPS:
            self._commit()

    def close_episode(self) -> None:
        """Commit what there is of an episode that is left, as cut at its last step."""
        if self._entries:
            last = self._entries[-1]
            cut = GameStep(
                last.result.frame, last.result.reward, last.result.terminated, True, last.result.achievements
            )
            self._entries[-1] = _Entry(last.observation, last.action, last.who, cut)
            self._commit()
        self._episode, self._score, self._first = None, 0.0, 1

    def _commit(self) -> None:
        """Store the steps, those of each who acted in one commit."""
        over, total = self._entries[-1].over, self._score + sum(entry.result.reward for entry in self._entries)
        while self._entries:
            _, group = next(groupby(self._entries, key=lambda entry: entry.who))
            self._store(list(group))
        self._score = total
        if over:
            self.episodes += 1
            self.scores.append(total)

    def _store(self, entries: list[_Entry]) -> None:
        """Append the first of the steps, by one who acted."""
        episode = self._dataset.num_episodes if self._episode is None else self._episode
        achievements = np.array([entry.result.achievements for entry in entries], bool)
        self._dataset.append(
            observations=np.stack([entry.observation for entry in entries]),
            actions=np.array([entry.action for entry in entries], np.int64),
            rewards=np.array([entry.result.reward for entry in entries], np.float32),
            terminations=np.array([entry.result.terminated for entry in entries]),
            truncations=np.array([entry.result.truncated for entry in entries]),
            achievements=achievements if self._dataset.achievements else None,
            episode_lengths=[len(entries)], episode_ids=[episode], writer=self._writers[entries[0].who],
        )  # fmt: skip
        self._episode = episode
        self.steps += len(entries)
        self._first += len(entries)
        del self._entries[: len(entries)]
