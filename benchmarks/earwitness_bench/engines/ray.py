"""Workers on a Ray cluster, or on a local Ray that is started for the run: actors, each hired for what a spec declares.

The function that an actor is hired with lies in Ray's object store: it is pickled once for a run, and fetched once by
each actor. A local Ray listens on the loopback address only, and has no dashboard.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import cloudpickle

from earwitness.errors import ConfigurationError
from earwitness.specs import Resources
from earwitness_bench.engines import SCORING, Answer, Hire
from earwitness_bench.engines.process import Setup, answer
from earwitness_bench.tasks import Task, Work

_LOOPBACK = "127.0.0.1"
_MEGABYTE = 2**20
_PATIENCE_S = 10.0


class Ray:
    """Actors on one machine or many.

    Parameters
    ----------
    jobs : int, optional
        The most actors of a kind. Default: as many as the cluster has cores.
    address : str, optional
        Of a cluster that is running: its machines must have this environment, and see the results folder and the data
        under the same paths. Default: start Ray on this machine, and stop it afterwards.

    Raises
    ------
    ConfigurationError
        Ray is not installed, or nothing answers at the address: Ray itself would wait there for minutes, and only when
        everything is loaded and fitted.
    """

    name = "ray"
    apart = True
    by_resources = True

    def __init__(self, jobs: int | None = None, *, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            # Read when Ray is imported: with clusters off, its servers listen on the loopback address.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            self._ray = importlib.import_module("ray")
        except ImportError as error:
            raise ConfigurationError(
                "The engine 'ray' needs the package of that name: pip install 'earwitness[ray]'."
            ) from error
        if address is not None:
            _check_address(address)
        self._address = address
        self._jobs = jobs
        self.phases = False
        self.workers = jobs or os.cpu_count() or 1
        errors = self._ray.exceptions
        self.deaths: tuple[type[BaseException], ...] = (
            errors.RayActorError,
            errors.ObjectLostError,
            errors.OutOfMemoryError,
            errors.WorkerCrashedError,
        )

    @contextmanager
    def crew(self, work: Work, setup: Setup) -> Iterator[Hire]:
        """See :class:`earwitness_bench.engines.Engine`."""
        started = self._join()
        seats: list[_Actor] = []
        try:
            self.phases = setup.on_gpu
            shared = self._ray.put(cloudpickle.dumps(work))
            on_cpu = self._ray.put(cloudpickle.dumps(work.on_cpu())) if self.phases else shared
            actor = self._ray.remote(max_restarts=0, max_task_retries=0)(_Worker)

            def hire(resources: Resources) -> _Actor:
                options = self._options(resources, setup.on_gpu)
                own = on_cpu if resources == SCORING else shared
                seats.append(_Actor(self._ray, actor.options(**options).remote(own, setup)))
                return seats[-1]

            yield hire
        finally:
            for seat in seats:
                seat.end()
            if started:
                self._ray.shutdown()

    def _join(self) -> bool:
        """Connect; whether this started a Ray, or joined one, that is to be left afterwards."""
        if self._ray.is_initialized():
            self._count()
            return False
        options: dict[str, Any] = {"address": self._address}
        if self._address is None:
            options = {
                "address": "local",
                "include_dashboard": False,
                "_node_ip_address": _LOOPBACK,
                "num_cpus": self._jobs,
            }
        try:
            self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"There is no Ray to be had at {self._address or 'this machine'}: {error}"
            ) from None
        self._count()
        return True

    def _count(self) -> None:
        self.workers = self._jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _options(self, resources: Resources, on_gpu: bool) -> dict[str, Any]:
        """What an actor asks of the cluster.

        Raises
        ------
        ConfigurationError
            No machine of the cluster has that much: the actor would wait forever.
        """
        gpus = resources.gpus if on_gpu else 0
        wanted = {"CPU": resources.cpus, "GPU": gpus, "memory": resources.memory_mb * _MEGABYTE}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            raise ConfigurationError(f"No machine of the Ray cluster has {resources}: they have {nodes}.")
        return {"num_cpus": resources.cpus, "num_gpus": gpus, "memory": int(wanted["memory"])}


def _check_address(address: str) -> None:
    """Refuse what is no ``HOST:PORT`` (or ``auto``, Ray's word for the cluster on this machine), or does not answer."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigurationError(
            f"The address of a Ray cluster reads HOST:PORT, such as 127.0.0.1:6379, got {address!r}. `ray start "
            "--head` says it; without an address, Ray is started on this machine."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise ConfigurationError(
            f"No Ray cluster answers at {address}: {error}. Is it running (`ray start --head`), and can this machine "
            "reach it? Without an address, Ray is started on this machine."
        ) from None


class _Actor:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self.ready: Future[object] = actor.ready.remote().future()

    def submit(self, task: Task) -> Future[Answer]:
        future: Future[Answer] = self._actor.do.remote(task).future()
        return future

    def end(self) -> None:
        self._ray.kill(self._actor, no_restart=True)


class _Worker:
    """In a process of Ray's: what it was hired for."""

    def __init__(self, pickled: bytes, setup: Setup) -> None:
        setup.apply()
        self._work: Work = cloudpickle.loads(pickled)

    def ready(self) -> None:
        """Answers once the actor is there."""

    def do(self, task: Task) -> Answer:
        """One task."""
        return answer(self._work, task)
