"""The README's tour, run as it is written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from feature_eng.schema_file import parse_schema
from triton_repo.server import find_tritonserver

WAIT = """
import socket, time
for _ in range(200):
    with socket.socket() as probe:
        if probe.connect_ex(("localhost", 8001)) == 0:
            break
    time.sleep(0.5)
time.sleep(2)
"""
PROJECT = Path(__file__).resolve().parent.parent


def blocks(section: str) -> list[tuple[str, str]]:
    """Return a section's code blocks as (language, text)."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    body = re.search(rf"^## {section}$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"```(\w+)\n(.*?)```", body.group(1), re.DOTALL) if body else []


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_runs(tmp_path: Path) -> None:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for index, (language, text) in enumerate(blocks("A tour")):
        if language == "python":
            (tmp_path / f"{index}.py").write_text(text, encoding="utf-8")
            text = f"python {index}.py\n"
        if "curl" in text and not shutil.which("curl"):
            continue
        lines.append(text)
        if "serve" in text:
            lines.append(f"python -c '{WAIT}'")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = script.communicate(timeout=580)
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
    assert script.returncode == 0, output
    assert "{'click': 1.0}" in output
    assert not shutil.which("curl") or '"name":"scores","datatype":"FP32","shape":[20]' in output
    assert list((tmp_path / "scored").glob("part-*.parquet"))


def test_the_schema_shown_is_sound() -> None:
    (schema,) = (text for language, text in blocks("Your own log") if language == "yaml")
    assert parse_schema(schema).objective_names == ("click", "purchase", "revenue")
