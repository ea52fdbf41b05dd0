"""The simulated shop that serving benchmarks use: its log, its bundle, its requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from feature_eng.schema import Schema
from feature_eng.simulator import shop_schema, simulate
from steelyard.bundle import Bundle, open_bundle
from steelyard.pipeline import FitOptions, fit


def bundle_of_shop(folder: Path, rows: int, **ranker: Any) -> tuple[Bundle, Path]:
    """Return the bundle and the log in a folder, made where they are missing, with a ranker's own settings."""
    log, bundle = folder / "log", folder / "bundle"
    if not log.exists():
        simulate(log, rows=rows)
    if not bundle.exists():
        fit(str(log), shop_schema(), bundle, FitOptions(training={"epochs": 1, "ranker": ranker}))
    return open_bundle(bundle), log


def request_rows(log: Path, schema: Schema, candidates: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a user (with context) and candidates, out of the log's rows."""
    part = min(log.glob("*.parquet"))
    rows = pq.read_table(part).slice(0, candidates).to_pylist()
    roles = {i.name: i.role for i in schema.inputs}
    user = {name: rows[0][name] for name, role in roles.items() if role != "item"}
    return user, [{name: row[name] for name, role in roles.items() if role == "item"} for row in rows]
