"""Which rows of a log a person should label, since their labels would teach a bundle's ranker the most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from feature_eng.arrow_columns import plan_columns
from feature_eng.log_passes import encode_piece
from feature_eng.log_sources import Paths
from feature_eng.logs import open_log
from feature_eng.progress import row_bar
from models.labelling import label_entropy, most_telling
from models.objectives import chain_parents
from models.prediction import load_predictor
from steelyard.bundle import Bundle

ROW, ENTROPY = "row", "label_entropy"


def suggest_rows(bundle: Bundle, paths: Paths, count: int) -> pa.Table:
    """Return the rows of a log whose labels would tell the most, most telling first.

    Memory holds a piece of the log and the rows chosen so far.

    Args:
        bundle: checked.
        paths: the log, which needs no labels.
        count: most rows, at least 1.

    Returns:
        `row`, the place in the log from 0; what the log says of it; `predicted_<objective>`; `label_entropy`, in nats.

    Raises:
        ValueError: `count` is below 1, or a column of the log has the name of one that is added.
    """
    if count < 1:
        raise ValueError(f"suggest must be at least 1; got {count}")
    schema = bundle.schema
    kinds = [objective.kind for objective in schema.objectives]
    parents = chain_parents(kinds, schema.parents, schema.learning.get("estimators"))
    predictor = load_predictor(bundle.plan, bundle.ranker)
    log = open_log(paths, schema, labels=False)
    added = {ROW, ENTROPY, *(f"predicted_{name}" for name in schema.objective_names)}
    if taken := sorted(added & set(log.forms)):
        raise ValueError(f"log must not have columns that suggestions add; got {', '.join(taken)}")
    chosen: pa.Table | None = None
    start = 0
    with row_bar("read", sum(piece.rows for piece in log.pieces)) as advance:
        for piece in log.pieces:
            columns = encode_piece(piece, log.forms)[0].columns
            rows = len(next(iter(columns.values())))
            predictions = predictor.predict(plan_columns(columns, schema.inputs), rows)
            found = {ROW: pa.array(np.arange(start, start + rows)), **columns}
            for index, name in enumerate(schema.objective_names):
                found[f"predicted_{name}"] = pa.array(np.ascontiguousarray(predictions[:, index]))
            found[ENTROPY] = pa.array(label_entropy(predictions, kinds, parents))
            best = pa.table(found).take(most_telling(np.asarray(found[ENTROPY]), count))
            chosen = best if chosen is None else pa.concat_tables([chosen, best])
            chosen = chosen.take(most_telling(chosen[ENTROPY].to_numpy(), count))
            start += rows
            advance(rows)
    return chosen


def check_suggestions_file(path: Path, lists: Sequence[str]) -> None:
    """Refuse a file that could not hold suggested rows.

    Args:
        path: the file.
        lists: columns that hold lists.

    Raises:
        ValueError: its ending is neither .parquet nor .csv, or the rows have lists, which CSV cannot hold.
    """
    if path.suffix == ".csv" and lists:
        raise ValueError(f"out must end in .parquet where the log has lists ({', '.join(lists)}); got {path}")
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"out must end in .parquet or .csv; got {path}")


def write_suggestions(table: pa.Table, path: Path) -> None:
    """Write suggested rows as Parquet or CSV, by the path's ending; the file appears once it is whole.

    Its folder is made where it does not exist.

    Raises:
        ValueError: the ending is neither, or the rows have lists, which CSV cannot hold.
    """
    lists = [field.name for field in table.schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)]
    check_suggestions_file(path, lists)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    if path.suffix == ".csv":
        pcsv.write_csv(table, beside)
    else:
        pq.write_table(table, beside)
    beside.replace(path)
