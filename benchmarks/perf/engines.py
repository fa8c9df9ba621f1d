"""What engines cost and bring: two workers against one, a rerun against a first run, Ray's overhead, a node that dies.

    python benchmarks/perf/engines.py

Toy data and real methods, one thread of the CPU in each worker. It wants two idle cores, and takes about four minutes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from side_by_side import gate

from earwitness.registry import registry
from earwitness_bench.engines import make_engine
from earwitness_bench.monitor import Began, BrokeOff, Ended, Event
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.suite import Suite, parse_suite

NODES = 4
UNLIKE = ("seconds", "peak_memory_mb", "checksum", "machine")


class Watch:
    """Notes when the first unit began and the last one ended, and what units took beside their own work."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.units = self.deaths = 0
        self.beside: list[float] = []
        self._began = 0.0

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, Began):
            self.first = self.first or now
            self._began = now
        elif isinstance(event, Ended):
            self.last = now
            self.units += 1
            self.beside.append(now - self._began - event.outcome.seconds)
        elif isinstance(event, BrokeOff):
            self.deaths += 1

    @property
    def seconds(self) -> float:
        return self.last - self.first


def suite_of(clips: int, n_steps: int = 32) -> Suite:
    """Compute-bound: gradients at many points, and networks asked at many budgets."""
    return parse_suite(
        {
            "name": "engines",
            "threads": 1,
            "arenas": [
                {
                    "dataset": {"name": "toy", "parameters": {"split": "test", "clips": clips}},
                    "classifier": {"name": "toy-cnn"},
                }
            ],
            "explainers": [
                {"name": "integrated-gradients", "parameters": {"n_steps": n_steps}},
                {"name": "smoothgrad", "parameters": {"n_samples": n_steps}},
            ],
            "metrics": [{"name": "own-mask"}, {"name": "matched-budget-soft"}],
        }
    )


def run(out: Path, suite: Suite, engine: Any, watch: Watch | None = None) -> tuple[float, Summary]:
    """Seconds in all, and what was done."""
    started = time.perf_counter()
    summary = run_suite(suite, out, registry=registry(), engine=engine, observer=watch or Watch())
    assert not summary.failed, summary.failed
    return time.perf_counter() - started, summary


def two_workers(folder: Path) -> list[bool]:
    """From the first unit to the last, all workers being up: the time to start them is told beside it."""
    suite, spans, whole = suite_of(96), {}, {}
    for jobs in (1, 2):
        watch = Watch()
        whole[jobs], _ = run(folder / str(jobs), suite, make_engine("joblib", jobs=jobs), watch)
        spans[jobs] = watch.seconds
    again, summary = run(folder / "1", suite, make_engine("serial"))
    assert summary.explained == summary.scored == 0
    gate("starting one worker process, seconds", whole[1] - spans[1])
    return [
        gate(f"two workers over one, joblib ({spans[1]:.1f} s with one)", spans[1] / spans[2], at_least=1.7),
        gate(f"a cached rerun over the first run ({again:.2f} s, loading included)", again / whole[1], at_most=0.02),
    ]


def ray_overhead(folder: Path) -> list[bool]:
    """What a cell takes with Ray beside its own work, once Ray is up: pickling, scheduling, and back."""
    watch, suite = Watch(), suite_of(64, n_steps=2)
    run(folder, suite, make_engine("ray", jobs=1), watch)
    cells = watch.units * (1 + len(suite.metrics))
    return [gate("Ray's overhead per cell, milliseconds", 1000 * sum(watch.beside) / cells, at_most=50)]


def a_node_dies(folder: Path) -> list[bool]:
    """Four simulated nodes with a core each; one is killed with its worker in the middle of the run."""
    from ray.cluster_utils import Cluster

    suite = suite_of(64, n_steps=8)
    run(folder / "serial", suite, make_engine("serial"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES - 1)]
    watch = Watch()

    def kill_one(event: Event) -> None:
        watch(event)
        if isinstance(event, Ended) and watch.units == 20:
            threading.Thread(target=cluster.remove_node, args=(nodes[1], False)).start()

    engine = make_engine("ray", jobs=NODES, address=cluster.address)
    run_suite(suite, folder / "cluster", registry=registry(), engine=engine, observer=kill_one)
    cluster.shutdown()
    equal = _cells(folder / "serial") == _cells(folder / "cluster")
    gate(f"units of workers that ended with their node, of {watch.units}", watch.deaths)
    return [gate(f"cells as in a serial run, {NODES} simulated nodes, one killed (1: all)", float(equal), at_least=1)]


def _cells(out: Path) -> dict[str, dict[str, Any]]:
    documents = [json.loads(path.read_bytes()) for path in sorted(out.glob("cells/*/*/*.json"))]
    return {cell["key"]: {name: value for name, value in cell.items() if name not in UNLIKE} for cell in documents}


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    kept: list[bool] = []
    for measure in (two_workers, ray_overhead, a_node_dies):
        with tempfile.TemporaryDirectory() as folder:
            kept += measure(Path(folder))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
