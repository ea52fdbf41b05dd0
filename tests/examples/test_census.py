"""The census example on the real rows."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

from feature_eng.schema_file import load_schema

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "census"
LABELS = ("over_50k", "never_married")


@pytest.fixture(scope="module")
def parts(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    out = tmp_path_factory.mktemp("census")
    runpy.run_path(str(EXAMPLE / "prepare.py"))["prepare"](real_data / "census_income_kdd", out)
    return {path.stem: pd.read_parquet(path) for path in out.glob("*.parquet")}


def test_the_parts_have_a_tenth_to_validate_and_a_fifth_to_test(parts: dict[str, pd.DataFrame]) -> None:
    assert {name: len(part) for name, part in parts.items()} == {"train": 69_833, "validation": 9_977, "test": 19_952}


def test_the_labels_have_the_rates_of_the_whole(parts: dict[str, pd.DataFrame]) -> None:
    whole = pd.concat(parts.values())
    assert whole["over_50k"].sum() == 6_186
    assert whole["never_married"].mean() == pytest.approx(0.432, abs=0.001)


def test_the_schema_reads_no_column_that_a_label_is_made_of() -> None:
    schema = load_schema(EXAMPLE / "schema.yaml")
    assert not {column.name for column in schema.columns} & {"income", "marital_status", "instance_weight", *LABELS}


def test_the_schema_reads_every_other_column(parts: dict[str, pd.DataFrame]) -> None:
    columns = {column.name for column in load_schema(EXAMPLE / "schema.yaml").columns}
    assert set(parts["train"].columns) - set(LABELS) <= columns
