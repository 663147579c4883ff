"""Hostile inputs of every kind: right numbers or one line, in bounded time and memory; nothing run, nothing outside."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401  # looks for fonts, with a program, when it is imported first
import pytest
import torchvision  # noqa: F401  # loads its own libraries when it is imported first
from children import Child
from hostile import KINDS, REFUSED, RIGHT, STORED, Attempt, Trap
from tiny import Tiny

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

FORKED, COMMANDS = 270, 30
SECONDS, BYTES = 60, 2 * 2**30
RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen", "pty.spawn")
"""Audit events of code that has left its bounds."""


@dataclass(frozen=True)
class Outcome:
    code: int
    text: str


@dataclass(frozen=True)
class Ground:
    """Where attempts are made: an output directory of a sound run, to be copied, and its numbers."""

    root: Path
    output: Path
    numbers: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # the wait for the disk is not the subject
        root = tmp_path_factory.mktemp("hostile")
        (root / "sound").mkdir()
        tiny = Tiny(root / "sound")
        child = Child(tiny.eval())
        assert child.wait() == 0, child.text
        yield Ground(root, tiny.output, numbers(tiny.output))


def numbers(output: Path) -> list[tuple[Any, ...]]:
    """The numbers of every row, whatever its data set is called."""
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return sorted((row["setting"], row["group"], row["auroc"], row["fpr95"], row["acc"], row["n_ood"]) for row in rows)


def traces(root: Path, output: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file but those in the output directory and the tiny network's own notes."""
    return {
        path: (status.st_size, status.st_mtime_ns)
        for path in root.rglob("*")
        if output not in (path, *path.parents) and path.name != "passes" and "__pycache__" not in path.parts
        for status in [path.lstat()]
        if not path.is_dir()
    }


def in_bounds(root: Path) -> Callable[[], None]:
    """What a forked command does first: bounds on its memory, and a file that says what it ran."""

    def begin() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sprung = os.open(root / "sprung", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def watch(event: str, details: tuple[Any, ...]) -> None:
            if event in RUNS:
                os.write(sprung, f"{event} {details!r:.200}\n".encode())

        sys.addaudithook(watch)

    return begin


def forked(attempt: Attempt, root: Path) -> Outcome:
    child = Child(attempt.arguments, {"HOME": str(root)}, in_bounds(root))
    return Outcome(child.wait(SECONDS), child.text)


def as_command(attempt: Attempt, root: Path) -> Outcome:
    """A real process, whose peak of memory is looked at as it goes."""
    environment = {**os.environ, "HOME": str(root), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(root.parents[1])}
    arguments = [sys.executable, "-m", "nci_plugin", *(part.replace("\0", "") for part in attempt.arguments)]
    peak, deadline = 0, time.monotonic() + SECONDS
    with open(root / "printed", "w+b") as printed:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, env=environment)
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.05)
        printed.seek(0)
        text = printed.read().decode(errors="backslashreplace")
    (root / "printed").unlink()
    assert peak < BYTES, f"{peak / 2**30:.1f} GB"
    return Outcome(process.returncode, text)


def high_water(process: int) -> int:
    """Largest resident memory of a process until now, in bytes; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def try_one(ground: Ground, kind: str, index: int, run: Callable[[Attempt, Path], Outcome]) -> str:
    """Make one attempt; returns what came of it, ``refused`` or ``answered``."""
    root = ground.root / f"{kind}{index}" / "inside"
    root.mkdir(parents=True)
    tiny, chance = Tiny(root), random.Random(f"{kind} {index}")
    if kind in STORED:
        shutil.copytree(ground.output, tiny.output)
    trap = Trap(root)
    recipes = list(KINDS[kind](tiny, trap, chance))
    attempt = recipes[index % len(recipes)]()
    before = traces(root.parent, tiny.output)
    here = Path.cwd()
    os.chdir(root)
    try:
        outcome = run(attempt, root)
    finally:
        os.chdir(here)
    what = f"{kind} {index}: {attempt.name}\n{outcome.text[-2000:]}"
    sprung = trap.sprung.read_text() if trap.sprung.exists() else ""
    assert not sprung, f"something ran: {sprung} in {what}"
    trap.sprung.unlink(missing_ok=True)
    assert traces(root.parent, tiny.output) == before, f"something was written outside the output directory: {what}"
    assert "Traceback" not in outcome.text, what
    assert outcome.code in (0, 1, 2), f"exit code {outcome.code}: {what}"
    if outcome.code == 2:
        last = outcome.text.rstrip("\n").split("\n")[-1]
        assert re.match(r"nci-ood( \w+)*: error: .", last), what
        assert last.isprintable(), what
        assert attempt.expected != RIGHT, what
        if attempt.arguments[0] == "eval":
            assert not [*tiny.output.rglob("*.csv"), *tiny.output.rglob("*.jsonl")], f"half written: {what}"
    else:
        assert attempt.expected != REFUSED, what
        if attempt.arguments[0] == "eval" and attempt.same_numbers:
            assert numbers(tiny.output) == ground.numbers, what
    shutil.rmtree(root.parent)
    return "refused" if outcome.code == 2 else "answered"


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs(kind: str, ground: Ground, record_property: Callable[[str, Any], None]) -> None:
    """Many of one kind, each in a process forked from this one."""
    try_all(ground, [(kind, index) for index in range(share(kind, FORKED))], forked, f"hostile {kind}", record_property)


def test_hostile_commands(ground: Ground, record_property: Callable[[str, Any], None]) -> None:
    """Some of every kind, as a user would type them."""
    tried = [(kind, 1000 + index) for kind in KINDS for index in range(share(kind, COMMANDS))]
    try_all(ground, tried, as_command, "hostile commands", record_property)


def try_all(
    ground: Ground,
    tried: Sequence[tuple[str, int]],
    run: Callable[[Attempt, Path], Outcome],
    what: str,
    record: Callable[[str, Any], None],
) -> None:
    """Make all attempts, and count what came of them; every one that failed is named at the end."""
    outcomes, failed = Counter[str](), []
    for kind, index in tried:
        try:
            outcomes[try_one(ground, kind, index, run)] += 1
        except AssertionError as error:
            failed.append(f"{kind} {index}: {str(error)[:1500]}")
    said = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    record("count", f"{len(tried)} {what} tried: {said}")
    assert not failed, "\n\n".join([f"{len(failed)} of {len(tried)}:", *failed])


def share(kind: str, total: int) -> int:
    """How many of ``total`` attempts are of a kind."""
    kinds = list(KINDS)
    return total // len(kinds) + (kinds.index(kind) < total % len(kinds))
