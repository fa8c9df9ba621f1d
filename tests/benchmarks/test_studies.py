"""Studies: cells that are computed once, and the cross-class matrix, worked out a second time clip by clip."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from earwitness import hookimpl
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Batch, Clip
from earwitness.context import Context
from earwitness.errors import ConfigurationError, EarwitnessError
from earwitness.explanation import Explanation, Parts, Relevance
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import ExplainerSpec
from earwitness_bench.metrics.patch_flipping import ThesisAUPC
from earwitness_bench.store import Store
from earwitness_bench.studies import cross_class
from earwitness_bench.studies.cells import Cell, run_cells
from earwitness_bench.studies.cross_class import COLUMNS, NAME, Design, run_cross_class
from earwitness_bench.studies.figures import Matrix, draw_matrices
from earwitness_bench.studies.material import Material
from networks import LABELS, N_SAMPLES, RATE, classifier_of

CALLS: Counter[str] = Counter()
CLASSIFIER = classifier_of()


@pytest.fixture(autouse=True)
def _counted() -> None:
    CALLS.clear()


def silent(done: int, total: int, text: str) -> None:
    """No progress."""


# --- cells


def cells_of(*numbers: int, fail_at: int | None = None, error: BaseException | None = None) -> list[Cell]:
    """Cells that square a number, and count."""

    def compute(number: int) -> dict[str, Any]:
        if number == fail_at:
            raise error or RuntimeError("out of luck")
        CALLS["computed"] += 1
        return {"square": number**2, "nothing": None}

    return [Cell(f"cell {n}", {"number": n}, lambda n=n: compute(n)) for n in numbers]  # type: ignore[misc]


def test_cells_are_computed_once_and_come_back_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    first = run_cells(store, "squares", cells_of(1, 2, 3), silent)
    again = run_cells(store, "squares", cells_of(3, 2, 1, 4), silent)
    assert (first.computed, first.found, again.computed, again.found) == (3, 0, 1, 3)
    assert [found["square"] for found in again.results if found] == [9, 4, 1, 16]
    assert CALLS["computed"] == 4
    assert run_cells(store, "cubes", cells_of(1), silent).found == 0  # another study


def test_a_study_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    with pytest.raises(KeyboardInterrupt):
        run_cells(store, "squares", cells_of(1, 2, 3, fail_at=3, error=KeyboardInterrupt()), silent)
    assert run_cells(store, "squares", cells_of(1, 2, 3), silent).computed == 1


def test_a_cell_that_fails_is_named_costs_only_itself_and_is_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    ran = run_cells(store, "squares", cells_of(1, 2, 3, fail_at=2), silent)
    assert ran.failed == ("cell 2: RuntimeError: out of luck",)
    assert [found and found["square"] for found in ran.results] == [1, None, 9]
    mended = run_cells(store, "squares", cells_of(1, 2, 3), silent)
    assert (mended.failed, mended.computed, mended.found) == ((), 1, 2)


def test_a_damaged_cell_is_computed_again(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    run_cells(store, "squares", cells_of(1, 2), silent)
    path = sorted(tmp_path.glob("cells/study/*/*.json"))[0]
    path.write_text(path.read_text().replace('"square"', '"sqare"'))
    again = run_cells(store, "squares", cells_of(1, 2), silent)
    assert (again.computed, again.found) == (1, 1)


def test_progress_ends_with_all_cells(tmp_path: Path) -> None:
    said = []
    run_cells(Store(tmp_path, create=True), "squares", cells_of(5, 6), lambda *report: said.append(report))
    assert said == [(0, 2, "cell 5"), (1, 2, "cell 6"), (2, 2, "squares")]


# --- the cross-class matrix


class ByClass:
    """Two parts: halves of the features times a clip's own map, cut at a band that was 'fitted' to the class."""

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale, self.cuts = scale, {}

    def fit(self, classifier: Any, train: Any, *, validation: Any, random: int, workspace: Any, progress: Any) -> None:
        CALLS["fit"] += 1
        self.cuts = {index: torch.tensor([3.0 + 4 * index]) for index in range(len(classifier.labels))}

    def state(self) -> dict[str, Tensor]:
        return {"scale": torch.tensor([self.scale]), **{f"{index}/cut": cut for index, cut in self.cuts.items()}}

    def load_state(self, state: Any) -> ByClass:
        assert float(state["scale"]) == self.scale
        self.cuts = {int(name.split("/")[0]): values for name, values in state.items() if "/" in name}
        return self

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        CALLS["explain"] += 1
        values = classifier.features(batch.waveforms)[:, 0] * random.normal("own", 16, 32)
        cut = torch.stack([self.cuts[index] for index in target.tolist()])[:, :, None]
        low = (torch.arange(16)[None, :, None] < cut).float()

        def part(number: int) -> Relevance:
            return Relevance(values * (low if number == 0 else 1 - low), "features")

        weights = torch.ones(len(batch), 2)
        return Explanation(
            target, relevance=Relevance(values, "features"), parts=Parts(("low", "high"), weights, weights > 0, part)
        )


class Shared(ByClass):
    """Nothing in its state belongs to a class."""

    def state(self) -> dict[str, Tensor]:
        return {"scale": torch.tensor([self.scale])}


class Never(ByClass):
    """Explains nothing."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        raise EarwitnessError("not today")


class Crashing(ByClass):
    """Explains no clip by what was fitted to the last class."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        if any(float(cut) == 11 for cut in self.cuts.values()):
            raise EarwitnessError("not this one")
        return super().explain(classifier, batch, target=target, random=random)


@pytest.fixture
def registry() -> Registry:
    def explainers() -> Iterator[ExplainerSpec]:
        for name in ("ByClass", "Shared", "Never", "Crashing"):
            yield ExplainerSpec(name=name.lower(), target=f"{__name__}:{name}", summary="A stub.")

    module = types.ModuleType("study_hooks")
    module.earwitness_explainers = hookimpl(explainers)  # type: ignore[attr-defined]
    return Registry(
        [*installed_plugins(allowed=()), Plugin(Origin("stubs", "1.0", "study_hooks"), "s", lambda: module)]
    )


def clips(first: int, count: int = 9, labels: tuple[str, ...] = LABELS) -> ClipList:
    made = []
    for number in range(first, first + count):
        samples = 0.1 * torch.randn(N_SAMPLES, generator=torch.Generator().manual_seed(number))
        made.append(Clip(samples, RATE, f"clip-{number}", labels=(labels[number % len(labels)],)))
    return ClipList(made, labels=labels)


def run(out: Path, registry: Registry, **changes: Any) -> Any:
    settings = {"explainer": "byclass", "parameters": {}, "clips_per_class": 2, "seed": 0, "chunk_size": 8}
    design = Design(**{**settings, **{name: changes.pop(name) for name in settings if name in changes}})
    material = Material(CLASSIFIER, changes.pop("dataset", clips(100)), registry)
    return run_cross_class(design, out, **{"material": material, "train": clips(0), "progress": silent, **changes})


class Quick:
    """Stands in for the metric where its numbers do not matter."""

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        return {name: torch.arange(len(context.batch)).float() for name in COLUMNS}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_class, "ThesisAUPC", Quick)
    monkeypatch.setattr(cross_class, "_draw", lambda path, document, classifier: None)


def test_each_number_is_that_of_the_clips_own_maps_in_the_other_classs_parts(
    tmp_path: Path, registry: Registry
) -> None:
    document, _ = run(tmp_path, registry)
    check_means_and_advantage(document)
    data = clips(100)
    assert document["rows"] == document["columns"] == list(LABELS)
    for row, column in ((0, 0), (2, 1)):
        for place, number in enumerate([n for n in range(9) if LABELS[row] in data[n].labels][:2]):
            batch = Batch.of([data[number]])
            explainer = ByClass()
            explainer.cuts = {row: torch.tensor([3.0 + 4 * column])}
            random = Random(0, batch.clip_ids)
            explanation = explainer.explain(CLASSIFIER, batch, target=torch.tensor([row]), random=random)
            parted = ThesisAUPC().score(explanation, Context(CLASSIFIER, batch, explanation, random=random))
            whole = Explanation(explanation.target, relevance=explanation.relevance)
            plain = ThesisAUPC().score(whole, Context(CLASSIFIER, batch, whole, random=random))
            wanted = {
                "delta_aupc_thesis": plain["aupc_thesis"] - parted["aupc_thesis"],
                "delta_aupc_true_fraction": plain["aupc_true_fraction"].area() - parted["aupc_true_fraction"].area(),
            }
            for name, values in wanted.items():
                found = document["scores"][name]["of_each_clip"][row][column][place]
                assert found == pytest.approx(float(values[0]), abs=1e-5), (row, column, name)


def check_means_and_advantage(document: dict[str, Any]) -> None:
    """The matrix holds means over clips, and the advantage compares a class's own subspaces with the others'."""
    for scores in document["scores"].values():
        per_clip = np.array(scores["of_each_clip"])
        assert np.allclose(np.array(scores["matrix"]), per_clip.mean(2))
        for row in range(3):
            others = [column for column in range(3) if column != row]
            gain = per_clip[row, row] - per_clip[row, others].mean(0)
            assert scores["advantage"][row]["mean"] == pytest.approx(gain.mean())
            low, high = scores["advantage"][row]["interval"]
            assert gain.min() - 1e-9 <= low <= gain.mean() <= high <= gain.max() + 1e-9


def test_it_writes_its_document_and_figures_and_a_rerun_computes_nothing(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_class, "ThesisAUPC", Quick)
    document, ran = run(tmp_path, registry)
    assert (ran.computed, ran.found, ran.failed) == (9, 0, ())
    assert json.loads((tmp_path / f"{NAME}.json").read_text()) == json.loads(json.dumps(document))
    assert (tmp_path / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{NAME}.svg").read_text().count("<svg") == 1
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again, more = run(tmp_path, registry)
    assert (more.computed, more.found) == (0, 9)
    assert (CALLS["fit"], again) == (1, document)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"seed": 1}, 9),
        ({"chunk_size": 1}, 9),
        ({"parameters": {"scale": 2.0}}, 9),
        ({"clips_per_class": 1}, 9),
        ({"dataset": clips(200)}, 9),
        ({"dataset": clips(100, 12)}, 0),  # the first two of each class are the same
    ],
)
def test_whatever_can_change_a_number_is_computed_anew(
    tmp_path: Path, registry: Registry, quick: None, change: dict[str, Any], computed: int
) -> None:
    run(tmp_path, registry)
    _, ran = run(tmp_path, registry, **change)
    assert ran.computed == computed


@pytest.mark.usefixtures("quick")
def test_a_cell_that_fails_is_named_and_leaves_a_gap(tmp_path: Path, registry: Registry) -> None:
    document, ran = run(tmp_path, registry, explainer="crashing")
    assert len(ran.failed) == 3
    assert ran.failed[0] == f"{LABELS[0]} by the subspaces of {LABELS[2]}: not this one"
    scores = next(iter(document["scores"].values()))
    assert [row[2] for row in scores["matrix"]] == [None] * 3
    assert scores["advantage"] == [None] * 3


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="shared has nothing of any class"):
        run(tmp_path / "a", registry, explainer="shared")
    with pytest.raises(ConfigurationError, match="3 clips are both fitted to and flipped, such as 'clip-6'"):
        run(tmp_path / "b", registry, dataset=clips(6))
    with pytest.raises(ConfigurationError, match="no clip of a class with subspaces: dog, rain, clock"):
        run(tmp_path / "c", registry, dataset=clips(100, labels=("cat",)))
    with pytest.raises(EarwitnessError, match="No cell of cross-class could be computed"):
        run(tmp_path / "d", registry, explainer="never")


def test_a_matrix_with_gaps_is_drawn(tmp_path: Path) -> None:
    empty = Matrix("nothing", [[None, None]], ["a"], ["b", "c"])
    some = Matrix("some", [[1.0, None], [-2.0, math.pi]], ["a", "d"], ["b", "c"])
    paths = draw_matrices(tmp_path / "m", [empty, some], title="t", row_axis="r", column_axis="c")
    assert [path.name for path in paths] == ["m.png", "m.svg"]


# --- the command


@pytest.mark.usefixtures("quick")
def test_the_command_exchanges_real_subspaces_and_says_what_it_found(tmp_path: Path) -> None:
    words = "study cross-class --classifier toy-cnn --dataset toy --dataset-param split=test --dataset-param clips=2"
    words += " --fit-param split=train --fit-param clips=8 --param layer=features.10 --param restarts=1 --param k=2"
    done = CliRunner().invoke(shell, [*words.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "4 cells computed, 0 found" in done.output
    assert "delta_aupc_true_fraction, by the subspaces of (columns)" in done.output
    document = json.loads(CliRunner().invoke(shell, [*words.split(), "--json", "--out", str(tmp_path)]).stdout)
    assert (document["rows"], document["computed"], document["found"]) == (["class1", "class2"], 0, 4)


def test_the_help_of_a_study_leaves_torch_unimported() -> None:
    code = (
        "import sys\nfrom earwitness.cli.shell import shell\n"
        "shell(['study', 'cross-class', '--help'], prog_name='earwitness', standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "flipped in the order of the parts" in " ".join(done.stdout.split())
