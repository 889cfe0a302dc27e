"""Carries out `iris` commands in forks of a process that has imported everything, so that one costs no start-up.

Reads one JSON request a line from standard input and answers with one a line; `Zygote` of trials.py is the other end.
Nothing is computed here and no thread is begun: each fork finds torch, zarr and the games as a fresh process would.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

import iris_cli.cli
import iris_cli.pipeline
from iris_cli.envs.make import make  # noqa: F401 (loads the games)
from iris_cli.learn import fit

PROGRAMS = (  # what commands import inside
    "card", "open_run", "stages.collect", "stages.evaluate", "stages.tokenize", "stages.train_tokenizer",
    "stages.train_dynamics", "stages.train_actor_critic", "stages.train_agent", "stages.info", "stages.imagine",
    "stages.diagnose", "stages.verify", "stages.repair", "sweep.drive",
)  # fmt: skip
MODES = (
    "count", "kill", "tear", "full", "full once", "broken", "read only", "interrupt", "interrupt twice",
)  # fmt: skip
LAYER = ctypes.CDLL(os.environ["LD_PRELOAD"]) if os.environ.get("LD_PRELOAD") else None


def jumping() -> Iterator[float]:
    """A clock that goes back a day, forward a year, and stands still."""
    now = 1.7e9
    while True:
        for jump in (0.0, 0.5, -86400.0, 3.0, 3.15e7, -3.15e7, 0.0, -3600.0):
            now += jump
            yield now


def out_of_memory(updates: int) -> Callable[..., Any]:
    """An optimizer step that finds a GPU without memory after so many updates."""
    real, left = fit._take_step, [updates]

    def step(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 8 GiB.")
        real(*arguments)

    return step


def carry_out(request: dict[str, Any], counter: mmap.mmap) -> int:
    """In the fork: become the process that was asked for; its exit code."""
    out = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request.get("user"):
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    os.chdir(request["place"])
    os.environ.update(request.get("environment", {}))
    os.environ.pop("LD_PRELOAD", None)
    for name, value in request.get("settings", {}).items():
        module, attribute = name.split(":")
        setattr(importlib.import_module(module), attribute, value)
    if request.get("jumping_clock"):
        clock = jumping()
        time.time = lambda: next(clock)
    if "memory_for" in request:
        fit._take_step = out_of_memory(request["memory_for"])
    if request.get("file_size"):  # a write beyond it is cut short, and then fails
        import resource  # here: only where it is asked for

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    sys.argv = ["iris", *request["command"]]
    if LAYER is not None:
        address = ctypes.addressof(ctypes.c_long.from_buffer(counter))
        journal = os.open(request["journal"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if request.get("journal") else -1
        LAYER.faults_arm(
            request["place"].encode(), MODES.index(request.get("mode", "count")), ctypes.c_long(request.get("at", 0)),
            ctypes.c_void_p(address), journal,
        )  # fmt: skip
    try:
        iris_cli.cli.main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class Child:
    """A fork under way."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.begun, self.counter = time.monotonic(), mmap.mmap(-1, 4096)
        self.number = os.fork()
        if self.number == 0:
            code = 70
            try:
                for stop in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(stop, signal.default_int_handler if stop == signal.SIGINT else signal.SIG_DFL)
                code = carry_out(request, self.counter)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    @property
    def operations(self) -> int:
        """On files, so far."""
        return ctypes.c_long.from_buffer_copy(self.counter[:8]).value

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """How it ended; None: it goes on after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return {"code": code, "seconds": time.monotonic() - self.begun, "operations": self.operations}
            left = until - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(0.002, left))


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    for name in PROGRAMS:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"iris_cli.{name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    children: dict[int, Child] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        match request["do"]:
            case "start":
                child = Child(request)
                children[child.number] = child
                answer = child.number
            case "signal":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(request["number"], request["signal"])
            case "operations":
                answer = children[request["number"]].operations
            case "wait":
                answer = children[request["number"]].wait(request["seconds"])
                if answer is not None:
                    del children[request["number"]]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for child in children.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.number, signal.SIGKILL)


if __name__ == "__main__":
    main()
