import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feature_eng.arrow_columns import plan_columns
from feature_eng.logs import clean_log
from feature_eng.schema_file import parse_schema
from models.prediction import load_predictor
from steelyard.cli import app
from steelyard.evaluating import JudgedRows, judge_log
from steelyard.pipeline import FitOptions, fit
from steelyard.report import write_report
from steelyard.report_data import holds, predictions_of, sample_rows, shuffled_predictions, skills_alone
from steelyard.report_sections import comparison_section, conflict_section, fairness_section, frequent
from steelyard.tuning import Search, tune
from steelyard.tuning_page import write_tuning_page
from tests.conftest import Shop
from tests.steelyard.test_pages import tags_of

TITLES = [
    "Metrics",
    "Slices",
    "Curves",
    "Calibration",
    "Gradient conflict",
    "Importance of columns",
    "Importance of features",
    "Fairness",
    "Leak suspects",
    "Comparison",
]


@pytest.fixture(scope="module")
def cleaned(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clean_log(str(shop.test), shop.bundle.schema, tmp_path_factory.mktemp("cleaned") / "log").folder


def test_a_report_is_one_page_with_every_section_that_fetches_nothing(shop: Shop, tmp_path: Path) -> None:
    told = {"by": ["device"], "groups": ["category"], "replicates": 5, "sampled_rows": 600, "gradient_rows": 16}
    write_report(shop.bundle, str(shop.test), tmp_path / "report.html", against=shop.bundle, **told)  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    places = [page.index(f"<h2>{title}</h2>") for title in TITLES]
    assert places == sorted(places)
    tags = tags_of(tmp_path / "report.html")
    assert tags.names.count("p") >= len(TITLES)
    assert tags.fetched == []
    assert "script" not in tags.names
    for text in ("judged on 3,000 rows", "cold item", "period 4 of 4", "device ", "exposure by category"):
        assert text in page
    assert "0.0000 (0.0000 – 0.0000)" in page[places[-1] :]  # a bundle does not differ from itself
    assert {path.name for path in tmp_path.iterdir()} == {"report.html"}


def test_a_shuffled_column_takes_what_derives_from_it_along(shop: Shop, cleaned: Path) -> None:
    table = sample_rows(cleaned, 500)
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    predict = shuffled_predictions(predictor, shop.bundle.schema, table)
    order = np.random.default_rng(0).permutation(table.num_rows)
    for name in ("item_id", "history", "price"):
        moved = table.set_column(table.column_names.index(name), name, table.column(name).take(pa.array(order)))
        expected = predictor.predict(plan_columns(moved, shop.bundle.schema.inputs), table.num_rows)
        np.testing.assert_array_equal(predict(name, order), expected)
    whole = predictor.predict(plan_columns(table, shop.bundle.schema.inputs), table.num_rows)
    np.testing.assert_array_equal(predict(None, order), whole)


def test_a_sample_has_rows_of_all_parts_once_and_all_rows_where_there_are_no_more(cleaned: Path) -> None:
    whole = pq.read_table(cleaned)
    assert sample_rows(cleaned, 10_000).num_rows == whole.num_rows == 3_000
    sampled = sample_rows(cleaned, 600)
    assert abs(sampled.num_rows - 600) < 10
    times = sampled.column("timestamp").to_numpy()
    assert np.isin(times, whole.column("timestamp").to_numpy()).all()
    assert times.max() - times.min() > 0.9 * np.ptp(whole.column("timestamp").to_numpy())


def test_a_planted_leak_is_named_and_so_is_a_history_that_holds_what_comes(shop: Shop) -> None:
    schema = parse_schema(
        """
name: leaky
request: request_id
columns:
  - {name: item, role: item, kind: categorical, dtype: string}
  - {name: past, role: user, kind: categorical_list, dtype: string, history_of: item}
  - {name: refund, role: item, kind: continuous}
  - {name: price, role: item, kind: continuous}
  - {name: paid_at, role: context, kind: timestamp}
  - {name: shown_at, role: context, kind: timestamp}
  - {name: age, kind: time_part, of: [shown_at, paid_at], part: age_days}
objectives: [{name: click, kind: binary, label: click}]
"""
    )
    rng = np.random.default_rng(0)
    click = (rng.random(2_000) < 0.2).astype(np.float64)
    item = rng.choice(["a", "b", "c", "d"], 2_000)
    table = pa.table(
        {
            "request_id": np.arange(2_000) // 4,
            "item": item,
            "past": pa.array([[i, "x"] if c else ["x"] for i, c in zip(item, click, strict=True)]),
            "refund": pa.array(np.where(click > 0, rng.random(2_000), np.nan), from_pandas=False),
            "price": rng.random(2_000),
            "paid_at": np.where(click > 0, 1_700_000_000_000 + np.arange(2_000), -(2**63)),
            "shown_at": 1_700_000_000_000 + np.arange(2_000),
            "click": click,
        }
    )
    alone = skills_alone(schema, table, table.column("request_id").to_numpy())
    assert set(alone) == {"item", "past", "refund", "price", "paid_at", "shown_at", "item in past"}
    for leak in ("refund", "paid_at", "item in past", "past"):
        assert alone[leak][0] == pytest.approx(1.0), leak
    for honest in ("item", "price", "shown_at"):
        assert abs(alone[honest][0]) < 0.15, honest


def test_a_list_holds_its_row_s_own_target() -> None:
    lists = pa.array([["a", "b"], [], None, ["c"], [None]])
    assert holds(lists, pa.array(["b", "a", "a", "d", None])).tolist() == [1, 0, 0, 0, 0]


def test_a_former_bundle_predicts_the_same_rows(shop: Shop, cleaned: Path) -> None:
    rows = judge_log(shop.bundle, str(shop.test))
    np.testing.assert_array_equal(predictions_of(shop.bundle, shop.bundle.schema, cleaned), rows.predictions)


@pytest.mark.parametrize(("change", "told"), [({"dtype": "string"}, "int64"), ({"name": "sku"}, "none")])
def test_a_former_bundle_must_read_what_the_log_has(
    shop: Shop, cleaned: Path, change: Mapping[str, Any], told: str
) -> None:
    schema = shop.bundle.schema
    columns = tuple(c.model_copy(update=dict(change)) if c.name == "item_id" else c for c in schema.columns)
    old = replace(shop.bundle, schema=schema.model_copy(update={"columns": columns}))
    with pytest.raises(
        ValueError, match=f"against must read columns that the log has as it wants them; got {told} for"
    ):
        predictions_of(old, schema, cleaned)


def test_gradients_that_oppose_are_told_of_and_a_history_without_cosines_says_so() -> None:
    history = [
        {"epoch": 0, "gradient_cosines": {"click|purchase": -0.3, "click|revenue": 0.2}},
        {"epoch": 1, "gradient_cosines": {"click|purchase": -0.1}},
    ]
    section = conflict_section(history)
    assert section.found == ["click and purchase pull apart."]
    assert section.tables[0].rows == [
        ("click and purchase", "-0.200", "-0.300"),
        ("click and revenue", "0.200", "0.200"),
    ]
    assert len(section.charts) == 1
    assert conflict_section([{"epoch": 0}]).found == ["The training of this bundle kept no cosines."]
    agreeing = conflict_section([{"epoch": 0, "gradient_cosines": {"a|b": 0.5}}])
    assert agreeing.found == ["No two objectives pull apart on average."]


def test_sections_that_nobody_asked_for_say_how_to(shop: Shop) -> None:
    rows = judge_log(shop.bundle, str(shop.test))
    assert fairness_section(rows, (), 0).found == ["No groups were asked for; `--group COLUMN` names some."]
    assert comparison_section(None, "").found == ["No former bundle was given; `--against BUNDLE` names one."]


def test_a_name_out_of_the_data_is_text_on_the_page(shop: Shop, tmp_path: Path) -> None:
    from steelyard.pages import write_page

    rows = judge_log(shop.bundle, str(shop.test), by="device")
    evil = np.where(rows.columns["device"].astype(str) == "phone", "<script>alert(1)</script>", "other")
    marked: JudgedRows = replace(rows, columns={**rows.columns, "device": evil})
    write_page(tmp_path / "page.html", "", "", [fairness_section(marked, ["device"], 2)])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "script" not in tags_of(tmp_path / "page.html").names
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_all_but_the_most_frequent_groups_are_others() -> None:
    values = np.array(["a", "b", "a", "c", "d", "b"])
    assert frequent(values, 2).tolist() == ["a", "b", "a", "others", "others", "b"]
    assert frequent(np.array([3, 4]), 2).tolist() == ["3", "4"]


def test_the_command_writes_the_page_where_it_is_told(shop: Shop, tmp_path: Path) -> None:
    told = ["--log", str(shop.test), "--output", str(tmp_path / "out" / "report.html"), "--replicates", "0"]
    ran = CliRunner().invoke(app, ["report", str(shop.bundle.folder), *told])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out" / "report.html").stat().st_size < 3 * 2**20


@pytest.mark.parametrize("column", ["planet", "history"])
def test_a_column_that_the_log_lacks_or_that_is_a_list_is_refused(shop: Shop, tmp_path: Path, column: str) -> None:
    with pytest.raises(ValueError, match=f"group must be a column of the cleaned log that is no list; got {column}"):
        write_report(shop.bundle, str(shop.test), tmp_path / "report.html", groups=[column])
    with pytest.raises(ValueError, match=f"by must be time, cold or a column .* that is no list; got {column}"):
        write_report(shop.bundle, str(shop.test), tmp_path / "report.html", by=[column])
    assert not list(tmp_path.iterdir())


def test_a_report_that_could_not_be_written_is_not_begun(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IsADirectoryError, match=f"output must be a file; got the folder {tmp_path}"):
        write_report(shop.bundle, "nowhere.parquet", tmp_path)
    for module in ("captum", "matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(RuntimeError, match=rf"report must have {module} installed; got none, .*\[report\]"):
            write_report(shop.bundle, "nowhere.parquet", tmp_path / "report.html")


SHOPPERS = """
name: shoppers
columns:
  - {name: Month, role: context, kind: categorical}
  - {name: VisitorType, role: user, kind: categorical}
  - {name: ExitRates, role: context, kind: continuous}
  - {name: ProductRelated, role: context, kind: continuous}
  - {name: PageValues, role: context, kind: continuous}
objectives:
  - {name: revenue, kind: binary, label: Revenue}
"""


@pytest.mark.slow
def test_a_real_log_without_requests_has_its_known_leak_named(real_data: Path, tmp_path: Path) -> None:
    # Google Analytics works PageValues out from the transactions that follow a visit
    log = real_data / "online_shoppers"
    options = FitOptions(split="request", training={"epochs": 2, "loggers": (), "progress": False})
    bundle = fit(log, parse_schema(SHOPPERS), tmp_path / "bundle", options)
    write_report(bundle, log, tmp_path / "report.html", groups=["VisitorType"], replicates=10)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (told,) = re.findall(r'<p class="found">(.*: alone it orders.*)</p>', page)
    assert told.startswith("PageValues: alone it orders revenue with a normalised Gini of 0.7")
    assert "predicted / observed by VisitorType" in page
    assert "exposure by" not in page  # without requests nobody is placed before another
    assert "cold user" not in page


@pytest.mark.slow
def test_a_single_objective_of_a_log_without_requests_is_tuned(real_data: Path, tmp_path: Path) -> None:
    search = Search(maximise="revenue", trials=2)
    options = FitOptions(split="request", training={"epochs": 12, "patience": 12})
    study = tune(real_data / "online_shoppers", parse_schema(SHOPPERS), tmp_path / "out", options, search)
    assert not any("loss_weight" in name or name == "balancing" for trial in study.trials for name in trial.params)
    assert 0.3 < study.best_value < 0.6  # visits that end in a purchase are well told by PageValues
    write_tuning_page(study, tmp_path / "tuning.html")
    assert "It takes two objectives" in (tmp_path / "tuning.html").read_text()
