"""What a run of any size takes: the figures of docs/sizing.md.

    python benchmarks/sizing.py RESULTS [--out docs/sizing.png]

RESULTS is the folder of a run: seconds, bytes and files of its cells are measured there. What the coordinator takes is
measured on the spot: keys of a plan of 40,000 clips, the real scheduler with up to 2048 workers that do nothing, and
reading the folder's results. From these follow the size of a run of a million clips, 20 explainers and 15 metrics, and
the schedule of a cluster (``benchmarks/simulation.py``). About two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from earwitness.clips import Dataset, Entry
from earwitness.loading import load_classifier, load_dataset
from earwitness.registry import registry
from earwitness_bench.arena_table import read_arena
from earwitness_bench.contestants import make_contestants
from earwitness_bench.identity import environment
from earwitness_bench.plan import Lineup, Plan, make_judges
from earwitness_bench.scheduling import Schedule
from earwitness_bench.stages import make_stage
from earwitness_bench.store import DEEP_CELLS, Store
from earwitness_bench.suite import parse_suite
from earwitness_bench.tasks import Outcome, Task
from simulation import Cluster, Coordinator, Floats, falls_below, heavy_tailed, simulate

CLIPS, EXPLAINERS, METRICS, CHUNK = 1_000_000, 20, 15, 8
CONTROLS = 5
WORKERS = (16, 64, 256, 1024, 4096, 16384, 32768)
UNITS_OF_WORKER = 400
"""At most so many for each worker are simulated: of a longer run the last minutes would weigh even less."""

RAY_S = 0.0007
"""What Ray's driver takes of its core for one task, measured with one actor and no work (Ray 2.60)."""

BEFORE_UNIT_S = {4: 0.027e-3, 32: 0.041e-3, 128: 0.103e-3, 512: 0.371e-3, 2048: 1.675e-3}
"""The scheduler of revision 6a9adc6, which looked at all workers for each unit, measured as here."""

BEFORE_KEYS_S = 198e-6
"""A unit's keys and its share of plan.json in that revision, with two metrics."""


@dataclass(frozen=True)
class Costs:
    """Of a clip, in a results folder: means over cells.

    Attributes
    ----------
    method_s, control_s, shuffled_s : float
        To explain it, by what kind of contestant does it.
    metric_s : float
        To score it by one metric.
    cell_bytes : float
        Of a cell, which is a file.
    map_bytes : float
        Of a clip's kept map.
    units : ndarray (n,), float
        Seconds of each unit: a chunk explained by a method, with all its scores.
    """

    method_s: float
    control_s: float
    shuffled_s: float
    metric_s: float
    cell_bytes: float
    map_bytes: float
    units: Floats


def measure(folder: Path) -> Costs:
    """Read a results folder."""
    plan = Store(folder).read_plan()
    scopes = {
        explainer["title"]: "shuffled" if explainer["shuffle_of"] else explainer["scope"]
        for arena in plan["arenas"]
        for explainer in arena["explainers"]
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    of_unit: dict[str, float] = defaultdict(float)
    sizes: list[int] = []
    methods: set[str] = set()
    n_mapped = 0
    for path in sorted((folder / "cells").rglob("*.json")):
        content = path.read_bytes()
        cell = json.loads(content)
        if cell["kind"] not in ("explain", "score"):
            continue
        sizes.append(len(content))
        scope = scopes.get(cell["title"], "")
        n_rows = len(cell.get("rows") or cell.get("outcomes"))
        if cell["kind"] == "explain":
            seconds[scope].append(cell["seconds"] / n_rows)
            n_mapped += n_rows
            methods |= {cell["key"]} if scope == "post-hoc" else set()
        else:
            seconds["metric"].append(cell["seconds"] / n_rows)
        of_unit[cell["key"] if cell["kind"] == "explain" else cell["explain"]] += cell["seconds"]
    maps = sum(path.stat().st_size for path in (folder / "maps").rglob("*.safetensors"))
    mean = {name: float(np.mean(own)) for name, own in seconds.items()}
    return Costs(
        mean["post-hoc"],
        mean.get("control", 0.0),
        mean.get("shuffled", 0.0),
        mean["metric"],
        float(np.mean(sizes)),
        maps / n_mapped,
        np.array([own for key, own in of_unit.items() if key in methods]),
    )


# --- the coordinator


class _Many:
    """A data set of any number of clips, which are never read."""

    notes = ()

    def __init__(self, model: Dataset, n: int) -> None:
        self.labels, self.rate = model.labels, model.rate
        length = model.entries[0].n_samples
        self.entries = [
            Entry(f"clip-{i:07d}", f"recording-{i:07d}", (model.labels[0],), length, f"{i:064x}") for i in range(n)
        ]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"clip {index} is not to be read")


def plan_of(clips: int) -> Plan:
    """A plan with real identities, of six methods with their controls and two metrics."""
    names = ("saliency", "input-x-gradient", "guided-backprop", "gradcam", "deeplift", "integrated-gradients")
    suite = parse_suite(
        {
            "name": "sizing",
            "chunk_size": CHUNK,
            "arenas": [{"dataset": {"name": "toy"}, "classifier": {"name": "toy-cnn"}}],
            "explainers": [{"name": name} for name in names],
            "metrics": [{"name": "mask-shape"}, {"name": "own-mask"}],
        }
    )
    (arena,) = suite.arenas
    classifier = load_classifier("toy-cnn", plugins=registry())
    stage = make_stage(suite, arena, _Many(load_dataset("toy", plugins=registry()), clips), classifier)
    contestants = make_contestants(suite, registry(), {})
    return Plan(suite, (Lineup(stage, tuple(contestants)),), make_judges(suite, registry()), environment())


def keys_s(plan: Plan) -> tuple[float, float]:
    """Of the coordinator's core, for each cell; and bytes of the plan on disk, for each cell."""
    n_cells = len(plan) * (1 + len(plan.judges))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, create=True)
        started = time.process_time()
        store.write_plan(plan.document(), plan.keys())
        took = time.process_time() - started
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return took / n_cells, size / n_cells


class _Idlers:
    """Workers that do nothing: when all are busy, a random one is done."""

    name = "idlers"
    apart = True
    by_resources = phases = False
    deaths = ()

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._busy: list[Future[Any]] = []
        self._random = np.random.default_rng(0)
        self.ready: Future[object] = Future()
        self.ready.set_result(None)

    def submit(self, _task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        self._busy.append(future)
        if len(self._busy) >= self.workers:
            place = int(self._random.integers(len(self._busy)))
            self._busy[place], self._busy[-1] = self._busy[-1], self._busy[place]
            self._busy.pop().set_result(Outcome("nothing"))
        return future

    def end(self) -> None:
        pass


def schedule_s(plan: Plan, workers: int, units: int = 1000) -> float:
    """Of the coordinator's core, for each unit that it gives to one of so many workers."""
    engine = _Idlers(workers)
    schedule = Schedule(plan, engine, lambda _resources: engine, lambda task: task, lambda _event: None)
    outcomes = schedule.run(Task(number) for number in range(len(plan)))
    next(outcomes)
    started = time.process_time()
    for _ in range(units):
        next(outcomes)
    return (time.process_time() - started) / units


def reading_s(folder: Path) -> float:
    """Of a core, for each cell that a leaderboard reads."""
    store = Store(folder)
    plan = store.read_plan()
    started = time.process_time()
    for arena in plan["arenas"]:
        read_arena(store, plan, arena)
    n_cells = sum(len(e["cells"]) for arena in plan["arenas"] for e in arena["explainers"])
    return (time.process_time() - started) / (n_cells * (1 + len(plan["metrics"])))


# --- the page


def size_of_run(costs: Costs, key_bytes: float, read_s: float) -> list[tuple[str, str]]:
    """A million clips, 20 explainers, 15 metrics; with controls, as every suite has them."""
    contestants = 2 * EXPLAINERS + CONTROLS
    units = CLIPS // CHUNK * contestants
    cells = units * (1 + METRICS)
    explain_s = EXPLAINERS * (costs.method_s + costs.shuffled_s) + CONTROLS * costs.control_s
    score_s = contestants * METRICS * costs.metric_s
    levels = 256 if cells <= DEEP_CELLS else 256**2
    return [
        ("units (a chunk of 8 clips, an explainer), controls included", f"{units:,}"),
        ("cells, each a file", f"{cells:,}"),
        ("explaining, core hours", f"{CLIPS * explain_s / 3600:,.0f}"),
        ("scoring, core hours", f"{CLIPS * score_s / 3600:,.0f}"),
        ("cells on disk, GB", f"{cells * costs.cell_bytes / 1e9:,.0f}"),
        ("kept maps on disk, TB (`map_cap_mb = 0` keeps none)", f"{CLIPS * contestants * costs.map_bytes / 1e12:,.1f}"),
        ("files in a folder of scores", f"{units * METRICS // levels:,}"),
        ("the plan's keys on disk, GB", f"{cells * key_bytes / 1e9:,.1f}"),
        ("a leaderboard from cells, core hours", f"{cells * read_s / 3600:,.1f}"),
    ]


def schedules(costs: Costs, key_s: float, unit_s: dict[int, float]) -> dict[str, list[float]]:
    """Efficiency for each number of workers: before, now, and now in shards of 1024 workers.

    A unit has the measured mean of a method's explanation and of 15 metrics, and the measured spread.
    """
    per_unit = costs.units.mean() + (METRICS * costs.metric_s * CHUNK - _scoring_share(costs))
    n_units = CLIPS // CHUNK * (2 * EXPLAINERS + CONTROLS)
    durations = heavy_tailed(costs.units * per_unit / costs.units.mean(), n_units)
    before_s, now_s = BEFORE_KEYS_S * (1 + METRICS) / 3, key_s * (1 + METRICS)
    variants = {
        "before": (_between(BEFORE_UNIT_S), before_s, 0),
        "now": (_between(unit_s), now_s, 0),
        "now, a shard for 1024 workers": (_between(unit_s), now_s, 1024),
    }
    found: dict[str, list[float]] = {}
    for name, (giving_s, planning_s, of_shard) in variants.items():
        found[name] = []
        for workers in WORKERS:
            shards = max(1, workers // of_shard) if of_shard else 1
            units = durations[: UNITS_OF_WORKER * workers]
            coordinator = Coordinator(giving_s, len(units) * planning_s)
            cluster = Cluster(workers, shards, start_s=20.0, straggling=0.02, slowness=3.0)
            result = simulate(units, cluster, coordinator, death_rate_hz=1 / 86400, seed=1)
            found[name].append(result.efficiency)
            print(
                f"{name}: {workers} workers, {result.makespan_s / 3600:.2f} h, efficiency {result.efficiency:.3f}, "
                f"coordinator {result.coordinator:.0%}, {result.deaths} deaths",
                flush=True,
            )
    return found


def _scoring_share(costs: Costs) -> float:
    """Seconds of a mean unit that are not explaining."""
    return float(costs.units.mean()) - costs.method_s * CHUNK


def _between(measured: dict[int, float]) -> Any:
    """Seconds a unit for any number of workers: along straight lines over their logarithms; and Ray's."""
    at = np.log(sorted(measured))
    seconds = np.log([measured[workers] for workers in sorted(measured)])
    slope = (seconds[-1] - seconds[-2]) / (at[-1] - at[-2])

    def unit_s(workers: int) -> float:
        x = np.log(max(workers, 1))
        beyond = seconds[-1] + max(slope, 0.0) * (x - at[-1])
        return float(np.exp(beyond if x > at[-1] else np.interp(x, at, seconds))) + RAY_S

    return unit_s


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Efficiency against workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, efficiencies in found.items():
        axes.plot(WORKERS, efficiencies, marker="o", markersize=4, label=name)
    axes.axhline(0.8, color="0.5", linewidth=1, linestyle="--")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="workers", ylabel="efficiency (simulated)")
    axes.set_xticks(WORKERS, [f"{workers // 1024}k" if workers >= 1024 else str(workers) for workers in WORKERS])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure, extrapolate, simulate, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, help="draw the figure to this file")
    arguments = parser.parse_args()
    costs = measure(arguments.results)
    print(f"a clip: explained {costs.method_s:.3f} s, by a control {costs.control_s:.3f}, shuffled "
          f"{costs.shuffled_s:.4f}, one metric {costs.metric_s:.3f} s; a cell {costs.cell_bytes:.0f} bytes, "
          f"a map {costs.map_bytes / 1e3:.0f} kB; a unit {costs.units.mean():.2f} s, 1 of 100 over "
          f"{np.quantile(costs.units, 0.99):.2f} s")  # fmt: skip
    plan = plan_of(40_000)
    key_s, key_bytes = keys_s(plan)
    unit_s = {workers: schedule_s(plan, workers) for workers in BEFORE_UNIT_S}
    read_s = reading_s(arguments.results)
    print(f"a key {key_s * 1e6:.1f} us, a cell read {read_s * 1e6:.0f} us; a unit given out, microseconds: "
          + ", ".join(f"{workers} workers {own * 1e6:.0f}" for workers, own in unit_s.items()))  # fmt: skip
    for name, value in size_of_run(costs, key_bytes, read_s):
        print(f"| {name} | {value} |")
    found = schedules(costs, key_s, unit_s)
    for name, efficiencies in found.items():
        print(f"{name}: below 80 % from {falls_below(WORKERS, efficiencies)} workers on")
    if arguments.out:
        draw(found, arguments.out)


if __name__ == "__main__":
    main()
