"""What one sees of a run: progress, a log, a forecast, results computed again."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bench_stubs import CALLS, stub_registry, suite_of
from earwitness.artifacts import digest_of
from earwitness.errors import ConfigurationError, StoreError
from earwitness_bench.commands.bench import bench as bench_command
from earwitness_bench.commands.reproduce import reproduce as reproduce_command
from earwitness_bench.engines import make_engine
from earwitness_bench.forecast import as_text, forecast
from earwitness_bench.monitor import Began, BrokeOff, Ended, Log, Planned, Said, Tally
from earwitness_bench.reproduction import reproduce
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite
from earwitness_bench.tasks import Outcome

BYSTANDER = {"name": "wobbly", "parameters": {"from_global": True}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    CALLS.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, suite: Suite) -> Any:
    return run_suite(suite, out, registry=stub_registry())


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for command in ("bench", "reproduce"):
        monkeypatch.setattr(f"earwitness_bench.commands.{command}.current_registry", stub_registry)
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nchunk_size = 2\nthreads = 1\n[[arenas]]\ndataset = { name = "tones" }\n'
        'classifier = { name = "bands" }\n[[explainers]]\nname = "ideal"\n[[explainers]]\nname = "naughty"\n'
        'parameters = { way = "crash" }\n[[metrics]]\nname = "mean-map"\n'
    )
    return path


def bench(*arguments: Any) -> Any:
    return CliRunner().invoke(bench_command, [str(argument) for argument in arguments])


# --- progress


def test_a_tally_counts_cells_and_estimates_the_time_left_from_each_explainers_pace() -> None:
    tally = Tally()
    tally(Said("loading"))
    assert tally.line() == "loading"
    tally(Planned(Counter({"slow": 3, "fast": 3}), 2))
    assert tally.seconds_left is None
    for title, seconds in (("slow", 10.0), ("fast", 1.0)):
        tally(Began(title))
        tally(Ended(Outcome(title, explained=1, scored=1, seconds=seconds, clips=5, errors=["x"] * (title == "fast"))))
    tally(Began("slow"))
    tally(Began("slow"))
    assert tally.seconds_left == pytest.approx((2 * 10 + 2 * 1) / 2)
    assert tally.line() == "4 of 12 cells, 2 running, 1 failed, 00:00:11 left"
    assert tally.speeds() == [("slow", 2.0), ("fast", 0.2)]
    tally(BrokeOff("slow"))
    assert "1 running" in tally.line()
    tally(Ended(Outcome("slow", cached=2, seconds=0.001)))
    assert tally.speeds() == [("slow", 2.0), ("fast", 0.2)]  # what is found tells nothing of the pace


def test_a_log_tells_each_failure_once_with_the_time() -> None:
    file = io.StringIO()
    log = Log(file)
    for _ in range(2):
        log(Ended(Outcome("a", errors=["a: out of\nluck"], notes=["halved"])))
    log(Said("done"))
    lines = file.getvalue().splitlines()
    assert [line[21:] for line in lines] == ["failed: a: out of luck", "note: halved", "done"]
    assert all(line[:4].isdigit() and line[19] == "Z" for line in lines)


def test_bench_keeps_a_log_in_the_results_folder(suite_file: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert bench(suite_file, "--out", tmp_path / "out").exit_code == 0
    log = (tmp_path / "out" / "run.log").read_text()
    assert log.count("suite mine, 1 x serial") == 2
    assert log.count("failed: bands on tones · naughty (way=crash): RuntimeError: out of luck") == 2  # once a run
    assert "27 units, 54 cells" in log
    assert "done: 27 explanations, 20 scores, 0 found" in log


def test_fail_fast_ends_with_a_failure_and_says_what_is_left(suite_file: Path, tmp_path: Path) -> None:
    done = bench(suite_file, "--out", tmp_path / "out", "--fail-fast")
    assert done.exit_code == 1
    assert "Stopped at the first failure; 25 units are left." in done.stderr
    assert json.loads(bench(suite_file, "--out", tmp_path / "out", "--only-failed", "--json").stdout)["explained"] == 1


def test_parts_of_a_suite_make_up_its_results(suite_file: Path, tmp_path: Path) -> None:
    said = [bench(suite_file, "--out", tmp_path / "parts", "--shard", f"{k}/2") for k in (1, 2)]
    assert ["Part 1 of 2" in said[0].stdout, "Part 2 of 2" in said[1].stdout] == [True, True]
    assert not (tmp_path / "parts" / "scores.parquet").exists()
    whole = json.loads(bench(suite_file, "--out", tmp_path / "parts", "--json").stdout)
    assert (whole["explained"], whole["scored"], whole["cached"]) == (0, 0, 47)
    for wrong in ("0/2", "3/2", "1", "a/b"):
        refused = bench(suite_file, "--out", tmp_path / "parts", "--shard", wrong)
        assert refused.exit_code == 2
        assert "expected K/N" in refused.stderr


def test_ctrl_c_ends_a_run_and_its_workers_at_once_and_it_goes_on_from_there(tmp_path: Path) -> None:
    """With real processes: a terminal sends the signal to all of them."""
    suite = tmp_path / "slow.toml"
    suite.write_text(
        'name = "slow"\nchunk_size = 2\nthreads = 1\ncontrols = false\n[[arenas]]\n'
        'dataset = { name = "tones", parameters = { clips = 400 } }\nclassifier = { name = "bands" }\n'
        '[[explainers]]\nname = "ideal"\nparameters = { pause_s = 0.1 }\n[[metrics]]\nname = "mean-map"\n'
    )
    code = (
        "import signal, sys, bench_stubs, earwitness_bench.commands.bench as b;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background jobs ignore it
        "b.current_registry = bench_stubs.stub_registry; b.bench(sys.argv[1:])"
    )
    arguments = [str(suite), "--out", str(tmp_path / "out"), "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(tmp_path.glob("out/cells/score/*/*.json"))) < 3:
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    kept = len(list(tmp_path.glob("out/cells/*/*/*.json")))
    assert 6 <= kept < 400
    assert "stopped with Ctrl-C" in (tmp_path / "out" / "run.log").read_text()


# --- a forecast


def test_a_dry_run_counts_what_is_there_and_writes_nothing(suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = json.loads(bench(suite_file, "--out", out, "--dry-run", "--json").stdout)
    assert not out.exists()
    assert sum(line["cells"] for line in document["lines"]) == 54
    assert sum(line["cached"] for line in document["lines"]) == 0
    bench(suite_file, "--out", out, "--fail-fast")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    document = json.loads(bench(suite_file, "--out", out, "--dry-run", "--json").stdout)
    assert sum(line["cached"] for line in document["lines"]) == 4  # a score of the failed one is not missing
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    said = bench(suite_file, "--out", out, "--dry-run").stdout
    assert "4 of 54 cells are there. The rest takes about" in said
    assert "MB of memory for each worker" in said


def test_a_forecast_is_of_the_right_size(tmp_path: Path) -> None:
    slow = {"name": "ideal", "parameters": {"pause_s": 0.2}, "label": "slow"}
    suite = suite_of(slow, BYSTANDER, data={"clips": 8})  # four chunks
    found = forecast(suite, tmp_path, registry=stub_registry())
    times = {line.explainer: line.seconds for line in found.lines}
    assert 0.8 < times["slow"] < 4
    assert found.disk_mb > 0
    assert found.peak_memory_mb > 50
    run(tmp_path, suite)
    found = forecast(suite, tmp_path, registry=stub_registry())
    assert (found.seconds, found.disk_mb) == (0, 0)
    assert sum(line.cells - line.cached for line in found.lines) == 0


def test_a_forecast_fits_nothing_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    entry = {"name": "fitted", "fit": {"name": "tones"}}
    found = forecast(suite_of(entry, "ideal"), tmp_path, registry=stub_registry())
    assert CALLS["fit"] == 0
    assert {line.explainer: line.seconds_per_clip is None for line in found.lines} == {"fitted": True, "ideal": False}
    assert "takes at least" in as_text(found)
    assert "without 1 explainers that must be fitted first" in as_text(found)
    nothing = as_text(forecast(suite_of(entry), tmp_path, registry=stub_registry()))
    assert nothing.endswith("What the rest takes is not known.")


def test_a_forecast_takes_shuffled_controls_for_as_slow_as_what_they_shuffle(tmp_path: Path) -> None:
    asked: list[str] = []
    found = forecast(
        suite_of("ideal", controls=True),
        tmp_path,
        registry=stub_registry(),
        progress=lambda done, total, text: asked.append(text),
    )
    paces = {line.explainer: line.seconds_per_clip for line in found.lines}
    assert paces["shuffled: ideal"] == paces["ideal"]
    assert asked == list(paces), "one after the other, each by its name"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("foo", "reads HOST:PORT"),
        ("127.0.0.1:many", "reads HOST:PORT"),
        ("127.0.0.1:99999", "reads HOST:PORT"),
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--engine", "ray"), ("--dry-run",)])
def test_an_address_without_a_cluster_is_refused_before_anything_is_written(
    suite_file: Path, tmp_path: Path, address: str, said: str, more: tuple[str, ...]
) -> None:
    pytest.importorskip("ray")
    done = bench(suite_file, "--out", tmp_path / "results", "--address", address, *more)
    assert isinstance(done.exception, ConfigurationError)
    assert said in str(done.exception)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("form", ["{}:{}", "ray://{}:{}"])
def test_an_address_that_answers_is_taken(form: str) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert make_engine("ray", address=form.format(*server.getsockname())).name == "ray"


def test_what_contradicts_itself_is_refused(suite_file: Path, tmp_path: Path) -> None:
    both = bench(suite_file, "--quick", "--out", tmp_path / "out")
    assert (both.exit_code, "not both" in both.stderr) == (2, True)
    nothing = bench(suite_file, "--only-failed", "--out", tmp_path / "none")
    assert (nothing.exit_code, "nothing has failed there" in nothing.stderr) == (2, True)
    assert not (tmp_path / "none").exists()


# --- computing a result again


def cell_of(out: Path, kind: str, title: str) -> Path:
    return next(p for p in sorted(out.glob(f"cells/{kind}/*/*.json")) if json.loads(p.read_bytes())["title"] == title)


@pytest.mark.parametrize("kind", ["explain", "score"])
@pytest.mark.parametrize("title", ["ideal", "shuffled: drawn", "drawn"])
def test_every_kind_of_cell_comes_out_the_same_again(tmp_path: Path, kind: str, title: str) -> None:
    run(tmp_path, suite_of("ideal", BYSTANDER | {"label": "drawn"}, metrics=("mean-map", "two"), controls=True))
    path = cell_of(tmp_path, kind, title)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    found = reproduce(path.stem[:10], tmp_path, registry=stub_registry())
    assert (found.equal, found.difference, found.changed, found.said) == (True, 0.0, (), ())
    assert (found.kind, found.key, found.title) == (kind, path.stem, title)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_result_that_cannot_be_reproduced_is_told_by_how_much(suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bench(suite_file, "--out", out)
    path = cell_of(out, "score", "ideal")
    cell = json.loads(path.read_bytes())
    del cell["checksum"]
    cell["columns"]["mean-map"][0] += 0.25
    path.write_text(json.dumps({**cell, "checksum": digest_of(cell)}))
    done = CliRunner().invoke(reproduce_command, [path.name, "--out", str(out)])
    assert done.exit_code == 1
    assert "differs by up to 0.25" in done.stdout
    cell["outcomes"][0] = "skipped: nobody knows"
    path.write_text(json.dumps({**cell, "checksum": digest_of(cell)}))
    document = json.loads(CliRunner().invoke(reproduce_command, [path.stem, "--out", str(out), "--json"]).stdout)
    assert (document["equal"], document["difference"]) == (False, None)
    assert "outcomes[0]: 'skipped: nobody knows', now 'scored'" in document["said"]
    other = cell_of(out, "explain", "ideal").stem
    done = CliRunner().invoke(reproduce_command, [other, "--out", str(out)])
    assert (done.exit_code, "equal, to the last bit" in done.stdout) == (0, True)


def test_a_reproduction_says_what_is_not_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from earwitness_bench import identity, runner

    run(tmp_path, suite_of("ideal"))
    real = identity.environment
    monkeypatch.setattr(runner, "environment", lambda device: {**real(device), "captum": "99"})
    found = reproduce(cell_of(tmp_path, "score", "ideal").stem, tmp_path, registry=stub_registry())
    assert found.equal
    (changed,) = found.changed
    assert changed.startswith("environment.captum: ")
    assert changed.endswith("now 99")


def test_a_cell_that_is_not_there_is_refused(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal"))
    kept = cell_of(tmp_path, "score", "ideal")
    run(tmp_path, suite_of(BYSTANDER))
    for name, said in (
        ("ffffffff", "has no cell"),
        ("a", "at least the first four"),
        (kept.stem, "not part of the last"),
    ):
        with pytest.raises(StoreError, match=said):
            reproduce(name, tmp_path, registry=stub_registry())
    assert Store(tmp_path).read_cell("score", kept.stem) is not None
