"""What a script of OpenOOD may unpickle: plain data, never code that a file names.

A pickle runs code by naming a function or class, which the interpreter then looks up. Python reports every such look-up
as the audit event ``pickle.find_class``, whoever reads: ``pickle.load``, ``loads``, ``Unpickler``, ``_pickle``, numpy's
``allow_pickle``, joblib, pandas, ``torch.load``. While `only_data_is_unpickled` is open, in this process and those
forked from it, a name outside `HARMLESS` and of what torch's ``weights_only`` loader knows is an error before anything
is called. Let through is what the processes of one run send one another. Not seen: a process that is spawned anew, a
reader that looks names up by itself, and files that are not pickles.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from nci_plugin.adapters.openood.scores import is_whole
from nci_plugin.checks import PluginError, shown

TRUST = "pass --trust-pickles if you know who wrote it, since unpickling runs what its author chose"

HARMLESS = frozenset(
    {
        *(
            f"{module}.{name}"
            for module in ("builtins", "__builtin__")  # what the oldest protocols call it
            for name in ("bytearray", "complex", "frozenset", "range", "set", "slice")
        ),
        *(f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
        *(f"numpy.{name}" for name in ("dtype", "ndarray")),
        # numpy 2 writes `_core`; 1.26 reads both.
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
        ),
        "_codecs.encode",
        "torch.storage._load_from_bytes",  # a pickle in a pickle, whose names are looked at as well
    }
)
"""Names that build arrays and containers, and call nothing but one another."""

CHANNELS = ("multiprocessing.connection", "multiprocessing.queues", "torch.multiprocessing.queue")
"""The modules that read what the processes of one run send one another."""

_open = 0
_hooked = False


@contextmanager
def only_data_is_unpickled() -> Iterator[None]:
    """While this is open a pickle that names anything but plain data raises PluginError, and nothing of it is run.

    ``pickle.load`` of any file but this package's own score files (see `is_whole`) is an error too, which names it.
    """
    global _open, _hooked
    if not _hooked:  # a hook cannot be taken away
        sys.addaudithook(_audit)
        _hooked = True
    _open += 1
    try:
        with mock.patch.object(pickle, "load", _guarded(pickle.load)):
            yield
    finally:
        _open -= 1


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _open or event != "pickle.find_class":
        return
    module, name = arguments
    if f"{module}.{name}" in _known() or sys._getframe(1).f_globals.get("__name__") in CHANNELS:
        return
    raise PluginError(
        f"the script would unpickle something that names {shown(f'{module}.{name}')}, which is no plain data; move that"
        f" file away, or {TRUST}"
    )


@cache
def _known() -> frozenset[str]:
    from torch._weights_only_unpickler import _get_allowed_globals

    return HARMLESS | frozenset(_get_allowed_globals())


def _guarded(load: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(file: Any, *arguments: Any, **options: Any) -> Any:
        # torch reads its older files so; `_audit` sees what they name.
        if sys._getframe(1).f_globals.get("__name__") == "torch.serialization" or _is_ours(file):
            return load(file, *arguments, **options)
        raise PluginError(f"the script would unpickle '{getattr(file, 'name', 'a stream')}'; move it away, or {TRUST}")

    return guarded


def _is_ours(file: Any) -> bool:
    if not file.seekable():
        return False
    start = file.tell()
    ours = is_whole(file.read())
    file.seek(start)
    return ours
