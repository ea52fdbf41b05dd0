import os
import re
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ["constraints.txt", "constraints-py310.txt"]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements() -> list[Requirement]:
    """What a plain install needs, and the extras that the constraints cover."""
    found = [Requirement(line) for line in requires("steelyard") or ()]
    covered = [{"extra": extra} for extra in ("", "server", "dev")]
    return [needed for needed in found if not needed.marker or any(map(needed.marker.evaluate, covered))]


def python_that_prints(text: str, folder: Path) -> Path:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return program


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: these tests may themselves run under a make whose flags would reach this one."""
    alone = {"PATH": os.environ["PATH"]}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=60)


@needs_make
@pytest.mark.parametrize("version", ["2.7", "3.9", "3.12", "3.110"])
def test_another_python_is_refused_with_a_sentence(version: str, tmp_path: Path):
    python = python_that_prints(version, tmp_path)
    refused = make("setup", f"PYTHON={python}")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[0] == f"PYTHON must be Python 3.11 or 3.10; got {version}: {python}"
    assert not refused.stdout


@needs_make
def test_a_python_that_does_not_run_is_refused_with_a_sentence():
    refused = make("setup", "PYTHON=no-such-python")
    assert refused.returncode == 2
    assert refused.stderr.startswith("PYTHON must be Python 3.11 or 3.10; got none that runs: no-such-python\n")


@needs_make
def test_a_python_without_venv_is_refused_with_the_package_to_install(tmp_path: Path):
    python = python_that_prints("3.11", tmp_path)
    python.write_text(python.read_text() + 'case "$2" in *ensurepip*) exit 1;; esac\n')
    refused = make("setup", f"PYTHON={python}")
    assert refused.returncode == 2
    assert f"{python} must have venv; got none: on Debian or Ubuntu, apt install python3.11-venv\n" in refused.stderr


@needs_make
def test_help_names_every_target():
    told = make().stdout
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert re.findall(r"^make ([a-z]+)", told, flags=re.MULTILINE) == targets


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_every_requirement_is_pinned_to_a_version_it_allows(file: str):
    pinned = pins(file)
    broken = [str(need) for need in requirements() if pinned.get(canonicalize_name(need.name)) not in need.specifier]
    assert not broken


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_the_pins_work_for_any_machine(file: str):
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins(file).values())
