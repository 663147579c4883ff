"""Files that are whole or not there, and hashes of their content."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path

from nci_plugin.checks import PluginError


def write_atomically(path: Path, data: bytes | str, durable: bool = True) -> None:
    """Write a file beside its place, then rename it: a reader finds the old file or the new one, never a part.

    ``durable`` also survives a power cut, at the cost of a wait for the disk. Raises PluginError if it cannot write.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise PluginError(
            f"cannot write '{path}': {error.strerror or error}; free space or choose another directory"
        ) from None
    finally:
        with suppress(OSError):  # its directory may not exist, or not be one
            temporary.unlink()


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
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()
