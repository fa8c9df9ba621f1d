"""Parameters of plugins: checked against the signature, completed with defaults, turned from text into values."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from earwitness.errors import ConfigurationError, EarwitnessError, PluginError, nearest
from earwitness.specs import Spec


def build(spec: Spec, parameters: Mapping[str, Any]) -> Any:
    """Import a spec's target and call it.

    Raises
    ------
    ConfigurationError
        A parameter does not exist (the nearest valid one is named) or one is missing.
    PluginError
        The target raises something that is not an earwitness error.
    """
    target = spec.load()
    _check(spec, target, parameters)
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
    target = spec.load()
    _check(spec, target, parameters)
    bound = _signature(target).bind_partial(**parameters)
    bound.apply_defaults()
    return {name: _plain(value) for name, value in bound.arguments.items()}


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``["n_steps=16", "domain=waveform"]`` -> ``{"n_steps": 16, "domain": "waveform"}``.

    Raises
    ------
    ConfigurationError
        A text has no ``=``.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigurationError(f"A parameter reads NAME=VALUE, got {text!r}.")
        try:
            values[name.strip().replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name.strip().replace("-", "_")] = {"true": True, "false": False}.get(value.lower(), value)
    return values


def _signature(target: Any) -> inspect.Signature:
    return inspect.signature(target)


def _check(spec: Spec, target: Any, parameters: Mapping[str, Any]) -> None:
    known = _signature(target).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        raise PluginError(f"{spec.kind} {spec.name!r} takes **kwargs: its parameters cannot be checked. Name them.")
    for name in parameters:
        if name not in known:
            hint = nearest(name, known) if known else "It takes none."
            raise ConfigurationError(f"{spec.kind} {spec.name!r} has no parameter {name!r}. {hint}")
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in parameters]
    if missing:
        raise ConfigurationError(f"{spec.kind} {spec.name!r} needs the parameter {missing[0]!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
