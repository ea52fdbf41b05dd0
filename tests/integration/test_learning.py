"""A schema that says how to learn, from its YAML to the bundle."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from feature_eng.logs import open_log
from feature_eng.schema import SchemaError
from feature_eng.schema_file import dump_schema, parse_schema
from feature_eng.simulator import shop_schema, simulate
from models.ranker import load_ranker
from steelyard.pipeline import FitOptions, fit
from tests.conftest import SMALL


def told_schema() -> str:
    raw = dump_schema(shop_schema())
    head, objectives = raw.split("objectives:\n")
    blend = objectives[objectives.index("blend:") :]
    return (
        head.replace("time: timestamp\n", "time: timestamp\nposition: position\n")
        + "objectives:\n"
        + "- {name: click, kind: binary, label: click, negatives: 0.3}\n"
        + "- {name: purchase, kind: binary, label: purchase, given: click, estimator: dr}\n"
        + "- {name: revenue, kind: value, label: order_value, given: purchase, loss: ziln}\n"
        + blend
    )


@pytest.mark.slow
def test_a_bundle_learns_as_its_schema_says_and_keeps_no_tower_of_training(tmp_path: Path) -> None:
    simulate(tmp_path / "log", rows=20_000, position_bias=0.8, selection=0.6)
    schema = parse_schema(told_schema())
    bundle = fit(str(tmp_path / "log"), schema, tmp_path / "bundle", FitOptions(training=SMALL))
    ranker = load_ranker(bundle.folder / "ranker")
    assert ranker.options["value_losses"] == ["gamma", "gamma", "ziln"]
    assert ranker.heads.weight.shape[0] == 5
    assert not [name for name in ranker.state_dict() if "position" in name or "imputation" in name]
    ids, numbers = torch.ones(9, sum(ranker.options["widths"])).int(), torch.zeros(9, ranker.options["continuous"])
    with torch.no_grad():
        exported = torch.jit.load(bundle.folder / "ranker" / "ranker.pt")(ids, numbers)
        torch.testing.assert_close(exported, ranker(ids, numbers), rtol=1e-5, atol=1e-5)
    assert exported.shape == (9, 3)
    # trained on three in ten of the rows without a click, and still as likely to predict one as the log is to hold one
    log = pq.read_table(tmp_path / "log")
    assert ranker.options["base_rates"][0] == pytest.approx(log["click"].to_numpy().mean(), rel=0.05)


def test_a_log_without_the_position_that_a_schema_names_is_refused(tmp_path: Path) -> None:
    log = simulate(tmp_path / "log", rows=200)
    part = log / "part-00000.parquet"
    pq.write_table(pq.read_table(part).rename_columns({"position": "positions"}), part)
    with pytest.raises(
        SchemaError, match=r"position must be a column of the log; got none in .*did you mean positions"
    ):
        open_log(str(log), parse_schema(told_schema()))
    assert "position" not in open_log(str(log), parse_schema(told_schema()), labels=False).forms
