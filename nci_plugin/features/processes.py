"""One command in many processes, started by ``torchrun``: which process does what, and what they tell one another.

torch.distributed joins the processes, keeps the counters by which they wait, and gathers what they computed. Features
and statistics go through the stored files where there are any, so that what a process had finished is there after it
died.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed

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

GO_ON = "run the same command to go on from what is finished"

DONE, REFUSED, FAILED = b"=", b"!", b"?"
"""How the bytes begin that a process gives: with tensors, with a PluginError's text or with another error's."""


class Lost(BaseException):
    """Another process is gone: nothing that a detector did, and nothing that can go on. `joined` makes it an error."""


class Processes:
    """The processes of a run, of which this one is number ``rank`` of ``size``; number 0 writes.

    >>> list(Processes(rank=1, size=2).share(5))
    [1, 3]
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._waits, self._group = 0, None
        self._sent: list[Tensor] = []

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        return int(os.environ.get("LOCAL_WORLD_SIZE") or self.size) if self.size > 1 else 1

    def share(self, count: int, before: int = 0) -> range:
        """This process's of ``count`` pieces of work that come after ``before`` others: every ``size``-th."""
        return range((self.rank - before) % self.size, count, self.size)

    def device(self, device: torch.device) -> torch.device:
        """``cuda`` without a number is one GPU for each process of a machine, and its current one from now on."""
        if self.size == 1 or device.type != "cuda" or device.index is not None:
            return device
        mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)) % torch.cuda.device_count())
        torch.cuda.set_device(mine)  # what names no device, as pinned memory, would else be the first GPU's
        return mine

    def wait(self) -> None:
        """Wait until every process has come here; raises PluginError that names one that stopped or died."""
        if self.size == 1:
            return
        self._waits += 1
        place, pause = f"wait/{self._waits}", 0.001
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
            time.sleep(pause)
            pause = min(0.02, 1.5 * pause)

    def together(self, work: Callable[[], Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """Do ``work`` in every process and return what it gave in each, by rank, to all.

        An error of one is an error of all, so that they go on from the same place: a PluginError, or what was raised
        here, or a RuntimeError with its text.
        """
        if self.size == 1:
            return [work()]
        error: Exception | None = None
        try:
            said = DONE + safetensors.torch.save({name: each.contiguous() for name, each in work().items()})
        except Exception as caught:
            error = caught
            text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            said = (REFUSED if isinstance(error, PluginError) else FAILED) + text.encode()
        answers = self._gather(said)
        failed = next((rank for rank, answer in enumerate(answers) if answer[:1] != DONE), None)
        if failed is None:
            return [safetensors.torch.load(answer[1:]) for answer in answers]
        if error is not None and failed == self.rank:
            raise error
        text = answers[failed][1:].decode()
        raise PluginError(text) if answers[failed][:1] == REFUSED else RuntimeError(f"process {failed}: {text}")

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

    def _gather(self, said: bytes) -> list[bytes]:
        """What every process says, by rank; raises Lost, which names one that is gone.

        All have come before a collective begins, so that none begins with a process that is dead.
        """
        try:
            self.wait()
            if self._group is None:
                self._group = self._collective_group()
            lengths, length = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)], torch.tensor([len(said)])
            self._sent = [*lengths, length]
            distributed.all_gather(lengths, length, self._group)
            longest = int(max(lengths))
            answers = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            mine = torch.frombuffer(bytearray(said.ljust(longest, b"\0")), dtype=torch.uint8)
            self._sent += [*answers, mine]
            distributed.all_gather(answers, mine, self._group)
        except PluginError as error:
            raise Lost(str(error)) from None
        except RuntimeError as error:
            raise Lost(self._gone(str(error).split("\n", 1)[0][:120])) from None
        return [answer[:length].numpy().tobytes() for answer, length in zip(answers, map(int, lengths))]

    def _collective_group(self) -> Any:
        """A group of gloo's: what is gathered lies on the CPU, a few bytes an image.

        Where the caller has a group already, of NCCL's say, it is beside that one.
        """
        timeout = timedelta(seconds=TIMEOUT)
        if not distributed.is_initialized():
            store = distributed.PrefixStore("collectives", self._store)
            distributed.init_process_group("gloo", timeout=timeout, store=store, rank=self.rank, world_size=self.size)
            return distributed.group.WORLD
        theirs = distributed.get_rank(), distributed.get_world_size()
        if theirs != (self.rank, self.size):
            raise PluginError(
                f"torch.distributed: its group says that this is process {theirs[0]} of {theirs[1]}, the environment"
                f" that it is {self.rank} of {self.size}; start both with torchrun"
            )
        return distributed.new_group(timeout=timeout, backend="gloo")

    def _gone(self, reason: str) -> str:
        try:
            dead = self._dead()
        except PluginError as error:
            return str(error)
        names = f"process {', '.join(map(str, dead))} of {self.size} died" if dead else "a process is gone"
        return f"{names} ({reason}); {GO_ON}"

    def _leave(self) -> None:
        """End the group, whose threads this waits for where its last reference goes.

        One of them may only now give back what was gathered last. Where it has the last reference to a tensor, it waits
        for Python, which waits for it: so these are kept until it is gone.
        """
        group, self._group = self._group, None
        if group is not None and distributed.is_initialized():
            distributed.destroy_process_group(group)
        del group
        self._sent = []

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

_stores: list[Any] = []
"""The counters of each use of `joined` by this process: another one may still ask those of an earlier use."""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, by the environment that it sets; `ALONE` without it.

    An error of another process than the first says which one it is from.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except (ValueError, RuntimeError) as error:
        raise PluginError(f"{size} processes: cannot join ({error}); start them with torchrun") from None
    _stores.append(distributed.PrefixStore(f"nci_plugin/{len(_stores)}", store))  # the launcher's own outlives this use
    processes = Processes(rank, size, _stores[-1])
    stop = threading.Event()
    beats = threading.Thread(target=processes._beat, args=(stop,), daemon=True)
    beats.start()
    try:
        yield processes
    except KeyboardInterrupt:  # torchrun ends all processes if one dies
        if dead := processes._dead():
            names = ", ".join(map(str, dead))
            raise PluginError(f"process {rank} of {size} stops, since process {names} died; {GO_ON}") from None
        raise
    except (PluginError, Lost) as error:
        details = error.details if isinstance(error, PluginError) else ()
        raise PluginError(f"process {rank} of {size}: {error}" if rank else str(error), details) from None
    finally:
        processes._end()
        stop.set()
        beats.join(LINGER_SECONDS)  # Python's end, while it asks for a counter, would be an abort
        processes._leave()
