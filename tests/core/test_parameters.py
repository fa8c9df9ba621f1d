"""Parameters of plugins: checked, completed, and read from text."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch

from earwitness.clips import Batch
from earwitness.errors import ConfigurationError, EarwitnessError, MissingParameterError, PluginError
from earwitness.explanation import Explanation
from earwitness.identity import identity_of
from earwitness.parameters import build, parse_assignments, resolved_parameters
from earwitness.protocols import Explainer
from earwitness.specs import ExplainerSpec


class Method:
    def __init__(self, *, n_steps: int = 8, domain: str = "features", keep: tuple[int, ...] = (1, 2)) -> None:
        if n_steps < 1:
            raise ConfigurationError("n_steps must be positive")
        self.n_steps = 8 // n_steps * n_steps
        self.domain = domain
        self.keep = keep


class Bare:
    pass


class Needy:
    def __init__(self, path: str) -> None:
        self.path = path


class NeedyTwice:
    def __init__(self, *, first: int, second: int, third: int = 3) -> None: ...


class Open:
    def __init__(self, n_steps: int = 8, **rest: Any) -> None: ...


class OpenInPlace:
    def __init__(self, *rest: int) -> None: ...


class FromProtocol(Explainer):
    def explain(self, classifier: Any, batch: Batch, *, target: Any, random: Any) -> Explanation:
        raise NotImplementedError


NOT_CALLABLE = 3


def a_function(*, gain: float = 0.5) -> Method:
    return Method(n_steps=int(2 * gain))


def spec(name: str) -> ExplainerSpec:
    return ExplainerSpec(name="method", target=f"test_parameters_twin:{name}", summary="")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest imports this module under another name than a spec would."""
    monkeypatch.setitem(sys.modules, "test_parameters_twin", sys.modules[__name__])


def test_a_target_is_called_with_its_parameters() -> None:
    built = build(spec("Method"), {"n_steps": 4})
    assert (type(built), built.n_steps, built.domain) == (Method, 8, "features")
    assert build(spec("a_function"), {"gain": 1.0}).n_steps == 8
    assert isinstance(build(spec("Bare"), {}), Bare)


def test_a_class_that_names_a_protocol_as_its_base_can_be_built() -> None:
    assert isinstance(build(spec("FromProtocol"), {}), FromProtocol)
    with pytest.raises(ConfigurationError, match="It takes none"):
        build(spec("FromProtocol"), {"n_steps": 3})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Method", {"n_step": 3}, "explainer 'method' has no parameter 'n_step'. Did you mean 'n_steps'"),
        ("Method", {"zzz": 3}, "Choose one of: domain, keep, n_steps"),
        ("Bare", {"n_steps": 3}, "It takes none"),
        ("Needy", {}, "needs the parameter 'path'"),
        ("Method", {"n_steps": 0}, "^n_steps must be positive"),
    ],
)
def test_wrong_parameters_are_the_users_error(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(spec(name), parameters)


def test_all_missing_parameters_are_named_at_once_also_in_another_process() -> None:
    with pytest.raises(MissingParameterError) as caught:
        build(spec("NeedyTwice"), {})
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert str(error) == "explainer 'method' needs the parameters 'first' and 'second'."
        assert (error.kind, error.name, error.missing) == ("explainer", "method", ("first", "second"))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Method", {"n_steps": "many"}, r"could not be built with \{'n_steps': 'many'\}: TypeError"),
        ("Open", {}, r"takes \*args or \*\*kwargs"),
        ("OpenInPlace", {}, r"takes \*args or \*\*kwargs"),
        ("NOT_CALLABLE", {}, "cannot be called: 3"),
        ("Missing", {}, "has no attribute 'Missing'"),
    ],
)
def test_a_target_that_cannot_be_built_is_the_plugins_error(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        build(spec(name), parameters)
    assert isinstance(caught.value, EarwitnessError)


def test_resolved_parameters_hold_the_defaults_as_plain_json() -> None:
    assert resolved_parameters(spec("Method"), {}) == {"n_steps": 8, "domain": "features", "keep": [1, 2]}
    assert resolved_parameters(spec("Method"), {"n_steps": 2})["n_steps"] == 2
    assert resolved_parameters(spec("Bare"), {}) == {}
    with pytest.raises(ConfigurationError, match="n_steps"):
        resolved_parameters(spec("Method"), {"nsteps": 2})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=16", 16),
        ("x=1e-3", 1e-3),
        ("x=-2", -2),
        ("x=[1, 2,3]", [1, 2, 3]),
        ("x=waveform", "waveform"),
        ("x='16'", "16"),
        ("x=true", True),
        ("x=False", False),
        ("x=none of it", "none of it"),
        ("x=None", None),
        ("x=a=b", "a=b"),
        ("x=", ""),
        ("x=/data/007.pt", "/data/007.pt"),
        (" x = 3 ", 3),
        ("x={[]: 1}", "{[]: 1}"),
        ("x=" + 9999 * "(", 9999 * "("),
    ],
)
def test_text_becomes_a_value(text: str, value: object) -> None:
    parsed = parse_assignments([text])
    assert parsed == {"x": value}
    assert type(parsed["x"]) is type(value)


def test_hyphens_and_underscores_are_one() -> None:
    assert parse_assignments(["n-steps=3", "domain=a-b"]) == {"n_steps": 3, "domain": "a-b"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["n_steps"], "reads NAME=VALUE, got 'n_steps'"),
        (["=3"], "reads NAME=VALUE, got '=3'"),
        ([""], "got ''"),
        (["n-steps=3", "n_steps=4"], "'n_steps' is given twice: 3 and '4'"),
    ],
)
def test_text_that_names_nothing_or_a_thing_twice_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_assignments(texts)


# --- identity


def scaled(x: float, by: float = 2.0) -> float:
    return x * by


class Thing:
    def __init__(self, size: int) -> None:
        self.size = size

    def method(self) -> None: ...


def enclosing(size: int) -> Any:
    return lambda x: x * size


PAIRS: dict[str, tuple[Any, Any]] = {
    "numbers": (1, 2),
    "text and number": (1, "1"),
    "sets": ({"a", "b"}, {"a", "c"}),
    "nested": ({"a": [1, (2, 3)]}, {"a": [1, (2, 4)]}),
    "functions": (scaled, enclosing),
    "partials": (functools.partial(scaled, by=3), functools.partial(scaled, by=4)),
    "lambdas": (lambda x: x + 1, lambda x: x + 2),
    "closures": (enclosing(2), enclosing(3)),
    "objects": (Thing(1), Thing(2)),
    "methods": (Thing(1).method, Thing(2).method),
    "classes": (Thing, Method),
    "tensors": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "modules": (torch.nn.Hardtanh(-1, 1), torch.nn.Hardtanh(-1, 2)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_the_identity_tells_things_apart_and_holds_no_address(kind: str) -> None:
    one, other = PAIRS[kind]
    assert identity_of(one) != identity_of(other)
    assert "0x" not in repr((identity_of(one), identity_of(other)))


def test_equal_things_have_one_identity() -> None:
    assert identity_of(Thing(1)) == identity_of(Thing(1))
    assert identity_of(enclosing(2)) == identity_of(enclosing(2))
    rows = torch.arange(6.0).reshape(2, 3)
    assert identity_of(rows) == identity_of(rows.T.contiguous().T)
    assert identity_of(rows) != identity_of(rows.reshape(3, 2))


def test_the_identity_of_a_set_does_not_depend_on_the_process() -> None:
    code = "from earwitness.identity import identity_of; print(identity_of({'dog', 'rain', 'clock', 'sea'}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "3")
    }
    assert outputs == {"['clock', 'dog', 'rain', 'sea']\n"}
