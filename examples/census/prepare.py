"""Gives the census's official test half named columns and labels, and splits it into train, validation and test."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = [
    *("age", "worker_class", "industry", "occupation", "education", "wage_per_hour", "enrolled", "marital_status"),
    *("major_industry", "major_occupation", "race", "hispanic_origin", "sex", "union_member", "unemployment_reason"),
    *("employment", "capital_gains", "capital_losses", "dividends", "tax_filer", "previous_region", "previous_state"),
    *("household_detail", "household_summary", "instance_weight", "migration_msa", "migration_region"),
    *("migration_within_region", "same_house_a_year_ago", "migration_sunbelt", "employees", "parents_present"),
    *("father_birthplace", "mother_birthplace", "birthplace", "citizenship", "own_business", "veterans_questionnaire"),
    *("veterans_benefits", "weeks_worked", "year", "income"),
]
UNUSED = ["marital_status", "income", "instance_weight"]  # what labels are made of, and how the sample was drawn
# numbers whose exact values tell something, which a category of their own shows beside their size
EXACT = ["age", "weeks_worked", "capital_gains", "capital_losses", "dividends", "wage_per_hour"]
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
SEED = 2024


def prepare(data: Path, out: Path) -> None:
    """Write `train.parquet`, `validation.parquet` and `test.parquet`."""
    log = pd.read_csv(data / "census-income.test.gz", header=None, names=COLUMNS, skipinitialspace=True)
    log["over_50k"] = (log["income"].str.strip(" .") == "50000+").astype("int8")
    log["never_married"] = (log["marital_status"] == "Never married").astype("int8")
    log = log.drop(columns=UNUSED).assign(**{f"exact_{name}": log[name] for name in EXACT})
    order = np.random.default_rng(SEED).permutation(len(log))
    ends = (np.cumsum(list(SHARES.values())) * len(log)).round().astype(int)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(SHARES, np.split(order, ends[:-1]), strict=True):
        log.iloc[rows].to_parquet(out / f"{name}.parquet", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with census-income.test.gz")
    parser.add_argument("out", type=Path, help="folder for train.parquet, validation.parquet and test.parquet")
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
