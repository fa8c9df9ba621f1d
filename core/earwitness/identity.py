"""What tells one thing from another, the same in every process and on every machine.

A cache key or a checksum may not hold what changes from one process to the next: addresses (as in the ``repr`` of a
function), the order of a set, or a device.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"training"}


@functools.singledispatch
def identity_of(value: Any) -> Any:
    """Plain JSON that changes when ``value`` does.

    Parameters
    ----------
    value : object
        Plain values and containers of them; functions (by their name, constants, defaults and what they enclose),
        ``functools.partial``, bound methods; tensors and modules; other objects by their class and attributes.

    Returns
    -------
    object
        Of ``None``, str, int, float, bool, list and dict.
    """
    return [_name_of(type(value)), identity_of(getattr(value, "__dict__", None)) or str(value)]


@identity_of.register(types.NoneType | str | int | float)
def _(value: Any) -> Any:
    return value


@identity_of.register(Mapping)
def _(value: Mapping[Any, Any]) -> Any:
    return {str(key): identity_of(item) for key, item in value.items()}


@identity_of.register(list | tuple)
def _(value: list[Any] | tuple[Any, ...]) -> Any:
    return [identity_of(item) for item in value]


@identity_of.register(set | frozenset)
def _(value: set[Any] | frozenset[Any]) -> Any:
    return sorted((identity_of(item) for item in value), key=repr)


@identity_of.register
def _(value: Tensor) -> Any:
    return digest_of_tensors({"": value})


@identity_of.register
def _(value: nn.Module) -> Any:
    return [identity_of_architecture(value), digest_of_tensors(tensors_of(value))]


@identity_of.register(functools.partial)
def _(value: functools.partial[Any]) -> Any:
    return [identity_of(part) for part in (value.func, value.args, value.keywords)]


@identity_of.register
def _(value: types.MethodType) -> Any:
    return [identity_of(value.__self__), value.__func__.__qualname__]


@identity_of.register
def _(value: types.FunctionType) -> Any:
    code = value.__code__
    enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
    constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
    parts = (code.co_names, constants, value.__defaults__, value.__kwdefaults__, enclosed)
    return [_name_of(value), *(identity_of(part) for part in parts)]


@identity_of.register(type | types.BuiltinFunctionType)
def _(value: Any) -> Any:
    return _name_of(value)


def identity_of_architecture(module: nn.Module) -> Any:
    """Plain JSON that changes with a module's layers and settings, whatever its weights."""
    settings = {
        name: [_name_of(type(part)), {key: identity_of(item) for key, item in vars(part).items() if _counts(key, item)}]
        for name, part in module.named_modules(remove_duplicate=False)
    }
    return [repr(module), settings]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a ``state_dict``. Other buffers are computed from settings, with other last bits elsewhere."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes, types and values; device and memory layout do not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _counts(name: str, value: Any) -> bool:
    if name in _OF_EVERY_MODULE:
        return False
    if isinstance(value, Mapping):
        return _all_count(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return _all_count(value)
    return value is None or isinstance(value, str | int | float | bool | types.FunctionType)


def _all_count(values: Iterable[Any]) -> bool:
    return all(_counts("", value) for value in values)


def _name_of(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"
