"""Every code block of the README and of docs/ is executed; a block that nobody knows how to run is a failure."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner

import earwitness
from earwitness.audio.files import write_audio
from earwitness.cli.shell import shell
from earwitness.parameters import build
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins, registry
from earwitness_bench.datasets.toy import Toy
from earwitness_bench.runner import run_suite
from earwitness_bench.suite import load_suite, parse_suite
from handmade import write as write_results
from sounds import write_sound

ROOT = Path(__file__).parent.parent
METHODS = ["docs/lrp.md", "docs/drsa.md", "docs/l2i.md", "docs/lmac.md"]
DOCUMENTS = [
    *("README.md", "docs/datasets.md", "docs/how-it-works.md", "docs/plugins.md", "docs/report.md", "docs/running.md"),
    "docs/apnet.md",
    "docs/suites.md",
    "docs/statistics.md",
    *METHODS,
    "docs/sparse-nmf.md",
]
SHIFTS = {"integrated-gradients": 0.3, "saliency": 0.0, "noise": -0.2}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

MY_MODELS = """
import torch
from earwitness import AudioClassifier
from earwitness.audio.dialects import drsa_toy

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    torch.nn.Linear(4, 2),
)
front_end = drsa_toy()

def make():
    return AudioClassifier(network, front_end=front_end, labels=["quiet", "loud"])
"""


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return BLOCK.findall((ROOT / document).read_text())


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a reader of the documents would have it: recordings and a module with a network."""
    toy = Toy(split="test", clips=2)
    for index, name in enumerate(("dog.wav", "toy.wav")):
        write_audio(tmp_path / name, toy[index].waveform, toy.rate)
    (tmp_path / "my_models.py").write_text(MY_MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in ("my_models", "acme_hooks", "acme_methods"):
        sys.modules.pop(module, None)


def run_command(line: str) -> None:
    """One line of a shell block: a make target, or a call of earwitness."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        planned = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
        expected = {"demo": "earwitness demo", "test": "-m pytest"}[words[1]]
        assert expected in planned.stdout
        return
    assert words[0] == "earwitness", f"Nobody knows how to run {line!r}."
    done = CliRunner().invoke(shell, words[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_of_a_language_that_is_executed(document: str) -> None:
    drawings = [content for language, content in blocks(document) if not language]
    assert all("──▶" in drawing for drawing in drawings)
    assert {language for language, _ in blocks(document)} <= {"", "bash", "python", "toml"}


def test_the_blocks_of_the_readme_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for language, content in blocks("README.md"):
        if language == "bash":
            for line in content.strip().splitlines():
                run_command(line)
        else:
            exec(compile(content, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "random masks of equal energy" in said  # the verdict that the first block prints
    assert "| integrated-gradients |" in said  # the leaderboard that the last one prints
    assert (workplace / "out" / "heard.wav").exists()
    assert (workplace / "earwitness-out" / "dog" / "heard.wav").exists()
    relevance = explain_with(names["MiddleBand"]())
    assert relevance.relevance.values.shape[0] == 1


def explain_with(explainer: Any) -> Any:
    classifier = earwitness.load_classifier("toy-cnn")
    batch = earwitness.Batch.of([Toy(split="test", clips=1)[0]])
    return explainer.explain(classifier, batch, target=torch.tensor([0]), random=Random(0, batch.clip_ids))


def test_the_demo_ends_with_sounds_verdicts_and_a_leaderboard(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real recordings too, where there are any."""
    shared = os.environ.get("EARWITNESS_GOLDEN")
    monkeypatch.setenv("EARWITNESS_DATA", f"{shared}/data" if shared else str(workplace / "nothing"))
    done = CliRunner().invoke(shell, ["demo", "--out", str(workplace / "tour")])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    sounds = list((workplace / "tour" / "sounds").glob("**/heard.wav"))
    assert len(sounds) == (9 if shared else 6)  # two by fitted methods, one by a classifier that explains itself
    assert all(soundfile.info(path).duration > 0.9 for path in sounds)
    assert done.stdout.count("random masks of equal energy") == len(sounds)
    assert done.stdout.count("Headline") == (2 if shared else 1)
    assert "–  uniform-noise" in done.stdout
    assert (workplace / "tour" / "prototypes" / "index.html").exists()


def test_the_blocks_on_how_it_works_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for language, content in blocks("docs/how-it-works.md"):
        if language == "python":
            exec(compile(content, "how-it-works.md", "exec"), {"earwitness": earwitness})
    assert float(capsys.readouterr().out) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("document", METHODS)
def test_the_blocks_on_a_method_run(workplace: Path, document: str) -> None:
    for language, content in blocks(document):
        if language == "bash":
            for line in content.strip().splitlines():
                run_command(line)
        else:
            assert language == "toml"
            summary = run_suite(parse_suite(tomllib.loads(content)), workplace / "results", registry=registry())
            assert not summary.failed
            assert summary.scored > 0
    assert list(workplace.glob("earwitness-out/*/heard.wav"))


def test_the_plugin_of_the_guide_is_listed_explains_and_scores(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[str, str] = {}
    for language, content in blocks("docs/plugins.md"):
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", content)
            assert name, "a module of the guide must begin with its name"
            (workplace / name[1]).write_text(content)
        elif language == "toml":
            offered = tomllib.loads(content)["project"]["entry-points"]["earwitness"]
        elif language == "bash":
            commands = content.strip().splitlines()
    guide = [
        Plugin(Origin("guide", "1.0", module), name, functools.partial(importlib.import_module, module))
        for name, module in offered.items()
    ]
    plugins = Registry([*installed_plugins(), *guide])
    assert not plugins.broken
    suite = parse_suite(
        {
            "name": "guide",
            "arenas": [
                {
                    "dataset": {"name": "toy", "parameters": {"split": "test", "clips": 2}},
                    "classifier": {"name": "toy-cnn"},
                }
            ],
            "explainers": [{"name": "middle-band", "parameters": {"high_hz": 2000}}],
            "metrics": [{"name": "extent"}],
        }
    )
    summary = run_suite(suite, workplace / "results", registry=plugins)
    assert not summary.failed
    monkeypatch.setattr("earwitness.cli.context.registry", lambda switched_off=(): plugins)
    for line in commands:
        run_command(line)


def test_the_suite_of_the_guide_runs(workplace: Path) -> None:
    suites = [content for language, content in blocks("docs/suites.md") if language == "toml"]
    assert suites
    whole: dict[str, Any] = {}
    for content in suites:
        document = tomllib.loads(content)
        whole = document if "arenas" in document else {**whole, **document}  # an excerpt changes the suite before it
        suite = parse_suite(whole)
        summary = run_suite(suite, workplace / "results", registry=registry())
        assert not summary.failed
        assert summary.scored > 0


def test_the_commands_of_the_page_on_running_run(workplace: Path) -> None:
    commands: list[str] = []
    for language, content in blocks("docs/running.md"):
        if language == "toml":
            (workplace / "small.toml").write_text(content)
        else:
            commands += content.strip().splitlines()
    for line in commands:
        cells = sorted(path.stem for path in workplace.glob("results/cells/score/*/*.json"))
        run_command(line.replace("CELL", cells[0] if cells else "CELL"))
    log = (workplace / "results" / "run.log").read_text()
    assert re.search(r"2 x joblib(.|\n)* 0 found\n(.|\n)*1 x serial(.|\n)*done: 0 explanations, 0 scores", log)


def test_the_commands_of_the_page_on_reports_run(workplace: Path) -> None:
    for language, content in blocks("docs/report.md"):
        assert language == "bash"
        for line in content.strip().splitlines():
            run_command(line)
    assert len(list((workplace / "report").glob("clip-1-*.html"))) == 4
    assert (workplace / "report" / "index.html").exists()
    assert (workplace / "test" / "index.html").exists()
    assert len(list((workplace / "results" / "listening-tests").glob("*.json"))) == 1


def test_the_results_page_names_suites_and_methods_that_exist() -> None:
    """Its commands take hours: here only what they name is looked up."""
    page = (ROOT / "docs" / "results.md").read_text()
    commands = [line.split() for language, content in blocks("docs/results.md") for line in content.splitlines()]
    suites = [load_suite(words[2]) for words in commands if words[:2] == ["earwitness", "bench"]]
    assert [suite.name for suite in suites] == ["methods", "methods-mixtures"]
    offered = registry().shown_names("explainers")
    for suite in suites:
        for entry in suite.explainers:
            assert entry.short_name in offered
            assert page.count(f"| {entry.title} |") == 1 + len(suite.arenas) * len(
                suites
            )  # the summary, and each arena


def test_the_blocks_on_spectral_patterns_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for language, content in blocks("docs/sparse-nmf.md"):
        if language == "bash":
            run_command(content)
        else:
            exec(compile(content, "sparse-nmf.md", "exec"), {})
    said = capsys.readouterr().out
    assert "torch.Size([65, 6]) torch.Size([6, 300])" in said
    assert "('class1', 'class1', 'class1', 'class2', 'class2', 'class2') torch.Size([257, 6])" in said
    assert len(list((workplace / "patterns" / "patterns").glob("*.wav"))) == 6


def test_the_blocks_on_a_classifier_that_explains_itself_run(workplace: Path) -> None:
    for language, content in blocks("docs/apnet.md"):
        if language == "toml":
            summary = run_suite(parse_suite(tomllib.loads(content)), workplace / "results", registry=registry())
            assert not summary.failed
            assert summary.scored > 0
        for line in content.strip().splitlines() if language == "bash" else ():
            run_command(line)
    assert (workplace / "book" / "index.html").exists()
    assert len(list((workplace / "book" / "clips").glob("*.wav"))) >= 5
    assert (workplace / "earwitness-out" / "toy" / "heard.wav").exists()
    history = json.loads((workplace / "toy-apnet" / "refinement" / "history.json").read_text())
    done = [edit["edit"] for edit in history["edits"] if edit["edit"] != "prune"]  # there may be nothing to prune
    assert done == ["delete", "add", "rebalance"]  # retraining was undone


def test_the_data_set_of_the_guide_is_read(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, speaker, list_name in (("no", "c1d39ce8", "testing"), ("yes", "0a7c2a8d", "validation")):
        path = write_sound(workplace / "speech_commands" / word / f"{speaker}_nohash_0.wav", 16000, 16000)
        (workplace / "speech_commands" / f"{list_name}_list.txt").write_text(f"{word}/{path.name}\n")
    for language, content in blocks("docs/datasets.md"):
        if language == "python":
            exec(compile(content, "datasets.md", "exec"), {})
        else:
            assert language == "toml"
            assert len(dataset_of_suite(tomllib.loads(content)["dataset"])) == 1
    assert "('no', 'yes') [('no/c1d39ce8_nohash_0', 'c1d39ce8', ('no',))]" in capsys.readouterr().out


def test_the_blocks_on_statistics_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {name: {"up": [0.1 * n + shift for n in range(8)], "down": [1.0] * 8} for name, shift in SHIFTS.items()}
    write_results(workplace / "results", scores)
    for language, content in blocks("docs/statistics.md"):
        if language == "python":
            exec(compile(content, "statistics.md", "exec"), {})
        else:
            for line in content.strip().splitlines():
                run_command(line)
    said = capsys.readouterr().out.splitlines()
    assert said == ["0.244, p = 0.010, 8 recordings, 1 clip left out", "1.25", "[1.0, 1.0]"]
    assert (workplace / "pages" / "leaderboard.tex").exists()


def dataset_of_suite(table: dict[str, Any]) -> Any:
    return build(registry().dataset(table["name"]).spec, table["parameters"])


def test_every_document_that_the_readme_links_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_robustness_page_has_a_row_for_every_way_to_misbehave() -> None:
    from unruly import METRIC_WAYS, WAYS

    page = (ROOT / "docs" / "robustness.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| ").replace("answers with: ", "") for row in rows}
    assert {f"an explainer {way}" for way in WAYS} | {f"a metric {way}" for way in METRIC_WAYS} <= told
    assert {row[2].removesuffix(" |") for row in rows[1:]} == {"yes"}
