import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.exporting import export_bundle
from tests.conftest import Shop
from triton_repo import server as module
from triton_repo.server import Running, find_tritonserver, start_server


@pytest.fixture(scope="module")
def repository(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return export_bundle(shop.bundle, tmp_path_factory.mktemp("served") / "models")


def descendants(pid: int) -> set[int]:
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def gone(pids: set[int], within_s: float = 25.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.triton
def test_stopping_leaves_no_process_and_no_folder(repository: Path, tmp_path: Path) -> None:
    with start_server(repository, http_port=0, grpc_port=0, metrics_port=0, log=tmp_path / "log") as server:
        server.wait_ready()
        started = {server.pid, *descendants(server.pid)}
        scratch = Path(f"/proc/{server.pid}/cwd").readlink()
    assert len(started) >= 4  # the server and three steps
    assert gone(started)
    assert not scratch.exists()


@pytest.mark.triton
def test_the_server_listens_on_loopback_alone(repository: Path, tmp_path: Path) -> None:
    with start_server(repository, http_port=0, grpc_port=0, metrics_port=0, log=tmp_path / "log") as server:
        server.wait_ready()
        ports = {int(url.rsplit(":", 1)[1]) for url in (server.http_url, server.grpc_url, server.metrics_url)}
        listening = [
            line.split()[1].split(":")
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        ]
    addresses = {address for address, port in listening if int(port, 16) in ports}
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and as an IPv6 address
    assert addresses


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Heed SIGINT, and so do new processes: a shell has what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.triton
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_serve_ends_nothing_goes_on_running(repository: Path, tmp_path: Path, ending: signal.Signals) -> None:
    command = [str(Path(sys.executable).with_name("steelyard")), "serve", str(repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with (tmp_path / "out").open("w+") as output:
        serving = subprocess.Popen([*command, *ports], stdout=output, stderr=output)
        deadline = time.monotonic() + 90
        while "ready:" not in (tmp_path / "out").read_text() and time.monotonic() < deadline:
            assert serving.poll() is None, (tmp_path / "out").read_text()
            time.sleep(0.1)
        started = descendants(serving.pid)
        assert len(started) >= 4
        serving.send_signal(ending)
        serving.wait(30)
    assert gone(started)


def check_not_served(folder: Path, tmp_path: Path, message: str) -> None:
    with (
        start_server(folder, http_port=0, grpc_port=0, metrics_port=0, log=tmp_path / "log") as server,
        pytest.raises(RuntimeError, match=message),
    ):
        server.wait_ready()


@pytest.mark.triton
def test_a_ranker_that_was_changed_is_not_served(shop: Shop, repository: Path, tmp_path: Path) -> None:
    folder = export_bundle(shop.bundle, tmp_path / "models")
    path = folder / "rank" / "1" / "ranker.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    check_not_served(folder, tmp_path, r"(?s)must keep running; got exit code 1.*ranker\.pt must have checksum")


@pytest.mark.triton
def test_a_number_of_the_plan_that_was_changed_is_not_served(shop: Shop, repository: Path, tmp_path: Path) -> None:
    folder = export_bundle(shop.bundle, tmp_path / "models")
    path = folder / "preprocess" / "1" / "plan" / "plan.json"
    text = path.read_text()
    path.write_text(re.sub(r'("normalize",\s*-?\d)', r"\g<1>1", text, count=1))
    assert path.read_text() != text
    check_not_served(folder, tmp_path, r"plan/plan\.json must have checksum")


@pytest.mark.triton
def test_an_array_of_the_plan_that_was_changed_is_not_served(shop: Shop, repository: Path, tmp_path: Path) -> None:
    folder = export_bundle(shop.bundle, tmp_path / "models")
    path = max((folder / "preprocess" / "1" / "plan" / "arrays").iterdir(), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-4])
    check_not_served(folder, tmp_path, "must be as it was written; got another checksum")


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"repository must hold models with config.pbtxt; got"),
        start_server(tmp_path),
    ):
        pass


@pytest.mark.triton
def test_a_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(OSError, match=rf"grpc_port must be free on 127\.0\.0\.1; got {port}"),
            start_server(repository, http_port=0, grpc_port=port, metrics_port=0),
        ):
            pass


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ((8100, 8101, 8100), "ports must be different; got http 8100, grpc 8101, metrics 8100"),
        ((0, 70_000, 0), "grpc_port must be 0 to 65535; got 70000"),
    ],
)
@pytest.mark.triton
def test_ports_that_cannot_be_are_refused(repository: Path, ports: tuple[int, int, int], message: str) -> None:
    with (
        pytest.raises(ValueError, match=message),
        start_server(repository, http_port=ports[0], grpc_port=ports[1], metrics_port=ports[2]),
    ):
        pass


def running(log: Path, command: str) -> Running:
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", command], stdout=file)
    return Running(process, "127.0.0.1", {"http": 9, "grpc": 9, "metrics": 9}, log)


def test_a_server_that_ends_without_an_error_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = running(log, "print('E1124 server.cc: CudaDriverHelper'); print('the last words')")
    with pytest.raises(RuntimeError, match=r"(?s)must keep running; got exit code 0.*the last words"):
        server.wait_ready()


def test_a_server_that_is_not_ready_in_time_is_told(tmp_path: Path) -> None:
    server = running(tmp_path / "log", "print('loading', flush=True); import time; time.sleep(60)")
    try:
        with pytest.raises(TimeoutError, match=r"(?s)tritonserver must be ready within 1 s; got none.*loading"):
            server.wait_ready(1.0)
    finally:
        server.stop()
    assert server.process.returncode == -signal.SIGTERM


def test_the_image_that_is_named_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_TRITON_IMAGE", "registry/tritonserver:24.10")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}" if name == "docker" else None)
    found = find_tritonserver()
    assert found.origin == "tritonserver in container registry/tritonserver:24.10"
    assert found.command[0] == "/bin/docker"
    assert "{repository}:{repository}:ro" in found.command
    assert "--gpus=all" not in found.command
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    assert "--gpus=all" in find_tritonserver().command
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="STEELYARD_TRITON_IMAGE must find docker or podman"):
        find_tritonserver()


@pytest.mark.triton
def test_a_python_without_its_shared_library_is_told_what_to_install(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(FileNotFoundError, match=rf"(?s)Python must come with {name}\.so.*apt install {name}\)"):
        find_tritonserver()


def test_where_there_is_no_tritonserver_the_ways_to_get_one_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"tritonserver must be on PATH, .*steelyard\[server\].*got none"):
        find_tritonserver()
