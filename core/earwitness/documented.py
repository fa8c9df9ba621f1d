"""Parameters of plugins, described for people: their types, defaults, and what the documentation says of them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from earwitness.parameters import signature_of
from earwitness.specs import Spec

_SECTION = re.compile(r"^Parameters\n-{3,}\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^(\w[\w, ]*?)\s*(?::[^\n]*)?\n((?:[ \t]+\S[^\n]*\n?|\n)*)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


@dataclass(frozen=True)
class DocumentedParameter:
    """What may be given when a plugin is built.

    Attributes
    ----------
    name : str
    type : str
        As in the signature, names of modules left out; empty where nothing is said.
    required : bool
        Whether there is no default.
    default : object
        None where there is none.
    summary : str
        The first sentence of its documentation; empty where there is none.
    """

    name: str
    type: str
    required: bool
    default: Any
    summary: str

    @property
    def default_text(self) -> str:
        """The default, as it is written on a command line or in Python; empty where there is none."""
        return "" if self.required else str(getattr(self.default, "__qualname__", repr(self.default)))

    def document(self) -> dict[str, Any]:
        """Plain values; a default that JSON does not have is its text."""
        plain = self.default if _is_plain(self.default) else self.default_text
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "default": plain,
            "summary": self.summary,
        }


def documented_parameters(spec: Spec) -> tuple[DocumentedParameter, ...]:
    """The parameters of a spec's target, which is imported for that, in the order of its signature.

    What they mean is read from the section "Parameters" of docstrings, as numpy writes it: the target's, its
    ``__init__``'s, and for a factory also that of the class which it says it returns.

    Raises
    ------
    PluginError
        The target cannot be imported or called, or its parameters have no names.
    """
    target = spec.load()
    signature = signature_of(spec, target)
    hints = _hints(target)
    summaries = _summaries(target, getattr(target, "__init__", None), hints.get("return"))
    return tuple(
        DocumentedParameter(
            name=parameter.name,
            type=type_text(hints.get(parameter.name, parameter.annotation)),
            required=parameter.default is inspect.Parameter.empty,
            default=None if parameter.default is inspect.Parameter.empty else parameter.default,
            summary=summaries.get(parameter.name, ""),
        )
        for parameter in signature.parameters.values()
    )


def type_text(hint: Any) -> str:
    """A type for people: ``Literal["a", "b"] | None`` reads ``'a' | 'b' | None``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, arguments))
    if isinstance(hint, type) and not arguments:
        return {inspect.Parameter.empty: "", type(None): "None"}.get(hint, hint.__name__)
    return hint if isinstance(hint, str) else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))


def _hints(target: Any) -> dict[str, Any]:
    """Annotations as types. A name that only type checkers import leaves all of them as they are written."""
    function: Callable[..., Any] = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _summaries(*documented: Any) -> dict[str, str]:
    """First sentences by name of parameter; where several tell, the first one counts."""
    found: dict[str, str] = {}
    for one in documented:
        section = _SECTION.search((inspect.getdoc(one) or "") + "\n") if callable(one) else None
        for names, text in _ENTRY.findall(section[1]) if section else ():
            sentence = _SENTENCE_END.split(" ".join(text.split()), maxsplit=1)[0]
            plain = _ROLE.sub(r"\1", sentence).replace("``", "`")
            found = {**dict.fromkeys(re.findall(r"\w+", names), plain), **found}
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool)
