"""Where Dask work runs, and that what was opened is closed."""

import os
import socket
from importlib.util import find_spec

import pytest
from distributed import Client, LocalCluster

from feature_eng import cluster
from feature_eng.cluster import connect, run_each, threads_each


def process_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_work_stays_in_this_process_by_default() -> None:
    with connect() as client:
        assert client is None
        assert list(run_each(process_of, range(40))) == [(item, os.getpid()) for item in range(40)]


def test_workers_are_processes_of_their_own_bound_to_this_machine() -> None:
    with connect(workers=1) as client:
        assert "127.0.0.1" in client.scheduler.address
        results = list(run_each(process_of, range(9)))
        (worker,) = client.scheduler_info()["workers"]
        assert "127.0.0.1" in worker
    assert [item for item, _ in results] == list(range(9))
    assert os.getpid() not in {process for _, process in results}
    assert client.status == "closed"


def test_a_scheduler_is_used_and_left_running() -> None:
    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", dashboard_address=None, host="127.0.0.1"
    ) as running:
        with connect(scheduler=running.scheduler_address) as client:
            assert list(run_each(process_of, [7])) == [(7, os.getpid())]
        assert client.status == "closed"
        with Client(running.scheduler_address) as other:
            assert len(other.nthreads()) == 1


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("cudf") is None, reason="needs a GPU and cudf")
def test_workers_sit_on_gpus_where_cudf_is() -> None:
    with connect(workers=1) as client:
        assert set(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values()) == {"0"}


def test_workers_are_never_negative() -> None:
    with pytest.raises(ValueError, match="workers must be at least 0; got -1"), connect(workers=-1):
        pass


def test_workers_and_a_scheduler_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="workers must be 0 where a scheduler is named; got 2 and tcp://x:1"):
        connect(workers=2, scheduler="tcp://x:1").__enter__()


def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "300ms")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match=r"Timed out|refused"):
        connect(scheduler=f"tcp://127.0.0.1:{port}").__enter__()


@pytest.mark.parametrize(
    ("items", "cores", "threads"), [(1, 2, 2), (2, 2, 1), (40, 2, 1), (3, 16, 5), (40, 16, 4), (0, 1, 1)]
)
def test_items_that_run_side_by_side_share_the_cores(
    items: int, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert threads_each(items) == threads
