import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from feature_eng.log_report import CheckReport, ColumnReport, LogReport
from models.evaluation import evaluate
from steelyard.tables import evaluation_tables, log_tables, ranking_table


def printed(*tables: Table) -> str:
    console = Console(file=io.StringIO(), width=160)
    for table in tables:
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the row that begins with a word."""
    rows = ([cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.splitlines())
    return next(row for row in rows if row[0] == first)


def test_a_ranking_shows_items_as_they_are_and_predictions_with_four_digits() -> None:
    rows: list[dict[str, Any]] = [{"item": 1234567, "score": 0.123456}, {"item": "lamp", "score": 12345.678}]
    text = printed(ranking_table("ranking", ["item", "score"], rows))
    assert cells(text, "1234567") == ["1234567", "0.1235"]
    assert cells(text, "lamp") == ["lamp", "1.235e+04"]


@pytest.mark.parametrize("item", ["[/] half price", "[bold]vase", "a [red] hat"])
def test_brackets_in_an_item_are_shown(item: str) -> None:
    assert item in printed(ranking_table("ranking", ["item"], [{"item": item}]))


def test_a_log_report_tells_columns_and_checks() -> None:
    column = ColumnReport(
        name="price",
        dtype="float32",
        is_label=False,
        null_rate=0.25,
        distinct=3,
        distinct_is_exact=False,
        lowest=1,
        highest=9,
        mean=2.5,
    )
    found = CheckReport(
        check="values", column="tags", found=1200, policy="drop", done="dropped", example="[/a] in row 3"
    )
    report = LogReport(files=["a.parquet"], rows_read=4000, rows_kept=2800, checks=[found], columns=[column])
    text = printed(*log_tables(report))
    assert "4,000 rows, 2,800 kept" in text
    assert cells(text, "price") == ["price", "float32", "25.0%", "~3", "1", "9", "2.5"]
    assert cells(text, "values") == ["values", "tags", "1,200", "drop", "dropped", "[/a] in row 3"]


def test_a_log_without_findings_has_one_table() -> None:
    report = LogReport(files=["a.parquet"], rows_read=4, rows_kept=4, checks=[], columns=[])
    assert len(list(log_tables(report))) == 1


def test_an_evaluation_is_a_table_an_objective_with_systems_side_by_side() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 1)) < 0.3).astype(np.float32)
    predictions = np.clip(labels * 0.4 + rng.random((400, 1)) * 0.6, 0.01, 0.99).astype(np.float32)
    evaluation = evaluate(
        predictions, labels, names=("click",), kinds=["binary"], requests=np.repeat(np.arange(40), 10), users=None,
        weights=np.ones(1, np.float32), blend_kind="linear", truth=None,
        baseline=np.full((400, 1), 0.3, np.float32), k=5, replicates=5,
    )  # fmt: skip
    text = printed(*evaluation_tables(evaluation))
    figure = next(f for f in evaluation.figures if f.metric == "AUC" and f.system == "ranker")
    assert f"{figure.value:.4f} {figure.low:.4f}–{figure.high:.4f}" in text
    assert "popularity" in text
