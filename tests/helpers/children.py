"""The command in processes of its own, forked so that each is there at once, and what they print."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess

from tiny import Tiny, stored, tree

from nci_plugin.cli.main import main

HANGS = 600.0
"""Seconds after which a command is taken to hang; no test asks how fast one is, as the machine may be busy."""


class Child:
    """One command at work; ``text`` is what it printed, once it has ended."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.text = ""
        self._output, output = os.pipe()  # not a file: the disk may be full
        target = (list(arguments), output, dict(environment or {}), before)
        self.process: BaseProcess = multiprocessing.get_context("fork").Process(target=_run, args=target)
        self.process.start()
        os.close(output)

    def wait(self, seconds: float = HANGS) -> int:
        """Its exit code, minus the signal that killed it."""
        self.process.join(seconds)
        late = self.process.exitcode is None
        if late:
            self.process.kill()
            self.process.join()
        with open(self._output) as output:
            self.text = output.read()
        assert not late, f"still at work after {seconds} s:\n{self.text}"
        return self.process.exitcode


def _run(arguments: list[str], output: int, environment: dict[str, str], before: Callable[[], None]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    before()
    os._exit(main(arguments))


def crew(arguments: Sequence[str], size: int, before: Callable[[], None] = lambda: None) -> list[Child]:
    """The processes that torchrun would start, without its watching over them; each does ``before`` first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [Child(arguments, {**shared, **rank}, before) for rank in ranks]


class Whole:
    """A run that nothing disturbed, and the arguments of others on the same input."""

    def __init__(self, tiny: Tiny, detectors: list[str]) -> None:
        (tiny.root / "knn3.yml").write_text("postprocessor: {name: knn, postprocessor_args: {K: 3}}\n")
        self.tiny = tiny
        self.detectors = [str(tiny.root / name) if name.endswith(".yml") else name for name in detectors]
        started = time.perf_counter()
        assert Child(self.arguments("whole")).wait() == 0
        self.seconds = time.perf_counter() - started
        self.passes = len(tiny.passes())

    def arguments(self, output: str) -> list[str]:
        return self.tiny.eval(*self.detectors, output=self.tiny.root / output)

    def assert_same(self, output: str) -> None:
        here, whole = self.tiny.root / output, self.tiny.root / "whole"
        assert stored(here) == stored(whole)
        for part in ("scores", "ood", "fsood"):
            assert tree(here / part) == tree(whole / part)
        assert not [path for path in here.rglob(".*")], "temporary files and locks are gone"

    def control(self, name: str, text: str | None) -> None:
        path = self.tiny.net.parent / name
        path.unlink(missing_ok=True) if text is None else path.write_text(text)
