"""How far long work is: a bar on a terminal and in a notebook, a line every 30 s where standard error is a file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm.asyncio import tqdm as plain_bar
from tqdm.auto import tqdm

EVERY = 30.0
"""Seconds between two lines; work that takes less prints none."""


class Progress(Protocol):
    """What is told how far the work is, and of how much."""

    total: Any

    def update(self, n: float = 1) -> object: ...

    def set_postfix_str(self, s: str = "") -> object: ...


class _Lines:
    """As tqdm, in lines: ``extract: 1200 of 50000 img, 40.0 img/s, 0:20:20 left``."""

    def __init__(self, desc: str, unit: str, total: float | None) -> None:
        self.desc, self.unit, self.total = desc, unit, total
        self.done, self.now, self.started = 0.0, "", time.monotonic()
        self.file = sys.stderr  # that of now: what runs meanwhile may hide its own output

    def update(self, n: float = 1) -> None:
        self.done += n

    def set_postfix_str(self, s: str = "") -> None:
        self.now = s

    def __str__(self) -> str:
        elapsed = time.monotonic() - self.started
        of = "" if self.total is None else f" of {self.total:.12g}"
        text = f"{self.desc}: {self.done:.12g}{of} {self.unit}"
        if self.done:
            text += f", {self.done / elapsed:.3g} {self.unit}/s"
        if self.done and self.total is not None:
            text += f", {tqdm.format_interval(elapsed / self.done * (self.total - self.done))} left"
        return text + (f" ({self.now})" if self.now else "")

    def keep_telling(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            print(self, file=self.file, flush=True)


@contextmanager
def progress(desc: str, unit: str, total: int | None, shown: bool = True, delay: float = 0) -> Iterator[Progress]:
    """Show how far ``total`` units of work are, on standard error; nothing where it is not to be ``shown``.

    ``total`` is None where nobody knows how many there will be. A bar appears after ``delay`` seconds. A line comes
    every `EVERY` seconds however long one unit takes, with the rate and the time that is left at it.
    """
    in_notebook = tqdm is not plain_bar  # a widget, where there are some
    if not shown or in_notebook or (sys.stderr is not None and sys.stderr.isatty()):
        with tqdm(total=total, unit=unit, desc=desc, disable=not shown, delay=delay) as bar:
            yield bar
        return
    lines, ended = _Lines(desc, unit, total), threading.Event()
    teller = threading.Thread(target=lines.keep_telling, args=[ended], daemon=True)
    teller.start()
    try:
        yield lines
    finally:
        ended.set()
        teller.join()
