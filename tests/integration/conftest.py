"""A small served ranker: random weights are enough where only the serving of them is tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from feature_eng.inputs import NULL_INT
from feature_eng.lowering import lower
from feature_eng.plan import Plan
from feature_eng.plan_files import save_plan
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema
from feature_eng.workflow import FOLD_COLUMN, fit_workflow
from models.export import export_ranker
from models.ranker import Ranker
from triton_repo.repository import write_repository
from triton_repo.server import Running, find_tritonserver, start_server

SCHEMA = """
name: shop
user: user_id
item: item_id
time: timestamp
columns:
  - {name: user_id, role: user, kind: categorical, dtype: int64, min_count: 2}
  - {name: history, role: user, kind: categorical_list, dtype: int64, max_length: 3}
  - {name: device, role: context, kind: categorical, dtype: string}
  - {name: item_id, role: item, kind: categorical, dtype: string}
  - {name: price, role: item, kind: continuous, transform: [log, normalize]}
  - {name: tags, role: item, kind: categorical_list, dtype: string, max_length: 4}
  - {name: title, role: item, kind: text, buckets: 100, max_length: 3}
  - {name: taste, kind: hashed, of: [user_id, item_id], buckets: 50}
  - {name: hour, kind: time_part, of: timestamp, part: hour}
  - {name: item_ctr, kind: target_encoding, of: item_id, target: click}
objectives:
  - {name: click, kind: binary, label: click}
  - {name: purchase, kind: binary, label: purchase, given: click}
  - {name: revenue, kind: value, label: order_value, given: purchase}
blend: {weights: {click: 0.2, purchase: 1.0, revenue: 0.05}}
"""
MAX_CANDIDATES = 600


@dataclass(frozen=True)
class Served:
    """A repository that a server runs, and what went into it."""

    server: Running
    repository: Path
    schema: Schema
    plan: Plan
    ranker: Ranker


def random_log(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return a cleaned training log, nulls among its values."""
    rng = np.random.default_rng(seed)
    click = rng.random(rows) < 0.3
    purchase = click & (rng.random(rows) < 0.3)
    log = pd.DataFrame(
        {
            "user_id": rng.integers(0, 60, rows),
            "history": [rng.integers(0, 30, rng.integers(0, 6)) for _ in range(rows)],
            "device": rng.choice(["phone", "tablet", ""], rows),
            "item_id": rng.choice([f"i{index}" for index in range(40)], rows),
            "price": rng.lognormal(2, 1, rows).astype(np.float32),
            "tags": [list(rng.choice(["new", "sale", "größe"], rng.integers(0, 4))) for _ in range(rows)],
            "title": rng.choice(["red shoe", "blue shoe", "green hat", ""], rows),
            "timestamp": rng.integers(1_700_000_000_000, 1_710_000_000_000, rows),
            "click": click.astype(np.float32),
            "purchase": purchase.astype(np.float32),
            "order_value": (purchase * rng.lognormal(3, 1, rows)).astype(np.float32),
            FOLD_COLUMN: rng.integers(0, 5, rows).astype(np.int8),
        }
    )
    log.loc[::9, "price"] = np.nan
    log.loc[::11, "user_id"] = NULL_INT
    return log


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Schema, Plan, Ranker]:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "log").mkdir()
    random_log(2000).to_parquet(folder / "log" / "part-00000.parquet", index=False)
    schema = parse_schema(SCHEMA)
    plan = lower(fit_workflow(schema, folder / "log"), schema)
    save_plan(plan, folder / "plan")
    torch.manual_seed(0)
    slots = plan.layout.categorical
    ranker = Ranker(
        [slot.cardinality for slot in slots],
        [slot.width for slot in slots],
        len(plan.layout.continuous),
        [o.kind for o in schema.objectives],
        schema.parents,
        base_rates=[0.3, 0.3, 20.0],
    ).eval()
    export_ranker(ranker, folder / "ranker.pt")
    written = folder / "repository"
    write_repository(
        written,
        schema=schema,
        plan_dir=folder / "plan",
        ranker_path=folder / "ranker.pt",
        max_candidates=MAX_CANDIDATES,
    )
    return written, schema, plan, ranker


@pytest.fixture(scope="session")
def served(repository: tuple[Path, Schema, Plan, Ranker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    log = tmp_path_factory.mktemp("triton") / "server.log"
    with start_server(repository[0], http_port=0, grpc_port=0, metrics_port=0, log=log) as server:
        server.wait_ready()
        yield Served(server, *repository)


@pytest.fixture
def request_of() -> Any:
    """Return a maker of requests: (user with context, items)."""

    def make(candidates: int = 20, seed: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        rows = random_log(candidates, seed)
        user = {name: rows[name].iloc[0] for name in ("user_id", "history", "device", "timestamp")}
        return user, rows[["item_id", "price", "tags", "title"]].to_dict("records")

    return make
