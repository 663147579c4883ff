"""Files that are read whole or refused, written whole or not at all, and hashes of their content."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Union

from filelock import FileLock, Timeout

from nci_plugin.checks import PluginError, check_replaceable, check_writable, existing

Bytes = Union[bytes, memoryview]

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.tmp")
LOCK = ".lock"
LEVELS = 6
"""How deep in its directory a run writes, and a little more."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""

_seeking = threading.Lock()
_held: set[FileLock] = set()
"""The locks that this process holds."""

logger = logging.getLogger(__name__)


class NotThere(PluginError, FileNotFoundError):
    """A file is not there: FileNotFoundError to whoever can do without it, one line to everybody else."""


def open_regular(path: Path, what: str, remedy: str) -> BinaryIO:
    """Open a regular file to read its bytes, unbuffered; ``what`` and ``remedy`` are parts of the error's text.

    Raises PluginError if it cannot be read, NotThere where that is the reason, or is no regular file: a pipe or a
    device might never end.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - it is the caller's to close
        except OSError:  # a directory
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        kind = NotThere if isinstance(error, (FileNotFoundError, NotADirectoryError)) else PluginError
        raise kind(f"{what} '{path}': {getattr(error, 'strerror', None) or error}; {remedy}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise PluginError(f"{what} '{path}': must be a regular file; {remedy}")
    return file


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """So many bytes from a place in an open file, for any thread and for processes that share it."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, start)
    with _seeking:  # a system without it has no processes that share a file
        file.seek(start)
        return file.read(size)


def read_file(path: Path, what: str, limit: int, remedy: str) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; as `open_regular`, and PluginError if it is larger."""
    with open_regular(path, what, remedy) as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]
        try:
            # As much as it says first, since a read allocates all that it asks for; it may grow, and /proc says 0.
            size = os.fstat(raw.fileno()).st_size
            data = file.read(min(size, limit) + 1)
            if len(data) > size:
                data += file.read(limit + 1 - len(data))
        except OSError as error:
            raise PluginError(f"{what} '{path}': {error.strerror or error}; {remedy}") from None
    if len(data) > limit:
        raise PluginError(f"{what} '{path}': larger than {limit / 2**20:g} MiB, more than can be right; {remedy}")
    return data


def read_text(path: Path, what: str, limit: int, remedy: str) -> str:
    """As `read_file`, the text of a UTF-8 file; raises PluginError if it is none. Line ends stay as they are."""
    try:
        return read_file(path, what, limit, remedy).decode("utf-8")
    except UnicodeDecodeError:
        raise PluginError(f"{what} '{path}': not a text file (UTF-8); {remedy}") from None


def write_atomically(path: Path, data: Bytes | str | Sequence[Bytes], durable: bool = True) -> None:
    """Write a file beside its place, then rename it: a reader finds the old file or the new one, never a part.

    ``data`` may be parts, which are written one after the other.
    ``durable`` also survives a power cut, at the cost of a wait for the disk. Raises PluginError if it cannot write,
    and where what is there is no regular file.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for part in data if isinstance(data, (tuple, list)) else (data,):
                file.write(part.encode() if isinstance(part, str) else part)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PluginError(f"cannot write '{path}': {reason}; free space or choose another directory") from None
    finally:
        with suppress(OSError, ValueError):  # its directory may not exist, or not be one
            temporary.unlink()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Work in a directory that no other command works in; makes it, and removes it again if it stays empty.

    The operating system gives the lock back when a process dies, however it dies; temporary files that a killed process
    left are removed. Where the file system has no locks, a warning says so. Raises PluginError if another command is at
    work there.
    """
    check_writable(directory)
    try:
        _make_directory(directory)
        with holding(directory / LOCK, directory):
            remove_temporary(directory)
            yield
    finally:
        with suppress(OSError):  # it holds the run's files
            directory.rmdir()


@contextmanager
def holding(path: Path, output: Path) -> Iterator[None]:
    """Hold the lock ``path``, a file that is gone again afterwards, while ``output`` is written; as `locked`."""
    lock = _lock(path, output)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()  # before it is given back: who waited for it looks again
            _held.discard(lock)
            lock.release()


def remove_temporary(directory: Path, levels: int = LEVELS) -> None:
    """Remove the files that `write_atomically` left unfinished in a directory and ``levels`` below, when killed."""
    for entry in os.scandir(directory):
        if TEMPORARY.fullmatch(entry.name):
            with suppress(OSError):  # gone already, or not a file
                os.unlink(entry)
        elif levels and entry.is_dir(follow_symlinks=False) and os.access(entry, os.R_OK | os.X_OK):
            remove_temporary(Path(entry), levels - 1)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a link to nothing, say
        raise PluginError(
            f"output directory '{directory}': cannot be made ({error.strerror or error}); choose another with --output"
        ) from None


def _lock(path: Path, output: Path) -> FileLock | None:
    """The lock of an output, held; None where there are no locks."""
    while True:
        lock = FileLock(path, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise PluginError(
                f"output '{output}': another command is at work there; wait for it, or choose another output"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise PluginError(
                    f"cannot lock '{path}': {error.strerror or error}; remove it, or choose another output"
                ) from None
            reason = getattr(error, "strerror", None) or error
            logger.warning("%s: not locked (%s); start no second command that writes there", output, reason)
            return None
        descriptor = _descriptor(lock)
        if descriptor is None or (path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())):
            _held.add(lock)
            return lock
        lock.release()  # of a file that was taken away: another command ended just now


def _descriptor(lock: FileLock) -> int | None:
    """That of the lock's file, which filelock has no public name for."""
    return getattr(getattr(lock, "_context", None), "lock_file_fd", None)


def _let_go() -> None:
    """Close what a forked process has got of its parent's locks: else they last as long as it does.

    A lock of ``flock`` is held until every copy of its descriptor is closed, and the processes that load images live on
    for seconds after the command has been killed. Recent versions of filelock have done it already.
    """
    for lock in _held:
        if (descriptor := _descriptor(lock)) is not None:
            lock._context.lock_file_fd = None  # else its destructor would unlock it, for the parent too
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_let_go)


def free_bytes(path: Path) -> int:
    """Bytes that are free where a path is, or would be."""
    return shutil.disk_usage(existing(path)).free


def move_aside(path: Path) -> Path:
    """Rename a file to ``<name>.old``, numbered if that exists; returns its new path.

    Raises PluginError if it cannot.
    """
    target, number = path.with_name(f"{path.name}.old"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.old{number}")
    try:
        path.rename(target)
    except OSError as error:
        raise PluginError(f"cannot move '{path}' aside: {error.strerror or error}; move it away") from None
    return target


def digest(*parts: bytes | str) -> str:
    """A short content hash (32 hexadecimal digits) of byte strings and texts."""
    return digest_of(parts)


def digest_of(parts: Iterable[Bytes | str | Callable[[], Iterable[Bytes | str]]]) -> str:
    """As `digest`, of as many as come; one that is too large to be held is a function that gives it piece by piece.

    It is called twice, since the length of a part goes before it.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        pieces = part if callable(part) else lambda whole=part: (whole,)  # type: ignore[misc]
        hasher.update(sum(len(_encoded(each)) for each in pieces()).to_bytes(8, "little"))
        for each in pieces():
            hasher.update(_encoded(each))
    return hasher.hexdigest()


def _encoded(text: Bytes | str) -> Bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text  # of names that are not UTF-8
