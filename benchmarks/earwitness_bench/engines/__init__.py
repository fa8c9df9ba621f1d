"""Where cells are computed. An engine owns neither cache, nor seeds, nor retries: it hires workers, and ends them.

A worker is a process that holds the function it was hired with (see :data:`earwitness_bench.tasks.Work`), and with it
classifiers and explainers, ready to use; only a :class:`~earwitness_bench.tasks.Task` goes there and an
:class:`~earwitness_bench.tasks.Outcome` comes back. What is done in which order is the affair of
:mod:`earwitness_bench.scheduling`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from earwitness.errors import ConfigurationError
from earwitness.specs import Resources
from earwitness_bench.tasks import Outcome, Task, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earwitness_bench.engines.process import Setup

Answer = Outcome | Exception
"""What comes back: an error that must stop the run comes as a value, since not all can be raised across processes."""


class Seat(Protocol):
    """One worker. It does one task at a time."""

    ready: Future[object]
    """Done when the worker can take its first task."""

    def submit(self, task: Task) -> Future[Answer]:
        """Begin a task. The future raises one of the engine's ``deaths`` if the worker ends."""
        ...

    def end(self) -> None:
        """End the worker at once, whatever it does."""
        ...


Hire = Callable[[Resources], Seat]
"""Starts one more worker."""


class Engine(Protocol):
    """A way to have workers.

    Attributes
    ----------
    name : str
    workers : int
        The most workers at a time.
    apart : bool
        Whether a worker is a process of its own, which may be ended without harm to the run.
    by_resources : bool
        Whether a worker is hired for what a spec declares. Otherwise all workers are alike.
    phases : bool
        Whether metrics that look at attributions only go to workers of their own, without a GPU, while others explain.
        That pays where explaining is the GPU's; elsewhere the worker that explained has all at hand.
    deaths : tuple of exception types
        How a future says that its worker has ended.
    """

    name: str
    workers: int
    apart: bool
    by_resources: bool
    phases: bool
    deaths: tuple[type[BaseException], ...]

    def crew(self, work: Work, setup: Setup) -> AbstractContextManager[Hire]:
        """Be ready to hire workers for ``work``; all of them have ended when the context closes."""
        ...


class Serial:
    """One after another, in this process."""

    name = "serial"
    workers = 1
    apart = False
    by_resources = False
    phases = False
    deaths: tuple[type[BaseException], ...] = ()

    @contextmanager
    def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
        """See :class:`Engine`."""
        yield lambda _resources: _Here(work)


class _Here:
    def __init__(self, work: Work) -> None:
        self._work = work
        self.ready: Future[object] = Future()
        self.ready.set_result(None)

    def submit(self, task: Task) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(self._work(task))
        return future

    def end(self) -> None:
        pass


SCORING = Resources(cpus=1.0, gpus=0.0, memory_mb=1000.0)
"""What a worker takes that only scores."""

ENGINES = ("serial", "joblib", "ray")


def make_engine(name: str, *, jobs: int | None = None, address: str | None = None) -> Engine:
    """An engine by its name.

    Parameters
    ----------
    name : {"serial", "joblib", "ray"}
    jobs : int, optional
        The most workers. Default: as many as the machine, or the cluster, has cores.
    address : str, optional
        Of a Ray cluster that is running. Default: Ray is started on this machine.

    Raises
    ------
    ConfigurationError
        There is no such engine, or it cannot be had in this way.
    """
    if jobs is not None and jobs < 1:
        raise ConfigurationError(f"A run needs at least one worker, got {jobs}.")
    if address is not None and name != "ray":
        raise ConfigurationError(f"Only the engine 'ray' joins a cluster at an address; this one is {name!r}.")
    if name == "serial":
        if jobs not in (None, 1):
            raise ConfigurationError(f"The engine 'serial' is one worker, not {jobs}. Choose 'joblib' or 'ray'.")
        return Serial()
    if name == "joblib":
        from earwitness_bench.engines.joblib import Joblib

        return Joblib(jobs)
    if name == "ray":
        from earwitness_bench.engines.ray import Ray

        return Ray(jobs, address=address)
    raise ConfigurationError(f"There is no engine {name!r}. Choose one of: {', '.join(ENGINES)}.")
