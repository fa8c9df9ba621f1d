"""Parameters of plugins, described for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

from earwitness.documented import documented_parameters, type_text
from earwitness.errors import PluginError
from earwitness.specs import ExplainerSpec

if TYPE_CHECKING:
    from decimal import Decimal

Domain = Literal["features", "waveform"]


class Documented:
    """Explains.

    Parameters
    ----------
    domain : {"features", "waveform"}
        Explain the map, or the samples. Nothing else is possible.
    layer : str, optional
        Dotted name, such as in
        :class:`a.b.Layer`; see ``layers``. Default: 3.
    low_hz, high_hz : float

        Edges of the band, e.g. 300 and 3000.
    bare : int
    path

    Raises
    ------
    ValueError
        Never.
    domain : str
        This is another section.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        domain: Domain = "features",
        layer: str | None = None,
        low_hz: float = 300.0,
        high_hz: float = 3000.0,
        bare: Sequence[int] = (1, 2),
        apply: Any = len,
    ) -> None: ...


class InInit:
    """No sections here."""

    def __init__(self, gain: float = 0.5) -> None:
        """
        Parameters
        ----------
        gain : float
            How much.
        """


def a_factory(*, low_hz: float = 100.0, own: Mapping[str, object] | None = None) -> Documented:
    """One by other defaults.

    Parameters
    ----------
    own : dict
        Told here.
    """
    raise NotImplementedError


def undocumented(exact: Decimal, plain=3) -> None: ...  # type: ignore[no-untyped-def]


def open_ended(**rest: int) -> None: ...


def spec(name: str) -> ExplainerSpec:
    return ExplainerSpec(name="method", target=f"test_documented_twin:{name}", summary="")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest imports this module under another name than a spec would."""
    monkeypatch.setitem(sys.modules, "test_documented_twin", sys.modules[__name__])


def test_types_defaults_and_first_sentences_are_told_in_the_order_of_the_signature() -> None:
    found = documented_parameters(spec("Documented"))
    assert [(p.name, p.type, p.default_text, p.summary) for p in found] == [
        ("path", "str | PathLike[str]", "", ""),
        ("domain", "'features' | 'waveform'", "'features'", "Explain the map, or the samples."),
        ("layer", "str | None", "None", "Dotted name, such as in Layer; see `layers`."),
        ("low_hz", "float", "300.0", "Edges of the band, e.g. 300 and 3000."),
        ("high_hz", "float", "3000.0", "Edges of the band, e.g. 300 and 3000."),
        ("bare", "Sequence[int]", "(1, 2)", ""),
        ("apply", "Any", "len", ""),
    ]
    assert [p.name for p in found if p.required] == ["path"]


def test_a_document_holds_plain_values() -> None:
    found = {p.name: p.document() for p in documented_parameters(spec("Documented"))}
    assert found["bare"]["default"] == (1, 2)
    assert found["apply"]["default"] == "len"
    assert found["path"] == {
        "name": "path",
        "type": "str | PathLike[str]",
        "required": True,
        "default": None,
        "summary": "",
    }


def test_the_docstring_of_init_counts_where_that_of_the_class_says_nothing() -> None:
    (gain,) = documented_parameters(spec("InInit"))
    assert gain.summary == "How much."


def test_what_a_factory_does_not_tell_is_told_by_the_class_that_it_returns() -> None:
    low, own = documented_parameters(spec("a_factory"))
    assert (low.default, low.summary) == (100.0, "Edges of the band, e.g. 300 and 3000.")
    assert (own.type, own.summary) == ("Mapping[str, object] | None", "Told here.")


def test_types_that_only_checkers_know_are_shown_as_they_are_written() -> None:
    exact, plain = documented_parameters(spec("undocumented"))
    assert (exact.type, exact.required, exact.summary) == ("Decimal", True, "")
    assert (plain.type, plain.default) == ("", 3)


def test_parameters_without_names_are_refused() -> None:
    with pytest.raises(PluginError, match=r"takes \*args or \*\*kwargs"):
        documented_parameters(spec("open_ended"))


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Literal[1, "a"] | None, "1 | 'a' | None"),
        (dict[str, os.PathLike[str]], "dict[str, PathLike[str]]"),
        (None, "None"),
        (type(None), "None"),
        (Domain, "'features' | 'waveform'"),
    ],
)
def test_a_type_reads_without_modules(hint: Any, text: str) -> None:
    assert type_text(hint) == text
