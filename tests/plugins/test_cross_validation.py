"""Cross-validation: folds take turns as stated, every result is kept, none is trained twice, and the table is right."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import apnet_toy
from earwitness.artifacts import load_tensors
from earwitness.clips import Dataset
from earwitness.errors import ConfigurationError, DatasetError, StoreError
from earwitness.fitting import load_trained
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_plugins.classifiers import cross_validation_figure
from earwitness_plugins.classifiers.architectures import ARCHITECTURES
from earwitness_plugins.classifiers.cross_validation import Result, Series, read_results
from earwitness_plugins.classifiers.cross_validation_table import as_csv, as_document, as_text, make_table
from earwitness_plugins.classifiers.folds import Fold, FoldedData, rotation
from earwitness_plugins.classifiers.learners import Learnt, learner
from earwitness_plugins.classifiers.toy_cnn import TOY_LABELS, ToyCNN, toy_front_end
from earwitness_plugins.classifiers.training import train_network
from folded_sounds import folded_registry, pairs, tones

FIVE = (1, 2, 3, 4, 5)
SMALL = {"model": apnet_toy.MODEL, "training": {**apnet_toy.TRAINING, "epochs": 4}}


@pytest.fixture(scope="module")
def plugins() -> Registry:
    return folded_registry()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(done: int, total: int, text: str) -> None:
    pass


class Fake:
    """Learns nothing; its accuracy on fold k is k / 10. Counts, and stops where it is told to."""

    device = "cpu"

    def __init__(self, size: int = 3, stops_at: int | None = None) -> None:
        self.size, self.stops_at, self.trained = size, stops_at, []  # type: ignore[var-annotated]

    def settings(self) -> dict[str, Any]:
        return {"size": self.size, "steps": (1, 2)}

    def learn(self, data: Mapping[str, Dataset], folder: Path, *, seed: int, progress: Progress) -> Learnt:
        number = int(data["test"].entries[0].clip_id.split("-")[1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint").touch()
        if number == self.stops_at:
            raise KeyboardInterrupt
        self.trained.append((seed, number))
        return Learnt({"validation": 0.5, "test": number / 10}, 7, self.size, 1.5)

    def tidy(self, folder: Path) -> None:
        (folder / "checkpoint").unlink(missing_ok=True)


def paired(plugins: Registry, folds: tuple[int, ...] = FIVE, **parameters: Any) -> FoldedData:
    return FoldedData("pairs", parameters, folds, plugins)


# --- the rotation


@pytest.mark.parametrize("folds", [FIVE, (1, 2, 3), (7, 2, 9, 4)])
def test_every_fold_tests_once_and_selects_once_and_trains_otherwise(folds: tuple[int, ...]) -> None:
    turns = rotation(folds)
    assert [turn.test for turn in turns] == list(folds)
    circle = list(itertools.islice(itertools.cycle(folds), 3 * len(folds)))
    for turn in turns:
        assert circle[circle.index(turn.test, len(folds)) - 1] == turn.validation
        assert sorted([turn.test, turn.validation, *turn.train]) == sorted(folds)
    assert sorted(turn.validation for turn in turns) == sorted(folds)


def test_fold_five_is_tested_as_everywhere_in_the_project() -> None:
    last = rotation(FIVE)[-1]
    assert {split: {"folds": last.of(split)} for split in ("train", "validation", "test")} == ARCHITECTURES[
        "esc10-cnn"
    ].data
    assert rotation(FIVE)[0] == Fold(test=1, validation=5, train=(2, 3, 4))


@pytest.mark.parametrize("folds", [(1, 2), (1,), (1, 2, 2)])
def test_fewer_than_three_different_folds_are_refused(folds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least three folds, each once"):
        rotation(folds)


def test_a_turn_has_the_clips_of_its_folds(plugins: Registry) -> None:
    splits = paired(plugins, clips=2).load(Fold(2, 1, (3, 4, 5)))
    ids = {split: [entry.clip_id for entry in dataset.entries] for split, dataset in splits.items()}
    assert ids["test"] == ["pair-2-0", "pair-2-1"]
    assert ids["validation"] == ["pair-1-0", "pair-1-1"]
    assert ids["train"] == [f"pair-{fold}-{n}" for fold in (3, 4, 5) for n in (0, 1)]


# --- what is kept


def test_every_fold_is_kept_at_once_and_none_is_trained_twice(plugins: Registry, tmp_path: Path) -> None:
    first = Fake(stops_at=3)
    series = Series(tmp_path, "A fake, say", first, paired(plugins))
    for fold in rotation(FIVE)[:2]:
        series.validate(fold, seed=0, progress=quiet)
    with pytest.raises(KeyboardInterrupt):
        series.validate(rotation(FIVE)[2], seed=0, progress=quiet)
    assert first.trained == [(0, 1), (0, 2)]
    assert [result.fold.test for result in read_results(tmp_path)] == [1, 2]
    assert (tmp_path / "a-fake-say" / "seed-0-fold-3" / "checkpoint").exists()

    again = Fake()
    series = Series(tmp_path, "A fake, say", again, paired(plugins))
    done = [series.validate(fold, seed=0, progress=quiet) for fold in rotation(FIVE)]
    assert again.trained == [(0, 3), (0, 4), (0, 5)]
    assert read_results(tmp_path) == done
    assert not list(tmp_path.glob("**/checkpoint"))
    series.validate(rotation(FIVE)[4], seed=1, progress=quiet)
    assert again.trained[3:] == [(1, 5)]


def test_a_result_says_what_it_is_of(plugins: Registry, tmp_path: Path) -> None:
    series = Series(tmp_path, "fake", Fake(), paired(plugins, clips=2))
    series.validate(rotation(FIVE)[4], seed=3, progress=quiet)
    stored = json.loads((tmp_path / "fake" / "seed-3-fold-5" / "result.json").read_text())
    assert stored["accuracy"] == {"validation": 0.5, "test": 0.5}
    assert stored["clips"] == {"train": 6, "validation": 2, "test": 2}
    assert stored["fold"] == {"test": 5, "validation": 4, "train": [1, 2, 3]}
    assert (stored["epoch"], stored["n_parameters"], stored["seconds"], stored["seed"]) == (7, 3, 1.5, 3)
    assert stored["settings"] == {
        "network": {"size": 3, "steps": [1, 2]},
        "data": {"dataset": "folded:pairs", "parameters": {"clips": 2, "classes": 1}, "folds": [1, 2, 3, 4, 5]},
    }


def test_other_settings_under_the_same_label_are_refused(plugins: Registry, tmp_path: Path) -> None:
    Series(tmp_path, "fake", Fake(), paired(plugins)).validate(rotation(FIVE)[0], seed=0, progress=quiet)
    with pytest.raises(StoreError, match=r"other settings: network\.size was 3 and is 4 now.*--label of its own"):
        Series(tmp_path, "fake", Fake(size=4), paired(plugins))
    with pytest.raises(StoreError, match=r"data\.parameters\.clips was 4 and is 6 now"):
        Series(tmp_path, "fake", Fake(), paired(plugins, clips=6))
    with pytest.raises(StoreError, match=r"holds the results of 'fake'; 'FAKE!' would be kept in the same place"):
        Series(tmp_path, "FAKE!", Fake(), paired(plugins))
    Series(tmp_path, "other", Fake(size=4), paired(plugins))


def test_an_unfinished_training_binds_its_label_and_a_refused_one_does_not(plugins: Registry, tmp_path: Path) -> None:
    class Refuses(Fake):
        def learn(self, *_: Any, **__: Any) -> Learnt:
            raise DatasetError("no such class")

    with pytest.raises(DatasetError):
        Series(tmp_path, "a", Refuses(), paired(plugins)).validate(rotation(FIVE)[0], seed=0, progress=quiet)
    Series(tmp_path, "a", Fake(size=4), paired(plugins))
    with pytest.raises(KeyboardInterrupt):
        Series(tmp_path, "a", Fake(4, stops_at=1), paired(plugins)).validate(rotation(FIVE)[0], seed=0, progress=quiet)
    with pytest.raises(StoreError, match=r"network\.size was 4 and is 3 now"):
        Series(tmp_path, "a", Fake(), paired(plugins))


def test_another_number_of_threads_is_refused_whether_a_fold_is_done_or_half_done(
    plugins: Registry, tmp_path: Path
) -> None:
    """Sums in another order have other last bits, so the folds of one network would be of several."""
    first, second = rotation(FIVE)[:2]
    said = r"number of threads: it was 1 and is 2 now.*Go on with --threads 1, or give this one a --label"
    Series(tmp_path, "done", Fake(), paired(plugins)).validate(first, seed=0, progress=quiet)
    with pytest.raises(KeyboardInterrupt):
        Series(tmp_path, "half", Fake(stops_at=1), paired(plugins)).validate(first, seed=0, progress=quiet)
    open_already = Series(tmp_path, "done", Fake(), paired(plugins))
    torch.set_num_threads(2)
    for label in ("done", "half"):
        with pytest.raises(StoreError, match=said):
            Series(tmp_path, label, Fake(), paired(plugins))
    with pytest.raises(StoreError, match=said):
        open_already.validate(first, seed=0, progress=quiet)
    other = Series(tmp_path, "other", Fake(), paired(plugins)).validate(first, seed=0, progress=quiet)
    assert other.threads == 2
    torch.set_num_threads(1)
    for label in ("done", "half"):
        assert Series(tmp_path, label, Fake(), paired(plugins)).validate(second, seed=0, progress=quiet).threads == 1


def test_a_folder_without_a_record_of_threads_goes_on_with_those_that_it_is_given(
    plugins: Registry, tmp_path: Path
) -> None:
    """As folders were before there was one; results always had theirs."""
    first, second = rotation(FIVE)[:2]
    Series(tmp_path, "done", Fake(), paired(plugins)).validate(first, seed=0, progress=quiet)
    with pytest.raises(KeyboardInterrupt):
        Series(tmp_path, "half", Fake(stops_at=1), paired(plugins)).validate(first, seed=0, progress=quiet)
    for label in ("done", "half"):
        path = tmp_path / label / "settings.json"
        document = json.loads(path.read_text())
        assert document.pop("threads") == 1
        path.write_text(json.dumps(document))
    torch.set_num_threads(2)
    with pytest.raises(StoreError, match="it was 1 and is 2 now"):
        Series(tmp_path, "done", Fake(), paired(plugins))
    fake = Fake(stops_at=2)
    half = Series(tmp_path, "half", fake, paired(plugins))
    assert half.validate(first, seed=0, progress=quiet).threads == 2
    with pytest.raises(KeyboardInterrupt):
        half.validate(second, seed=0, progress=quiet)
    torch.set_num_threads(1)
    with pytest.raises(StoreError, match="it was 2 and is 1 now"):
        Series(tmp_path, "half", Fake(), paired(plugins))
    done = Series(tmp_path, "done", Fake(), paired(plugins))
    assert [done.validate(fold, seed=0, progress=quiet).threads for fold in (first, second)] == [1, 1]


def test_results_on_other_data_or_folds_do_not_come_into_one_folder(plugins: Registry, tmp_path: Path) -> None:
    Series(tmp_path, "a", Fake(), paired(plugins)).validate(rotation(FIVE)[0], seed=0, progress=quiet)
    with pytest.raises(StoreError, match=r"folded:pairs in folds \[1, 2, 3, 4, 5\] and folded:tones in folds"):
        Series(tmp_path, "b", Fake(), FoldedData("tones", {}, FIVE, plugins))
    with pytest.raises(StoreError, match=r"cannot be compared fold by fold.*\[1, 2, 3\]"):
        Series(tmp_path, "b", Fake(), paired(plugins, (1, 2, 3)))


def test_results_on_other_clips_of_a_fold_are_refused_before_the_training(plugins: Registry, tmp_path: Path) -> None:
    """Differences fold by fold mean nothing unless the folds have the same clips."""
    fold = rotation(FIVE)[0]
    Series(tmp_path, "a", Fake(), paired(plugins, clips=4)).validate(fold, seed=0, progress=quiet)
    fake = Fake()
    said = r"test fold 1, the train and validation and test clips of 'b' are not those of 'a'"
    with pytest.raises(StoreError, match=said):
        Series(tmp_path, "b", fake, paired(plugins, clips=2)).validate(fold, seed=0, progress=quiet)
    assert fake.trained == []
    Series(tmp_path, "b", fake, paired(plugins, clips=4)).validate(fold, seed=0, progress=quiet)
    path = tmp_path / "b" / "seed-0-fold-1" / "result.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "data": {**document["data"], "test": "another"}}))
    with pytest.raises(StoreError, match=r"test fold 1, the test clips of 'b'"):
        read_results(tmp_path)


def test_a_damaged_result_is_named(plugins: Registry, tmp_path: Path) -> None:
    series = Series(tmp_path, "a", Fake(), paired(plugins))
    series.validate(rotation(FIVE)[0], seed=0, progress=quiet)
    path = tmp_path / "a" / "seed-0-fold-1" / "result.json"
    document = json.loads(path.read_text())
    for broken in ('{"schema": 1', json.dumps({**document, "schema": 9}), json.dumps({**document, "fold": None})):
        path.write_text(broken)
        with pytest.raises(StoreError, match=r"result\.json is damaged.*Remove it and give the command again"):
            read_results(tmp_path)
        with pytest.raises(StoreError, match="is damaged"):
            series.result(rotation(FIVE)[0], seed=0)


@pytest.mark.parametrize("label", ["", " ", "—", "two\nlines", 101 * "x"])
def test_a_label_without_a_name_for_its_folder_is_refused(plugins: Registry, tmp_path: Path, label: str) -> None:
    with pytest.raises(ConfigurationError, match="A label is a line of text"):
        Series(tmp_path, label, Fake(), paired(plugins))


# --- data that cannot be rotated


def test_clips_of_no_class_or_several_are_refused(plugins: Registry) -> None:
    for classes, said in ((0, r"\(none\)"), (2, r"\(class1, class2\)")):
        with pytest.raises(DatasetError, match=rf"12 of 12 train clips have not exactly one class.*{said}"):
            paired(plugins, classes=classes).load(rotation(FIVE)[0])


def test_a_clip_that_tests_and_trains_is_refused(plugins: Registry) -> None:
    with pytest.raises(DatasetError, match=r"2 clips of fold 2.*heard in training"):
        FoldedData("leaking", {}, FIVE, plugins).load(rotation(FIVE)[1])


def test_a_clip_that_trains_and_selects_is_refused(plugins: Registry) -> None:
    with pytest.raises(
        DatasetError, match=r"4 clips of fold 2, such as 'pair-2-0', are in folds \[2, 3\] too: the epoch"
    ):
        paired(plugins).load(Fold(test=1, validation=2, train=(2, 3)))
    with pytest.raises(DatasetError, match=r"4 clips of fold 1, such as 'pair-1-0'.*heard in training"):
        paired(plugins).load(Fold(test=1, validation=1, train=(2, 3)))


def test_a_data_set_without_folds_is_refused(plugins: Registry) -> None:
    with pytest.raises(ConfigurationError, match="'toy' has no folds"):
        FoldedData("toy", {}, FIVE, plugins)
    with pytest.raises(ConfigurationError, match=r"leave folds=\[5\] out"):
        FoldedData("pairs", {"folds": [5]}, FIVE, plugins)
    with pytest.raises(ConfigurationError, match="has no parameter 'clip'"):
        paired(plugins, clip=3)


# --- real trainings


def stopping(folder: Path) -> Progress:
    """Kills the training as soon as there is something to go on from."""

    def report(done: int, total: int, text: str) -> None:
        if list(folder.glob("**/checkpoint.safetensors")):
            raise KeyboardInterrupt

    return report


def test_an_architecture_is_trained_by_its_recipe_and_goes_on_where_it_was_killed(
    plugins: Registry, tmp_path: Path
) -> None:
    """Compared with the training loop itself, on clips that were picked by hand."""
    recipe = learner("toy-cnn", plugins=plugins, parameters={"epochs": 2}, device="cpu")
    series = Series(tmp_path, "toy-cnn", recipe, paired(plugins, (1, 2, 3), clips=8))
    fold, place = rotation((1, 2, 3))[2], tmp_path / "toy-cnn" / "seed-4-fold-3"
    with pytest.raises(KeyboardInterrupt):
        series.validate(fold, seed=4, progress=stopping(place))
    epochs: list[int] = []
    found = series.validate(fold, seed=4, progress=lambda done, total, _: epochs.append(done) if total else None)
    assert epochs == [2]
    assert sorted(path.name for path in place.iterdir()) == ["result.json", "weights.safetensors"]

    clips = {number: by_hand(pairs(folds=[number], clips=8)) for number in (1, 2, 3)}
    chosen = ARCHITECTURES["toy-cnn"].for_epochs(2)
    expected = train_network(ToyCNN(), toy_front_end(), *clips[1], recipe=chosen.recipe, seed=4, validation=clips[2])
    weights = load_tensors(place / "weights.safetensors")[0]
    assert all(torch.equal(weights[name], value) for name, value in expected.state_dict.items())
    network = ToyCNN().eval()
    network.load_state_dict(weights)
    for split, number in (("validation", 2), ("test", 3)):
        right = [int(network(toy_front_end()(w[None])).argmax()) == int(c) for w, c in zip(*clips[number], strict=True)]
        assert found.learnt.accuracy[split] == sum(right) / 8
    assert found.learnt.epoch == expected.epoch
    assert found.learnt.n_parameters == 8234  # the thesis' number
    assert found.settings["network"]["recipe"]["epochs"] == 2


def by_hand(clips: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    classes = [TOY_LABELS.index(entry.labels[0]) for entry in clips.entries]
    return torch.stack([clips[i].waveform for i in range(len(clips))]), torch.tensor(classes)


def test_a_classifier_that_explains_itself_is_trained_with_its_parameters_and_goes_on(
    plugins: Registry, tmp_path: Path
) -> None:
    recipe = learner("apnet", plugins=plugins, parameters=SMALL, device="cpu")
    series = Series(tmp_path, "apnet", recipe, FoldedData("tones", {}, (1, 2, 3), plugins))
    fold, place = rotation((1, 2, 3))[0], tmp_path / "apnet" / "seed-0-fold-1"
    with pytest.raises(KeyboardInterrupt):
        series.validate(fold, seed=0, progress=stopping(place))
    found = series.validate(fold, seed=0, progress=quiet)
    assert found.clips == {"train": 6, "validation": 6, "test": 6}
    assert found.settings["network"]["parameters"]["model"]["n_mels"] == 16

    kept = load_trained(plugins, place / "trained")
    whole = apnet_toy.train_apnet(
        tmp_path / "whole", train=tones(folds=[2]), validation=tones(folds=[3]), parameters=SMALL
    )
    assert torch.equal(kept.trained.network.prototypes, whole.trained.network.prototypes)  # type: ignore[attr-defined]
    classifier = whole.as_classifier()
    assert found.learnt.n_parameters == sum(p.numel() for p in classifier.network.parameters()) == whole.n_parameters
    assert found.learnt.epoch == whole.epoch
    for split, number in (("test", 1), ("validation", 3)):
        clips = tones(folds=[number])
        decided = [int(classifier.logits(clips[i].waveform[None]).argmax()) for i in range(6)]
        assert found.learnt.accuracy[split] == np.mean([apnet_toy.LABELS[d] == clips.entries[i].labels[0]
                                                        for i, d in enumerate(decided)])  # fmt: skip


# --- the table


def result(label: str, seed: int, test: int, accuracy: float, size: int = 10) -> Result:
    settings = {"network": {}, "data": {"dataset": "d", "parameters": {}, "folds": list(FIVE)}}
    learnt = Learnt({"validation": 0.0, "test": accuracy}, 1, size, 0.0)
    return Result(label, seed, rotation(FIVE)[test - 1], learnt, {}, {}, settings, 1, "cpu")


@pytest.fixture
def results() -> list[Result]:
    """Two networks with all folds, one of them with two seeds; one with two lucky folds; one with a single one."""
    draw = random.Random(0)
    made = [result("b", 0, k, draw.random(), 2000) for k in FIVE]
    made += [result("a", seed, k, draw.random()) for k in FIVE for seed in (0, 7)]
    made += [result("lucky", 0, k, 1.0) for k in (4, 2)] + [result("single", 3, 5, 0.25)]
    draw.shuffle(made)
    return made


def test_means_deviations_and_paired_differences_are_those_of_numpy(results: list[Result]) -> None:
    document = as_document(make_table(results))
    accuracies = {
        label: np.array([
            np.mean([r.learnt.accuracy["test"] for r in results if r.label == label and r.fold.test == k] or [np.nan])
            for k in FIVE
        ])
        for label in ("a", "b", "lucky", "single")
    }  # fmt: skip
    best = max(("a", "b"), key=lambda label: accuracies[label].mean())
    assert document["best"] == best
    other = {"a": "b", "b": "a"}[best]
    assert [row["label"] for row in document["networks"]] == [best, other, "lucky", "single"]
    for row in document["networks"]:
        own = accuracies[row["label"]]
        assert row["accuracy"]["mean"] == pytest.approx(np.nanmean(own))
        assert row["folds_done"] == np.isfinite(own).sum() == len(row["accuracy"]["by_fold"])
        spread = row["accuracy"]["standard_deviation"]
        assert spread is None if row["label"] == "single" else spread == pytest.approx(np.nanstd(own, ddof=1))
        differences = own - accuracies[best]
        assert row["difference_to_best"]["mean"] == pytest.approx(np.nanmean(differences))
        shown = [row["difference_to_best"]["by_fold"].get(str(k), np.nan) for k in FIVE]
        np.testing.assert_allclose(shown, differences)
    assert next(row for row in document["networks"] if row["label"] == "a")["seeds"] == [0, 7]


def test_the_csv_file_says_the_same(results: list[Result]) -> None:
    table = make_table(results)
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(as_csv(table)))}
    for facts in as_document(table)["networks"]:
        row = rows[facts["label"]]
        assert float(row["accuracy"]) == facts["accuracy"]["mean"]
        assert float(row["difference_to_best"]) == facts["difference_to_best"]["mean"]
        assert int(row["parameters"]) == facts["parameters"]
        for k in FIVE:
            assert row[f"accuracy_fold_{k}"] == str(facts["accuracy"]["by_fold"].get(str(k), ""))
            assert row[f"difference_fold_{k}"] == str(facts["difference_to_best"]["by_fold"].get(str(k), ""))
    assert rows["single"]["standard_deviation"] == ""


def test_people_read_percents_and_what_is_missing() -> None:
    made = [result("x", 0, k, accuracy, 1234567) for k, accuracy in zip(FIVE, (0.8, 0.9, 0.8, 0.9, 0.85), strict=True)]
    made += [result("y", 0, 2, 0.8), result("y", 0, 3, 0.9)]
    head, first, second, note = as_text(make_table(made)).splitlines()
    columns = ("network parameters folds seeds accuracy in %", *(f"fold {k}" for k in FIVE), "to the best")
    assert head.split() == " ".join(columns).split()
    assert first.split() == ["x", "1,234,567", "5/5", "1", "85.0", "±", "5.0", "80.0", "90.0", "80.0", "90.0", "85.0",
                             "best"]  # fmt: skip
    assert second.split() == ["y", "10", "2/5", "1", "85.0", "±", "7.1", "–", "80.0", "90.0", "–", "–", "+0.0",
                              "(on", "2)"]  # fmt: skip
    assert "standard deviation over folds" in note


def test_the_figure_has_a_dot_for_each_fold_and_a_line_at_each_mean(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(cross_validation_figure, "save_figure", lambda figure, path: drawn.append(figure))
    table = make_table([*results, result("costs $5 or $6", 0, 1, 0.5)])
    cross_validation_figure.draw_cross_validation(tmp_path / "x.png", table, title="t")
    axis = drawn[0].axes[0]
    dots = [float(dot.get_offsets()[0, 0]) for dot in axis.collections]  # type: ignore[index]
    np.testing.assert_allclose(dots, [100 * row.by_fold[k] for row in table.rows for k in FIVE if k in row.by_fold])
    assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([100 * row.mean for row in table.rows])  # type: ignore[index]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[[row.label for row in table.rows].index("b")] == "b\n2,000 parameters"
    assert names[-2] == "costs \\$5 or \\$6\n10 parameters, 1 of 5 folds"
    drawn[0].savefig(tmp_path / "drawn.png")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list("12345")
