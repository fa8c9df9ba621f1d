"""The door: guarded loading, collisions, names, and who is let in."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from earwitness import hookimpl
from earwitness import registry as door
from earwitness.errors import PluginError
from earwitness.registry import Origin, Plugin, Registry, installed_plugins, plugin_distributions
from earwitness.specs import ClassifierSpec, Column, CommandSpec, DatasetSpec, ExplainerSpec, MetricSpec, load_target


def spec(name: str, **more: object) -> ExplainerSpec:
    return ExplainerSpec(name=name, target="a.b:C", summary="A line.", **more)  # type: ignore[arg-type]


def hooks(**functions: Callable[[], object]) -> types.ModuleType:
    """A module of hooks: each function is marked and put in under its keyword."""
    module = types.ModuleType("hooks")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function))
    return module


def plugin(distribution: str, load: Callable[[], object], *, name: str = "main", version: str = "1.0") -> Plugin:
    return Plugin(Origin(distribution, version, f"{distribution}_hooks"), name, load)


def offering(distribution: str, *names: str) -> Plugin:
    return plugin(distribution, lambda: hooks(earwitness_explainers=lambda: [spec(name) for name in names]))


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


# --- guarded loading


@pytest.mark.parametrize("error", [ImportError("no such thing"), SyntaxError("bad"), SystemExit(3), ValueError("odd")])
def test_a_plugin_that_fails_at_import_is_kept_apart_with_its_reason(error: BaseException) -> None:
    registry = Registry(
        [offering("good", "one"), plugin("bad", raising(error), version="2.1"), offering("late", "two")]
    )
    assert [offer.spec.name for offer in registry.offers("explainers")] == ["one", "two"]
    (broken,) = registry.broken
    assert (broken.origin.distribution, broken.origin.version) == ("bad", "2.1")
    assert broken.reason.startswith(type(error).__name__)
    assert str(error) in broken.reason


def test_ctrl_c_while_a_plugin_loads_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Registry([plugin("slow", raising(KeyboardInterrupt()))])


def test_a_hook_that_raises_costs_neither_the_others_nor_what_it_yielded_before() -> None:
    def explainers() -> Iterator[ExplainerSpec]:
        yield spec("first")
        raise RuntimeError("in the\n middle")

    def datasets() -> Iterable[DatasetSpec]:
        return [DatasetSpec(name="data", target="a:b", summary="A line.")]

    module = hooks(earwitness_explainers=explainers, earwitness_datasets=datasets)
    registry = Registry([plugin("half", lambda: module)])
    assert [offer.spec.name for offer in registry.offers("explainers")] == ["first"]
    assert [offer.spec.name for offer in registry.offers("datasets")] == ["data"]
    assert [broken.reason for broken in registry.broken] == ["earwitness_explainers: RuntimeError: in the middle"]


def test_sys_exit_in_a_hook_does_not_end_the_host() -> None:
    registry = Registry([plugin("exits", lambda: hooks(earwitness_metrics=raising(SystemExit("bye"))))])
    assert registry.broken[0].reason == "earwitness_metrics: SystemExit: bye"


@pytest.mark.parametrize("wrong", ["a name", None, 3, ClassifierSpec(name="c", target="a:b", summary="A line.")])
def test_a_hook_that_yields_something_else_is_broken(wrong: object) -> None:
    registry = Registry([plugin("odd", lambda: hooks(earwitness_explainers=lambda: [wrong]))])
    assert registry.offers("explainers") == []
    assert "must yield ExplainerSpec, got" in registry.broken[0].reason


def test_a_hook_may_offer_nothing() -> None:
    registry = Registry([plugin("quiet", lambda: hooks(earwitness_explainers=lambda: None))])
    assert registry.broken == []


def test_an_unknown_hook_is_named_with_the_nearest_and_the_known_hooks_work() -> None:
    module = hooks(earwitness_explainer=lambda: [spec("lost")], earwitness_explainers=lambda: [spec("found")])
    registry = Registry([plugin("typo", lambda: module)])
    assert [offer.spec.name for offer in registry.offers("explainers")] == ["found"]
    assert registry.broken[0].reason == "unknown hook 'earwitness_explainer'. Did you mean 'earwitness_explainers'?"


def test_a_module_whose_functions_are_not_marked_is_broken_not_silent() -> None:
    module = types.ModuleType("unmarked")
    module.earwitness_explainers = lambda: [spec("lost")]  # type: ignore[attr-defined]
    registry = Registry([plugin("unmarked", lambda: module)])
    assert "marked with @hookimpl" in registry.broken[0].reason


def test_a_hook_that_asks_for_arguments_is_broken() -> None:
    module = types.ModuleType("greedy")
    module.earwitness_explainers = hookimpl(lambda classifier: [])  # type: ignore[attr-defined]
    (broken,) = Registry([plugin("greedy", lambda: module)]).broken
    assert "classifier" in broken.reason


def test_one_module_under_two_entry_points_is_taken_once() -> None:
    module = hooks(earwitness_explainers=lambda: [spec("one")])
    registry = Registry([plugin("twice", lambda: module), plugin("twice", lambda: module, name="again")])
    assert len(registry.offers("explainers")) == 1
    assert len(registry.broken) == 1


# --- names


def test_a_name_is_found_and_knows_its_origin() -> None:
    offer = Registry([offering("acme", "one")]).explainer("one")
    assert (offer.qualified_name, offer.origin.version) == ("acme:one", "1.0")


def test_a_name_offered_twice_is_an_error_that_names_both() -> None:
    registry = Registry([offering("zeta", "same"), offering("acme", "same", "own")])
    with pytest.raises(PluginError, match="offered more than once: acme:same and zeta:same"):
        registry.explainer("same")
    assert list(registry.shown_names("explainers")) == ["own", "acme:same", "zeta:same"]


@pytest.mark.parametrize("name", ["zeta:same", "ZETA:same"])
def test_the_distribution_settles_a_collision(name: str) -> None:
    registry = Registry([offering("zeta", "same"), offering("acme", "same")])
    assert registry.explainer(name).origin.distribution == "zeta"


def test_a_name_offered_twice_by_one_distribution_is_broken_and_the_first_stays() -> None:
    registry = Registry([offering("acme", "same", "same")])
    assert registry.explainer("same").qualified_name == "acme:same"
    assert "acme:same is offered twice" in registry.broken[0].reason


def test_the_same_name_may_be_of_two_kinds() -> None:
    metric = MetricSpec(name="same", target="a:b", summary="A line.")
    module = hooks(earwitness_explainers=lambda: [spec("same")], earwitness_metrics=lambda: [metric])
    registry = Registry([plugin("acme", lambda: module)])
    assert registry.explainer("same").spec.kind == "explainer"
    assert registry.metric("same").spec is metric


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("salience", "Did you mean 'saliency'?"),
        ("acme:salience", "Did you mean 'acme:saliency'?"),
        ("qqq", "Choose one of: gradcam, saliency."),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(PluginError) as caught:
        Registry([offering("acme", "saliency", "gradcam")]).explainer(name)
    assert str(caught.value) == f"There is no explainer {name!r}. {hint}"


def family() -> Plugin:
    """``own`` and members of a family, as a distribution offers what another library names."""
    specs = [MetricSpec(name=name, target="a:b", summary="A line.") for name in ("own", "lib:AUC", "lib:Completeness")]
    refused = MetricSpec(name="lib:ROAD", target="a:b", summary="A line.", refused="it is too long.")
    return plugin("acme", lambda: hooks(earwitness_metrics=lambda: [*specs, refused]))


@pytest.mark.parametrize("name", ["lib:Completeness", "acme:lib:Completeness", "ACME:lib:Completeness"])
def test_a_member_of_a_family_is_found_by_its_name_and_in_full(name: str) -> None:
    found = Registry([family()]).metric(name)
    assert (found.spec.name, found.spec.family, found.qualified_name) == (
        "lib:Completeness", "lib", "acme:lib:Completeness",
    )  # fmt: skip


def test_an_exact_name_comes_before_a_distribution_of_the_familys_name() -> None:
    plain, member = (MetricSpec(name=name, target="a:b", summary="A line.") for name in ("auc", "lib:auc"))
    library = plugin("lib", lambda: hooks(earwitness_metrics=lambda: [plain]))
    assert Registry([library]).metric("lib:auc").spec is plain
    acme = plugin("acme", lambda: hooks(earwitness_metrics=lambda: [member]))
    assert Registry([library, acme]).metric("lib:auc").spec is member


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lib:Completnes", "Did you mean 'lib:Completeness'?"),
        ("lib:zzz", "Choose one of: lib:AUC, lib:Completeness, lib:ROAD."),
        ("acme:lib:Completnes", "Did you mean 'acme:lib:Completeness'?"),
        ("zzz", "Choose one of: lib:NAME, own."),
    ],
)
def test_a_misspelt_member_of_a_family_is_told_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(PluginError) as caught:
        Registry([family()]).metric(name)
    assert str(caught.value) == f"There is no metric {name!r}. {hint}"


def test_a_refused_metric_is_on_offer_and_says_why_it_cannot_be_used() -> None:
    offer = Registry([family()]).metric("lib:ROAD")
    with pytest.raises(PluginError, match=r"The metric 'lib:ROAD' cannot be used: it is too long\."):
        offer.spec.load()


def test_an_unknown_name_mentions_the_plugins_that_might_have_had_it() -> None:
    registry = Registry([plugin("lost", raising(ImportError("no torch2")), version="0.3")])
    with pytest.raises(PluginError, match=r"There is no dataset 'x'\. .*lost 0\.3 \(ImportError: no torch2\)"):
        registry.dataset("x")


def test_each_kind_has_its_own_lookup() -> None:
    def one(kind: type) -> Callable[[], list[object]]:
        return lambda: [kind(name="thing", target="a:b", summary="A line.")]

    module = hooks(
        earwitness_explainers=one(ExplainerSpec),
        earwitness_metrics=one(MetricSpec),
        earwitness_classifiers=one(ClassifierSpec),
        earwitness_datasets=one(DatasetSpec),
        earwitness_commands=one(CommandSpec),
    )
    registry = Registry([plugin("all", lambda: module)])
    found = [registry.explainer, registry.metric, registry.classifier, registry.dataset, registry.command]
    assert [lookup("thing").spec.kind for lookup in found] == [
        "explainer",
        "metric",
        "classifier",
        "dataset",
        "command",
    ]


# --- who is let in


@pytest.fixture
def two_foreign_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two distributions on sys.path, as an installer leaves them; one of them twice."""
    for folder, name in (("one", "Fake_One"), ("two", "fake-two"), ("again", "Fake_One")):
        info = tmp_path / folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[earwitness]\nmain = fake_{folder.replace('again', 'one')}_hooks\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    door._entry_point_plugins.cache_clear()
    yield
    door._entry_point_plugins.cache_clear()


def distributions(**arguments: Iterable[str]) -> list[str]:
    return [found.origin.distribution for found in installed_plugins(**arguments) if "ake" in found.origin.distribution]


@pytest.mark.usefixtures("two_foreign_distributions")
def test_every_installed_distribution_is_let_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EARWITNESS_PLUGINS", raising=False)
    assert distributions() == ["Fake_One", "fake-two"]
    assert {"earwitness", "Fake_One", "fake-two"} <= set(plugin_distributions())


@pytest.mark.usefixtures("two_foreign_distributions")
@pytest.mark.parametrize("spelling", ["fake-one", "Fake_One", " fake.one , other"])
def test_the_environment_allows_by_name_however_it_is_spelt(monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.setenv("EARWITNESS_PLUGINS", spelling)
    assert distributions() == ["Fake_One"]


@pytest.mark.usefixtures("two_foreign_distributions")
def test_a_distribution_is_switched_off_however_it_is_spelt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARWITNESS_PLUGINS", "fake-one,fake-two")
    assert distributions(switched_off=["fake-one"]) == ["fake-two"]
    assert distributions(switched_off=["Fake-Two", "FAKE_ONE"]) == []


def test_the_own_distribution_is_always_allowed_and_core_cannot_be_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EARWITNESS_PLUGINS", "nobody")
    modules = [found.origin.module for found in installed_plugins()]
    assert modules == ["earwitness.hooks", "earwitness_bench.hooks", "earwitness_plugins.hooks"]
    assert [found.origin.module for found in installed_plugins(switched_off=["earwitness"])] == ["earwitness.hooks"]


# --- specs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec("Upper"), "name must match"),
        (lambda: spec("with space"), "name must match"),
        (lambda: spec("one:two:three"), "name must match"),
        (lambda: spec("family:"), "name must match"),
        (lambda: ExplainerSpec(name="a", target="no.colon", summary="A line."), "must read 'package.module:Name'"),
        (lambda: ExplainerSpec(name="a", target="a:b", summary="two\nlines"), "one line of text"),
        (lambda: ExplainerSpec(name="a", target="a:b", summary=None), "one line of text"),  # type: ignore[arg-type]
        (lambda: spec("a", scope="posthoc"), "scope of 'a' must be one of"),
        (lambda: spec("a", needs=frozenset({"gradients"})), "needs \\['gradients'\\]"),
        (lambda: spec("a", needs="fit"), "given as a set"),
        (lambda: spec("a", api=99), "API 99; this is API 1"),
        (lambda: MetricSpec(name="a", target="a:b", summary="", needs=frozenset({"clean"})), "needs \\['clean'\\]"),
        (lambda: MetricSpec(name="a", target="a:b", summary="", api=0), "API 0"),
        (lambda: MetricSpec(name="a", target="a:b", summary="", columns=("x",)), "must be Column"),  # type: ignore[arg-type]
        (
            lambda: MetricSpec(name="a", target="a:b", summary="", columns=(Column(name="x"), Column(name="x"))),
            "names a column twice",
        ),
        (lambda: Column(name="x", direction="up"), "direction of column 'x'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_spec_is_refused_where_it_is_written(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make()


def test_a_metric_without_columns_has_one_of_its_own_name() -> None:
    assert [column.name for column in MetricSpec(name="a", target="a:b", summary="").columns] == ["a"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os", "expected 'package.module:name'"),
        ("no_such_module_here:x", "importing 'no_such_module_here' failed with ModuleNotFoundError"),
        ("os:nothing", "module 'os' has no attribute 'nothing'"),
        ("os:path.nothing", "module 'os' has no attribute 'path.nothing'"),
    ],
)
def test_a_target_that_does_not_exist_is_refused_in_use(target: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        load_target(target)


def test_a_target_may_be_an_attribute_of_an_attribute() -> None:
    assert load_target("os:path.join")("a", "b") == "a/b"


def test_a_target_whose_module_ends_the_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends_the_process.py").write_text("raise SystemExit(5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="SystemExit: 5"):
        load_target("ends_the_process:x", what="explainer 'x'")
