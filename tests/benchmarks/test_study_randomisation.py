"""The study of randomised layers: the metric's curves, drawn; who ignores the weights; and what a run has left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from earwitness.cli.shell import shell
from earwitness.errors import EarwitnessError
from earwitness.registry import registry
from earwitness_bench.commands.study.randomisation import _similarities
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from earwitness_bench.studies.methods import Workbench, chosen
from earwitness_bench.studies.randomisation import run_randomisation
from earwitness_bench.suite import load_suite

SUITE = """
name = "mine"
threads = 1
controls = false
[[arenas]]
dataset = { name = "toy", parameters = { split = "test", clips = 5 } }
classifier = { name = "toy-cnn" }
[[explainers]]
name = "gradcam"
[[explainers]]
name = "class-mean"
fit = { name = "toy", parameters = { split = "train", clips = 4 } }
[[explainers]]
name = "loudness"
[[explainers]]
name = "constant-gain"
[[metrics]]
name = "cascading-randomisation"
parameters = { max_stages = 2 }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``earwitness bench`` leaves of it."""
    folder = tmp_path_factory.mktemp("randomisation")
    (folder / "mine.toml").write_text(SUITE)
    run_suite(load_suite(folder / "mine.toml"), folder / "out", registry=registry())
    return folder


def test_it_draws_what_a_run_of_the_suite_has_left_and_computes_nothing(results: Path) -> None:
    words = ["study", "randomisation", str(results / "mine.toml"), "--max-stages", "2", "--out", str(results / "out")]
    done = CliRunner().invoke(shell, words)
    assert done.exit_code == 0, done.output
    assert "0 cells computed, 8 found" in done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert "ignores the weights" in lines["loudness"]
    assert "ignores the weights" in lines["class-mean"]
    assert "ignores the weights" not in lines["gradcam"]
    assert "5 constant maps" in lines["constant-gain"]
    found = {path.name for path in (results / "out").glob("randomisation.*")}
    assert found == {f"randomisation.{suffix}" for suffix in ("json", "csv", "png", "svg")}


def bench(results: Path) -> Workbench:
    return Workbench(results / "out", registry(), "cpu", progress=lambda *_: None)


def test_its_numbers_are_the_means_of_the_metrics_curves(results: Path) -> None:
    suite = chosen(load_suite(results / "mine.toml"))
    document, _ = run_randomisation(suite, bench(results), max_stages=2)
    assert document["layers"][0][0] == "classifier.4"
    assert document["layers"][-1][-1] == "features.0"
    cells = [json.loads(path.read_text()) for path in (results / "out" / "cells" / "score").rglob("*.json")]
    own = [cell["curves"]["SSIM_randomised"]["y"] for cell in cells if cell["title"] == "gradcam"]
    rows = np.array([row for rows in own for row in rows])
    assert len(rows) == 5
    gradcam = document["methods"]["gradcam"]
    assert gradcam["mean"] == pytest.approx(rows.mean(0).tolist())
    assert (gradcam["mean"][0], gradcam["clips"], gradcam["control"]) == (1, 5, False)
    low, high = gradcam["interval"][2]
    assert low < gradcam["mean"][2] < high
    assert gradcam["area"]["mean"] == pytest.approx(float(np.trapezoid(rows, dx=0.5).mean()), abs=1e-6)
    constant = document["methods"]["constant-gain"]
    assert (constant["clips"], constant["constant"], constant["mean"]) == (0, 5, [])
    lines = (results / "out" / "randomisation.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 3  # constant maps have no line
    assert lines[1].startswith("gradcam,0,,1,")
    flat = np.array(
        [row for cell in cells if cell["title"] == "gradcam" for row in cell["curves"]["degenerate_randomised"]["y"]]
    )
    assert gradcam["constant_share"] == pytest.approx(flat.mean(0).tolist())
    at_the_end = rows[flat[:, -1] == 0, -1]
    assert gradcam["mean_where_not_constant"][-1] == (pytest.approx(at_the_end.mean()) if len(at_the_end) else None)
    assert all(0 < apart < 10 for apart in document["hears_apart"])


def test_stages_that_say_nothing_are_said() -> None:
    method = {
        "mean": [1.0, 0.4, 0.3], "area": {"mean": 0.5}, "other_clip": 0.2, "ignores_the_weights": False, "clips": 4,
        "constant": 0, "constant_share": [0.0, 0.0, 0.25], "mean_where_not_constant": [1.0, 0.4, 0.1],
        "reasons": ["skipped: too small"],
    }  # fmt: skip
    document = {"layers": [["head"], ["conv"]], "hears_apart": [0.5, 1e-7], "methods": {"lrp": method}}
    said = _similarities(document)
    assert "At stage 2 the random network hears no clips apart" in said
    assert "at the end 25% constant, the others 0.10  skipped: too small" in said


def test_where_all_maps_are_constant_it_says_so(results: Path) -> None:
    suite = chosen(load_suite(results / "mine.toml"), only=["constant-gain"])
    with pytest.raises(EarwitnessError, match="No method could be scored"):
        run_randomisation(suite, bench(results), max_stages=2)
    assert Store(results / "out").read_plan()["suite"]["name"] == "mine"  # a study leaves a run's plan alone
