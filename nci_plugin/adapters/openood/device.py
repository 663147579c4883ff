"""OpenOOD calls ``.cuda()`` throughout, which makes it unusable without a GPU; here those calls go elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch

FACTORIES = ("arange", "empty", "eye", "full", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros")
"""Functions of torch whose ``device="cuda"`` is redirected too."""


@contextmanager
def cuda_on(device: torch.device) -> Iterator[None]:
    """While this is open, ``.cuda()``, ``.to("cuda")``, ``device="cuda"`` and ``torch.load`` mean ``device``.

    Where ``device`` is a GPU it only makes that one current. Otherwise it replaces those functions of torch, and the
    one tensor type that OpenOOD names by its device, until the block ends; then nothing of torch is changed any more.
    (A `torch.overrides.TorchFunctionMode` replaces less, but with one attention layers compute in other bits.)
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
        return
    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        replace(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor.to(device))
        replace(torch.Tensor, "to", _redirected(torch.Tensor.to, device))
        replace(torch, "load", _loading_onto(device))
        replace(torch.cuda, "FloatTensor", torch.FloatTensor)
        for name in FACTORIES:
            replace(torch, name, _redirected(getattr(torch, name), device))
        yield


def _redirected(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function with its arguments that name a GPU replaced by ``device``."""

    def replaced(value: Any) -> Any:
        is_gpu = isinstance(value, (str, torch.device)) and torch.device(value).type == "cuda"
        return device if is_gpu else value

    @wraps(function)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        return function(*map(replaced, args), **{name: replaced(value) for name, value in kwargs.items()})

    return redirected


def _loading_onto(device: torch.device) -> Callable[..., Any]:
    load = torch.load

    @wraps(load)
    def load_onto(*args: Any, **kwargs: Any) -> Any:
        if len(args) < 2 and kwargs.get("map_location") is None:
            kwargs["map_location"] = device
        return load(*args, **kwargs)

    return load_onto
