"""Copies of this package in checkouts of OpenOOD: what is in one, and how it comes and goes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nci_plugin.adapters.openood.checkout import LANDMARK, is_checkout
from nci_plugin.adapters.openood.methods import METHODS
from nci_plugin.checks import PluginError, existing
from nci_plugin.config import config_directory
from nci_plugin.evaluation.configuration import unshipped_files
from nci_plugin.files import TEMPORARY, read_file, write_atomically
from nci_plugin.parsing import read_json, write_json

PACKAGE = Path(__file__).parent
MANIFEST = "nci_plugin/installed.json"
SCRIPTS = ("eval_nci.sh", "environment.sh", "missing_requirements.py", "oldest-constraints.txt")
MODULES = (".py", ".csv", ".html", ".json")
OPENOODS_OWN = (
    *("dice", "ebo", "fdbd", "gen", "klm", "knn", "mls"),
    *("msp", "nci", "nnguide", "react", "scale", "vim"),
)
"""Names of ours for which OpenOOD has a YAML file itself."""

LARGEST_FILE = 2**26
Digests = dict[str, set[str]]
"""SHA-256 by file: of what was installed, and beside it, while an installation is under way, of what was before."""


@dataclass
class Changes:
    """What is done to a checkout, by path in it: files to ``write`` and to ``remove``, those ``left`` alone and why.

    ``manifest`` holds the SHA-256 of every file of ours afterwards, and of what a changed one was, ``before`` what an
    earlier installation left, ``directories`` what was made for them.
    """

    before: Digests
    directories: list[str]
    write: dict[str, bytes] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, str] = field(default_factory=dict)


def plan_installation(checkout: Path, force: bool = False) -> Changes:
    """What installing into ``checkout`` changes; nothing is changed yet.

    Raises PluginError if that is no checkout of OpenOOD, or if a file there is not ours, unless ``force``.
    """
    changes = _plan(checkout, _contents(), force)
    changes.left |= {f"configs/postprocessors/{stem}.yml": "OpenOOD's own" for stem in OPENOODS_OWN}
    return changes


def plan_removal(checkout: Path, force: bool = False) -> Changes:
    """What taking the installation out of ``checkout`` changes; a file that was changed stays unless ``force``.

    Raises PluginError if nothing was installed there.
    """
    changes = _plan(checkout, {}, force)
    if not changes.before:
        raise PluginError(f"remove from '{checkout}': there is no {MANIFEST}, so nothing was installed there")
    return changes


def _plan(checkout: Path, contents: Mapping[str, bytes], force: bool) -> Changes:
    """How a checkout comes to hold ``contents`` and none of our other files."""
    if not is_checkout(checkout):
        raise PluginError(f"'{checkout}': is no checkout of OpenOOD v1.5 (it has no {LANDMARK}); pass its directory")
    if (checkout / "nci_plugin").is_symlink():
        raise PluginError(f"'{checkout / 'nci_plugin'}': is a link, and what it points to stays as it is; remove it")
    changes = Changes(*_read_manifest(checkout))
    _check_inside(checkout, contents)
    foreign = []
    for name in {**contents, **changes.before}:
        there = _read(checkout / name)
        ours = there is None or force or _digest(there) in changes.before.get(name, ())
        if name in contents:
            changes.manifest[name] = _digest(contents[name])
            if there != contents[name]:
                changes.write[name] = contents[name]
                foreign += [] if ours else [name]
        elif there is not None and ours:
            changes.remove.append(name)
        elif there is not None:
            changes.left[name] = "changed since it was installed (--force removes it)"
            changes.manifest[name] = min(changes.before[name])
    if foreign:
        some = ", ".join([*foreign[:3], *["..."] * (len(foreign) > 3)])
        raise PluginError(
            f"install into '{checkout}': {len(foreign)} files there are not ours or were changed ({some}); move them"
            " away, or pass --force to overwrite them"
        )
    return changes


def apply(changes: Changes, checkout: Path) -> None:
    """Change the checkout: all of it, or nothing if something cannot be written. Raises PluginError then.

    The manifest is written before the files and again after them: where a kill comes between, it names what may be
    there, and installing again, or removing, goes on from that.
    """
    names = [*changes.write, *changes.remove, MANIFEST]
    made = _missing_directories(checkout, [*changes.write, *[MANIFEST] * bool(changes.manifest)])
    for directory in {existing((checkout / name).parent) for name in names}:
        _check_writable(directory)
    undo: dict[Path, bytes | None] = {checkout / MANIFEST: _read(checkout / MANIFEST)}
    try:
        _remove_unfinished(checkout, [*changes.manifest, *changes.before, MANIFEST])
        if changes.write:
            _write_manifest(checkout, changes, made, unfinished=True)
        for name, content in changes.write.items():
            undo[checkout / name] = _read(checkout / name)
            write_atomically(checkout / name, content, durable=False)
        for name in changes.remove:
            undo[checkout / name] = _read(checkout / name)
            _unlink(checkout / name)
        _write_manifest(checkout, changes, made)
    except BaseException:
        for path, before in undo.items():
            with suppress(OSError, PluginError):
                path.unlink(missing_ok=True) if before is None else write_atomically(path, before, durable=False)
        _remove_empty(checkout, made)
        raise
    _remove_empty(checkout, changes.directories)


def _write_manifest(checkout: Path, changes: Changes, made: Iterable[str], unfinished: bool = False) -> None:
    if not changes.manifest:
        (checkout / MANIFEST).unlink(missing_ok=True)
        return
    record: dict[str, object] = {
        "files": changes.manifest,
        "directories": list(dict.fromkeys([*changes.directories, *made])),
    }
    if unfinished:
        record["before"] = {name: sorted(digests) for name, digests in changes.before.items()}
    write_json(checkout / MANIFEST, record, durable=False)


def _remove_unfinished(checkout: Path, names: Iterable[str]) -> None:
    """Remove what a killed installation left half-written beside some files."""
    paths = [checkout / name for name in names]
    ours = {(path.parent, path.name) for path in paths}
    for directory in {path.parent for path in paths}:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(directory):
                match = TEMPORARY.fullmatch(entry.name)
                if match and (directory, match["name"]) in ours:
                    _unlink(Path(entry))


# -------------------------------------------------------------------- what is installed


def _contents() -> dict[str, bytes]:
    """Every file of an installation, by its path in a checkout."""
    configs, scripts = config_directory(), _script_directory()
    postprocessors = [path for path in configs.glob("postprocessors/*.yml") if path.stem not in OPENOODS_OWN]
    modules = [path for path in PACKAGE.rglob("*.*") if path.suffix in MODULES and scripts not in path.parents]
    modules = [path for path in modules if path != PACKAGE / Path(MANIFEST).name]  # of an installed copy itself
    files = {
        **{f"nci_plugin/{path.relative_to(PACKAGE).as_posix()}": path for path in modules},
        **{f"nci_plugin/configs/{path.relative_to(configs).as_posix()}": path for path in configs.rglob("*.yml")},
        **{f"configs/postprocessors/{path.name}": path for path in postprocessors},
        **{f"scripts/{name}": scripts / name for name in SCRIPTS},
    }
    contents = {name: path.read_bytes() for name, path in files.items()}
    for name, text in unshipped_files().items():
        if name not in METHODS:  # else OpenOOD has a file of that name itself
            contents[f"configs/postprocessors/{name}.yml"] = text.encode()
    return dict(sorted(contents.items()))


def _script_directory() -> Path:
    """Where the shell scripts are: inside an installed package, or beside it in a checkout."""
    for directory in (PACKAGE / "scripts", PACKAGE.parent / "scripts"):
        if (directory / SCRIPTS[0]).is_file():
            return directory
    raise PluginError(f"scripts: not found beside '{PACKAGE}'; install nci_plugin again")


# -------------------------------------------------------------------- what is there


def _read_manifest(checkout: Path) -> tuple[Digests, list[str]]:
    """SHA-256 by file, and the directories made for them; both empty where nothing was installed."""
    path, remedy = checkout / MANIFEST, "remove the installed files by hand"
    try:
        raw = read_json(path, "manifest", remedy)
    except FileNotFoundError:
        return {}, []
    try:
        recorded: Digests = {name: {digest} for name, digest in raw["files"].items()}
        for name, digests in raw.get("before", {}).items():
            recorded.setdefault(name, set()).update(digests)
        directories = list(raw["directories"])
        inside = [PurePosixPath(name) for name in (*recorded, *directories)]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PluginError(f"'{path}': is damaged; {remedy}") from None
    if any(name.is_absolute() or ".." in name.parts for name in inside):
        raise PluginError(f"'{path}': names files outside the checkout; {remedy}")
    _check_inside(checkout, (*recorded, *directories))
    return recorded, directories


def _check_inside(checkout: Path, names: Iterable[str]) -> None:
    """Raise PluginError where a link leads out of the checkout: what lies there is neither written nor removed.

    And where a file is in the place of a directory.
    """
    root = checkout.resolve()
    for parent in sorted({str(PurePosixPath(name).parent) for name in names}):
        there = (root / parent).resolve()
        if there != root and root not in there.parents:
            raise PluginError(f"'{checkout / parent}': a link leads to '{there}', out of the checkout; remove the link")
        if there.is_file():
            raise PluginError(f"'{checkout / parent}': is a file, where a directory must be; move it away")


def _check_writable(directory: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise PluginError(
            f"'{directory}': cannot write there ({error.strerror or error}); nothing was changed"
        ) from None


def _unlink(path: Path) -> None:
    """Remove a file, and what Python compiled from it."""
    try:
        path.unlink()
        if path.suffix == ".py":
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                compiled.unlink()
            with suppress(OSError):  # other files' are in it, or there is none
                (path.parent / "__pycache__").rmdir()
    except OSError as error:
        raise PluginError(f"cannot remove '{path}': {error.strerror or error}") from None


def _missing_directories(checkout: Path, names: Iterable[str]) -> list[str]:
    parents = {parent for name in names for parent in PurePosixPath(name).parents}
    return sorted(str(parent) for parent in parents if not (checkout / parent).is_dir())


def _remove_empty(checkout: Path, directories: Iterable[str]) -> None:
    for directory in sorted(directories, reverse=True):  # the inner ones first
        with suppress(OSError):  # it is not empty
            (checkout / directory).rmdir()


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, "file", LARGEST_FILE, "move it away")
    except FileNotFoundError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
