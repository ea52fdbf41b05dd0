import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from torch import nn
from typer.testing import CliRunner

from feature_eng.schema_file import dump_schema
from feature_eng.simulator import shop_schema, simulate
from models.feature_shards import Features
from models.training import Training
from models.tuning import worth_captured
from steelyard import tuning
from steelyard.cli import app
from steelyard.options_file import read_options
from steelyard.pipeline import FitOptions, fit, train_prepared, validation_requests
from steelyard.tuning import (
    BEST,
    JOURNAL,
    PREPARED,
    Search,
    counted_trials,
    ended,
    failure,
    load_study,
    tune,
    values_of,
)
from steelyard.tuning_page import best_trials_table, write_tuning_page

OPTIONS = FitOptions(training={"epochs": 1, "seed": 3})
SEARCH = Search(maximise="value", groups=("optimizer", "width"), trials=3)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    simulate(folder / "log", rows=4_000)
    return folder / "log"


@pytest.fixture(scope="module")
def tuned(log: Path) -> Path:
    """Return a folder in which a search of three trials has ended."""
    tune(str(log), shop_schema(), log.parent / "out", OPTIONS, SEARCH)
    return log.parent / "out"


@pytest.fixture
def copy(tuned: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    shutil.copytree(tuned, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any], int], list[float]]], None]:
    """Return what replaces training: a function of a trial's options and its number gives each epoch's value."""

    def pretend(values: Callable[[dict[str, Any], int], list[float]]) -> None:
        def training(schema: Any, layout: Any, work: Any, options: Any, *, out: Path, callbacks: Any, **_: Any) -> Any:
            history = []
            for epoch, value in enumerate(values(options, int(out.name))):
                callbacks[0].values.append(value)
                callbacks[0].told(epoch, value)
                history.append({"epoch": epoch, "val_0": 1 - value, "val_1": 0.75, "val_2": 1.0})
            return Training(nn.Linear(2, 3), tuple(history), len(history) - 1)  # type: ignore[arg-type]

        monkeypatch.setattr("steelyard.tuning.train_prepared", training)

    return pretend


def resumed(log: Path, out: Path, lines: list[str] | None = None, **changes: Any) -> Any:
    told = (lambda line: None) if lines is None else lines.append
    return tune(str(log), shop_schema(), out, OPTIONS, replace(SEARCH, **changes), resume=True, report=told)


def test_the_best_trial_s_settings_are_written_for_fit(tuned: Path) -> None:
    study = load_study(tuned)
    trials = counted_trials(study)
    assert [trial.number for trial in trials] == [0, 1, 2]
    best = max((t for t in trials if t.state.name == "COMPLETE"), key=lambda trial: trial.value or 0)
    assert read_options(tuned / BEST) == best.user_attrs["options"]
    assert (tuned / BEST).read_text().startswith(f"# value {best.value:.6g} on validation rows: trial {best.number}")
    assert trials[0].user_attrs["options"] == {
        "epochs": 1,
        "seed": 3,
        "lr": 3e-3,
        "batch_rows": 2048,
        "weight_decay": 1e-4,
        "ranker": {"expert_widths": [64], "tower_widths": []},
    }
    assert {path.name for path in tuned.iterdir()} == {PREPARED, JOURNAL, BEST, ".lock"}


def test_a_trial_is_worth_what_its_ranker_captures_of_the_validation_rows(tuned: Path, tmp_path: Path) -> None:
    from feature_eng.plan_files import load_plan
    from feature_eng.schema_file import load_schema

    study = load_study(tuned)
    trial, prepared = counted_trials(study)[0], tuned / PREPARED
    schema, layout = load_schema(prepared / "bundle" / "schema.yaml"), load_plan(prepared / "bundle" / "plan").layout
    trained = train_prepared(
        schema, layout, prepared, trial.user_attrs["options"], out=tmp_path, loggers=(), progress=False
    )
    categorical, continuous, labels = next(Features.open(prepared / "features" / "validation").chunks())
    predictions = trained.ranker(categorical, continuous).detach().numpy()
    requests = validation_requests(schema, prepared / "log" / "validation")
    assert requests is not None
    worth = worth_captured(predictions, labels.numpy(), requests, weights=(0.2, 1.0, 0.05), k=10)
    assert trial.value == pytest.approx(worth, abs=1e-6)
    gains = {name: 1 - trained.history[0][f"val_{k}"] for k, name in enumerate(schema.objective_names)}
    assert trial.user_attrs["gains"] == pytest.approx(gains, abs=1e-6)
    assert trial.user_attrs["parameters"] == sum(each.numel() for each in trained.ranker.parameters())


def test_a_fit_from_what_was_prepared_is_the_fit_from_the_log(log: Path, copy: Path, tmp_path: Path) -> None:
    options = FitOptions(training={"epochs": 1, "loggers": (), "progress": False})
    whole = fit(str(log), shop_schema(), tmp_path / "whole", options)
    again = fit(str(log), shop_schema(), copy / "bundle", options, prepared=copy / PREPARED)
    assert (again.folder / "metrics.json").read_text() == (whole.folder / "metrics.json").read_text()
    assert not (copy / "bundle.partial").exists()
    assert json.loads((copy / PREPARED / "run.json").read_text())["training"] == OPTIONS.training


def test_a_search_goes_on_to_more_trials(log: Path, copy: Path, pretended: Any) -> None:
    pretended(lambda options, number: [0.1 * number])
    lines: list[str] = []
    study = resumed(log, copy, lines, trials=5)
    assert [trial.number for trial in counted_trials(study)] == [0, 1, 2, 3, 4]
    assert lines[-2:] == ["trial 3: 0.3000", "trial 4: 0.4000"]
    again = resumed(log, copy, trials=5)
    assert len(again.trials) == len(study.trials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maximise": "click"}, "resume must go on with the study's own maximise; got another maximise"),
        ({"k": 3}, "resume must go on with the study's own k; got another k"),
        ({"groups": ("optimizer",)}, "resume must go on with the study's own search; got another search"),
    ],
)
def test_a_study_of_another_search_is_refused(log: Path, copy: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resumed(log, copy, **changes)


def test_a_study_of_another_schema_or_of_other_features_is_refused(log: Path, copy: Path) -> None:
    other = shop_schema().model_copy(update={"name": "other"})
    with pytest.raises(ValueError, match="resume must have the arguments of the unfinished run; got other schema"):
        tune(str(log), other, copy, OPTIONS, SEARCH, resume=True)
    labels = copy / PREPARED / "features" / "validation"
    for array in labels.glob("*.npy"):
        np.save(array, np.load(array)[:-1])
    with pytest.raises(ValueError, match="resume must go on with the study's own features; got another features"):
        resumed(log, copy)


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(
    log: Path, copy: Path, pretended: Any
) -> None:
    def values(options: dict[str, Any], number: int) -> list[float]:
        if number == 4:
            raise FloatingPointError("loss must be a number; got nan")
        return [0.9 if number == 5 else 0.1]

    pretended(values)
    lines: list[str] = []
    study = resumed(log, copy, lines, trials=6)
    trial = study.trials[4]
    assert trial.state.name == "FAIL"
    assert failure(study, trial) == "FloatingPointError: loss must be a number; got nan"
    assert "trial 4: failed: FloatingPointError: loss must be a number; got nan" in lines
    assert study.best_trial.number == 5


def test_a_search_without_a_trial_that_ends_says_why(log: Path, tmp_path: Path, copy: Path, pretended: Any) -> None:
    def values(options: dict[str, Any], number: int) -> list[float]:
        raise MemoryError("too wide")

    (copy / JOURNAL).unlink()
    pretended(values)
    with pytest.raises(ValueError, match="trials must have one that comes to its end; got MemoryError: too wide"):
        resumed(log, copy, trials=2)


def test_a_trial_below_the_median_is_pruned_after_the_epoch_that_shows_it(
    log: Path, copy: Path, pretended: Any
) -> None:
    (copy / JOURNAL).unlink()
    pretended(lambda options, number: [0.1, 0.2, 0.3] if number == 5 else [0.5, 0.6, 0.7])
    study = resumed(log, copy, trials=6)
    pruned = study.trials[5]
    assert pruned.state.name == "PRUNED"
    assert pruned.intermediate_values == {0: 0.1}
    assert ended(study, pruned) == "pruned after epoch 1, at 0.1000"
    (copy / JOURNAL).unlink()
    unpruned = resumed(log, copy, trials=6, pruner="none")
    assert {trial.state.name for trial in unpruned.trials} == {"COMPLETE"}


def test_a_trial_that_a_kill_interrupted_is_run_again(log: Path, copy: Path, pretended: Any) -> None:
    study = load_study(copy)
    killed = study.ask()
    killed.suggest_float("lr", 5e-4, 2e-2, log=True)
    pretended(lambda options, number: [options["lr"]])
    after = resumed(log, copy, trials=4)
    assert after.trials[killed.number].state.name == "FAIL"
    assert failure(after, after.trials[killed.number]) == "the search was stopped"
    assert len(counted_trials(after)) == 4
    assert counted_trials(after)[-1].value == killed.params["lr"]


def test_a_journal_that_a_kill_left_in_the_middle_of_a_line_is_mended(log: Path, copy: Path, pretended: Any) -> None:
    before = (copy / JOURNAL).read_bytes()
    with (copy / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"work')
    (copy / f"{JOURNAL}.lock").symlink_to(copy / JOURNAL)
    pretended(lambda options, number: [0.5])
    assert len(counted_trials(resumed(log, copy, trials=4))) == 4
    assert (copy / JOURNAL).read_bytes().startswith(before)


def test_a_trial_whose_process_died_has_failed(copy: Path) -> None:
    study = load_study(copy)
    died = study.ask()
    tuning._bury(tuning._Work(copy, {}, SEARCH), -9)
    assert failure(study, study.trials[died.number]) == "its process ended with code -9"
    assert len(counted_trials(study)) == 4


def test_one_search_at_a_time_works_in_a_folder(log: Path, copy: Path) -> None:
    with (copy / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="out must be used by one search at a time; got"):
            resumed(log, copy)


@pytest.mark.parametrize(
    ("options", "search", "message"),
    [
        (
            {},
            {"maximise": "planet"},
            "maximise must be one of click, purchase, revenue, value, hypervolume; got planet",
        ),
        ({}, {"groups": ()}, "search must name groups out of sharing, .*; got none"),
        ({}, {"groups": ("planet",)}, "search must name groups out of sharing, .*; got planet"),
        ({}, {"trials": 0}, "trials must be at least 1; got 0"),
        ({"training": {"lr": 0.1}}, {}, "search must not choose what is given; got lr given and in search"),
        (
            {"training": {"ranker": {"tower_widths": [8]}}},
            {},
            "search must not choose what is given; got tower_widths given and in search",
        ),
        ({"validation": 0.0}, {}, "validation must be above 0, so that trials can be told apart; got 0"),
        ({"calibration": "spline"}, {}, "calibration must be one of none, .*; got 'spline'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(
    log: Path, tmp_path: Path, options: dict[str, Any], search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tune(str(log), shop_schema(), tmp_path / "out", replace(OPTIONS, **options), replace(SEARCH, **search))
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_resumed_or_refused(log: Path, tuned: Path) -> None:
    with pytest.raises(FileExistsError, match="out must not exist yet, or --resume go on with what it holds; got"):
        tune(str(log), shop_schema(), tuned, OPTIONS, SEARCH)


def test_a_search_that_could_not_begin_may_begin_anew(log: Path, tmp_path: Path, pretended: Any) -> None:
    pretended(lambda options, number: [0.5])
    with pytest.raises(ValueError, match="k must leave every objective something to rank; got 999"):
        tune(str(log), shop_schema(), tmp_path / "out", OPTIONS, replace(SEARCH, maximise="hypervolume", k=999))
    study = tune(str(log), shop_schema(), tmp_path / "out", OPTIONS, replace(SEARCH, trials=1))
    assert [trial.value for trial in study.trials] == [0.5]
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="out must not exist yet"):
        tune(str(log), shop_schema(), tmp_path / "photos", OPTIONS, SEARCH)


def test_what_is_maximised_must_be_there_to_rank(tuned: Path) -> None:
    schema, prepared = shop_schema(), tuned / PREPARED
    assert values_of(schema, prepared, replace(SEARCH, maximise="purchase")) == (None, 1)
    anonymous = schema.model_copy(update={"request": None})
    with pytest.raises(ValueError, match="maximise must be an objective where the schema names no request; got value"):
        values_of(anonymous, prepared, SEARCH)
    with pytest.raises(ValueError, match=r"maximise must be one of click, .*, hypervolume; got planet"):
        values_of(schema, prepared, replace(SEARCH, maximise="planet"))
    with pytest.raises(ValueError, match="k must leave every objective something to rank; got 999 for click, of which"):
        values_of(schema, prepared, replace(SEARCH, maximise="hypervolume", k=999))


def test_labels_that_never_happened_are_worth_nothing(copy: Path) -> None:
    labels = copy / PREPARED / "features" / "validation" / "labels.npy"
    np.save(labels, np.zeros_like(np.load(labels)))
    with pytest.raises(ValueError, match="maximise must be of what happened in validation rows; got value"):
        values_of(shop_schema(), copy / PREPARED, SEARCH)
    with pytest.raises(ValueError, match="something to rank; got 10 for click, which never happened"):
        values_of(shop_schema(), copy / PREPARED, replace(SEARCH, maximise="hypervolume"))


def test_optuna_that_is_missing_is_named(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r"tune must have Optuna installed; got none, .*\[tune\]"):
        tune(str(log), shop_schema(), tmp_path / "out", OPTIONS, SEARCH)


def test_a_search_whose_page_could_not_be_drawn_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "schema.yaml").write_text(dump_schema(shop_schema()))
    told = ["nowhere.parquet", "--schema", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, ["tune", *told])
    assert isinstance(ran.exception, RuntimeError)
    assert str(ran.exception).startswith("tune must have matplotlib installed; got none, `pip install steelyard[tune]`")
    assert not (tmp_path / "out").exists()


def test_the_page_tells_of_every_trial_and_its_trade_offs(log: Path, copy: Path, pretended: Any) -> None:
    def values(options: dict[str, Any], number: int) -> list[float]:
        if number == 8:
            raise ValueError("<script>alert(1)</script>")
        return [0.5 + 0.01 * number]

    (copy / JOURNAL).unlink()
    pretended(values)
    study = resumed(log, copy, trials=11)
    write_tuning_page(study, copy / "tuning.html")
    page = (copy / "tuning.html").read_text(encoding="utf-8")
    assert "11 trials, 10 of which came to their end; the best has value 0.6000" in page
    assert "failed: ValueError: &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") == 1 + 1 + 3  # history, importance, pairs of three objectives
    rows = best_trials_table(study)
    assert list(rows.columns[0].cells)[:2] == ["10", "9"]


def test_the_command_writes_settings_that_fit_takes(log: Path, tmp_path: Path) -> None:
    from feature_eng.schema_file import save_schema

    save_schema(shop_schema(), tmp_path / "schema.yaml")
    told = ["--schema", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out"), "--trials", "1"]
    told += ["--search", "dropout", "--epochs", "1", "--maximise", "hypervolume", "--fit", "--json"]
    ran = CliRunner().invoke(app, ["tune", str(log), *told])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout.splitlines()[-1])["trial"] == 0
    bundle = tmp_path / "out" / "bundle"
    assert (bundle / "manifest.json").exists()
    assert "<svg" in (tmp_path / "out" / "tuning.html").read_text()
    written = yaml.safe_load((tmp_path / "out" / BEST).read_text())
    assert written == {"seed": 0, "epochs": 1, "ranker": {"dropout": 0.1}}


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from feature_eng.simulator import shop_schema
from steelyard.tuning import tune
from tests.steelyard.test_tuning import OPTIONS, SEARCH
if __name__ == "__main__":
    tune(sys.argv[1], shop_schema(), Path(sys.argv[2]), OPTIONS, replace(SEARCH, trials=40, jobs=2))
"""


@pytest.mark.slow
def test_a_search_that_is_killed_takes_its_processes_along_and_goes_on_where_it_was(log: Path, tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.Popen(
        [sys.executable, tmp_path / "search.py", log, tmp_path / "out"], env=environment, cwd=root
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and killed.poll() is None:
        if (tmp_path / "out" / JOURNAL).exists() and len(begun(tmp_path)) >= 3:
            break
        time.sleep(0.1)
    processes = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait(30)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    before = begun(tmp_path)
    study = resumed(log, tmp_path / "out", trials=len(before) + 2)
    assert len(counted_trials(study)) == len(before) + 2
    stopped = [trial.number for trial in study.trials if failure(study, trial) == "the search was stopped"]
    assert stopped == [trial.number for trial in before if trial.state.name == "RUNNING"]


def begun(folder: Path) -> list[Any]:
    return [trial for trial in load_study(folder / "out").trials if trial.state.name != "WAITING"]


@pytest.mark.slow
def test_processes_share_a_study(log: Path, tmp_path: Path) -> None:
    study = tune(str(log), shop_schema(), tmp_path / "out", OPTIONS, replace(SEARCH, trials=4, jobs=2))
    assert len(counted_trials(study)) == 4
    assert {trial.state.name for trial in counted_trials(study)} <= {"COMPLETE", "PRUNED"}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in study.trials}) == 4
