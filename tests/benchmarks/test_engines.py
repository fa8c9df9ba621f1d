"""Engines and the order of work: equal to the byte, whoever computes, in whatever order, and whoever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bench_stubs import CALLS, stub_registry, suite_of
from earwitness.errors import ConfigurationError, EarwitnessError, PluginError, StoreError
from earwitness.specs import ExplainerSpec, Resources
from earwitness_bench.engines import Answer, Hire, Serial, make_engine
from earwitness_bench.engines.process import Setup
from earwitness_bench.monitor import Began, BrokeOff, Ended, Event, Planned, Said
from earwitness_bench.runner import Summary, run_suite
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite, parse_suite
from earwitness_bench.tasks import Outcome, Task, Work

TIMING = ("seconds", "peak_memory_mb", "checksum", "traceback")
WOBBLY = {"name": "wobbly", "parameters": {"from_global": True}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    CALLS.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells(out: Path) -> dict[str, dict[str, Any]]:
    """All cells by key, without what differs from run to run."""
    found = {}
    for path in sorted(out.glob("cells/*/*/*.json")):
        cell = json.loads(path.read_bytes())
        found[cell["key"]] = {name: value for name, value in cell.items() if name not in TIMING}
    return found


def run(out: Path, suite: Suite, engine: Any = None, **options: Any) -> Summary:
    return run_suite(suite, out, **{"registry": stub_registry(), "engine": engine, **options})


def busy_suite(**options: Any) -> Suite:
    """Maps kept and not, parts, a failure, and a control made of each."""
    broken = {"name": "naughty", "parameters": {"way": "crash"}}
    metrics = ("mean-map", "look-at-parts")
    return suite_of("ideal", WOBBLY, "parted", broken, metrics=metrics, controls=True, data={"clips": 7}, **options)


class Death(Exception):  # noqa: N818 - it is one
    """What a worker of :class:`Mortals` dies of."""


class Mortals:
    """Three workers in threads, one of which works at a time; they die when they are told to.

    Parameters
    ----------
    dies : callable (task, times it was begun) -> None, "before" or "after" the work is done
    """

    name = "mortals"
    apart = False
    by_resources = False
    phases = False
    deaths = (Death,)

    def __init__(self, dies: Callable[[Task, int], str | None] = lambda task, times: None, workers: int = 3) -> None:
        self.workers = workers
        self.hired = 0
        self.order: list[int] = []
        self.tasks: list[Task] = []
        self._dies = dies

    @contextmanager
    def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
        with ThreadPoolExecutor(1) as pool:

            def do(task: Task) -> Answer:
                self.order.append(task.unit)
                self.tasks.append(task)
                how = self._dies(task, self.order.count(task.unit))
                if how == "before":
                    raise Death
                answer = work(task)
                if how == "after":
                    raise Death
                return answer

            def hire(_resources: Resources) -> _Seat:
                self.hired += 1
                return _Seat(pool, do)

            yield hire


class _Seat:
    def __init__(self, pool: ThreadPoolExecutor, do: Callable[[Task], Answer]) -> None:
        self._pool, self._do = pool, do
        self.ready: Future[object] = pool.submit(lambda: None)

    def submit(self, task: Task) -> Future[Answer]:
        return self._pool.submit(self._do, task)

    def end(self) -> None:
        pass


# --- the order of work


@pytest.mark.parametrize("map_cap_mb", [16.0, 0.0])
def test_the_order_of_work_does_not_matter(tmp_path: Path, map_cap_mb: float) -> None:
    run(tmp_path / "serial", busy_suite(map_cap_mb=map_cap_mb))
    engine = Mortals()
    run(tmp_path / "three", busy_suite(map_cap_mb=map_cap_mb), engine)
    assert engine.order != sorted(engine.order)
    assert cells(tmp_path / "serial") == cells(tmp_path / "three")


def test_a_shuffled_control_waits_for_the_maps_that_it_takes_and_explains_nothing_itself(tmp_path: Path) -> None:
    run(tmp_path, suite_of("ideal", controls=True, data={"clips": 6}), Mortals(workers=8))
    assert CALLS["ideal"] == 3  # once a chunk


def test_a_worker_stays_with_its_chunk(tmp_path: Path) -> None:
    engine = Mortals(workers=2)
    suite = suite_of("ideal", WOBBLY, "parted", data={"clips": 8})  # four chunks of three units
    run(tmp_path, suite, engine)
    assert sorted(engine.order) == list(range(12))
    firsts = [unit for unit in engine.order if unit % 3 == 0]
    assert firsts == [0, 3, 6, 9]
    for first in firsts:
        begun = [unit for unit in engine.order if unit // 3 == first // 3]
        assert begun == [first, first + 1, first + 2]


# --- workers that die


def test_cells_of_workers_that_die_at_random_are_computed_by_others(tmp_path: Path) -> None:
    chance = random.Random(3)

    def dies(_task: Task, times: int) -> str | None:
        return chance.choice(["before", "after", None]) if times < 3 else None

    run(tmp_path / "serial", busy_suite())
    engine = Mortals(dies)
    summary = run(tmp_path / "dying", busy_suite(), engine)
    assert engine.hired > 10
    assert cells(tmp_path / "serial") == cells(tmp_path / "dying")
    assert summary.left == 0


def test_the_cell_that_takes_every_worker_with_it_is_given_up_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    suite = suite_of("ideal", WOBBLY, data={"clips": 2}, metrics=("mean-map", "two"))
    run(tmp_path / "serial", suite)
    said: list[Event] = []
    deadly = Mortals(lambda task, _times: "before" if task.unit == 0 and not task.given_up else None)
    summary = run(tmp_path / "dying", suite, deadly, observer=said.append)
    assert summary.failed == (
        "bands on tones · ideal: Its worker ended again and again while it was at work on this: killed, out of memory, "
        "or hanging.",
    )
    assert deadly.order.count(0) == 4  # three deaths, and once to see that nothing is left of it
    assert sum(isinstance(event, BrokeOff) for event in said) == 3
    assert "given up" in [event for event in said if isinstance(event, Said)][-1].text
    whole, dying = cells(tmp_path / "serial"), cells(tmp_path / "dying")
    assert len(dying) == len(whole) - 2  # the scores of what was not explained
    assert sum(dying[key] != whole[key] for key in dying) == 1
    assert run(tmp_path / "dying", suite).failed == ()
    assert cells(tmp_path / "dying") == whole


def test_a_metric_that_takes_every_worker_with_it_leaves_the_other_metrics(tmp_path: Path) -> None:
    suite = suite_of("ideal", data={"clips": 2}, metrics=("mean-map", "two"))
    run(tmp_path, suite_of("ideal", data={"clips": 2}, metrics=("two",)))
    deadly = Mortals(lambda task, _times: None if task.given_up else "before")
    summary = run(tmp_path, suite, deadly)
    assert "· mean-map: Its worker ended again and again" in summary.failed[0]
    (failed,) = [cell for cell in cells(tmp_path).values() if "error" in cell]
    assert failed["metric"]["name"] == "stubs:mean-map"
    assert failed["columns"] == {"mean-map": [None, None]}


def test_workers_that_never_begin_stop_the_run(tmp_path: Path) -> None:
    class Stillborn(Mortals):
        @contextmanager
        def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
            def hire(_resources: Resources) -> Any:
                seat = _Seat(ThreadPoolExecutor(1), lambda task: Outcome(""))
                seat.ready = Future()
                seat.ready.set_exception(Death("no such library"))
                return seat

            yield hire

    with pytest.raises(EarwitnessError, match=r"end before they begin \(no such library\)"):
        run(tmp_path, suite_of("ideal"), Stillborn())


def test_an_error_that_a_worker_cannot_go_on_with_stops_the_run(tmp_path: Path) -> None:
    class Full(Mortals):
        @contextmanager
        def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
            with super().crew(lambda task: StoreError("the disk is full"), setup) as hire:  # type: ignore[return-value, arg-type]
                yield hire

    with pytest.raises(StoreError, match="the disk is full"):
        run(tmp_path, suite_of("ideal"), Full())


def test_workers_are_hired_for_what_each_explainer_declares(tmp_path: Path) -> None:
    hired: list[Resources] = []

    class Counting(Mortals):
        by_resources = True

        @contextmanager
        def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
            with super().crew(work, setup) as hire:
                yield lambda resources: (hired.append(resources), hire(resources))[1]

    registry = stub_registry()
    spec = registry.explainer("ideal").spec
    object.__setattr__(spec, "resources", Resources(cpus=2, gpus=0.5, memory_mb=4000))
    run(tmp_path / "hired", suite_of("ideal", WOBBLY), Counting(workers=2), registry=registry)
    assert {resources.cpus for resources in hired} == {1.0, 2.0}
    assert max(hired.count(resources) for resources in hired) <= 2
    run(tmp_path / "serial", suite_of("ideal", WOBBLY))
    assert cells(tmp_path / "hired") == cells(tmp_path / "serial")


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -0.1}, {"gpus": 1.5}, {"memory_mb": -1}])
def test_resources_that_no_worker_can_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PluginError, match="Resources are"):
        Resources(**wrong)
    with pytest.raises(PluginError, match="must be a Resources object"):
        ExplainerSpec(name="x", target="a:B", summary="", resources=wrong)  # type: ignore[arg-type]


# --- threads


def test_several_workers_begin_with_one_thread_each_and_a_folder_keeps_its_number(tmp_path: Path) -> None:
    suite = suite_of("ideal", data={"clips": 2}).model_copy(update={"threads": 0})

    def threads_of(out: Path) -> int:
        return int(Store(out).read_plan()["environment"]["threads"])

    torch.set_num_threads(2)
    run(tmp_path / "one", suite, Serial())
    run(tmp_path / "several", suite, Mortals())
    assert (threads_of(tmp_path / "one"), threads_of(tmp_path / "several")) == (2, 1)
    assert run(tmp_path / "one", suite, Mortals()).explained == 0
    assert run(tmp_path / "several", suite, Serial()).explained == 0
    assert torch.get_num_threads() == 2


def test_more_threads_than_cores_are_pointed_out(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    summary = run(tmp_path, suite_of("ideal", data={"clips": 2}, threads=2), Mortals(workers=cores))
    assert any("threads = 1 in the suite suits several workers" in note for note in summary.notes)


# --- choosing an engine


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "dask"}, "There is no engine 'dask'"),
        ({"name": "serial", "jobs": 2}, "one worker, not 2"),
        ({"name": "joblib", "jobs": 0}, "at least one worker"),
        ({"name": "joblib", "address": "127.0.0.1:6379"}, "Only the engine 'ray'"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_engine(**arguments)


# --- what one is told


def test_an_observer_is_told_of_every_unit(tmp_path: Path) -> None:
    told: list[Event] = []
    run(tmp_path, suite_of("ideal", WOBBLY, metrics=("mean-map", "two")), observer=told.append)
    (planned,) = [event for event in told if isinstance(event, Planned)]
    assert planned.cells_of_unit == 3
    assert planned.units == {"bands on tones · ideal": 3, "bands on tones · wobbly (from_global=True)": 3}
    begun = [event.title for event in told if isinstance(event, Began)]
    assert begun == [event.outcome.title for event in told if isinstance(event, Ended)]
    assert len(begun) == 6
    assert all(event.outcome.seconds > 0 for event in told if isinstance(event, Ended))


# --- real processes


def toy_suite() -> Suite:
    """Real methods on real networks: the smallest run that could differ from process to process."""
    return parse_suite(
        {
            "name": "toy",
            "chunk_size": 3,
            "threads": 1,
            "arenas": [
                {
                    "dataset": {"name": "toy", "parameters": {"split": "test", "clips": 9}},
                    "classifier": {"name": "toy-cnn"},
                }
            ],
            "explainers": [
                {"name": "integrated-gradients", "parameters": {"n_steps": 4}},
                {"name": "smoothgrad", "parameters": {"n_samples": 2}},
                {"name": "gradcam"},
            ],
            "metrics": [{"name": "own-mask"}, {"name": "mask-shape"}],
        }
    )


def children() -> list[int]:
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


class KillOne:
    """An observer that kills a worker at work, once."""

    def __init__(self) -> None:
        self.deaths = 0
        self._begun = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        self.deaths += isinstance(event, BrokeOff)
        self._begun += isinstance(event, Began)
        if isinstance(event, Began) and self._begun == 6:
            threading.Thread(target=self._kill).start()

    def _kill(self) -> None:
        time.sleep(0.02)
        for pid in children()[:1]:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one worker in this process."""
    out = tmp_path_factory.mktemp("engines") / "serial"
    run(out, toy_suite())
    return out


@pytest.mark.parametrize("name", ["joblib", "ray"])
def test_processes_that_are_killed_give_the_cells_of_a_serial_run_to_the_byte(
    tmp_path: Path, serial: Path, name: str
) -> None:
    killer = KillOne()
    summary = run(tmp_path, toy_suite(), make_engine(name, jobs=2), observer=killer)
    assert summary.failed == ()
    assert killer.deaths >= 1
    assert cells(serial) == cells(tmp_path)
    for path in sorted((serial / "maps").rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / path.relative_to(serial)).read_bytes()
    assert children() == []


def test_a_process_that_dies_while_it_has_nothing_to_do_says_so_when_it_is_asked(tmp_path: Path) -> None:
    engine = make_engine("joblib", jobs=1)
    with engine.crew(_title_of, Setup.of_this_process(1)) as hire:
        seat = hire(Resources())
        pid = seat.ready.result(timeout=60)
        assert seat.submit(Task(7)).result(timeout=60) == Outcome("7")
        os.kill(int(str(pid)), signal.SIGKILL)
        time.sleep(0.3)
        with pytest.raises(engine.deaths):
            seat.submit(Task(8)).result(timeout=60)


def _title_of(task: Task) -> Outcome:
    return Outcome(str(task.unit))


# --- two phases


class Phases(Mortals):
    """Metrics that look at attributions only go to workers of their own."""

    phases = True


@pytest.mark.parametrize("map_cap_mb", [16.0, 0.0])
def test_metrics_on_attributions_may_be_left_to_other_workers(tmp_path: Path, map_cap_mb: float) -> None:
    options = {"metrics": ("mask-shape", "mean-map"), "controls": True, "data": {"clips": 5}, "map_cap_mb": map_cap_mb}
    broken = {"name": "naughty", "parameters": {"way": "crash"}}
    suite = suite_of("ideal", WOBBLY, broken, **options)
    alone = run(tmp_path / "serial", suite)
    CALLS.clear()
    chance = random.Random(5)
    engine = Phases(lambda _task, times: chance.choice(["before", "after", None]) if times == 1 else None)
    both = run(tmp_path / "phases", suite, engine)
    assert cells(tmp_path / "serial") == cells(tmp_path / "phases")
    assert (both.left, set(both.failed)) == (0, set(alone.failed))
    again = [unit for unit in set(engine.order) if engine.tasks.count(Task(unit, phase="score"))]
    assert bool(again) == (map_cap_mb > 0)  # maps that are not kept are scored by whoever made them
    assert run(tmp_path / "phases", suite, Phases()).explained == 0


def test_a_metric_that_kills_the_workers_that_only_score_is_given_up_there(tmp_path: Path) -> None:
    suite = suite_of("ideal", metrics=("mask-shape", "mean-map"), data={"clips": 2})
    deadly = Phases(lambda task, _times: "before" if task.phase == "score" and not task.given_up else None)
    summary = run(tmp_path, suite, deadly)
    (said,) = summary.failed
    assert "ideal · mask-shape: Its worker ended again and again" in said
    assert run(tmp_path, suite).failed == ()
