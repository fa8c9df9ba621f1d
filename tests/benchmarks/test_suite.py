"""Suite files: what is valid, and what is said of what is not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from earwitness.errors import ConfigurationError
from earwitness.parameters import resolved_parameters
from earwitness.registry import registry
from earwitness_bench.suite import load_suite, parse_suite, shipped_suites

VALID: dict[str, Any] = {
    "name": "mine",
    "arenas": [{"dataset": {"name": "toy", "parameters": {"clips": 4}}, "classifier": {"name": "toy-cnn"}}],
    "explainers": [{"name": "saliency"}, {"name": "class-mean", "fit": {"name": "toy"}}],
    "metrics": [{"name": "own-mask"}],
}


def changed(*path: Any, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(VALID)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def complaint(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_suite(document, "mine.toml")
    return str(caught.value)


def test_a_valid_suite_has_the_defaults_of_its_documentation() -> None:
    suite = parse_suite(VALID)
    assert (suite.seed, suite.chunk_size, suite.target, suite.route, suite.rule) == (
        0, 8, "predicted", "waveform", "normalise",
    )  # fmt: skip
    assert suite.controls
    assert suite.arenas[0].title == "toy-cnn on toy"


def test_a_title_tells_the_parameters_unless_there_is_a_label() -> None:
    entries = [{"name": "saliency", "parameters": {"domain": "waveform"}}, {"name": "saliency", "label": "plain"}]
    titles = [entry.title for entry in parse_suite(changed("explainers", value=entries)).explainers]
    assert titles == ["saliency (domain=waveform)", "plain"]


@pytest.mark.parametrize(
    ("path", "typo", "meant"),
    [
        ((), "chunk_sise", "chunk_size"),
        ((), "explainer", "explainers"),
        (("arenas", 0), "datset", "dataset"),
        (("arenas", 0), "clip", "clips"),
        (("arenas", 0, "dataset"), "parameter", "parameters"),
        (("arenas", 0, "classifier"), "nam", "name"),
        (("explainers", 0), "lable", "label"),
        (("explainers", 1, "fit"), "paramters", "parameters"),
        (("metrics", 0), "nane", "name"),
    ],
)
def test_a_typo_names_the_nearest_valid_key_at_every_level(path: tuple[Any, ...], typo: str, meant: str) -> None:
    text = complaint(changed(*path, typo, value=1))
    assert text.startswith("mine.toml: ")
    assert f"unknown key '{'.'.join(map(str, (*path, typo)))}'. Did you mean '{meant}'?" in text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), "0"),
        (("seed",), True),
        (("chunk_size",), 0),
        (("chunk_size",), 2.0),
        (("threads",), -1),
        (("target",), "true"),
        (("route",), "wave"),
        (("scale",), 1),
        (("controls",), "yes"),
        (("map_cap_mb",), float("inf")),
        (("map_cap_mb",), -1),
        (("arenas",), []),
        (("arenas", 0, "clips"), 0),
        (("arenas", 0, "dataset"), "toy"),
        (("arenas", 0, "dataset", "name"), ""),
        (("metrics", 0, "parameters"), {"budgets": [float("nan")]}),
        (("explainers", 0, "parameters"), [1]),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(path: tuple[Any, ...], value: Any) -> None:
    assert f"'{'.'.join(map(str, path))}'" in complaint(changed(*path, value=value))


def test_all_that_is_missing_is_named_at_once() -> None:
    text = complaint({"name": "mine", "explainer": []})
    for missing in ("arenas", "explainers", "metrics"):
        assert f"'{missing}' is missing" in text


def test_an_unknown_rule_is_an_error_of_the_suite_that_names_the_nearest() -> None:
    text = complaint(changed("rule", value="quantil(0.9)"))
    assert text.startswith("mine.toml: 'rule': ")
    assert "quantile" in text


def test_a_rule_is_kept_in_its_canonical_form() -> None:
    assert parse_suite(changed("rule", value=" energy( 0.3 ) ")).rule == "energy(0.3,soft)"


@pytest.mark.parametrize("what", ["arenas", "explainers", "metrics"])
def test_what_would_stand_twice_in_a_table_is_refused(what: str) -> None:
    text = complaint(changed(what, value=[VALID[what][0]] * 2))
    assert f"two {what} have the same name" in text
    assert "got" not in text  # the whole document is no answer


def test_labels_settle_equal_titles() -> None:
    entries = [{"name": "saliency"}, {"name": "saliency", "label": "again"}]
    assert len(parse_suite(changed("explainers", value=entries)).explainers) == 2


def test_an_unknown_suite_names_the_nearest_or_all_shipped_ones() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(ConfigurationError, match="no suite file xyz") as caught:
        load_suite("xyz")
    assert ", ".join(sorted(shipped_suites())) in str(caught.value)
    assert {"esc10", "mixtures", "quick"} <= set(shipped_suites())


def test_every_shipped_suite_has_a_line_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    assert [name for name in shipped_suites() if f"| `{name}` |" not in page] == []


def test_a_folder_of_that_name_does_not_hide_a_shipped_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quick").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_suite("quick").name == "quick"


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"[[arenas]\n"])
def test_what_is_not_toml_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"odd\.toml is not valid TOML"):
        load_suite(path)


def test_a_folder_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no suite file"):
        load_suite(tmp_path)


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_every_shipped_suite_names_only_what_exists(name: str) -> None:
    suite, plugins = load_suite(name), registry()
    assert suite.name == name
    assert suite.summary
    for arena in suite.arenas:
        resolved_parameters(plugins.dataset(arena.dataset.name).spec, arena.dataset.parameters)
        trained = plugins.explainer if arena.train else plugins.classifier
        resolved_parameters(trained(arena.classifier.name).spec, arena.classifier.parameters)
        if arena.train:
            resolved_parameters(plugins.dataset(arena.train.name).spec, arena.train.parameters)
    for entry in suite.explainers:
        spec = plugins.explainer(entry.name).spec
        resolved_parameters(spec, entry.parameters)
        assert ("fit" in spec.needs) == (entry.fit is not None or bool(entry.checkpoint))
        if entry.fit:
            resolved_parameters(plugins.dataset(entry.fit.name).spec, entry.fit.parameters)
    for metric in suite.metrics:
        resolved_parameters(plugins.metric(metric.name).spec, metric.parameters)


# --- one explainer, several fits


def fitted(**fit: Any) -> dict[str, Any]:
    return {"name": "class-mean", "parameters": {"n_frames": 8}, "fit": {"name": "toy", **fit}}


def test_an_explainer_stands_there_once_for_each_seed_of_its_fit() -> None:
    plain, labelled = fitted(seeds=[0, 7]), {**fitted(seeds=[2]), "label": "mean"}
    found = parse_suite(changed("explainers", value=[plain, {"name": "saliency"}, labelled])).explainers
    by_hand = [
        {**fitted(seed=0), "label": "class-mean (n_frames=8), fit 0"},
        {**fitted(seed=7), "label": "class-mean (n_frames=8), fit 7"},
        {"name": "saliency"},
        {**fitted(seed=2), "label": "mean, fit 2"},
    ]
    assert found == parse_suite(changed("explainers", value=by_hand)).explainers
    assert plain["fit"]["seeds"] == [0, 7]  # the document is not touched


def test_fits_of_several_seeds_are_inherited_and_replaced_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        'extends = "quick"\nname = "base"\n[[explainers]]\nname = "class-mean"\nlabel = "m"\n'
        'fit = { name = "toy", seeds = [0, 1] }\n'
    )
    (tmp_path / "mine.toml").write_text(
        'extends = "base.toml"\n[[explainers]]\nname = "class-mean"\nlabel = "m, fit 1"\n'
        'fit = { name = "toy", seed = 9 }\n'
    )
    found = {entry.title: entry.fit and entry.fit.seed for entry in load_suite(tmp_path / "mine.toml").explainers[-2:]}
    assert found == {"m, fit 0": 0, "m, fit 1": 9}


def test_what_replaces_an_explainer_stands_where_others_can_start_from_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'extends = "lmac_table_tuned"\nname = "mine"\n[[explainers]]\nname = "lmac"\nlabel = "lmac, fit 0"\n'
        'fit = { name = "toy", seed = 9 }\n[[explainers]]\nname = "gradcam"\nlabel = "more"\n'
    )
    mine, theirs = load_suite(tmp_path / "mine.toml"), load_suite("lmac_table_tuned")
    assert [entry.title for entry in mine.explainers] == [*(entry.title for entry in theirs.explainers), "more"]
    (replaced,) = (entry.fit for entry in mine.explainers if entry.title == "lmac, fit 0")
    assert replaced is not None
    assert (replaced.name, replaced.seed) == ("toy", 9)


def test_the_suite_of_parts_has_three_fits_of_each_kind_of_subspace() -> None:
    entries = load_suite("drsa_parts").explainers
    found = [(entry.title, entry.parameters.get("subspaces"), entry.fit and entry.fit.seed) for entry in entries]
    kinds = ("drsa", "dsa", "random", "prca")
    assert found[:12] == [(f"{kind}, fit {seed}", kind, seed) for kind in kinds for seed in (0, 1, 2)]


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ({"seeds": []}, "'explainers.0.fit.seeds'"),
        ({"seeds": [1, "2"]}, "'explainers.0.fit.seeds.1'"),
        ({"seeds": [1, 1]}, "seeds are different numbers"),
        ({"seeds": [1], "seed": 2}, "either seed or seeds"),
        ({"seds": [1]}, "Did you mean 'seed"),
    ],
)
def test_seeds_that_cannot_be_are_refused(fit: dict[str, Any], said: str) -> None:
    assert said in complaint(changed("explainers", value=[fitted(**fit)]))


def test_a_checkpoint_takes_the_place_of_a_fit_and_its_parameters() -> None:
    entry = {"name": "class-mean", "checkpoint": "somewhere"}
    assert parse_suite(changed("explainers", value=[entry])).explainers[0].checkpoint == "somewhere"
    for more in ({"fit": {"name": "toy"}}, {"parameters": {"n_frames": 8}}):
        assert "brings its own parameters" in complaint(changed("explainers", value=[{**entry, **more}]))


# --- suites that extend others


def test_a_suite_that_extends_another_has_all_of_it_and_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "earwitness:quick"\nname = "mine"\nseed = 3\n'
        '[[explainers]]\nname = "earwitness:smoothgrad"\n'
        '[[metrics]]\nname = "earwitness:matched-budget-soft"\nparameters = { budgets = [0.5, 0.6] }\n'
    )
    mine, quick = load_suite(path), load_suite("quick")
    assert (mine.name, mine.seed, mine.chunk_size, mine.arenas) == ("mine", 3, quick.chunk_size, quick.arenas)
    assert [entry.title for entry in mine.explainers] == [*(e.title for e in quick.explainers), "smoothgrad"]
    budgets = {metric.name: metric.parameters.get("budgets") for metric in mine.metrics}
    assert sorted(budgets) == sorted(metric.name for metric in quick.metrics)
    assert budgets["earwitness:matched-budget-soft"] == [0.5, 0.6]  # it takes the place of the other


def test_suites_extend_files_beside_them_and_these_others(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.toml").write_text('extends = "../c.toml"\nseed = 2\n')
    (tmp_path / "c.toml").write_text('extends = "quick"\nname = "c"\nseed = 1\nchunk_size = 3\n')
    (tmp_path / "a.toml").write_text('extends = "inner/b.toml"\nsummary = "a"\n')
    suite = load_suite(tmp_path / "a.toml")
    assert (suite.name, suite.summary, suite.seed, suite.chunk_size) == ("c", "a", 2, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('extends = "a.toml"', "extends itself"),
        ('extends = "nothing.toml"', "There is no suite file nothing.toml"),
        ("extends = 3", "'extends' is the name of a suite"),
        ('extends = "quick"\n[[explainers]]\nnam = "x"', "Did you mean 'name'"),
        ('extends = "quick"\nexplainers = 3', "explainers"),
    ],
)
def test_an_extension_that_cannot_be_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        load_suite(tmp_path / "a.toml")
