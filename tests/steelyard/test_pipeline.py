import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from feature_eng.cluster import connect
from feature_eng.plan_files import load_plan
from feature_eng.simulator import shop_schema
from steelyard.pipeline import FitOptions, fit
from tests.conftest import SMALL, Shop

OPTIONS = FitOptions(training=SMALL)


def weights(bundle: Path) -> str:
    return hashlib.sha256((bundle / "ranker" / "weights.safetensors").read_bytes()).hexdigest()


def test_a_fit_leaves_the_bundle_and_nothing_else(shop: Shop) -> None:
    assert {path.name for path in shop.bundle.folder.parent.iterdir()} == {"log", "test", "bundle"}


def test_an_existing_bundle_is_not_overwritten(shop: Shop) -> None:
    with pytest.raises(FileExistsError, match="out must not exist yet; got"):
        fit(str(shop.log), shop_schema(), shop.bundle.folder, OPTIONS)


def test_there_must_be_something_to_resume(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume must find an unfinished run; got none in"):
        fit(str(shop.log), shop_schema(), tmp_path / "bundle", OPTIONS, resume=True)


@pytest.mark.parametrize("step", ["prepare_log", "lower", "write_features", "export_ranker", "write_manifest"])
def test_a_fit_stopped_at_any_step_resumes_to_the_same_bundle(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise InterruptedError

    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        patch.setattr(f"steelyard.pipeline.{step}", stop)
        with pytest.raises(InterruptedError):
            fit(str(shop.log), shop_schema(), out, OPTIONS)
    assert not out.exists()
    bundle = fit(str(shop.log), shop_schema(), out, OPTIONS, resume=True)
    assert weights(bundle.folder) == weights(shop.bundle.folder)
    assert (out / "metrics.json").read_text() == (shop.bundle.folder / "metrics.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


SCRIPT = """
import sys
from pathlib import Path
from feature_eng.simulator import shop_schema
from steelyard.pipeline import FitOptions, fit
from tests.conftest import SMALL
training = {**SMALL, "epochs": 3, "patience": 3}
fit(sys.argv[1], shop_schema(), Path(sys.argv[2]), FitOptions(training=training), resume=sys.argv[3] == "resume")
"""


def run(shop: Shop, out: Path, how: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", SCRIPT, str(shop.log), str(out), how]
    return subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])


@pytest.mark.slow
def test_a_fit_killed_in_training_resumes_to_the_same_ranker(shop: Shop, tmp_path: Path) -> None:
    assert run(shop, tmp_path / "whole", "anew").wait(200) == 0
    killed = run(shop, tmp_path / "killed", "anew")
    checkpoints = tmp_path / "killed.partial" / "training"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(checkpoints.rglob("*.ckpt")):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    with pytest.raises(ValueError, match="resume must have the arguments of the unfinished run; got other validation"):
        fit(str(shop.log), shop_schema(), tmp_path / "killed", FitOptions(validation=0.2), resume=True)
    assert run(shop, tmp_path / "killed", "resume").wait(200) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}


@pytest.mark.slow
def test_workers_fit_the_same_plan_as_one_process(shop: Shop, tmp_path: Path) -> None:
    with connect(workers=2):
        bundle = fit(str(shop.log), shop_schema(), tmp_path / "bundle", OPTIONS)
    one, other = load_plan(bundle.plan), load_plan(shop.bundle.plan)
    assert one.layout == other.layout
    for name, array in one.arrays.items():
        np.testing.assert_allclose(array, other.arrays[name], rtol=1e-6)
