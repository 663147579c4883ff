"""A user's network, called: whatever it is wrapped in, whatever it returns and whatever it raises."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.rows import check_float_images

COMPILED_FROM = "_torchdynamo_orig_callable"
"""Attribute of what torch.compile returns: the code that it was made from."""


_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""By module the lock of whatever passes it: beside the modules, since a lock can be neither copied nor pickled."""

_finding = threading.Lock()


def _let_go() -> None:
    """In a forked process no thread is left that would give its parent's locks back."""
    global _locks, _finding
    _locks, _finding = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def alone(network: nn.Module) -> Iterator[None]:
    """No other thread passes the network, or one that has a module of it (its wrapper, another head on its trunk).

    Another thread waits; the same thread may pass it meanwhile. Not to be held where a generator yields: who abandons
    it would leave the network locked. Two threads that each pass a network, and whose data sets then ask for the
    other's, wait for each other for ever.
    """
    with ExitStack() as stack:
        for lock in _locks_of(network):
            stack.enter_context(lock)
        yield


def _locks_of(network: nn.Module) -> list[Any]:
    """That of its modules; several, in one order for all threads, where parts of it were passed alone before."""
    modules = list(network.modules())
    with _finding:
        known = {id(lock): lock for module in modules if (lock := _locks.get(module)) is not None}
        found = [known[key] for key in sorted(known)] or [threading.RLock()]
        for module in modules:
            _locks.setdefault(module, found[0])
    return found


def without_replicas(network: nn.Module) -> nn.Module:
    """The network inside DataParallel or DistributedDataParallel: a pass of one process, on one device, is its own."""
    while isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        network = network.module
    return network


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, inside what DataParallel, DistributedDataParallel and torch.compile put around it."""
    network = without_replicas(network)
    while isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
        network = without_replicas(inner)
    return network


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first weight."""
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))


def in_autocast(device: torch.device) -> bool:
    """Whether a torch.autocast of the caller's is on for the tensors of a device."""
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # before torch 2.4, where each device had a function of its own
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()


@contextmanager
def without_autocast() -> Iterator[None]:
    """The arithmetic that tensors' own types ask for, also inside a torch.autocast of the caller's."""
    with ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Every generator that a network, a loader or an augmentation draws from is afterwards as it was before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def watched(modules: Mapping[str, nn.Module], see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """While this is open ``see`` is told the name, the first input and the output of whichever of the modules ran.

    What another thread runs, a service that calls its network itself, is none of its business.
    """
    thread = threading.get_ident()

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if threading.get_ident() == thread:
                see(name, next(chain(inputs, named.values()), None), output)

        return hook

    handles = [module.register_forward_hook(hook_of(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Call:
    """A network as a function from images to logits.

    It runs uncompiled, as compiled code passes over hooks once it has run. Images go in as they are, or in the type of
    the first weights if the network takes no other. With ``only_logits`` one that gives several outputs of the shape of
    logits is refused.
    """

    def __init__(self, network: nn.Module, only_logits: bool = False) -> None:
        self.network, self._only_logits = without_replicas(network), only_logits
        self._name = type(self.network).__name__
        self._compiled = [module for module in self.network.modules() if _is_compiled(module)]
        self._dtype: torch.dtype | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, K), as the network gives them; raises PluginError where it fails or gives something else.

        Whole numbers are no images, see `check_float_images`.
        """
        check_float_images(f"batch for network {self._name}", images)
        with _uncompiled(self._compiled):
            try:
                return logits_in(self._output(images), self._name, self._only_logits)
            except (PluginError, KeyboardInterrupt):
                raise
            except BaseException as error:  # the network is the user's code and may raise anything, SystemExit too
                raise PluginError(
                    f"network {self._name}: failed on a batch of shape {tuple(images.shape)} with"
                    f" {type(error).__name__}: {str(error)[:200]}; check the preprocessing's img_size, and if memory"
                    " ran out use a smaller --batch-size"
                ) from error

    def _output(self, images: Tensor) -> Any:
        """What the network returns; the type that its first images could have is that of all others."""
        if self._dtype is not None:
            return self.network(images.to(self._dtype))
        try:
            output, self._dtype = self.network(images), images.dtype
        except RuntimeError:
            # Tried last: a network of bfloat16 weights may want float32 images, to normalise them say.
            weights = next((each for each in self.network.parameters() if each.is_floating_point()), images)
            if weights.dtype == images.dtype:
                raise
            with suppress(RuntimeError):
                output, self._dtype = self.network(images.to(weights.dtype)), weights.dtype
            if self._dtype is None:
                raise
        return output


def logits_in(output: Any, name: str = "", only: bool = False) -> Tensor:
    """The logits in what a network returns: a tensor, the first of a tuple or list, or the field or key ``logits``.

    Raises PluginError, with the ``name`` of the network's class, on anything else; if they must be the ``only`` output
    of their shape, on a tuple with another one too.
    """
    if isinstance(output, Tensor):
        return output
    logits: Any = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    elif logits is None and isinstance(output, (tuple, list)):
        logits = output[0] if output else None
    if not isinstance(logits, Tensor):
        empty = isinstance(output, (tuple, list, Mapping)) and not output
        kind = f"an empty {type(output).__name__}" if empty else type(output).__name__
        raise PluginError(
            f"network {name}: must return logits (n, K), alone, first of a tuple or as 'logits', got {kind};"
            " wrap it in a factory (--net)"
        )
    others = output[1:] if only and isinstance(output, (tuple, list)) and logits is output[0] else ()
    if any(isinstance(other, Tensor) and other.shape == logits.shape for other in others):
        raise PluginError(
            f"network {name}: returns several outputs of shape {tuple(logits.shape)}, and which are its logits is not"
            " known; return those alone (wrap it in a factory, --net), or name the head of the first with --head"
        )
    return logits


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module.forward, COMPILED_FROM)


@contextmanager
def _uncompiled(modules: list[nn.Module]) -> Iterator[None]:
    """These modules as they were before torch.compile, `Module.compile` or a compiled ``forward``."""
    before = [(vars(module), dict(vars(module))) for module in modules]
    try:
        for module in modules:
            # Through vars: a compiled network hands what is set on it to the network inside.
            original = getattr(module.forward, COMPILED_FROM, None)
            if original is not None:
                vars(module)["forward"] = (
                    original if "forward" in vars(module) else MethodType(original, module)  # set on it, or its class's
                )
            if "_compiled_call_impl" in vars(module):
                vars(module)["_compiled_call_impl"] = None
        yield
    finally:
        for attributes, old in before:
            for name in ("forward", "_compiled_call_impl"):
                if name in old:
                    attributes[name] = old[name]
                else:
                    attributes.pop(name, None)
