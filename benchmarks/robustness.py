"""What a run withstands: the figures of docs/robustness.md.

    python benchmarks/robustness.py [--out FILE] [--seed N]

Every experiment is a real run on toy data that is disturbed in one way, and then compared, cell by cell and bit by bit,
with a run that was not. It takes about five minutes. The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from earwitness.errors import StoreError
from earwitness_bench.engines import make_engine
from earwitness_bench.monitor import Began, BrokeOff, Event, Said
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.suite import Suite, parse_suite
from unruly import METRIC_WAYS, WAYS, unruly_registry

UNLIKE = ("seconds", "peak_memory_mb", "checksum", "traceback", "machine")
LIMIT_S = 3.0
KILLS = 10
NEEDS_A_PROCESS = {"hangs in compiled code", "kills its process"}


@dataclass(frozen=True)
class Row:
    """A line of the page: what was done, what came of it, and whether all other cells are as they should be."""

    disturbance: str
    said: str
    unharmed: bool


def suite_of(*explainers: Any, metrics: Any = (), clips: int = 8, chunk_size: int = 4, **options: Any) -> Suite:
    """Two methods and two metrics on toy data, and a culprit among them; it comes first."""
    bystanders = [{"name": "saliency"}, {"name": "smoothgrad", "parameters": {"n_samples": 2}}]
    return parse_suite(
        {
            "name": "robustness",
            "chunk_size": chunk_size,
            "threads": 1,
            "controls": False,
            "arenas": [
                {
                    "dataset": {"name": "toy", "parameters": {"split": "test", "clips": clips}},
                    "classifier": {"name": "toy-cnn"},
                }
            ],
            "explainers": [*explainers, *bystanders],
            "metrics": [*metrics, {"name": "mask-shape"}, {"name": "own-mask"}],
            **options,
        }
    )


def run(out: Path, suite: Suite, **options: Any) -> Summary:
    """In this process, or with the workers of an engine."""
    return run_suite(suite, out, registry=unruly_registry(), **options)


def cells(out: Path) -> dict[str, dict[str, Any]]:
    """All cells by key, without what differs from run to run."""
    found = {}
    for path in sorted(out.glob("cells/*/*/*.json")):
        cell = json.loads(path.read_bytes())
        found[cell["key"]] = {name: value for name, value in cell.items() if name not in UNLIKE}
    return found


# --- kills


def killed_runs(folder: Path, chance: random.Random) -> Row:
    """SIGKILL at random moments, each time the run is started again."""
    suite = suite_of(clips=16, chunk_size=2, controls=True)
    run(folder / "whole", suite)
    whole, out = cells(folder / "whole"), folder / "killed"
    code = (
        "import sys, json; from pathlib import Path; import robustness as r; from earwitness_bench.suite import Suite; "
        "r.run(Path(sys.argv[1]), Suite.model_validate(json.loads(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(out), suite.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kills = at = 0
    per_kill = len(whole) / KILLS
    while kills < KILLS:
        process = subprocess.Popen(command, env=environment)
        goal = at + chance.uniform(0, per_kill)
        while process.poll() is None and _count(out) < goal:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills, at = kills + 1, _count(out)
    summary = run(out, suite)
    equal = cells(out) == whole
    return Row(
        f"{kills} x SIGKILL to the whole run, at random moments",
        f"{len(whole)} cells; at the last start {summary.cached} were found and {summary.explained + summary.scored} "
        f"computed; {len(list(out.rglob('*.corrupt')))} damaged",
        equal and kills >= KILLS // 2,
    )


def _count(out: Path) -> int:
    return len(list(out.glob("cells/*/*/*.json")))


def killed_workers(folder: Path, chance: random.Random, engine: str) -> Row:
    """SIGKILL to random workers while they are at work."""
    suite = suite_of(clips=16, chunk_size=2, controls=True)
    if not (folder / "whole").exists():
        run(folder / "whole", suite)
    told: list[Event] = []
    begun = 0

    def observe(event: Event) -> None:
        nonlocal begun
        told.append(event)
        begun += isinstance(event, Began)
        if isinstance(event, Began) and begun in moments:
            threading.Timer(chance.uniform(0, 0.05), _kill_one, (chance,)).start()

    moments = set(chance.sample(range(5, 60), 5))
    summary = run(folder / engine, suite, engine=make_engine(engine, jobs=2), observer=observe)
    deaths = sum(isinstance(event, BrokeOff) for event in told)
    whole, found = cells(folder / "whole"), cells(folder / engine)
    equal = found == whole
    for key in () if equal else sorted(whole.keys() | found.keys()):
        one, other = whole.get(key, {}), found.get(key, {})
        if one != other:
            differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
            print(f"  {key[:12]} {one.get('title')} {one.get('kind')}: {differing}", file=sys.stderr)
    return Row(f"workers of {engine} killed at work", f"{deaths} died, {len(summary.failed)} cells failed", equal)


def workers() -> list[int]:
    """Worker processes of this one: those of loky and of Ray."""
    commands, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    named = [p for p, c in commands.items() if b"ray::_Worker" in c or (b"loky" in c and b"tracker" not in c)]
    return [pid for pid in named if is_ours(pid)]


def _kill_one(chance: random.Random) -> None:
    alive = workers()
    if alive:
        os.kill(chance.choice(alive), signal.SIGKILL)


# --- the results folder


def damaged_cells(folder: Path, chance: random.Random) -> Row:
    """Random bytes of random files are changed, or the file is cut off."""
    suite = suite_of(clips=16, chunk_size=2)
    run(folder / "a", suite)
    whole = cells(folder / "a")
    files = sorted([*(folder / "a" / "cells").rglob("*.json"), *(folder / "a" / "maps").rglob("*.safetensors")])
    chosen = chance.sample(files, 20)
    for path in chosen:
        content = bytearray(path.read_bytes())
        if chance.random() < 0.5:
            del content[chance.randrange(len(content)) :]
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    more = suite_of(clips=16, chunk_size=2, metrics=[{"name": "patches-floor"}])  # which looks at all maps
    run(folder / "a", more)
    run(folder / "b", more)
    found = len(list((folder / "a").rglob("*.corrupt")))
    equal = whole.items() <= cells(folder / "a").items() and cells(folder / "a") == cells(folder / "b")
    return Row(f"{len(chosen)} of {len(files)} files damaged", f"{found} noticed, set aside and made again", equal)


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[str]:
    """A file system of this size where we may mount one; else a limit to the size of each file."""
    folder.mkdir(parents=True)
    options = f"size={round(megabytes * 1024)}k"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield f"a disk of {megabytes} MB"
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        yield "no file longer than 4000 bytes"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(folder: Path, chance: random.Random) -> Row:
    """The disk is full before the run is done."""
    suite = suite_of(clips=16, chunk_size=2)
    run(folder / "whole", suite)
    whole, said = cells(folder / "whole"), "it did not fill"
    with small_disk(folder / "small", 0.5) as how:
        out = folder / "small" / "out"
        try:
            run(out, suite)
        except StoreError as error:
            said = str(error).partition(": ")[2]
        kept = cells(out)
        leftovers = [path for path in out.rglob(".*.*") if path.is_file()]
    consistent = kept.items() <= whole.items() and not leftovers and len(kept) < len(whole)
    return Row(how, f"stopped with “{said}”; {len(kept)} of {len(whole)} cells are there and right", consistent)


# --- plugins


def unruly_explainer(folder: Path, way: str, undisturbed: dict[str, Any]) -> Row:
    """An explainer that misbehaves among others."""
    clip = "" if way != "raises for one clip" else "toy-0-000018"
    culprit = {"name": "unruly", "label": "culprit", "parameters": {"way": way, **({"clip": clip} if clip else {})}}
    return _beside(folder, f"an explainer {_verb(way)}", suite_of(culprit, cell_timeout_s=LIMIT_S), way, undisturbed)


def unruly_metric(folder: Path, way: str, undisturbed: dict[str, Any]) -> Row:
    """A metric that misbehaves before others."""
    culprit = {"name": "unruly", "parameters": {"way": way}}
    suite = suite_of(metrics=[culprit], cell_timeout_s=LIMIT_S)
    return _beside(folder, f"a metric {_verb(way)}", suite, way, undisturbed)


def _verb(way: str) -> str:
    return way if way.split(maxsplit=1)[0].endswith("s") else f"answers with: {way}"


def _beside(folder: Path, what: str, suite: Suite, way: str, undisturbed: dict[str, Any]) -> Row:
    apart = way in NEEDS_A_PROCESS
    told: list[Event] = []
    options = {"engine": make_engine("joblib", jobs=1)} if apart else {}
    summary = run(folder / what.replace(" ", "-").replace(":", ""), suite, observer=told.append, **options)
    found = cells(folder / what.replace(" ", "-").replace(":", ""))
    said = [text.partition(" · ")[2] for text in (*summary.failed, *summary.notes)]
    deaths = sum(isinstance(event, BrokeOff) for event in told)
    text = said[0] if said else "nothing: it wrote to copies"
    given_up = sum(isinstance(event, Said) and "given up" in event.text for event in told)
    suffix = f" ({deaths} workers ended, {given_up} cells given up)" if apart else ""
    unharmed = undisturbed.items() <= found.items() and (bool(said) or "writes" in way or "global" in way)
    return Row(what, " ".join(text.split())[:170] + suffix, unharmed)


# --- the page


def experiments(folder: Path, seed: int) -> Iterator[Row]:
    """All of them, one after another."""
    for number, experiment in enumerate((killed_runs, damaged_cells, full_disk)):
        yield experiment(folder / experiment.__name__, random.Random(seed + number))
    for engine in ("joblib", "ray"):
        yield killed_workers(folder / "killed_workers", random.Random(seed), engine)
    run(folder / "undisturbed", suite_of())
    undisturbed = cells(folder / "undisturbed")
    for way in WAYS:
        yield unruly_explainer(folder / "explainers", way, undisturbed)
    for way in METRIC_WAYS:
        yield unruly_metric(folder / "metrics", way, undisturbed)


def main() -> int:
    """Print the table, and write the page's if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    lines = ["| disturbance | what came of it | everything else equal to the bit |", "|---|---|---|"]
    unharmed = True
    with tempfile.TemporaryDirectory() as folder:
        for row in experiments(Path(folder), arguments.seed):
            lines.append(
                f"| {row.disturbance} | {row.said.replace('|', '/')} | {'yes' if row.unharmed else '**no**'} |"
            )
            print(lines[-1], flush=True)
            unharmed &= row.unharmed
    print(f"{time.monotonic() - started:.0f} s")
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if unharmed else 1


if __name__ == "__main__":
    sys.exit(main())
