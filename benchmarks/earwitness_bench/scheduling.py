"""Gives the units of a plan to workers: what first, to whom, and what becomes of a unit whose worker died.

A worker stays with a chunk while there is work on it, because the chunk is then read and analysed once. A shuffled
control waits for the maps that it takes. A unit whose worker ended is given to another one; the third time, the cell
that was being computed is given up, and the rest of the unit goes on.

Chunks enter the queue a few at a time: a plan of millions of units needs no more memory than a small one.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from earwitness.errors import EarwitnessError
from earwitness.specs import Resources
from earwitness_bench.engines import SCORING, Engine, Hire, Seat
from earwitness_bench.monitor import Began, BrokeOff, Ended, Observer, Said
from earwitness_bench.plan import Plan
from earwitness_bench.tasks import Outcome, Phase, Task

ATTEMPTS = 3
"""So many workers a unit may bring down before the cell in question is given up."""

_LEAST_GPU = 0.01

_STILLBORN = 3
"""So many workers may end before their first task, one after another, before the run stops."""

GiveUp = Callable[[Task], Task]
"""Keeps the failure of the cell that a dead worker was at, and returns the rest of the task."""

Chunk = tuple[int, int]
"""The numbers of an arena and of a chunk of it."""


@dataclass(eq=False)
class _Place:
    """A worker as the scheduler sees it: starting or at work (there is a ``future``), or idle."""

    seat: Seat
    demand: Resources | None
    future: Future[Any] | None
    task: Task | None = None
    chunk: Chunk | None = None


@dataclass(eq=False)
class _Queue:
    """Tasks that want the same kind of worker, by chunk; ``fresh`` are the chunks that nobody has begun."""

    chunks: dict[Chunk, deque[Task]] = field(default_factory=dict)
    fresh: deque[Chunk] = field(default_factory=deque)

    def add(self, chunk: Chunk, tasks: Iterable[Task]) -> None:
        if chunk not in self.chunks:
            self.chunks[chunk] = deque()
            self.fresh.append(chunk)
        self.chunks[chunk].extend(tasks)

    def put_back(self, chunk: Chunk, task: Task) -> None:
        self.chunks.setdefault(chunk, deque()).appendleft(task)

    def take(self, preferred: Chunk | None, is_ready: Callable[[Task], bool]) -> tuple[Chunk, Task] | None:
        """A task that is ready: of the chunk that the worker knows, else of a fresh one, else of any."""
        begun = (chunk for chunk in self.chunks if chunk not in self.fresh)
        for chunk in itertools.chain((preferred,), tuple(self.fresh)[:1], begun):
            for position, task in enumerate(self.chunks.get(chunk, ())):  # type: ignore[arg-type]
                if is_ready(task):
                    assert chunk is not None
                    self._remove(chunk, position)
                    return chunk, task
        return None

    def _remove(self, chunk: Chunk, position: int) -> None:
        del self.chunks[chunk][position]
        if chunk in self.fresh:
            self.fresh.remove(chunk)
        if not self.chunks[chunk]:
            del self.chunks[chunk]

    def __len__(self) -> int:
        return sum(map(len, self.chunks.values()))


class Schedule:
    """Carries out tasks with the workers of an engine.

    Parameters
    ----------
    plan : Plan
    engine : Engine
    hire : callable
        Of the engine's crew.
    give_up : callable (Task) -> Task
    observer : Observer
        Is told what begins and what happens to workers.
    """

    def __init__(self, plan: Plan, engine: Engine, hire: Hire, give_up: GiveUp, observer: Observer) -> None:
        self._plan = plan
        self._engine = engine
        self._hire = hire
        self._give_up = give_up
        self._observer = observer
        self._queues: dict[Resources | None, _Queue] = defaultdict(_Queue)
        self._source: Iterator[tuple[Chunk, Iterator[Task]]] = iter(())
        self._places: list[_Place] = []
        self._open: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Do the tasks, which come in the order of the plan; yields outcomes as they come.

        Raises
        ------
        EarwitnessError
            A worker says that the run cannot go on, or none can be started.
        """
        first: Phase = "explain" if self._engine.phases else "all"
        self._source = itertools.groupby((replace(task, phase=first) for task in tasks), key=self._chunk)
        while self._fill() or any(place.task is not None for place in self._places):
            self._hand_out()
            futures = {place.future: place for place in self._places if place.future is not None}
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = self._collect(futures[future], future)
                if outcome is not None:
                    yield outcome

    # --- the queue

    def _chunk(self, task: Task) -> Chunk:
        arena, chunk, _ = self._plan.place(task.unit)
        return arena, chunk

    def _demand(self, task: Task) -> Resources | None:
        if task.phase == "score":
            return SCORING
        if not self._engine.by_resources:
            return None
        resources = self._plan.contestant(task.unit).spec.resources
        # On a GPU every explanation is, since its key says so: a method that declares none gets the least there is.
        return replace(resources, gpus=max(resources.gpus, _LEAST_GPU)) if self._engine.phases else resources

    def _fill(self) -> bool:
        """Take chunks from the plan until there is a fresh one for each worker; whether any is left to do."""
        while max((len(queue.fresh) for queue in self._queues.values()), default=0) < self._engine.workers:
            chunk, tasks = next(self._source, (None, iter(())))
            if chunk is None:
                break
            by_demand: dict[Resources | None, list[Task]] = defaultdict(list)
            for task in tasks:
                self._open.add(task.unit)
                by_demand[self._demand(task)].append(task)
            for demand, some in by_demand.items():
                self._queues[demand].add(chunk, some)
        return any(len(queue) for queue in self._queues.values())

    def _is_ready(self, task: Task) -> bool:
        return self._plan.base_of(task.unit) not in self._open

    # --- workers

    def _hand_out(self) -> None:
        """Give every idle worker a task, start workers that are wanted, and end those that are not."""
        for place in [place for place in self._places if place.future is None]:
            queue = self._queues[place.demand]
            found = queue.take(place.chunk, self._is_ready)
            if found is not None:
                place.chunk, place.task = found
                self._observer(Began(self._plan.title(place.task.unit)))
                place.future = place.seat.submit(place.task)
            elif not len(queue) and any(other.future is other.seat.ready for other in self._places):
                self._places.remove(place)  # it makes room for one that is waiting for its resources
                place.seat.end()
        for demand, queue in self._queues.items():
            here = [place for place in self._places if place.demand == demand]
            waiting = sum(place.task is None for place in here)
            for _ in range(min(self._engine.workers - len(here), len(queue) - waiting)):
                self._take_on(demand)

    def _take_on(self, demand: Resources | None) -> None:
        seat = self._hire(demand or Resources())
        self._places.append(_Place(seat, demand, seat.ready))

    def _collect(self, place: _Place, future: Future[Any]) -> Outcome | None:
        """What became of a worker's last errand: it is ready, it has an outcome, or it has died."""
        error = future.exception()
        if isinstance(error, self._engine.deaths):
            self._bury(place, error)
            return None
        if error is not None:
            raise error
        task, place.task, place.future = place.task, None, None
        self._stillborn = 0
        if task is None:
            return None
        answer = future.result()
        if isinstance(answer, Exception):
            raise answer
        self._open.discard(task.unit)
        if answer.unscored:
            self._queues[SCORING].add(self._chunk(task), [replace(task, phase="score")])
        self._observer(Ended(answer))
        outcome: Outcome = answer
        return outcome

    def _bury(self, place: _Place, error: BaseException | None) -> None:
        """Take leave of a worker that has ended, and put its task back."""
        self._places.remove(place)
        place.seat.end()
        task = place.task
        if task is None:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise EarwitnessError(
                    f"The workers of the engine {self._engine.name!r} end before they begin ({error}). "
                    "Try --engine serial: it says why."
                )
            return
        title = self._plan.title(task.unit)
        self._deaths[task.unit] += 1
        again = self._deaths[task.unit] < ATTEMPTS
        self._observer(BrokeOff(title))
        then = "another one tries again" if again else "the cell is given up, and another worker does the rest"
        self._observer(Said(f"A worker ended at work on {title}: {then}."))
        if not again:
            task = self._give_up(task)
            self._deaths[task.unit] = 0
        self._queues[place.demand].put_back(self._chunk(task), task)
