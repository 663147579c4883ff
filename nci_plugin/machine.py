"""What this process may take of the machine: cores and memory."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
"""Where Linux says what memory is free, and how much of it a group of processes, as a container, may take."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of memory that this process can use now; without bound where the system does not say.

    The least of what the machine has and what the limits of the process's control groups leave, as of a container.
    Processes that torchrun started on one machine do the same at the same time, so each has its share.
    """
    free = list(_left_in_groups())
    with suppress(OSError, StopIteration, ValueError):
        meminfo = (PROC / "meminfo").read_text(encoding="ascii")
        free.append(next(1024 * int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemAvail")))
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(free) // max(1, int(beside) if beside.isdecimal() else 1) if free else sys.maxsize


def _left_in_groups() -> Iterator[int]:
    """Bytes that limits leave to the process's control group and to those around it, of version 2 and of version 1.

    Unused pages of files can be given back, so they count as free.
    """
    with suppress(OSError, ValueError):
        text = (PROC / "self/cgroup").read_text()
        for controllers, path in re.findall("^[^:]*:([^:]*):/*(.*)$", text, re.MULTILINE):
            root, names = GROUPS, ("memory.max", "memory.current", "inactive_file")
            if controllers:
                root = GROUPS / "memory"  # also where it is mounted together with others, by a link
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            group = root / path
            around = [each for each in (group, *group.parents) if each == root or root in each.parents]
            for directory in around if controllers == "" or "memory" in controllers.split(",") else ():
                with suppress(OSError, ValueError, KeyError):  # no limit, or a group that is not to be seen from here
                    limit, used = (int((directory / name).read_text()) for name in names[:2])
                    pages = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
                    yield max(0, limit - used + int(pages[names[2]]))
