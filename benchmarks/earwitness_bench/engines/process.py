"""What a worker process needs before its first task."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from threadpoolctl import threadpool_limits

from earwitness.errors import EarwitnessError
from earwitness_bench.engines import Answer
from earwitness_bench.tasks import Task, Work

OWN_VARIABLES = "EARWITNESS_"
"""What the names of our own environment variables begin with: they say where data and models lie."""


@dataclass(frozen=True)
class Setup:
    """What of the process that started a run holds for its workers too.

    Attributes
    ----------
    threads : int
        Of the CPU, in each worker.
    path : tuple of str
        Where modules are found.
    folder : str
        The working folder: relative paths in a suite mean the same everywhere.
    variables : dict of str to str
        Our own environment variables.
    on_gpu : bool
        Whether workers need a share of a GPU.
    """

    threads: int
    path: tuple[str, ...] = ()
    folder: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    on_gpu: bool = False

    @classmethod
    def of_this_process(cls, threads: int, *, on_gpu: bool = False) -> Setup:
        """As it is here and now."""
        return cls(
            threads,
            tuple(os.path.abspath(place) for place in sys.path),
            os.getcwd(),
            {name: value for name, value in os.environ.items() if name.startswith(OWN_VARIABLES)},
            on_gpu,
        )

    def apply(self) -> None:
        """Make the calling process a worker: one that leaves Ctrl-C to the process that started it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.path.extend(place for place in self.path if place not in sys.path)
        os.environ.update(self.variables)
        with suppress(OSError):  # on another machine there may be no such folder, and perhaps no need for it
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        threadpool_limits(self.threads)
        faulthandler.enable()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many threads of the CPU; as before afterwards."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def answer(work: Work, task: Task) -> Answer:
    """Do a task in a worker; an error that must stop the run comes back as a plain one, which any process can read."""
    try:
        return work(task)
    except EarwitnessError as error:
        return type(error)(str(error))
