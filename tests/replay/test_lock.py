"""The lock of the one writer: who holds it is said, it goes with its process, and what it leaves behind is harmless."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iris_cli.errors import RunError
from iris_cli.replay import lock as module
from iris_cli.replay.lock import Lock, holder, take_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
sys.argv = ["/somewhere/bin/iris", "run", "my game.yaml"]
from iris_cli.errors import RunError
from iris_cli.replay.lock import take_lock
take_lock(Path(FILE), what="run", where=Path("runs/x"), error=RunError)
print("taken", flush=True)
time.sleep(60)
"""


def take(file: Path) -> Lock:
    return take_lock(file, what="run", where=file.parent, error=RunError)


def test_a_second_process_is_told_who_holds_the_lock_and_gets_it_when_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    code = HOLD.replace("FILE", repr(str(file)))
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout is not None
    assert other.stdout.readline() == "taken\n"

    with pytest.raises(RunError) as caught:
        take(file)
    other.send_signal(signal.SIGKILL)
    other.communicate()

    words = str(caught.value)
    assert f"process {other.pid} is writing to the run (iris run 'my game.yaml', on {socket.gethostname()}" in words
    assert "since 20" in words
    assert "\n" not in words
    assert file.read_text().startswith(f"{other.pid}\n")  # its name stays, and holds nobody up
    assert holder(file) is None
    take(file).release()
    assert file.read_bytes() == b""


@pytest.mark.parametrize("left", [b"", b"4711", b"\xff\xfe garbage \n\n", b"x" * 100_000, b"1\n\n\n\n"])
def test_what_stands_in_a_lock_that_nobody_holds_does_not_matter(tmp_path: Path, left: bytes) -> None:
    file = tmp_path / ".lock"
    file.write_bytes(left)

    mine = take(file)

    with pytest.raises(RunError, match=f"process {os.getpid()} is writing to the run"):
        take(file)
    assert holder(file) == os.getpid()
    mine.release()


def test_a_lock_that_nobody_took_over_stays_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / ".lock", tmp_path / "elsewhere"
    other.symlink_to(file)
    mine = take(other)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")

    for name in (file, other, tmp_path / "taken away"):
        mine.check(name, where=tmp_path)
    (tmp_path / "moved").mkdir()
    file.rename(tmp_path / "moved" / ".lock")
    mine.check(tmp_path / "moved" / ".lock", where=tmp_path)
    mine.release()


def test_a_lock_that_was_taken_over_is_noticed_and_its_new_name_stays(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    mine = take(file)
    theirs = f"{os.getpid()}\nanother host\niris run x\n2026-11-21\n"  # where our number is somebody else's

    for content in (theirs, ""):
        file.write_text(content)
        with pytest.raises(RunError, match="has taken the run over"):
            mine.check(file, where=tmp_path)
    file.write_text(theirs)
    mine.release()
    assert file.read_text() == theirs


def test_a_lock_of_an_earlier_version_names_its_process(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    mine = take(file)
    file.write_text("4711")  # all that such a one writes

    with pytest.raises(RunError, match=r"process 4711 is writing to the run\."):
        take(file)
    mine.release()


def test_a_full_disk_takes_no_more_than_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        mine = take(tmp_path / ".lock")

    mine.check(tmp_path / ".lock", where=tmp_path)
    with pytest.raises(RunError, match="process unknown is writing to the run"):
        take(tmp_path / ".lock")
    mine.release()


def test_a_disk_that_can_no_longer_be_written_gives_a_lock_back_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = take(tmp_path / ".lock")

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        mine.release()

    take(tmp_path / ".lock").release()


def test_a_file_system_without_locks_is_told_from_one_that_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", unsupported)

    with pytest.raises(RunError, match=r"cannot be locked.*no locks"):
        take(tmp_path / ".lock")
