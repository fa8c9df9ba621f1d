"""A model that explains itself in a suite: on its own network, beside gradients, in a table of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.loading import load_dataset
from earwitness.registry import registry
from earwitness_bench.leaderboard import FORMATS, Table, make_tables
from earwitness_bench.leaderboard.sections import sections
from earwitness_bench.results import write_parquet
from earwitness_bench.runner import make_plan, run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Arena, Fit, Reference, Suite, load_suite
from handmade import CONTROLS, ROWS, Values, constant, table_of, write

MODEL = {
    "rate": 16000, "n_fft": 1024, "hop_length": 512, "n_mels": 16, "n_frames": 28, "channels": [4, 4, 4],
    "prototypes_per_class": 2,
}  # fmt: skip
TOY = {"split": "test", "clips": 8}


TRAINING = {"epochs": 2, "batch_size": 8, "prototypes": "data", "class_blocks": True}


def toy_suite(**arena: Any) -> Suite:
    """The shipped suite on synthetic sounds, with fewer metrics."""
    parameters = {"model": MODEL, "training": TRAINING}
    settings: dict[str, Any] = {
        "dataset": Reference(name="earwitness:toy", parameters=TOY),
        "classifier": Reference(name="earwitness:apnet", parameters=parameters),
        "train": Fit(name="earwitness:toy", parameters={"clips": 16}),
    }
    metric = Reference(name="earwitness:matched-budget-soft", parameters={"budgets": [0.2, 0.8]})
    changes = {"arenas": (Arena(**{**settings, **arena}),), "metrics": (metric,), "threads": 0}
    return load_suite("by_design").model_copy(update=changes)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run that trains its network, for a second."""
    store = Store(tmp_path_factory.mktemp("results"), create=True)
    with pytest.raises(ConfigurationError, match="has not been trained yet"):
        make_plan(toy_suite(), store, registry=registry())
    assert not run_suite(toy_suite(), store.folder, registry=registry()).failed
    write_parquet(store)
    return store


@pytest.fixture(scope="module")
def network(results: Store) -> Path:
    (folder,) = (results.folder / "fits").glob("apnet-*")
    return folder


@pytest.fixture(scope="module")
def table(results: Store) -> Table:
    return table_of(results)


def test_a_model_explains_itself_in_a_suite_beside_gradients_on_its_network(table: Table) -> None:
    lines = {line.explainer: line for line in table.standings}
    assert lines["apnet"].scope == "by-design"
    assert lines["apnet"].place is None
    ranked = {name for name, line in lines.items() if line.place is not None}
    assert ranked == {"saliency", "input-x-gradient", "integrated-gradients", "gradcam"}
    for name in ("apnet", *ranked):
        assert lines[name].clips == 8
        assert lines[name].values["FF@soft"] is not None
    assert lines["apnet"].values["FF@soft"] != lines["saliency"].values["FF@soft"]


def test_its_accuracy_is_that_of_the_classifier_on_the_clips(table: Table, network: Path) -> None:
    from earwitness import load_classifier

    classifier = load_classifier("earwitness:apnet", parameters={"weights": str(network)})
    data = load_dataset("earwitness:toy", parameters=TOY)
    right = [
        classifier.labels[int(classifier.probabilities(clip.waveform[None]).argmax())] in clip.labels
        for clip in (data[i] for i in range(len(data)))
    ]
    assert table.accuracy == sum(right) / len(right)


def test_it_has_a_table_of_its_own_with_the_accuracy(table: Table) -> None:
    headline, own = list(sections(table))[:2]
    assert headline.heading.startswith("Headline")
    assert "apnet" not in [row[1] for row in headline.rows]
    assert own.heading.startswith("By design")
    accuracy = f"{100 * (table.accuracy or 0):.1f} %"
    assert own.rows[0][:4] == ("explainer", "scope", "accuracy", "above control")
    assert own.rows[1][:3] == ("apnet", "by-design", accuracy)
    assert [row[0] for row in own.rows[1:]] == ["apnet", *(row[1] for row in headline.rows[1:5])]
    for name, write_as in FORMATS.items():
        assert "apnet" in write_as([table]), name


def test_it_is_trained_once_and_again_where_it_is_damaged(results: Store, network: Path) -> None:
    before = (network / "explainer.safetensors").read_bytes()
    assert run_suite(toy_suite(), results.folder, registry=registry()).explained == 0
    assert (network / "explainer.safetensors").read_bytes() == before
    (network / "explainer.safetensors").write_bytes(before[:-9])
    assert run_suite(toy_suite(), results.folder, registry=registry()).explained == 0, "the same network again"
    assert (network / "explainer.safetensors").read_bytes() == before


def test_a_network_that_was_trained_before_will_do(network: Path, tmp_path: Path) -> None:
    def suite(folder: Path) -> Suite:
        trained = Reference(name="earwitness:apnet", parameters={"weights": str(folder)})
        return toy_suite(classifier=trained, train=None)

    assert not run_suite(suite(network), tmp_path / "out", registry=registry()).failed
    with pytest.raises(CheckpointError, match="Fit it first"):
        run_suite(suite(tmp_path / "nowhere"), tmp_path / "none", registry=registry())


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no classifier of its own"):
        run_suite(toy_suite(classifier=Reference(name="earwitness:l2i")), tmp_path, registry=registry())
    with pytest.raises(ValidationError, match="trained once"):
        toy_suite(train=Fit(name="earwitness:toy", seeds=(0, 1)))


def test_where_nothing_explains_itself_or_decisions_are_not_explained_there_is_no_such_table(tmp_path: Path) -> None:
    values: Values = {"apnet": constant(1.0, 0.0), "own": constant(0.5, 3.0), "noise": constant(0.0, 1.0)}
    assert not any(s.heading.startswith("By design") for s in sections(table_of(write(tmp_path / "a", values))))
    scopes = {"apnet": "by-design", "noise": "control"}
    handmade = table_of(write(tmp_path / "b", values, scopes=scopes, identities=CONTROLS))
    (section,) = [s for s in sections(handmade) if s.heading.startswith("By design")]
    assert handmade.accuracy is None
    assert [row[:3] for row in section.rows[1:]] == [("apnet", "by-design", "–"), ("own", "post-hoc", "–")]
    assert handmade.standings[0].clips == ROWS


def test_accuracy_counts_only_clips_whose_class_and_decision_are_known(tmp_path: Path) -> None:
    store = write(tmp_path, {"apnet": constant(1.0, 0.0)}, scopes={"apnet": "by-design"})
    cell = store.read_cell("explain", "e-apnet")
    assert cell is not None
    known = [(["dog"], "dog"), (["cat"], "dog"), (["dog", "cat"], "dog"), ([], "dog"), (["dog"], None)]
    for row, (labels, target) in zip(cell["rows"], known, strict=False):
        row.update(labels=labels, target=target)
    store.write_cell("explain", "e-apnet", cell)
    plan = store.read_plan()
    store.write_plan({**plan, "suite": {"target": "predicted", "seed": 0}})
    (found,) = make_tables(store)
    assert found.accuracy == pytest.approx(2 / 3)
    store.write_plan({**plan, "suite": {"target": "label", "seed": 0}})
    assert make_tables(store)[0].accuracy is None
