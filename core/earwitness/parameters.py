"""Parameters of plugins: checked against the signature, completed with defaults, turned from text into values."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from earwitness.errors import ConfigurationError, EarwitnessError, MissingParameterError, PluginError, nearest
from earwitness.specs import Spec

_T = TypeVar("_T")


class _Bare(Protocol): ...


_NO_INIT = _Bare.__init__
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build(spec: Spec, parameters: Mapping[str, Any]) -> Any:
    """Import a spec's target and call it.

    Raises
    ------
    ConfigurationError
        A parameter does not exist (the nearest valid one is named).
    MissingParameterError
        One without a default is not given.
    PluginError
        The target raises something that is not an earwitness error.
    """
    target = spec.load()
    _check(spec, signature_of(spec, target), parameters)
    try:
        return target(**parameters)
    except EarwitnessError:
        raise
    except Exception as error:
        raise PluginError(
            f"{spec.kind} {spec.name!r} could not be built with {dict(parameters)}: {type(error).__name__}: {error}"
        ) from error


def resolved_parameters(spec: Spec, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a spec's target, defaults included: what a cache key must hash."""
    from earwitness.identity import identity_of  # imports torch, which `earwitness --help` does without

    signature = signature_of(spec, spec.load())
    _check(spec, signature, parameters)
    bound = signature.bind_partial(**parameters)
    bound.apply_defaults()
    return {name: identity_of(value) for name, value in bound.arguments.items()}


def takes(spec: Spec, name: str) -> bool:
    """Whether a spec's target has a parameter of this name."""
    return name in _signature(spec, spec.load()).parameters


def changed(settings: _T, changes: Mapping[str, Any], what: str) -> _T:
    """Settings (a dataclass) with some of them changed.

    Raises
    ------
    ConfigurationError
        A name is unknown (the nearest is named), or a value has the wrong type or is out of range.
    """
    if not isinstance(changes, Mapping):
        raise ConfigurationError(f"{what} must be a dict of settings, got {changes!r}.")
    known = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise ConfigurationError(f"{what} has no setting {name!r}. {nearest(str(name), known)}")
    try:
        return dataclasses.replace(settings, **changes)  # type: ignore[type-var]
    except TypeError as error:
        raise ConfigurationError(f"{what}: a setting has the wrong type: {error}. Got {dict(changes)}.") from error


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``["n_steps=16", "domain=waveform"]`` -> ``{"n_steps": 16, "domain": "waveform"}``.

    A value is read as a Python literal (``true`` and ``false`` too), and is text where it is none.

    Raises
    ------
    ConfigurationError
        A text has no name or no ``=``, or a name comes twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = name.strip().replace("-", "_"), value.strip()
        if not equals or not name:
            raise ConfigurationError(f"A parameter reads NAME=VALUE, got {text!r}.")
        if name in values:
            raise ConfigurationError(f"The parameter {name!r} is given twice: {values[name]!r} and {value!r}.")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
            values[name] = {"true": True, "false": False}.get(value.lower(), value)
    return values


def signature_of(spec: Spec, target: Any) -> inspect.Signature:
    """What a spec's imported target may be called with.

    Raises
    ------
    PluginError
        It cannot be called, or its parameters have no names.
    """
    signature = _signature(spec, target)
    if any(parameter.kind in _OPEN for parameter in signature.parameters.values()):
        raise PluginError(
            f"{spec.kind} {spec.name!r} takes *args or **kwargs: its parameters cannot be checked. Name them."
        )
    return signature


def _signature(spec: Spec, target: Any) -> inspect.Signature:
    if not callable(target):
        raise PluginError(f"The target {spec.target!r} of {spec.kind} {spec.name!r} cannot be called: {target!r}.")
    # A class that names a protocol of ours as its base and has no __init__ gets (*args, **kwargs) from typing.
    if getattr(target, "__init__", None) is _NO_INIT:
        return inspect.Signature()
    return inspect.signature(target)


def _check(spec: Spec, signature: inspect.Signature, parameters: Mapping[str, Any]) -> None:
    known = signature.parameters
    for name in parameters:
        if name not in known:
            hint = nearest(name, known) if known else "It takes none."
            raise ConfigurationError(f"{spec.kind} {spec.name!r} has no parameter {name!r}. {hint}")
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in parameters]
    if missing:
        raise MissingParameterError(spec.kind, spec.name, missing)
