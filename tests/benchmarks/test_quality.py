import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import quality, quality_data
from benchmarks.peers.ranking import (
    Part,
    Rows,
    System,
    best_epochs,
    load_rows,
    normalised_loss,
    one_objective,
    run,
    shuffled,
    tune,
)
from benchmarks.quality_data import pack, simulated
from feature_eng.simulator import simulate, simulate_after


def part(rows: int, labels: np.ndarray) -> Part:
    return Part(np.zeros((rows, 1), np.int32), np.zeros((rows, 1), np.float32), labels.astype(np.float32))


def rows_with(labels: np.ndarray) -> Rows:
    one = part(len(labels), labels)
    names = tuple(f"objective_{k}" for k in range(labels.shape[1]))
    return Rows(
        one, one, part(2, np.zeros((2, labels.shape[1]))), ("a",), (4,), (1,), names, (-1,) * len(names), Path()
    )


LABELS = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(simulated, tmp_path_factory.mktemp("quality"), 2_000)


def test_a_loss_is_1_at_the_base_rate_and_counts_each_objective_alike() -> None:
    base = np.array([[0.75, 0.25]] * 4, dtype=np.float32)
    assert normalised_loss(LABELS, base) == pytest.approx(1)
    # the second objective predicted rightly with .9, the first at its base rate
    better = np.array([[0.75, 0.1], [0.75, 0.9], [0.75, 0.1], [0.75, 0.1]], dtype=np.float32)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert normalised_loss(LABELS, better) == pytest.approx((1 - np.log(0.9) / entropy) / 2, rel=1e-6)


def test_rows_with_an_unknown_label_count_for_no_loss() -> None:
    labels = np.array([[1.0], [0.0], [np.nan]], dtype=np.float32)
    assert normalised_loss(labels, np.array([[0.5], [0.5], [1.0]], np.float32)) == pytest.approx(1)


def test_a_search_takes_the_settings_with_the_lowest_validation_loss(tmp_path: Path) -> None:
    tried = []

    def fit(rows: Rows, settings: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        tried.append(settings["right"])
        sure = np.where(LABELS[:, :1] == 1, settings["right"], 1 - settings["right"]).astype(np.float32)
        return sure, np.zeros((2, 1), np.float32)

    system = System(fit, {"right": 0.6}, lambda trial: {"right": trial.suggest_float("right", 0.5, 0.95)})
    found = tune(system, rows_with(LABELS[:, :1]), 6, tmp_path)
    assert tried[0] == 0.6
    assert len(tried) == 6
    assert found == {"right": max(tried)}
    told = [json.loads(line) for line in (tmp_path / "fits.jsonl").read_text().splitlines()]
    assert [fit["settings"]["right"] for fit in told] == tried


def test_a_system_of_one_model_an_objective_is_tuned_for_each(tmp_path: Path) -> None:
    def fit(rows: Rows, settings: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        assert rows.train.labels.shape == (4, 1)
        assert rows.parents == (-1,)
        rate = rows.train.labels.mean() + seed / 10
        return np.full((4, 1), rate, np.float32), np.full((2, 1), rate, np.float32)

    rows = rows_with(LABELS)
    run(System(fit, {}, alone=True), rows, tmp_path, search=rows, trials=3, seeds=2)
    assert np.load(tmp_path / "predictions-0.npy") == pytest.approx(np.array([[0.75, 0.25]] * 2))
    assert np.load(tmp_path / "predictions-1.npy") == pytest.approx(np.array([[0.85, 0.35]] * 2))
    assert json.loads((tmp_path / "tuned.json").read_text())["settings"] == [{}, {}]


def test_settings_are_chosen_on_rows_of_their_own_where_there_are_some(tmp_path: Path) -> None:
    search, rows = rows_with(LABELS[:, :1]), rows_with(1 - LABELS[:, :1])

    def fit(given: Rows, settings: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        p = settings["p"]
        sure = np.where(LABELS[:, :1] == 1, p, 1 - p).astype(np.float32)
        return sure, np.full((2, 1), p if given is rows else 0.0, np.float32)

    system = System(fit, {"p": 0.1}, lambda trial: {"p": trial.suggest_categorical("p", [0.1, 0.9])})
    run(system, rows, tmp_path, search=search, trials=4, seeds=1)
    # .9 is right on the search's labels, .1 on the others
    assert np.load(tmp_path / "predictions-0.npy") == pytest.approx(np.array([[0.9], [0.9]]))


def test_one_objective_is_given_nothing() -> None:
    rows = one_objective(rows_with(LABELS), 1)
    assert rows.objectives == ("objective_1",)
    assert rows.train.labels[:, 0].tolist() == [0, 1, 0, 0]


def test_each_objective_is_predicted_by_its_own_best_epoch() -> None:
    model = torch.nn.Linear(2, 1)
    steps = iter([(0.6, 0.7), (0.9, 0.8), (0.7, 0.85), (0.8, 0.6), (0.5, 0.6), (0.99, 0.99)])

    def train_epoch() -> None:
        model.weight.data[:] = torch.tensor(next(steps))

    def predict(part: Part) -> np.ndarray:
        right = model.weight.detach().numpy()
        return np.where(LABELS[: len(part.labels)] == 1, right, 1 - right).astype(np.float32)

    validation, test = best_epochs(model, train_epoch, predict, rows_with(LABELS), epochs=6, patience=2)
    assert validation[0] == pytest.approx([0.9, 1 - 0.85])  # the sixth epoch's .99 lies behind two worse ones
    assert test[1] == pytest.approx([1 - 0.9, 0.85])
    assert next(steps) == (0.99, 0.99)


def test_batches_hold_each_row_at_most_once_and_are_whole() -> None:
    batches = list(shuffled(10, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(np.concatenate(batches))) == 8
    assert sorted(next(shuffled(3, 4, np.random.default_rng(0)))) == [0, 1, 2]


def test_figures_are_means_over_seeds_beside_their_deviations() -> None:
    labels = np.array([[1], [0], [1], [0]], dtype=np.float32)
    answers = {"labels": labels, "groups": np.array([0, 0, 1, 1])}
    predictions = [
        np.array([[0.8], [0.2], [0.4], [0.6]], np.float32),
        np.array([[0.8], [0.2], [0.8], [0.2]], np.float32),
    ]
    (row,) = quality.figures("ours", predictions, ["click"], answers)
    assert (row["system"], row["objective"]) == ("ours", "click")
    # of the first seed's four pairs of a positive and a negative, .8 beats both and .4 beats .2; its groups are 1 and 0
    assert (row["auc"], row["gauc"]) == (pytest.approx(0.875), pytest.approx(0.75))
    assert row["auc_deviation"] == pytest.approx(0.25 / np.sqrt(2))
    losses = [-(2 * np.log(0.8) + 2 * np.log(0.4)) / 4, -np.log(0.8)]
    assert row["logloss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert row["ece"] == pytest.approx(np.mean([(0.2 + 0.2 + 0.6 + 0.6) / 4, 0.2]), rel=1e-6)


def test_without_groups_and_with_one_seed_there_is_neither_gauc_nor_deviation() -> None:
    predictions = [np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)]
    rows = quality.figures("ours", predictions, ["a", "b", "c"], {"labels": np.array([[1, 0, 1], [0, 1, 1.0]])})
    assert [row["objective"] for row in rows] == ["a", "b"]
    assert {row["gauc"] for row in rows} == {row["auc_deviation"] for row in rows} == {None}


def test_systems_are_chosen_by_how_their_names_start() -> None:
    assert quality.chosen_systems("lightgbm, deepctr") == ["LightGBM", "DeepCTR-Torch MMoE", "DeepCTR-Torch PLE"]
    assert quality.chosen_systems(None) == list(quality.SYSTEMS)
    with pytest.raises(ValueError, match=r"systems must start one of steelyard, .*; got xgboost"):
        quality.chosen_systems("xgboost")


def test_labels_of_test_rows_lie_apart_from_what_systems_read(packed: Path, tmp_path: Path) -> None:
    assert not (packed / "test" / "labels.npy").exists()
    log = simulate(tmp_path / "log", rows=2_000)
    shown = pq.read_table(simulate_after(log, tmp_path / "test", rows=666))
    answers = packed.parent / "answers"
    for k, objective in enumerate(("click", "purchase")):
        assert np.load(answers / "labels.npy")[:, k].tolist() == shown.column(objective).to_pylist()
        assert np.load(answers / "truth.npy")[:, k].tolist() == shown.column(f"true_{objective}").to_pylist()
    rows = load_rows(packed)
    assert np.isnan(rows.test.labels).all()
    assert rows.train.labels.shape[1] == 2
    assert rows.parents == (-1, 0)


def test_a_search_has_the_end_of_the_training_rows_to_validate(tmp_path: Path) -> None:
    features = quality_data.pack(
        lambda folder, rows: replace(simulated(folder, rows), search=0.4), tmp_path / "packed", 2_000
    )
    search, rows = load_rows(features / "search"), load_rows(features)
    assert [len(part.labels) for part in (search.train, search.validation)] == [1_200, 800]
    assert [len(part.labels) for part in (rows.train, rows.validation)] == [1_800, 200]
    assert search.validation.labels[-200:].tolist() == rows.validation.labels.tolist()
    assert np.isnan(search.test.labels).all()


def test_numbers_are_standardised_by_the_training_rows(packed: Path) -> None:
    rows = load_rows(packed)
    whole = np.load(packed / "train" / "continuous.npy").astype(np.float64)
    means, deviations = whole.mean(0), whole.std(0)
    test = np.load(packed / "test" / "continuous.npy")
    varied = deviations > 1e-3
    expected = np.clip((test - means) / np.where(varied, deviations, 1), -10, 10)
    assert rows.test.continuous[:, varied] == pytest.approx(expected[:, varied], abs=1e-3)


def test_a_result_is_taken_up_only_where_nothing_it_comes_from_has_changed(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"system": "LightGBM", "trials": 1, "seeds": 1}
    identity = quality.inputs_hash(packed, "lightgbm_rankers", numbers)
    assert identity != quality.inputs_hash(packed, "lightgbm_rankers", numbers | {"trials": 2})
    (tmp_path / "inputs.txt").write_text(identity)

    def refuse(*command: Any, **_: Any) -> None:
        raise OSError("ran again")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert quality.finished("LightGBM", packed, tmp_path, 1, 1, lambda done: None) is None
    with pytest.raises(OSError, match="ran again"):
        quality.finished("LightGBM", packed, tmp_path, 2, 1, lambda done: None)


def test_a_system_without_its_environment_is_left_out_by_name(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "PEER_PYTHON", tmp_path / ".venv-peers" / "bin" / "python")
    results, left_out = quality.measure(["LightGBM"], packed, packed.parent, trials=1, seeds=1)
    assert left_out == {"LightGBM": ".venv-peers is not there; `make peers` makes it"}
    assert {row["system"] for row in results} == {"bayes"}
    quality.show(results, left_out)
    assert "left out: LightGBM: .venv-peers is not there" in capsys.readouterr().out


def test_the_truth_is_calibrated_and_orders_better_than_chance(packed: Path) -> None:
    results, _ = quality.measure([], packed, packed.parent, trials=1, seeds=1)
    click = next(row for row in results if row["objective"] == "click")
    assert click["auc"] > 0.6
    assert click["ece"] < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not quality.PEER_PYTHON.exists(), reason="needs the peers' environment: make peers")
def test_every_system_predicts_a_probability_an_objective(packed: Path) -> None:
    systems = list(quality.SYSTEMS)
    results, left_out = quality.measure(systems, packed, packed.parent, trials=1, seeds=1)
    assert not left_out
    assert {row["system"] for row in results} == {*systems, "bayes"}
    for name in systems:
        predictions = np.load(packed.parent / "systems" / name.replace(" ", "-") / "predictions-0.npy")
        assert predictions.shape == (666, 2)
        assert ((predictions > 0) & (predictions < 1)).all()
