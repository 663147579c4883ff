"""One command in many processes, started by ``torchrun``: which process does what, and waiting for one another.

torch.distributed joins the processes and keeps the counters by which they wait. Features and statistics go through the
stored files, which all processes must see, so that what a process had finished is there after it died.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from nci_plugin.checks import PluginError
from nci_plugin.files import locked

BEAT_SECONDS = 0.5
"""How often a process says that it is there."""

TIMEOUT = 60.0
"""Seconds without a beat after which a process counts as dead."""

ROLL_CALL_SECONDS = 3.0
"""What a process that is told to stop waits for the beats of the others, to name the one that died."""

LINGER_SECONDS = 5.0
"""How long a process that keeps the counters for the others stays for them after its end."""

GO_ON = "run the same command to go on from the last finished shard"


class Processes:
    """The processes of a run, of which this one is number ``rank`` of ``size``; number 0 scores and writes.

    >>> list(Processes(rank=1, size=2).share(5))
    [1, 3]
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._waits = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1

    def share(self, count: int, before: int = 0) -> range:
        """This process's of ``count`` pieces of work that come after ``before`` others: every ``size``-th."""
        return range((self.rank - before) % self.size, count, self.size)

    def device(self, device: torch.device) -> torch.device:
        """``cuda`` without a number is one GPU for each process of a machine."""
        if self.size == 1 or device.type != "cuda" or device.index is not None:
            return device
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)) % torch.cuda.device_count())

    def wait(self) -> None:
        """Wait until every process has come here; raises PluginError that names one that stopped or died."""
        if self.size == 1:
            return
        self._waits += 1
        place = f"wait/{self._waits}"
        self._count(f"{place}/{self.rank}", 1)
        beats: dict[int, tuple[int, float]] = {}
        waiting_for = [rank for rank in range(self.size) if rank != self.rank]
        while waiting_for:
            for rank in list(waiting_for):
                ended = self._count(f"ended/{rank}")  # read first: who came here and ended then has come
                if self._count(f"{place}/{rank}"):
                    waiting_for.remove(rank)
                elif ended:
                    raise PluginError(f"process {rank} of {self.size} stopped; correct what it says and {GO_ON}")
                else:
                    self._check_beat(rank, beats)
            time.sleep(0.02)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process, once every process has come here and said."""
        if self.size == 1:
            return flag
        said = f"any/{self._waits}"
        self._count(said, int(flag))
        self.wait()
        return self._count(said) > 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process does something before the others do the same."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    @contextmanager
    def locked(self, directory: Path) -> Iterator[None]:
        """The first process locks a directory for all; raises PluginError if another command works there."""
        with locked(directory) if self.is_first else nullcontext():
            self.wait()
            yield

    # ---------------------------------------------------------------- inside

    def _count(self, key: str, more: int = 0) -> int:
        """A counter that all processes see."""
        try:
            return self._store.add(key, more)
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0][:120]
            keeper = f"process 0 of {self.size}" if self._keeps_counters(0) else "the launcher"
            raise PluginError(f"{keeper} stopped, no other answers now ({reason}); {GO_ON}") from None

    @staticmethod
    def _keeps_counters(rank: int) -> bool:
        """torchrun keeps them itself; other launchers leave them to the first process."""
        return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def _check_beat(self, rank: int, beats: dict[int, tuple[int, float]]) -> None:
        beat, now = self._count(f"beat/{rank}"), time.monotonic()
        last, since = beats.setdefault(rank, (beat, now))
        if beat != last:
            beats[rank] = beat, now
        elif now - since > TIMEOUT:
            raise PluginError(f"process {rank} of {self.size} died: no sign of it for {TIMEOUT:.0f} s; {GO_ON}")

    def _beat(self, stop: threading.Event) -> None:
        with suppress(PluginError):  # the others are gone: the next wait says so
            while not stop.wait(BEAT_SECONDS):
                self._count(f"beat/{self.rank}", 1)

    def _end(self) -> None:
        """Say that this process has ended, however; one that keeps the counters stays until the others know."""
        with suppress(PluginError):
            self._count(f"ended/{self.rank}", 1)
            until = time.monotonic() + LINGER_SECONDS
            while self._keeps_counters(self.rank) and time.monotonic() < until:
                if all(self._count(f"ended/{rank}") for rank in range(self.size)):
                    break
                time.sleep(0.02)

    def _dead(self) -> list[int]:
        """The processes that give no sign while this one waits a little, and that did not say that they ended."""
        before = [self._count(f"beat/{rank}") for rank in range(self.size)]
        time.sleep(ROLL_CALL_SECONDS)
        return [
            rank
            for rank in range(self.size)
            if self._count(f"beat/{rank}") == before[rank] and not self._count(f"ended/{rank}")
        ]


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, by the environment that it sets; `ALONE` without it.

    An error of another process than the first says which one it is from.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except (ValueError, RuntimeError) as error:
        raise PluginError(f"{size} processes: cannot join ({error}); start them with torchrun") from None
    processes = Processes(rank, size, store)
    stop = threading.Event()
    threading.Thread(target=processes._beat, args=(stop,), daemon=True).start()
    try:
        yield processes
    except KeyboardInterrupt:  # torchrun ends all processes if one dies
        if dead := processes._dead():
            names = ", ".join(map(str, dead))
            raise PluginError(f"process {rank} of {size} stops, since process {names} died; {GO_ON}") from None
        raise
    except PluginError as error:
        raise PluginError(f"process {rank} of {size}: {error}" if rank else str(error), error.details) from None
    finally:
        processes._end()
        stop.set()
