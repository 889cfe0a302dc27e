"""A run directory: made whole, opened by one writer, and gone on with bit for bit."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_cli.agents import presets_for
from iris_cli.card import newest_run, read_card
from iris_cli.device import choose_device
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError, RunError
from iris_cli.run import Run

CPU = torch.device("cpu")


def create(directory: Path, **changes: Any) -> Run:
    given: dict[str, Any] = {
        "agent": "iris", "config": presets_for("iris")["tiny"], "environment": training_spec("Pong"), "num_actions": 6,
        "dataset": Path("data/pong.zarr"), "seed": 0, "device": CPU,
    }  # fmt: skip
    return Run.create(directory, **{**given, **changes})


def opened(directory: Path) -> Run:
    return Run.open(directory, device=CPU, training=True)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def where(*keys: str) -> str:
    return "test"


# Making and opening


def test_a_new_run_opens_as_it_was_made(tmp_path: Path) -> None:
    made = create(tmp_path / "run", seed=3)
    run = Run.open(tmp_path / "run", device=CPU)
    assert run.fingerprint() == made.fingerprint()
    assert (run.config, run.environment, run.seed) == (made.config, made.environment, 3)
    assert run.updates == {"tokenizer": 0, "dynamics": 0, "actor_critic": 0}
    assert not run.is_trained("tokenizer")


def test_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    fingerprints = [create(tmp_path / str(n), seed=seed).fingerprint() for n, seed in enumerate((0, 0, 1))]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_imported_weights_count_as_trained(tmp_path: Path) -> None:
    source = create(tmp_path / "source", seed=1)
    run = create(tmp_path / "run", weights=source.agent.state_dict(), imported={"file": "last.pt"})
    assert run.fingerprint() == source.fingerprint()
    assert run.is_trained("dynamics")


@pytest.mark.parametrize("file", ["run.yaml", "thesis.tex"])
def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path: Path, file: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).write_text("mine")
    with pytest.raises(RunError, match=r"already|Directory not empty"):
        create(tmp_path / "run")
    assert tree(tmp_path) == {str(tmp_path / "run" / file): b"mine"}


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    create(tmp_path / "run")
    Run.open(tmp_path / "run", device=CPU)


def test_a_run_that_was_killed_while_it_was_made_is_no_run_and_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def killed(*_: object) -> None:  # it would also tidy nothing up, see below
        raise KeyboardInterrupt

    for last_deed in ("iris_cli.checkpoints.write_atomically", "iris_cli.run.dump_yaml"):
        with monkeypatch.context() as patch:
            patch.setattr(last_deed, killed)
            patch.setattr(shutil, "rmtree", lambda path, **how: path.name == ".run.partial" or rmtree(path, **how))
            with pytest.raises(KeyboardInterrupt):
                create(tmp_path / "run", seed=5)
        gc.collect()  # and frees the lock
    assert [path.name for path in tmp_path.iterdir()] == [".run.partial"]
    with pytest.raises(RunError, match="there is no run yet"):
        newest_run(tmp_path)
    with pytest.raises(RunError, match="no such run"):
        Run.open(tmp_path / "run", device=CPU)

    made = create(tmp_path / "run", seed=0)
    assert Run.open(tmp_path / "run", device=CPU).fingerprint() == made.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_newest_run_is_the_one_saved_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create(tmp_path / name)
        os.utime(tmp_path / name / "checkpoints" / "latest", (1, 1))
    os.utime(tmp_path / "a" / "checkpoints" / "latest", (2, 2))
    assert newest_run(tmp_path) == tmp_path / "a"


@pytest.mark.parametrize("text", ["", "- a", "format: 2", "format: 1\nagent: iris", "format: 1\nagent: [iris]"])
def test_a_spoilt_card_is_one_clear_error(tmp_path: Path, text: str) -> None:
    create(tmp_path / "run")
    (tmp_path / "run" / "run.yaml").write_text(text)
    with pytest.raises((RunError, ConfigError)):
        Run.open(tmp_path / "run", device=CPU)


def test_an_unknown_device_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="device 'tpu9' cannot be used"):
        choose_device("tpu9")


# One writer


def test_a_second_writer_is_told_who_writes_and_readers_are_not_kept_out(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    for open_again in (lambda: opened(tmp_path / "run"), lambda: create(tmp_path / "run")):
        with pytest.raises(RunError, match=rf"process {os.getpid()} is writing to the run|there is a run already"):
            open_again()
    Run.open(tmp_path / "run", device=CPU)
    run.close()
    opened(tmp_path / "run").close()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    code = (
        "import sys, time; from pathlib import Path; from iris_cli.errors import RunError\n"
        "from iris_cli.replay.lock import take_lock\n"
        f"run = Path({str(tmp_path / 'run')!r}); take_lock(run / '.lock', what='run', where=run, error=RunError)\n"
        "print('taken', flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parent.parent
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert other.stdout is not None
    assert other.stdout.readline() == "taken\n"

    with pytest.raises(RunError, match=f"process {other.pid} is writing to the run"):
        opened(tmp_path / "run")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    opened(tmp_path / "run").close()


def test_of_two_nodes_that_do_not_see_each_other_s_locks_the_first_gives_way(tmp_path: Path) -> None:
    """As on file systems mounted without locks, or after a network that was cut: the later one has the run."""
    first = create(tmp_path / "run")
    first.save()
    code = (
        "import fcntl, torch; from pathlib import Path; from iris_cli.run import Run\n"
        "fcntl.flock = lambda descriptor, how: None  # of another node\n"
        f"run = Run.open(Path({str(tmp_path / 'run')!r}), device=torch.device('cpu'), training=True)\n"
        "run.collected['steps'] = 7; run.log(event='x'); run.save()\n"
        "print(run.checkpoint_number, flush=True); input(); run.close()"
    )
    root = Path(__file__).resolve().parent.parent
    second = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert second.stdout is not None
    assert second.stdout.readline() == f"{first.checkpoint_number + 1}\n"

    try:
        for work in (first.save, lambda: first.log(event="stage")):
            with pytest.raises(
                RunError, match=f"process {second.pid} has taken the run over .*, so this one writes no"
            ):
                work()
    finally:
        second.communicate("\n")
    with pytest.raises(RunError, match="another process has taken the run over"):  # which has ended by now
        first.save()
    first.close()
    last = Run.open(tmp_path / "run", device=CPU)
    assert (last.checkpoint_number, last.collected["steps"]) == (first.checkpoint_number + 1, 7)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["event"] == "x"


def test_a_failed_opening_frees_the_run(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    latest = tmp_path / "run" / "checkpoints" / "latest"
    latest.write_text("000009")
    with pytest.raises(RunError, match="not whole") as error:
        opened(tmp_path / "run")
    latest.write_text("000001")
    opened(tmp_path / "run").close()
    assert error.value.fix


def test_a_run_open_for_reading_refuses_to_write(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    before = tree(tmp_path)
    run = Run.open(tmp_path / "run", device=CPU)
    for write in (run.save, lambda: run.log(stage="x"), lambda: run.change({}, where=where)):
        with pytest.raises(RunError, match="not open for training"):
            write()
    assert tree(tmp_path) == before


# Going on


def advance(run: Run, component: str) -> torch.Tensor:
    """One update with made-up gradients; what was drawn for it."""
    optimizer, module = run.optimizer(component), getattr(run.agent, component)
    assert run.progress is not None
    noise = (
        torch.rand((), generator=run.progress.draws) + torch.rand((), generator=run.progress.dreams) + torch.rand(())
    )
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float(noise))
    optimizer.step()
    run.progress.done += 1
    return noise


def test_a_stage_goes_on_from_its_checkpoint_with_the_same_draws_and_optimizer(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.begin("train-dynamics", 10)
    advance(run, "dynamics")
    run.save()
    expected = [advance(run, "dynamics") for _ in range(3)]
    fingerprint, state = run.fingerprint(), run.optimizer("dynamics").state_dict()
    run.close()

    again = opened(tmp_path / "run")
    progress = again.begin("train-dynamics", 10)
    assert (progress.done, progress.total) == (1, 10)
    assert [advance(again, "dynamics") for _ in range(3)] == expected
    assert again.fingerprint() == fingerprint
    for mine, theirs in zip(
        state["state"].values(), again.optimizer("dynamics").state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_another_number_of_updates_is_another_start(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.begin("train-dynamics", 10)
    advance(run, "dynamics")
    run.save()
    run.close()
    assert opened(tmp_path / "run").begin("train-dynamics", 20).done == 0


def test_each_start_of_a_stage_has_its_own_draws(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    seeds = [run.seeds("collect", 2), run.seeds("train-dynamics", 2)]
    run.end("collect")
    seeds.append(run.seeds("collect", 2))
    assert len({seed for pair in seeds for seed in pair}) == 6


def test_metrics_written_after_the_checkpoint_are_dropped_by_the_next_writer(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.log(update=1)
    run.save()
    run.log(update=2)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "hal')
    run.close()
    again = opened(tmp_path / "run")
    again.log(update=4)
    again.log(update=5)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 4, 5]


# Changing


def test_learning_settings_change_in_the_card_the_agent_and_the_optimizer(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.begin("train-dynamics", 10)
    advance(run, "dynamics")
    run.save()
    run.close()
    run = opened(tmp_path / "run")
    fingerprint = run.fingerprint()

    assert run.change({"dynamics": {"learning_rate": "1e-2"}}, where=where) == [
        "dynamics.learning_rate: 0.0001 -> 0.01"
    ]

    assert run.fingerprint() == fingerprint
    assert read_card(tmp_path / "run")["config"]["dynamics"]["learning_rate"] == 0.01
    optimizer = run.optimizer("dynamics")
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert all(int(state["step"]) == 1 for state in optimizer.state.values())


def test_the_network_cannot_change(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"dynamics\.layers is 2 in this run's network"):
        run.change({"dynamics": {"layers": 3}}, where=where)
    assert tree(tmp_path) == before
