"""Worker processes on this machine: loky, the executor behind joblib.

Each worker is an executor of its own, so that one that dies takes nothing with it. Processes are started anew, never
forked: threads of torch do not survive a fork.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import cloudpickle
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from earwitness.specs import Resources
from earwitness_bench.engines import Answer, Hire
from earwitness_bench.engines.process import Setup, answer
from earwitness_bench.tasks import Task, Work

_THREADS_OF = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

_work: Work | None = None
"""In a worker: what it was hired for."""


class Joblib:
    """Processes on this machine.

    Parameters
    ----------
    jobs : int, optional
        The most workers. Default: one for each core that this process may use.
    """

    name = "joblib"
    apart = True
    by_resources = False
    phases = False
    deaths: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, jobs: int | None = None) -> None:
        self.workers = jobs or len(os.sched_getaffinity(0))

    @contextmanager
    def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
        """See :class:`earwitness_bench.engines.Engine`."""
        seats: list[_Process] = []
        with tempfile.TemporaryDirectory(prefix="earwitness-") as folder:
            # A file, because loky waits forever for a process that dies before it has read more than a pipe holds.
            pickled = Path(folder) / "work"
            pickled.write_bytes(cloudpickle.dumps(work))

            def hire(_resources: Resources) -> _Process:
                seats.append(_Process(pickled, setup))
                return seats[-1]

            try:
                yield hire
            finally:
                for seat in seats:
                    seat.end()


class _Process:
    def __init__(self, pickled: Path, setup: Setup) -> None:
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            initializer=_begin,
            initargs=(pickled, setup),
            env=dict.fromkeys(_THREADS_OF, str(setup.threads)),
        )
        self.ready: Future[object] = self._executor.submit(os.getpid)

    def submit(self, task: Task) -> Future[Answer]:
        try:
            future: Future[Answer] = self._executor.submit(_do, task)
        except BrokenProcessPool as death:  # it ended while it was idle
            future = Future()
            future.set_exception(death)
        return future

    def end(self) -> None:
        for pid in list(self._executor._processes):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._executor.shutdown(wait=False)


def _begin(pickled: Path, setup: Setup) -> None:
    global _work  # noqa: PLW0603 - a process has one work
    setup.apply()
    _work = cloudpickle.loads(pickled.read_bytes())


def _do(task: Task) -> Answer:
    assert _work is not None
    return answer(_work, task)
