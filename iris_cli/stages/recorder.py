"""Steps of an episode under way, kept in memory to be measured."""

import numpy as np

from iris_cli.learn.diagnosis import Episode


class Recorder:
    """Keeps the first `most` steps of an episode under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._frames: list[np.ndarray] = []
        self._steps: list[tuple[int, float, bool]] = []

    @property
    def is_complete(self) -> bool:
        """Whether the episode is over, or no more is kept."""
        return len(self._steps) == self._most or (len(self._steps) > 0 and self._steps[-1][2])

    def add(self, frame: np.ndarray, action: int, reward: float, over: bool) -> None:
        """Keep a step, if more are kept: the frame that was acted on, and what the action gave."""
        if not self.is_complete:
            self._frames.append(frame.copy())
            self._steps.append((action, reward, over))

    def episode(self, most: int | None = None) -> Episode:
        """What was kept, or the first `most` steps of it."""
        actions, rewards, ends = zip(*self._steps[:most], strict=True)
        return Episode(
            frames=np.stack(self._frames[:most]), actions=np.array(actions, np.int64),
            rewards=np.array(rewards, np.float32), ends=np.array(ends, bool),
        )  # fmt: skip
