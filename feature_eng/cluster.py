"""Where Dask runs: in process, on local workers (GPUs where cuDF is there), or at a scheduler's address."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar

from dask.base import compute
from dask.delayed import delayed
from distributed import Client, LocalCluster, get_client

Item = TypeVar("Item")
Result = TypeVar("Result")

# each thread holds a piece of the log and its copies, some 300 MiB
IN_PROCESS_THREADS = 4
CONNECT_TIMEOUT = "10s"


@contextmanager
def connect(workers: int = 0, scheduler: str | None = None) -> Iterator[Client | None]:
    """Run Dask work inside the block on the cluster that the arguments ask for; close what was opened.

    Args:
        workers: local worker processes, one a GPU where there are GPUs and cuDF; 0 stays in this process.
        scheduler: address of a running scheduler, such as `tcp://10.0.0.5:8786`; excludes `workers`.

    Raises:
        ValueError: `workers` is negative, or both arguments are given.
        OSError: nothing answers at the scheduler's address.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0; got {workers}")
    if workers and scheduler:
        raise ValueError(f"workers must be 0 where a scheduler is named; got {workers} and {scheduler}")
    with ExitStack() as opened:
        if scheduler:
            yield opened.enter_context(_client(scheduler))
        elif workers:
            cluster = opened.enter_context(_local_cluster(workers))
            yield opened.enter_context(_client(cluster))
        else:
            yield None


def _client(cluster: Any) -> Client:
    return Client(cluster, timeout=CONNECT_TIMEOUT)


def _local_cluster(workers: int) -> Any:
    if importlib.util.find_spec("cudf") and _gpu_count():
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(n_workers=min(workers, _gpu_count()), host="127.0.0.1", dashboard_address=None)
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=40,
    )


def _gpu_count() -> int:
    from dask_cuda.utils import get_n_gpus

    try:
        return int(get_n_gpus())
    except Exception:  # NVML raises errors of its own where there is no driver
        return 0


def run_each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Run a function over items on the connected cluster, else on threads; yield results in order.

    Only a window of items is under way at a time, so that results do not pile up.
    """
    threads = _threads()
    scheduler: Any = None if threads else "threads"
    window = 4 * (threads or IN_PROCESS_THREADS)
    waiting = iter(items)
    task = delayed(function, pure=False)
    while batch := list(islice(waiting, window)):
        yield from compute(*map(task, batch), scheduler=scheduler, num_workers=_at_once())


def threads_each(items: int) -> int | None:
    """Return how many threads leave no core idle where `run_each` runs this many; None on a cluster's workers."""
    return None if _threads() else max(1, (os.cpu_count() or 1) // max(1, min(items, _at_once())))


def _at_once() -> int:
    """Return how many items are under way at a time in this process."""
    return min(IN_PROCESS_THREADS, os.cpu_count() or 1)


def _threads() -> int:
    """Return how many threads the connected cluster has, 0 without one."""
    try:
        return sum(get_client().nthreads().values())
    except ValueError:
        return 0
