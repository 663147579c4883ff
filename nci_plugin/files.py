"""Files that are whole or not there, and hashes of their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from nci_plugin.checks import PluginError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file beside its place, flush it to disk, then rename it: a reader finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise PluginError(
            f"cannot write '{path}': {error.strerror or error}; free space or choose another --output"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def digest(*parts: bytes | str) -> str:
    """A short content hash (32 hexadecimal digits) of byte strings and texts."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()
