"""Time and memory of the benchmark as it grows from 100 clips to 400.

    python benchmarks/perf/scaling.py

Each run is a process of its own, so that its peak memory is its own. Toy data, one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import gate

SMALL, LARGE = 100, 400

RUN = """
import json, resource, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from earwitness.registry import registry
from earwitness_bench.runner import run_suite
from earwitness_bench.suite import parse_suite
clips, out = int(sys.argv[1]), Path(sys.argv[2])
suite = parse_suite({
    "name": "scaling", "threads": 1,
    "arenas": [{"dataset": {"name": "toy", "parameters": {"clips": clips}}, "classifier": {"name": "toy-cnn"}}],
    "explainers": [{"name": "saliency"}, {"name": "integrated-gradients"}],
    "metrics": [{"name": "own-mask"}, {"name": "matched-budget-soft"}],
})
plugins = registry()
started = time.perf_counter()
summary = run_suite(suite, out, registry=plugins)
assert not summary.failed, summary.failed
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    runs: dict[int, list[dict[str, float]]] = {SMALL: [], LARGE: []}
    with tempfile.TemporaryDirectory() as folder:
        for number, clips in enumerate((SMALL, LARGE, SMALL, LARGE)):
            command = [sys.executable, "-c", RUN, str(clips), str(Path(folder) / str(number))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[clips].append(json.loads(done.stdout))
    best = {clips: {name: min(run[name] for run in some) for name in some[0]} for clips, some in runs.items()}
    time_ratio = best[LARGE]["seconds"] / best[SMALL]["seconds"]
    memory_ratio = best[LARGE]["peak_mb"] / best[SMALL]["peak_mb"]
    kept = [
        gate(f"{LARGE} clips over {SMALL}: time", time_ratio, at_most=4.1),
        gate(f"{LARGE} clips over {SMALL}: peak memory ({best[LARGE]['peak_mb']:.0f} MB)", memory_ratio, at_most=1.1),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
