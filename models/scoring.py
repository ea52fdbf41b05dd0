"""Batch scoring jobs: a log's rows with a prediction per objective and a score, piece by piece on Dask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_eng.arrow_columns import plan_columns
from feature_eng.cluster import run_each, threads_each
from feature_eng.log_encoding import key_columns, text_inputs
from feature_eng.log_passes import encode_piece
from feature_eng.log_sources import Piece, file_stamps
from feature_eng.logs import Log
from feature_eng.schema import Schema
from models.blending import blend
from models.prediction import load_predictor

JOB = "_job.json"


@dataclass(frozen=True)
class Scoring:
    """What one job does to each piece; small enough to send to a worker."""

    plan: Path
    ranker: Path
    objectives: tuple[str, ...]
    weights: tuple[float, ...]
    kind: Literal["linear", "geometric"]


def score_log(
    log: Log,
    scoring: Scoring,
    out: Path,
    *,
    identity: str,
    advance: Callable[[int], None] = lambda rows: None,
) -> int:
    """Score a log into a folder of Parquet parts, which appears once it is whole.

    While the job runs its parts lie in `out.partial`; a job that was killed, called again, goes on with the parts that
    are missing, and the result is the same as that of an undisturbed run. Each row keeps the log's request, user, item
    and time and gains `predicted_<objective>` and `score`; `_job.json` tells what was computed from what.

    Args:
        log: opened with the bundle's schema; it needs neither labels nor checks.
        scoring: what is computed.
        out: folder that must not exist yet.
        identity: what stands for the plan and the ranker; a resumed job must have the same.
        advance: called with the rows of each piece that is done, at once for those of an earlier run.

    Returns:
        The number of rows.

    Raises:
        FileExistsError: `out` exists, or `out.partial` belongs to another job.
    """
    if out.exists():
        raise FileExistsError(f"out must not exist yet; got {out}")
    partial_out = out.with_name(f"{out.name}.partial")
    _claim(partial_out, _job(log, scoring, identity))
    rows = 0
    threads = threads_each(len(log.pieces))
    score = partial(
        _score_piece, forms=log.forms, schema=log.schema, scoring=scoring, threads=threads, folder=partial_out
    )
    for done in run_each(score, log.pieces):
        rows += done
        advance(done)
    partial_out.replace(out)
    return rows


def _job(log: Log, scoring: Scoring, identity: str) -> dict[str, Any]:
    """Return what must be the same for a job to be resumed."""
    about = {key: value for key, value in asdict(scoring).items() if key not in ("plan", "ranker")}
    job = {"bundle": identity, "files": file_stamps(log.files), "pieces": len(log.pieces), **about}
    same: dict[str, Any] = json.loads(json.dumps(job))
    return same


def _claim(folder: Path, job: dict[str, Any]) -> None:
    """Make the folder of an unfinished job, or check that it is of the same job and clear what is half-written."""
    record = folder / JOB
    if record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [key for key in job if before.get(key) != job[key]]
        if changed:
            other = ", ".join(changed)
            raise FileExistsError(f"{folder} must be of the same job to be resumed; got other {other}: remove it first")
        for half in folder.glob(".*.partial"):
            half.unlink()
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    beside = folder / f".{JOB}"
    beside.write_text(json.dumps(job), encoding="utf-8")
    beside.replace(record)


def _score_piece(piece: Piece, forms: Any, schema: Schema, scoring: Scoring, threads: int | None, folder: Path) -> int:
    """Score one piece into its part, unless the part is there; return its rows."""
    part = folder / f"part-{piece.index:05d}.parquet"
    if part.exists():
        return int(pq.read_metadata(part).num_rows)
    columns = encode_piece(piece, forms, text_inputs(schema))[0].columns
    rows = len(next(iter(columns.values())))
    predictor = load_predictor(scoring.plan, scoring.ranker)
    predictions = predictor.predict(plan_columns(columns, schema.inputs), rows, threads)
    scores = blend(predictions, _vector(scoring.weights), scoring.kind)
    write_part(scored_table(columns, schema, predictions, scores), part, key_columns(schema))
    return rows


def scored_table(columns: Mapping[str, Any], schema: Schema, predictions: Any, scores: Any) -> pa.Table:
    """Return a log's key columns with predictions (B, K) and scores (B,)."""
    scored = {name: columns[name] for name in key_columns(schema) if name in columns}
    for index, name in enumerate(schema.objective_names):
        scored[f"predicted_{name}"] = pa.array(np.ascontiguousarray(predictions[:, index]))
    return pa.table({**scored, "score": pa.array(scores)})


def write_part(table: pa.Table, part: Path, repeated: Sequence[str]) -> None:
    """Write a Parquet file, which appears once it is whole.

    Args:
        table: what it holds.
        part: the file.
        repeated: columns whose values come again and again; a dictionary of predictions would only cost time.
    """
    beside = part.with_name(f".{part.name}.partial")
    pq.write_table(table, beside, use_dictionary=list(repeated))
    beside.replace(part)


def _vector(weights: Sequence[float]) -> Any:
    return np.asarray(weights, dtype=np.float32)
