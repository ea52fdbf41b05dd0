import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from feature_eng.schema_file import dump_schema, parse_schema
from feature_eng.simulator import shop_schema
from steelyard.cli import app, run
from tests.conftest import Shop

RUNNER = CliRunner()
COMMANDS = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}
STEELYARD = Path(sys.executable).with_name("steelyard")


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Steelyard = Callable[..., Ran]


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Steelyard:
    """Return what runs a command line in this process, where the libraries are imported already."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["steelyard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        written = capfd.readouterr()
        return Ran(int(ended.value.code or 0), written.out, written.err)

    return call


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "schema.yaml"
    path.write_text(dump_schema(shop_schema()))
    return path


def test_the_commands_are_those_of_the_line() -> None:
    assert list(COMMANDS) == [
        "check",
        "simulate",
        "fit",
        "tune",
        "evaluate",
        "report",
        "label",
        "export",
        "serve",
        "rank",
        "score",
        "demo",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_an_example_that_the_command_takes(name: str) -> None:
    examples = re.findall(r"`(steelyard [^`]*)`", COMMANDS[name].__doc__ or "")
    assert examples
    for example in examples:
        _, command, *arguments = shlex.split(example.split(" > ")[0])
        get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    assert "Example" in RUNNER.invoke(app, [name, "--help"]).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.parquet", "--schema", "SCHEMA"], "log must be Parquet or CSV files; got nowhere.parquet"),
        (["check", "--schema", "SCHEMA"], "log must name at least one file; got none"),
        (["check", "LOG"], "schema must be given to hold the log against, or --draft to propose one; got neither"),
        (["check", "LOG", "--schema", "SCHEMA", "--policy", "labels"], "policy must be one of dtypes, .*; got labels"),
        (["check", "LOG", "--schema", "SCHEMA", "--policy", "labels=fill"], "policy labels must be .*; got fill"),
        (["check", "LOG", "--schema", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "LOG", "--schema", "SCHEMA", "--out", "OUT", "--split", "luck"], "luck"),
        (["fit", "LOG", "--schema", "SCHEMA", "--out", "OUT", "--ranker", "experts=x"], "ranker must be name=number"),
        (["fit", "LOG", "--schema", "SCHEMA", "--out", "OUT", "--balancing", "luck"], "balancing must be one of fixed"),
        (["label", "BUNDLE", "--log", "LOG", "--suggest", "5", "--out", "rows.txt"], r"out must end in \.parquet or"),
        (
            ["label", "BUNDLE", "--log", "LOG", "--suggest", "5", "--out", "rows.csv"],
            r"where the log has lists \(history",
        ),
        (["fit", "LOG", "--schema", "SCHEMA", "--out", "OUT", "--validation", "1"], r"fraction must .*; got 1\.0"),
        (["evaluate", "nowhere", "LOG"], "bundle must be a folder that `steelyard fit` wrote; got nowhere"),
        (["score", "BUNDLE", "LOG", "--out", "OUT", "--weight", "click=much"], "weight must be objective=number; got"),
        (["score", "BUNDLE", "LOG", "--out", "OUT", "--weight", "clicks=1"], r"weights must name .*did you mean click"),
        (["score", "BUNDLE", "LOG", "--out", "BUNDLE"], "out must not exist yet; got"),
        (["rank", "nowhere.json"], "nowhere.json"),
        (["rank", "SCHEMA"], "request must be JSON; got"),
        (["rank", "REQUEST", "--url", "grpc://127.0.0.1:9"], "grpc://127.0.0.1:9 must serve a ranker; got"),
        (["rank", "REQUEST", "--url", "ftp://host"], "url must begin with grpc:// or http://; got ftp://host"),
        (["serve", "PHOTOS"], "repository must hold models with config.pbtxt; got .*, which has none"),
        (["score", "BUNDLE", "LOG", "--out", "OUT", "--workers", "-1"], "workers must be at least 0; got -1"),
        (["fit", "LOG", "--schema", "SCHEMA", "--out", "OUT", "--resume"], "resume must find an unfinished run"),
        (["demo", "--out", "PHOTOS"], "out must be a new folder or an earlier demo's; got .*, which holds cat.jpg"),
        (["export", "BUNDLE", "--out", "PHOTOS"], "folder must be new or a model repository of a ranker; got"),
        (["export", "BUNDLE", "--max-candidates", "100000"], "max_candidates must be 1 to 16384.*got 100000"),
    ],
)
def test_a_user_s_mistake_is_one_sentence_and_exit_code_2(
    steelyard: Steelyard, arguments: list[str], message: str, shop: Shop, schema: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    request = tmp_path / "request.json"
    request.write_text('{"user": {}, "items": []}')
    paths = {"LOG": shop.log, "SCHEMA": schema, "OUT": tmp_path / "out", "BUNDLE": shop.bundle.folder}
    paths |= {"PHOTOS": tmp_path / "photos", "REQUEST": request}
    ran = steelyard(*(paths.get(argument, argument) for argument in arguments))
    assert ran.returncode == 2, ran.stderr
    assert re.search(message, ran.stderr), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "photos" / "cat.jpg").exists()


@pytest.mark.parametrize("mistake", [FloatingPointError, ImportError])
def test_what_training_cannot_do_is_one_sentence_too(
    steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch, mistake: type[Exception], shop: Shop, schema: Path
) -> None:
    def fail(*paths: object, **options: object) -> None:
        raise mistake("loss must stay finite")

    monkeypatch.setattr("steelyard.pipeline.fit", fail)
    ran = steelyard("fit", shop.log, "--schema", schema, "--out", "out")
    assert (ran.returncode, ran.stderr) == (2, "error: loss must stay finite\n")


def test_the_installed_command_ends_as_the_tests_say() -> None:
    ran = subprocess.run([STEELYARD, "evaluate", "nowhere", "log"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "error: bundle must be a folder that `steelyard fit` wrote; got nowhere, which is not there"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranker", "expert=8"], r"ranker must have settings out of .*experts.*; got expert$"),
        (["--ranker", "experts=0"], r"ranker must have a possible experts; got 0: experts must be at least 1"),
        (
            ["--ranker", "expert_widths=[]"],
            r"ranker must have a possible expert_widths; got \[\]: expert_widths must name at least one",
        ),
        (["--ranker", "expert_widths=3"], r"ranker must have a possible expert_widths; got 3: "),
        (["--ranker", 'embedding="wide"'], r"ranker must have a possible embedding; got wide: "),
        (["--ranker", "dropout=2"], r"ranker must have a possible dropout; got 2: dropout must be in \[0, 1\)"),
        (["--logger", "paper"], "Invalid value for '--logger'"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--batch-rows", "0"], "Invalid value for '--batch-rows'"),
        (["--patience", "0"], "Invalid value for '--patience'"),
        (["--learning-rate", "-1"], "Invalid value for '--learning-rate'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_any_work(
    steelyard: Steelyard, arguments: list[str], message: str, shop: Shop, schema: Path, tmp_path: Path
) -> None:
    ran = steelyard("fit", shop.log, "--schema", schema, "--out", tmp_path / "out", *arguments)
    assert ran.returncode == 2
    assert re.search(message, ran.stderr.strip()), ran.stderr
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in ran.stderr


def test_debugging_shows_where_an_error_arose() -> None:
    command, environment = [STEELYARD, "evaluate", "nowhere", "log"], {**os.environ, "STEELYARD_DEBUG": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


def test_check_reports_a_sound_log_as_json(steelyard: Steelyard, shop: Shop, schema: Path) -> None:
    ran = steelyard("check", shop.log, "--schema", schema, "--json")
    assert ran.returncode == 0
    report = json.loads(ran.stdout)
    assert report["rows_read"] == report["rows_kept"] == 8_000


def test_a_log_that_breaks_rules_fails_the_check_and_the_fit(
    steelyard: Steelyard, shop: Shop, schema: Path, tmp_path: Path
) -> None:
    log = pd.read_parquet(shop.log)
    log["purchase"] = 1
    log["click"] = 0
    log.loc[3, "order_value"] = -1
    log.to_parquet(tmp_path / "log.parquet")
    checked = steelyard("check", tmp_path / "log.parquet", "--schema", schema)
    assert checked.returncode == 2
    assert "conversions" in checked.stdout
    fitted = steelyard("fit", tmp_path / "log.parquet", "--schema", schema, "--out", tmp_path / "out")
    assert fitted.returncode == 2
    assert "must be 0 where the label it is given is 0" in fitted.stderr
    assert re.search(r"order_value must be at least 0|order_value.*-1", fitted.stderr), fitted.stderr
    assert not list(tmp_path.glob("out*/*.parquet"))
    assert "Traceback" not in fitted.stderr


def test_a_draft_is_a_schema(steelyard: Steelyard, shop: Shop) -> None:
    ran = steelyard("check", shop.log, "--draft")
    assert ran.returncode == 0, ran.stderr
    drafted = parse_schema(ran.stdout)
    assert drafted.item == "item_id"
    assert "# review" in ran.stdout


def test_the_json_schema_knows_the_schema_s_keys(steelyard: Steelyard) -> None:
    ran = steelyard("check", "--json-schema")
    assert {"columns", "objectives", "blend"} <= set(json.loads(ran.stdout)["properties"])


def test_evaluate_prints_json_or_tables(steelyard: Steelyard, shop: Shop) -> None:
    arguments = ("evaluate", shop.bundle.folder, shop.test, "--replicates", 2)
    figures = json.loads(steelyard(*arguments, "--json").stdout)["figures"]
    assert {figure["system"] for figure in figures} == {"ranker", "popularity", "bayes"}
    assert "AUC−½ / Bayes" in steelyard(*arguments).stdout


def test_simulate_writes_a_log_a_test_log_and_their_schema(steelyard: Steelyard, tmp_path: Path) -> None:
    ran = steelyard("simulate", tmp_path / "shop", "--rows", 400, "--test-rows", 200, "--seed", 3)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "shop").iterdir()} == {"log", "test", "schema.yaml"}


def test_fit_score_and_evaluate_from_the_command_line(
    steelyard: Steelyard, shop: Shop, schema: Path, tmp_path: Path
) -> None:
    small = ("--epochs", 1, "--ranker", "experts=2", "--ranker", "expert_widths=[16]", "--batch-rows", 512)
    fitted = steelyard("fit", shop.log, "--schema", schema, "--out", tmp_path / "bundle", *small, "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert [epoch["epoch"] for epoch in json.loads(fitted.stdout)["history"]] == [0]
    assert f"bundle: {tmp_path / 'bundle'}" in fitted.stderr.replace("\n", "")
    assert json.loads((tmp_path / "bundle" / "ranker" / "ranker.json").read_text())["experts"] == 2
    scored = steelyard("score", tmp_path / "bundle", shop.test, "--out", tmp_path / "scored", "--weight", "click=1")
    assert scored.returncode == 0, scored.stderr
    assert "3,000 rows in" in scored.stderr
    table = pd.read_parquet(tmp_path / "scored")
    assert (table["score"] == table["predicted_click"]).all()
