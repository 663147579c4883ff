"""A second device without a GPU: tensors that say ``lazy``, a type of torch that nothing here uses, with real numbers.

As on a GPU an operation on tensors of both devices fails, but for copies and single numbers, and so does numpy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy", 0)
CPU = torch.device("cpu")
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class There(Tensor):
    """A tensor on the second device; ``here`` has its numbers, on the CPU."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # the older torch would make answers of its class

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=DEVICE, **layout)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While this is open `DEVICE` is there; ``ran`` counts the operations on it, ``brought`` the tensors from here."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = self.brought = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ran = any(isinstance(each, There) for each in tree_flatten(args)[0])
        answer = _run(func, args, kwargs or {})
        self.ran += ran
        self.brought += func in COPIES and not ran and isinstance(answer, There)
        return answer


def _here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    is_there = any(isinstance(each, There) for each in given)
    if is_there and func not in COPIES and any(each.ndim and not isinstance(each, There) for each in given):
        raise RuntimeError(f"{func}: tensors on two devices")
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": CPU}
    answer = func(*tree_map(_here, args), **tree_map(_here, kwargs))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        changed = next((each for each in given if _here(each) is value), None)  # what was changed in place
        return changed if changed is not None else There(value) if is_there else value

    return tree_map(placed, answer)
