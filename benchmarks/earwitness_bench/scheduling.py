"""Gives the units of a plan to workers: what first, to whom, and what becomes of a unit whose worker died.

A worker stays with a chunk while there is work on it, because the chunk is then read and analysed once. A shuffled
control waits for the maps that it takes. A unit whose worker ended is given to another one; the third time, the cell
that was being computed is given up, and the rest of the unit goes on.

Chunks enter the queue a few at a time: a plan of millions of units needs no more memory than a small one. What a unit
costs here does not grow with the number of workers: nothing here looks at all of them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
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
    """Tasks that want the same kind of worker, by chunk: those of ``fresh`` chunks nobody has begun."""

    fresh: dict[Chunk, deque[Task]] = field(default_factory=dict)
    begun: dict[Chunk, deque[Task]] = field(default_factory=dict)
    length: int = 0

    def add(self, chunk: Chunk, tasks: Iterable[Task]) -> None:
        there = self.begun if chunk in self.begun else self.fresh
        own = there.setdefault(chunk, deque())
        before = len(own)
        own.extend(tasks)
        self.length += len(own) - before

    def put_back(self, chunk: Chunk, task: Task) -> None:
        there = self.fresh if chunk in self.fresh else self.begun
        there.setdefault(chunk, deque()).appendleft(task)
        self.length += 1

    def take(self, preferred: Chunk | None, is_ready: Callable[[Task], bool]) -> tuple[Chunk, Task] | None:
        """A task that is ready: of the chunk that the worker knows, else of a fresh one, else of any."""
        for chunk in itertools.chain((preferred,), itertools.islice(self.fresh, 1), self.begun):
            if chunk is None:
                continue
            for position, task in enumerate(self.begun.get(chunk) or self.fresh.get(chunk) or ()):
                if is_ready(task):
                    self._remove(chunk, position)
                    return chunk, task
        return None

    def _remove(self, chunk: Chunk, position: int) -> None:
        tasks = self.begun[chunk] if chunk in self.begun else self.fresh.pop(chunk)
        del tasks[position]
        self.length -= 1
        if tasks:
            self.begun[chunk] = tasks
        else:
            self.begun.pop(chunk, None)

    def __len__(self) -> int:
        return self.length


@dataclass(eq=False)
class _Crew:
    """The workers of one kind: how many there are, and those that have nothing to do."""

    size: int = 0
    busy: int = 0
    idle: dict[_Place, None] = field(default_factory=dict)

    @property
    def starting(self) -> int:
        return self.size - self.busy - len(self.idle)


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
        self._crews: dict[Resources | None, _Crew] = defaultdict(_Crew)
        self._done: SimpleQueue[tuple[_Place, Future[Any]]] = SimpleQueue()
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
        while self._fill() or any(crew.busy for crew in self._crews.values()):
            self._hand_out()
            place, future = self._done.get()
            if place.future is future:  # else its worker was ended meanwhile
                outcome = self._collect(place, future)
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
        """Start workers that are wanted, give every idle one a task, and end those that are in the way."""
        for demand, queue in self._queues.items():
            crew = self._crews[demand]
            for _ in range(min(self._engine.workers - crew.size, len(queue) - len(crew.idle) - crew.starting)):
                self._take_on(demand)
        for demand in list(self._crews):
            self._hand_out_to(demand)

    def _hand_out_to(self, demand: Resources | None) -> None:
        crew, queue = self._crews[demand], self._queues[demand]
        while len(queue) and crew.idle:
            place = next(iter(crew.idle))
            found = queue.take(place.chunk, self._is_ready)
            if found is None:
                return  # nothing is ready, for the others neither
            del crew.idle[place]
            crew.busy += 1
            place.chunk, place.task = found
            self._observer(Began(self._plan.title(place.task.unit)))
            self._await(place, place.seat.submit(place.task))
        if crew.idle and any(other.starting for other in self._crews.values()):
            for place in list(crew.idle):  # they make room for workers that wait for their resources
                self._dismiss(place)

    def _take_on(self, demand: Resources | None) -> None:
        seat = self._hire(demand or Resources())
        self._crews[demand].size += 1
        self._await(_Place(seat, demand, None), seat.ready)

    def _await(self, place: _Place, future: Future[Any]) -> None:
        place.future = future
        future.add_done_callback(lambda done: self._done.put((place, done)))

    def _dismiss(self, place: _Place) -> None:
        crew = self._crews[place.demand]
        crew.size -= 1
        crew.idle.pop(place, None)
        place.future = None
        place.seat.end()

    def _collect(self, place: _Place, future: Future[Any]) -> Outcome | None:
        """What became of a worker's last errand: it is ready, it has an outcome, or it has died."""
        error = future.exception()
        if isinstance(error, self._engine.deaths):
            self._bury(place, error)
            return None
        if error is not None:
            raise error
        task, place.task, place.future = place.task, None, None
        crew = self._crews[place.demand]
        crew.idle[place] = None
        self._stillborn = 0
        if task is None:
            return None
        crew.busy -= 1
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
        self._dismiss(place)
        task = place.task
        if task is not None:
            self._crews[place.demand].busy -= 1
        else:
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
