"""The KuaiRand example on the real log."""

import subprocess
import sys
from pathlib import Path

import pytest

from feature_eng.log_checks import LogPolicies
from feature_eng.schema_file import load_schema
from steelyard.evaluating import evaluate_log
from steelyard.pipeline import FitOptions, fit

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kuairand"
LEAKS = {"watch_ratio", "finish", "like", "long_watch", "is_positive", "profile_stay_time", "comment_stay_time"}
OUTCOMES = {"is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms"}


def test_the_schema_reads_no_column_that_tells_an_outcome() -> None:
    schema = load_schema(EXAMPLE / "schema.yaml")
    assert not {column.name for column in schema.columns} & (LEAKS | OUTCOMES | {"play_seconds", "is_profile_enter"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_reaches_the_neural_peers(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "kuairand_pure"
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py"), str(data), str(tmp_path)], check=True)
    policies = LogPolicies(conversions="fill")
    training = {"seed": 1, "loggers": (), "progress": False}
    options = FitOptions(policies, training=training)
    bundle = fit(tmp_path / "train.parquet", load_schema(EXAMPLE / "schema.yaml"), tmp_path / "bundle", options)
    evaluation = evaluate_log(bundle, tmp_path / "test.parquet", policies, replicates=0)
    assert evaluation.value("click", "AUC") > 0.715
    assert evaluation.value("long_view", "AUC") > 0.713
    assert evaluation.value("like", "AUC") > 0.79
