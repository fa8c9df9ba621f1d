"""Remove and retrain: what is removed, worked out a second time; who loses evidence; resume; and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from earwitness import hookimpl
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Batch, Clip, Entry
from earwitness.errors import ConfigurationError, EarwitnessError, NotApplicableError, PluginError
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import ClassifierSpec, DatasetSpec, ExplainerSpec
from earwitness_bench.studies.methods import Workbench, chosen
from earwitness_bench.studies.removal import means, ranks, removed, strangers
from earwitness_bench.studies.retraining import Ground
from earwitness_bench.studies.roar import RANDOM, Design, _origins, run_roar
from earwitness_bench.suite import Suite, load_suite, parse_suite
from networks import N_SAMPLES, RATE, Lambda, classifier_of

CALLS: Counter[str] = Counter()
STOP_AT = [0]


@pytest.fixture(autouse=True)
def _counted() -> None:
    CALLS.clear()
    STOP_AT[0] = 0


# --- removing


def test_the_most_relevant_cells_become_the_mean_of_their_band() -> None:
    generator = torch.Generator().manual_seed(0)
    features, maps, ties = (torch.randn(3, 4, 5, generator=generator) for _ in range(3))
    fill = means(features)
    assert torch.allclose(fill[:, 0], features.transpose(0, 1).flatten(1).mean(1))
    kept = removed(features, ranks(maps, ties), 35, fill)
    for clip in range(3):
        order = sorted((-float(maps[clip, m, n]), m, n) for m in range(4) for n in range(5))
        gone = {(m, n) for _, m, n in order[:7]}  # 35 % of 20
        for m in range(4):
            for n in range(5):
                wanted = fill[m, 0] if (m, n) in gone else features[clip, m, n]
                assert float(kept[clip, m, n]) == float(wanted)
    assert torch.equal(removed(features, ranks(maps, ties), 0, fill), features)
    with pytest.raises(ConfigurationError, match="between 0 and 100"):
        removed(features, ranks(maps, ties), 101, fill)


def test_cells_of_equal_relevance_go_in_the_order_of_the_noise() -> None:
    ties = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ranks(torch.zeros(2, 4, 5), ties), ranks(-ties, torch.zeros(2, 4, 5)))
    two_values = (ties > 0.5).float()
    found = ranks(two_values, ties)
    for clip in range(2):
        n_high = int(two_values[clip].sum())
        assert bool((found[clip][two_values[clip] > 0] < n_high).all())
        assert sorted(found[clip].flatten().tolist()) == list(range(20))


def test_a_stranger_is_any_value_that_the_band_has() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 5, generator=generator)
    draws = torch.rand(50, 4, 5, generator=generator)
    found = strangers(features, draws)
    assert found.shape == draws.shape
    for band in range(4):
        pool = [float(value) for clip in features for value in clip[band]]
        assert set(found[:, band].flatten().tolist()) == set(pool)  # 250 draws from 15 values
        assert float(found[7, band, 2]) == pool[int(15 * float(draws[7, band, 2]))]


# --- a data set whose evidence lies in two bands, and methods that know it or do not


def tones(*, first: int = 0, clips: int = 24, several: bool = False, longer: bool = False) -> ClipList:
    """A quiet hiss with a tone in one of two bands, which is the class."""
    times = torch.arange(N_SAMPLES) / RATE
    made = []
    for number in range(first, first + clips):
        label, pitch = (("dog", 600.0), ("rain", 2200.0))[number % 2]
        hiss = 0.05 * torch.randn(N_SAMPLES, generator=torch.Generator().manual_seed(number))
        waveform = hiss + 0.3 * torch.sin(2 * torch.pi * pitch * times)
        if longer:
            waveform = torch.cat([waveform, waveform])
        labels = (label, "clock") if several else (label,)
        made.append(Clip(waveform, RATE, f"clip-{number}", labels=labels))
    return ClipList(made, labels=("dog", "rain", "clock"))


def small() -> AudioClassifier:
    """What the methods explain; what it has learnt does not matter to them."""
    return classifier_of()


def evidence(classifier: AudioClassifier, batch: Batch) -> Tensor:
    """1 in the bands around the tones, 0 elsewhere."""
    grid = classifier.feature_grid(batch.waveforms.shape[1])
    assert grid is not None
    hz = grid.frequencies_hz
    near = ((hz - 600).abs() < 250) | ((hz - 2200).abs() < 450)
    assert 0.1 < float(near.float().mean()) < 0.5
    return near.float()[None, :, None].expand(len(batch), *grid.shape)


class Knowing:
    """Points at the evidence; with ``away``, at everything else; with ``never``, at nothing at all."""

    def __init__(self, *, away: bool = False, never: bool = False) -> None:
        self.away, self.never = away, never

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        CALLS["explain"] += 1
        if self.never:
            raise NotApplicableError("not these")
        near = evidence(classifier, batch)
        return Explanation(target, relevance=Relevance(1 - near if self.away else near.clone(), "features"))


class Blank:
    """A constant mask."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        return Explanation(target, mask=Mask(torch.full_like(evidence(classifier, batch), 0.5), "features"))


def described(maps: Tensor) -> Tensor:
    """Mean and deviation of each band, and 1: maps (N, 1, M, N') -> (N, 2 M + 1)."""
    return torch.cat([maps.mean((1, 3)), maps.std(3)[:, 0], torch.ones(len(maps), 1)], 1)


def retrain(features: Tensor, labels: Tensor, *, seed: int, progress: Any) -> nn.Module:
    """The least-squares classifier on mean and deviation of each band."""
    CALLS["trained"] += 1
    if CALLS["trained"] == STOP_AT[0]:
        raise KeyboardInterrupt
    progress(1, 1, "solved")
    known, wanted = described(features).double(), nn.functional.one_hot(labels, 3).double()
    damped = known.T @ known + 0.1 * torch.eye(known.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(damped, known.T @ wanted).float()
    return Lambda(lambda maps: described(maps) @ weights)


def failing(features: Tensor, labels: Tensor, *, seed: int, progress: Any) -> nn.Module:
    raise EarwitnessError("it diverged")


@pytest.fixture
def plugins() -> Registry:
    here = __name__

    def classifiers() -> Any:
        for name, again in (("small", f"{here}:retrain"), ("failing", f"{here}:failing"), ("once", "")):
            yield ClassifierSpec(name=name, target=f"{here}:small", summary="A stub.", retrain=again)

    def explainers() -> Any:
        for name in ("Knowing", "Blank", "Telling"):
            yield ExplainerSpec(name=name.lower(), target=f"{here}:{name}", summary="A stub.")

    module = types.ModuleType("roar_hooks")
    module.earwitness_classifiers = hookimpl(classifiers)  # type: ignore[attr-defined]
    module.earwitness_explainers = hookimpl(explainers)  # type: ignore[attr-defined]
    data = DatasetSpec(name="tones", target=f"{here}:tones", summary="A stub.")
    module.earwitness_datasets = hookimpl(lambda: [data])  # type: ignore[attr-defined]
    stubs = Plugin(Origin("stubs", "1.0", "roar_hooks"), "s", lambda: module)
    return Registry([*installed_plugins(allowed=()), stubs])


METHODS = [
    {"name": "knowing"},
    {"name": "knowing", "parameters": {"away": True}, "label": "away"},
    {"name": "blank"},
]


def suite(*, model: str = "small", data: dict[str, Any] | None = None, methods: Any = METHODS) -> Suite:
    arena = {
        "dataset": {"name": "tones", "parameters": {"first": 100, "clips": 20, **(data or {})}},
        "classifier": {"name": model},
    }
    document = {"name": "s", "arenas": [arena], "explainers": methods, "metrics": [{"name": "own-mask"}], "threads": 1}
    return chosen(parse_suite(document))


def run(out: Path, plugins: Registry, given: Suite | None = None, **changes: Any) -> Any:
    options = {"percents": (25.0, 60.0), "seeds": (0, 1), "train": {"clips": 24}, **changes}
    design = Design(options.pop("percents"), options.pop("seeds"), options.pop("fill", "mean"))
    bench = Workbench(out, plugins, "cpu", progress=lambda done, total, text: None)
    return run_roar(given or suite(), design, bench, **options)


def test_accuracy_falls_below_random_removal_where_the_evidence_is_removed_and_not_elsewhere(
    tmp_path: Path, plugins: Registry
) -> None:
    document, ran = run(tmp_path, plugins)
    assert ran.failed == ()
    assert document["nothing_removed"]["mean"] == 1
    of = {title: found["60"]["mean"] for title, found in document["methods"].items()}
    assert list(of) == [RANDOM, "knowing", "away", "blank"]
    assert of["knowing"] < 0.75
    assert (of["away"], of[RANDOM], of["blank"]) == (1, 1, 1)  # a mask without preference is random removal
    less = document["methods"]["knowing"]["60"]["random_less_this"]
    assert less["mean"] == pytest.approx(1 - of["knowing"])
    assert less["interval"][0] > 0
    assert document["methods"][RANDOM]["60"]["random_less_this"] is None
    assert (document["test_clips"], document["seeds"], document["removed"]) == (20, [0, 1], [25, 60])
    assert CALLS["trained"] == 2 * (1 + 2 * 4)
    files = {path.name for path in tmp_path.glob("roar.*")}
    assert files == {"roar.json", "roar.csv", "roar.png", "roar.svg"}
    assert json.loads((tmp_path / "roar.json").read_text()) == document
    rows = (tmp_path / "roar.csv").read_text().splitlines()
    assert rows[1].startswith("nothing,0,1,")
    assert len(rows) == 2 + 2 * 4


class Telling:
    """Points at another place for each class, which has nothing to do with the evidence."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        far = 1 - evidence(classifier, batch)
        own = torch.zeros_like(far)
        for row, clip in enumerate(batch.clips):
            own[row, 12:] = float(clip.labels[0] == "dog")
            own[row, :2] = float(clip.labels[0] == "rain")
        return Explanation(target, relevance=Relevance(own + evidence(classifier, batch), "features"))


def test_a_mean_may_tell_the_class_by_where_it_stands_and_a_stranger_has_the_level_of_its_band(
    tmp_path: Path, plugins: Registry
) -> None:
    given = suite(methods=[{"name": "telling"}])
    by_mean, _ = run(tmp_path, plugins, given, percents=(60.0,), seeds=(0,))
    hidden, ran = run(tmp_path, plugins, given, percents=(60.0,), seeds=(0,), fill="stranger")
    assert by_mean["methods"]["telling"]["60"]["mean"] == 1  # although all evidence is gone
    assert hidden["methods"]["telling"]["60"]["mean"] < 0.85
    assert hidden["methods"][RANDOM]["60"]["mean"] == 1
    assert ran.computed == 2  # what nothing was removed from is the same


def test_clips_of_one_recording_are_not_trained_and_tested_on() -> None:
    cut, whole = (Entry(f"rain-{name}", "rain", ("rain",), 100, name) for name in ("1", "2"))
    assert _origins(cut) & _origins(whole)
    same_name = [Entry("dog/1.wav", "dog/1.wav", ("dog",), 100, fingerprint) for fingerprint in ("a", "b")]
    assert not _origins(same_name[0]) & _origins(same_name[1])


def test_a_training_that_fails_with_one_seed_is_said(
    tmp_path: Path, plugins: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Ground.train_without

    def failing(self: Ground, title: str | None, percent: float, seed: int, progress: Any) -> dict[str, Any]:
        if seed == 1 and not percent:
            raise EarwitnessError("it diverged")
        return plain(self, title, percent, seed, progress)

    monkeypatch.setattr(Ground, "train_without", failing)
    with pytest.raises(EarwitnessError, match=r"cannot be trained anew: .*it diverged"):
        run(tmp_path, plugins, percents=(60.0,), seeds=(0, 1))


def test_a_wrong_split_is_refused_before_anything_is_explained(tmp_path: Path, plugins: Registry) -> None:
    before = CALLS["explain"]
    with pytest.raises(ConfigurationError, match="both trained and tested on"):
        run(tmp_path, plugins, train={"clips": 120})
    assert CALLS["explain"] == before


def test_a_kill_costs_one_training_and_no_explanation(tmp_path: Path, plugins: Registry) -> None:
    STOP_AT[0] = 6
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plugins)
    explained = CALLS["explain"]
    assert explained == 2 * 3 + 2 * 3  # chunks of 24 and of 20 clips, of two methods that count
    STOP_AT[0] = 0
    document, _ = run(tmp_path, plugins)
    assert (CALLS["trained"], CALLS["explain"]) == (6 + 18 - 5, explained)
    again, ran = run(tmp_path, plugins)
    assert (again, ran.computed, CALLS["trained"]) == (document, 0, 19)


def test_more_percentages_and_trainings_are_added_to_what_is_there(tmp_path: Path, plugins: Registry) -> None:
    run(tmp_path, plugins, percents=(60.0,), seeds=(0,))
    assert CALLS["trained"] == 5
    run(tmp_path, plugins, percents=(25.0, 60.0), seeds=(0,))
    assert CALLS["trained"] == 5 + 4


def test_a_method_that_has_nothing_to_say_is_named_and_costs_only_itself(tmp_path: Path, plugins: Registry) -> None:
    methods = [*METHODS[:1], {"name": "knowing", "parameters": {"never": True}, "label": "never"}]
    document, ran = run(tmp_path, plugins, suite(methods=methods), percents=(60.0,), seeds=(0,))
    assert document["methods"]["never"]["60"] is None
    assert document["methods"]["knowing"]["60"]["mean"] < 0.75
    assert any("never" in text and "not every clip was explained: skipped: not these" in text for text in ran.failed)


@pytest.mark.parametrize(
    ("given", "changes", "error", "said"),
    [
        ({"model": "once"}, {}, PluginError, "does not say how it is trained anew"),
        ({"model": "failing"}, {}, EarwitnessError, "cannot be trained anew: .*it diverged"),
        ({}, {"train": {"clips": 120}}, ConfigurationError, "20 clips are both trained and tested on"),
        ({"data": {"several": True}}, {}, ConfigurationError, "clips of one class each"),
        ({"data": {"longer": True}}, {}, EarwitnessError, "one length"),
        ({}, {"percents": (0.0,)}, ConfigurationError, "between 0 and 100"),
        ({}, {"fill": "men"}, ConfigurationError, "Did you mean 'mean'"),
        ({}, {"seeds": ()}, ConfigurationError, "at least one training"),
        ({"methods": [{"name": "blank", "label": RANDOM}]}, {}, ConfigurationError, "the name of the control"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, plugins: Registry, given: dict[str, Any], changes: dict[str, Any], error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        run(tmp_path, plugins, suite(**given), **changes)


# --- the suite of a study


def test_a_study_takes_one_arena_and_the_explainers_that_are_named() -> None:
    whole = suite()
    assert [entry.title for entry in chosen(whole, only=["away"]).explainers] == ["away"]
    with pytest.raises(ConfigurationError, match=r"no explainer 'awy'\. Did you mean 'away'"):
        chosen(whole, only=["awy"])
    tuned = load_suite("lmac_table_tuned")
    arena = tuned.arenas[0].title
    with pytest.raises(ConfigurationError, match="'lmac, tuned 4' starts from the fit of 'lmac, fit 0': name that too"):
        chosen(tuned, arena=arena, only=["lmac, tuned 4"])
    assert len(chosen(tuned, arena=arena, only=["lmac, tuned 4", "lmac, fit 0"]).explainers) == 2
    two = whole.model_copy(update={"arenas": (whole.arenas[0], whole.arenas[0].model_copy(update={"label": "b"}))})
    with pytest.raises(ConfigurationError, match="has 2 arenas: choose one, small on tones or b"):
        chosen(two)
    assert chosen(two, arena="b").arenas[0].title == "b"
    with pytest.raises(ConfigurationError, match="no arena 'c'"):
        chosen(two, arena="c")


# --- the command


def test_the_commands_of_the_page_on_sanity_checks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sanity.md").read_text(encoding="utf-8")
    (toml,), (commands,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("toml", "bash"))
    monkeypatch.chdir(tmp_path)
    Path("checks.toml").write_text(toml)
    for line in commands.strip().splitlines():
        done = CliRunner().invoke(shell, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
    assert "accuracy with nothing removed" in done.output
    assert all((tmp_path / "sanity" / f"{name}.png").exists() for name in ("randomisation", "roar"))
    words = [*shlex.split(line)[1:], "--only", "gradcam"]
    document = json.loads(CliRunner().invoke(shell, [*words, "--json"]).stdout)
    assert (document["computed"], list(document["methods"])) == (0, [RANDOM, "gradcam"])
    assert "--removed takes percentages" in CliRunner().invoke(shell, [*words, "--removed", "half"]).output
