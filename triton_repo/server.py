"""Finds a tritonserver and runs it on a model repository, on loopback, until it is stopped."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

IMAGE_VARIABLE = "STEELYARD_TRITON_IMAGE"
GRACE_S = 20.0
POLL_S = 0.05
LOG_TAIL = 25
# where there is no GPU, every start complains of CudaDriverHelper
ERROR_LINE = re.compile(r"E\d{4} (?!.*CudaDriverHelper)|error:")


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver on this machine, and what it needs around it."""

    origin: str
    command: tuple[str, ...]
    libraries: tuple[Path, ...] = ()
    wheel: Path | None = None

    def __str__(self) -> str:
        return f"{self.origin} ({' '.join(self.command)})"


def find_tritonserver() -> TritonServer:
    """Return the tritonserver of the image that STEELYARD_TRITON_IMAGE names, else the one on PATH, else the wheel's.

    Raises:
        FileNotFoundError: there is none.
    """
    image = os.environ.get(IMAGE_VARIABLE)
    if image:
        return _in_container(image)
    on_path = shutil.which("tritonserver")
    if on_path:
        return TritonServer("tritonserver on PATH", (on_path,))
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        binary = package / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            libraries = (package.parent / "nvidia_pytriton.libs", _python_library())
            return TritonServer("tritonserver of the nvidia-pytriton wheel", (str(binary),), libraries, package)
    raise FileNotFoundError(
        f"tritonserver must be on PATH, come with `pip install 'steelyard[server]'`, or be in a container image that "
        f"{IMAGE_VARIABLE} names; got none"
    )


def _python_library() -> Path:
    """Return the folder of this Python's shared library, which the wheel's Python steps load."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    try:
        ctypes.CDLL(str(folder / name) if (folder / name).exists() else name)
    except OSError:
        raise FileNotFoundError(
            f"Python must come with {name}, which tritonserver's steps load; got none in {folder} "
            f"(on Debian or Ubuntu: apt install {name.split('.so')[0]})"
        ) from None
    return folder


def _in_container(image: str) -> TritonServer:
    """Return the tritonserver of an image, which must have steelyard installed; `{repository}` is mounted into it."""
    engine = shutil.which("docker") or shutil.which("podman")
    if engine is None:
        raise FileNotFoundError(f"{IMAGE_VARIABLE} must find docker or podman on PATH; got neither for {image}")
    gpus = ("--gpus=all",) if shutil.which("nvidia-smi") else ()
    mounted = ("--volume", "{repository}:{repository}:ro")
    return TritonServer(
        f"tritonserver in container {image}",
        (engine, "run", "--rm", "--network=host", "--shm-size=1g", *gpus, *mounted, image, "tritonserver"),
    )


class Running:
    """A tritonserver that was started; its addresses, and ways to wait for it and to stop it."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, ports: Mapping[str, int], log: Path) -> None:
        self.process, self.log = process, log
        self.http_url, self.grpc_url, self.metrics_url = (
            f"{host}:{ports[name]}" for name in ("http", "grpc", "metrics")
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Return once every model is ready.

        Raises:
            RuntimeError: the server ended, with the errors in its log.
            TimeoutError: it was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"tritonserver must keep running; got exit code {self.process.returncode}\n{self.errors()}"
                )
            try:
                with urlopen(f"http://{self.http_url}/v2/health/ready", timeout=1.0) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                pass
            time.sleep(POLL_S)
        raise TimeoutError(f"tritonserver must be ready within {timeout_s:.0f} s; got none\n{self.tail()}")

    def wait(self) -> int:
        """Return the server's exit code once it has ended."""
        return self.process.wait()

    def stop(self) -> None:
        """End the server and its model processes: ask first, kill after a grace."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def tail(self) -> str:
        """Return the end of the server's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL:])

    def errors(self) -> str:
        """Return the errors in the server's log, or its end where there are none."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(line for line in lines if ERROR_LINE.match(line)) or self.tail()


@contextmanager
def start_server(
    repository: str | Path,
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    log: Path | None = None,
) -> Iterator[Running]:
    """Run a tritonserver on a model repository inside the block, and stop it after; it does not outlive this process.

    Args:
        repository: as `write_repository` wrote it.
        host: address to listen on, loopback by default.
        http_port: 0 picks a free one, here and below.
        grpc_port: of the gRPC service.
        metrics_port: of the Prometheus metrics.
        log: file for the server's log; a temporary one by default.

    Raises:
        FileNotFoundError: there is no repository or no tritonserver.
        OSError: a port is taken.
        ValueError: two ports are the same, or one is out of range.
    """
    repository = Path(repository)
    if not any(repository.glob("*/config.pbtxt")):
        raise FileNotFoundError(f"repository must hold models with config.pbtxt; got {repository}, which has none")
    server = find_tritonserver()
    ports = _free_ports(host, {"http": http_port, "grpc": grpc_port, "metrics": metrics_port})
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steelyard-triton-")))
        log = log or scratch / "tritonserver.log"
        repository = repository.resolve()
        command = [part.replace("{repository}", str(repository)) for part in server.command]
        command += _arguments(repository, host, ports)
        if server.wheel:
            command.append(f"--backend-directory={_python_backend(server.wheel, scratch)}")
        process = _start(command, _environment(server), scratch, stack.enter_context(log.open("wb")))
        running = Running(process, host, ports, log)
        stack.callback(running.stop)
        yield running


def _arguments(repository: Path, host: str, ports: Mapping[str, int]) -> list[str]:
    listening = [f"--{name}-address={host}" for name in ports] + [
        f"--{name}-port={port}" for name, port in ports.items()
    ]
    return [
        f"--model-repository={repository}",
        *listening,
        "--model-control-mode=none",
        "--strict-readiness=true",
        "--exit-on-error=true",
        "--disable-auto-complete-config",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=10",
    ]


def _free_ports(host: str, asked: Mapping[str, int]) -> dict[str, int]:
    """Return ports that nothing listens on, each another: the ones asked for, or any for 0."""
    given = [port for port in asked.values() if port]
    if len(set(given)) < len(given):
        raise ValueError(f"ports must be different; got {', '.join(f'{name} {port}' for name, port in asked.items())}")
    with ExitStack() as held:  # so that none is picked twice
        return {name: _bound_port(held, host, name, port) for name, port in asked.items()}


def _bound_port(held: ExitStack, host: str, name: str, port: int) -> int:
    probe = held.enter_context(socket.socket())
    if port:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except OSError as error:
        raise OSError(f"{name}_port must be free on {host}; got {port}: {error.strerror}") from None
    except OverflowError:
        raise ValueError(f"{name}_port must be 0 to 65535; got {port}") from None
    return int(probe.getsockname()[1])


def _python_backend(package: Path, scratch: Path) -> Path:
    """Lay out the wheel's Python backend as tritonserver wants it, with the stub of this Python."""
    backend = scratch / "backends" / "python"
    shutil.copytree(package / "tritonserver" / "backends" / "python", backend)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copyfile(stub, backend / stub.name)
    (backend / stub.name).chmod(0o755)
    return backend.parent


def _environment(server: TritonServer) -> dict[str, str]:
    """Return this process's environment with the server's libraries, and this Python first on PATH.

    The server's Python steps ignore PYTHONPATH and take their packages from the first Python on PATH.
    """
    environment = dict(os.environ)
    libraries = [*map(str, server.libraries), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment


def _start(command: list[str], environment: dict[str, str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own, which a Ctrl-C of the terminal does not reach.

    Its steps can import whatever lies in their working folder, so that is a private one.
    """
    return subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def _die_with_parent() -> None:
    death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(death_signal, signal.SIGTERM)
