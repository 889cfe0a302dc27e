"""The published Atari wrappers once more, as one plain loop over the emulator: the yardstick for envs/atari.py.

Nothing is shared with the package, and every game frame is resized before anything else is done with it. Run as a
script it writes tests/golden/atari_traces.json. A frame counts for the checksum if a dataset would store it: that of a
reset, and that of a step which did not end the episode.
"""

import hashlib
import json
from pathlib import Path

import ale_py
import numpy as np
from ale_py import roms
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden" / "atari_traces.json"
INTERVAL = 20  # steps between two checksums


def trace(game, *, seed, steps, max_frames, noop_max):
    """Play `steps` seeded random actions; a real reset after step t is seeded with seed + t."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    frames_played = 0

    def screen():
        return np.array(Image.fromarray(ale.getScreenRGB()).resize((64, 64), Image.BILINEAR))

    def start(seed):
        nonlocal frames_played
        numpy_seed, emulator_seed = np.random.SeedSequence(seed).generate_state(2)
        ale.setInt("random_seed", np.int32(emulator_seed))
        ale.loadROM(roms.get_rom_path(game))
        ale.reset_game()
        frames_played = int(np.random.default_rng(int(numpy_seed)).integers(1, noop_max + 1))
        for _ in range(frames_played):
            ale.act(ale_py.Action.NOOP)
        assert not ale.game_over()
        return screen()

    def decide(action):
        nonlocal frames_played
        reward, frames = 0, []
        while len(frames) < 4:
            reward += ale.act(action)
            frames_played += 1
            frames.append(screen())
            if ale.game_over() or frames_played >= max_frames:
                break
        return np.maximum(frames[-2], frames[-1]) if len(frames) == 4 else None, reward

    frame = start(seed)
    actions = ale.getMinimalActionSet()
    lives = ale.lives()
    digest = hashlib.sha256(frame.tobytes())
    result = {"checksums": [], "rewards": [], "terminations": [], "truncations": [], "resumptions": []}
    for t, index in enumerate(np.random.default_rng(seed).integers(0, len(actions), steps).tolist()):
        frame, reward = decide(actions[index])
        game_over, timed_out = ale.game_over(), frames_played >= max_frames
        life_lost = 0 < ale.lives() < lives and not (game_over or timed_out)
        if reward:
            result["rewards"].append([t, reward])
        if game_over or life_lost:
            result["terminations"].append(t)
        if timed_out:
            result["truncations"].append(t)
        if life_lost:
            result["resumptions"].append(t)
            frame, _ = decide(ale_py.Action.NOOP)
        elif game_over or timed_out:
            frame = start(seed + t)
        lives = ale.lives()
        digest.update(frame.tobytes())
        if (t + 1) % INTERVAL == 0:
            result["checksums"].append(digest.hexdigest()[:16])
    return result


def main():
    games = {
        "pong": {"seed": 1, "steps": 300, "max_frames": 551, "noop_max": 30},  # time limit inside a step
        "breakout": {"seed": 2, "steps": 300, "max_frames": 20_000, "noop_max": 30},  # lost lives, whole games
        "ms_pacman": {"seed": 3, "steps": 480, "max_frames": 20_000, "noop_max": 1},  # flicker: the maximum matters
    }
    traces = {game: {"settings": settings, **trace(game, **settings)} for game, settings in games.items()}
    GOLDEN.write_text("{\n" + ",\n".join(f'"{game}": {json.dumps(made)}' for game, made in traces.items()) + "\n}\n")


if __name__ == "__main__":
    main()
