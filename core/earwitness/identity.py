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
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): identity_of(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((identity_of(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [identity_of(item) for item in value]
    if isinstance(value, Tensor):
        return digest_of_tensors({"": value})
    if isinstance(value, nn.Module):
        return [identity_of_architecture(value), digest_of_tensors(tensors_of(value))]
    if isinstance(value, functools.partial):
        return [identity_of(part) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [identity_of(value.__self__), value.__func__.__qualname__]
    if isinstance(value, types.FunctionType):
        return _identity_of_function(value)
    if isinstance(value, type | types.BuiltinFunctionType):
        return _name_of(value)
    return [_name_of(type(value)), identity_of(getattr(value, "__dict__", None)) or str(value)]


def identity_of_architecture(module: nn.Module) -> Any:
    """Plain JSON that changes with a module's layers and settings, whatever its weights."""
    settings = {
        name: [_name_of(type(part)), {key: identity_of(item) for key, item in vars(part).items() if _counts(key, item)}]
        for name, part in module.named_modules(remove_duplicate=False)
    }
    return [repr(module), settings]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, those that a ``state_dict`` leaves out included."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


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


def _identity_of_function(function: types.FunctionType) -> Any:
    code = function.__code__
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
    parts = (code.co_names, constants, function.__defaults__, function.__kwdefaults__, enclosed)
    return [_name_of(function), *(identity_of(part) for part in parts)]


def _name_of(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"
