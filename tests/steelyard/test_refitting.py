import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_eng.plan_files import load_plan
from feature_eng.simulator import shop_schema
from models.ranker import load_ranker
from steelyard import refitting
from steelyard.pipeline import FitOptions, fit
from steelyard.refitting import best_epochs, fit_twice
from tests.conftest import SMALL, Shop

OPTIONS = FitOptions(training={**SMALL, "epochs": 2, "patience": 2})


def weights(folder: Path) -> dict[str, Any]:
    return load_ranker(folder / "ranker").state_dict()


@pytest.fixture(scope="module")
def twice(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_twice(str(shop.log), shop_schema(), tmp_path_factory.mktemp("twice") / "bundle", OPTIONS).folder


def test_a_refit_is_the_fit_of_all_rows_with_the_epochs_that_validated_best(
    shop: Shop, twice: Path, tmp_path: Path
) -> None:
    first = fit(str(shop.log), shop_schema(), tmp_path / "first", OPTIONS).folder
    metrics, told = (json.loads((folder / "metrics.json").read_text()) for folder in (twice, first))
    assert metrics["validation"] == told["validation"]
    assert metrics["history"] == told["history"]
    epochs = best_epochs(told["history"])
    assert metrics["refit"]["epochs"] == len(metrics["refit"]["history"]) == epochs
    assert metrics["refit"]["rows"] == pq.read_table(shop.log).num_rows
    anew = replace(OPTIONS, validation=0.0, training={**OPTIONS.training, "epochs": epochs})
    whole = fit(str(shop.log), shop_schema(), tmp_path / "whole", anew).folder
    expected = weights(whole)
    assert all(np.array_equal(tensor, expected[name]) for name, tensor in weights(twice).items())
    assert load_plan(twice / "plan").fingerprint == load_plan(whole / "plan").fingerprint
    assert {path.name for path in twice.iterdir()} == {path.name for path in whole.iterdir()}
    assert {path.name for path in twice.parent.iterdir()} == {"bundle"}


@pytest.mark.parametrize("step", ["first fit", "second fit", "manifest"])
def test_a_refit_stopped_anywhere_resumes_to_the_same_bundle(
    shop: Shop, twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*arguments: Any, **options: Any) -> Any:
        if step != "second fit" or arguments[3].validation == 0:
            raise InterruptedError
        return fit(*arguments, **options)

    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        patch.setattr(refitting, "write_manifest" if step == "manifest" else "fit", stop)
        with pytest.raises(InterruptedError):
            fit_twice(str(shop.log), shop_schema(), out, OPTIONS)
    assert not out.exists()
    fit_twice(str(shop.log), shop_schema(), out, OPTIONS, resume=True)
    expected = weights(twice)
    assert all(np.array_equal(tensor, expected[name]) for name, tensor in weights(out).items())
    assert (out / "metrics.json").read_text() == (twice / "metrics.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0.0}, "validation must be above 0 to find the epochs of a refit; got 0"),
        ({"calibration": "platt"}, "calibration must be none, since no row of a refit validates; got 'platt'"),
        ({"training": {"epochs": 0}}, "epochs must be at least 1; got 0"),
    ],
)
def test_what_a_refit_cannot_do_is_refused_before_any_work(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_twice(str(shop.log), shop_schema(), tmp_path / "bundle", replace(OPTIONS, **changes))
    assert not list(tmp_path.iterdir())


def test_a_refit_resumes_a_refit_of_the_same_options_alone(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(ValueError, match="resume must find an unfinished run; got none in"):
        fit_twice(str(shop.log), shop_schema(), out, OPTIONS, resume=True)
    refitting.claim(tmp_path / "bundle.partial", refitting.run_of(str(shop.log), shop_schema(), OPTIONS), resume=False)
    with pytest.raises(ValueError, match="resume must have the arguments of the unfinished run; got other refit"):
        fit_twice(str(shop.log), shop_schema(), out, OPTIONS, resume=True)


@pytest.mark.parametrize(
    ("scores", "epochs"), [([0.9, 0.8, 0.85], 2), ([0.7], 1), ([float("nan"), 0.9], 2), ([float("nan")] * 3, 3)]
)
def test_the_best_epoch_is_the_first_of_the_lowest_score(scores: list[float], epochs: int) -> None:
    assert best_epochs([{"val_score": score} for score in scores]) == epochs
