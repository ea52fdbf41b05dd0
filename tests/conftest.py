"""What several test files share: a small simulated shop, and a bundle that was fitted on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from feature_eng.simulator import shop_schema, simulate, simulate_after
from steelyard.bundle import Bundle
from steelyard.pipeline import FitOptions, fit

SMALL = {"epochs": 1, "loggers": (), "progress": False, "ranker": {"experts": 2, "expert_widths": [16], "embedding": 4}}


@dataclass(frozen=True)
class Shop:
    """A simulated log, a later one, and a bundle fitted on the first."""

    log: Path
    test: Path
    bundle: Bundle


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "log", rows=8_000)
    simulate_after(folder / "log", folder / "test", rows=3_000, rows_per_part=500)
    bundle = fit(str(folder / "log"), shop_schema(), folder / "bundle", FitOptions(training=SMALL))
    return Shop(folder / "log", folder / "test", bundle)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("STEELYARD_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data, in {folder} or where STEELYARD_DATA says")
    return folder
