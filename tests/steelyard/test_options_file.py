from pathlib import Path

import pytest

from steelyard.options_file import read_options, settings_of_training, write_options


def test_options_are_read_as_they_were_written_without_what_is_no_setting(tmp_path: Path) -> None:
    options = {"lr": 1e-5, "batch_rows": 1024, "loss_weights": [1.0, 0.5], "ranker": {"expert_widths": [64, 32]}}
    write_options(tmp_path / "best.yaml", options | {"progress": False}, "trial 3\nof 9")
    assert (tmp_path / "best.yaml").read_text().startswith("# trial 3 of 9\nlr: 1.0e-05\n")
    assert read_options(tmp_path / "best.yaml") == options
    assert {path.name for path in tmp_path.iterdir()} == {"best.yaml"}


def test_a_number_that_yaml_takes_for_text_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr: 1e-3\nbatch_rows: 1e3\naveraging: null\n")
    found = read_options(tmp_path / "own.yaml")
    assert found == {"lr": 0.001, "batch_rows": 1000, "averaging": None}
    assert isinstance(found["batch_rows"], int)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("# nothing yet\n")
    assert read_options(tmp_path / "own.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "options must be a mapping of settings; got list in"),
        ("lr: {", "options must be YAML; got"),
        ("learning_rate: 3", "options must have settings out of ranker, batch_rows, .*; got learning_rate in"),
        ("layout: 3", "options must have settings out of .*; got layout in"),
        ("ranker: wide", "options must have a mapping under ranker; got 'wide' in"),
        ("lr: fast", "options must have a number for lr; got 'fast' in"),
        ("lr: null", "options must have a number for lr; got None in"),
        ("mask_rate: true", "options must have a number for mask_rate; got True in"),
        ("batch_rows: 1000.5", "options must have a whole number for batch_rows; got 1000.5 in"),
        ("epochs: .inf", "options must have a whole number for epochs; got inf in"),
        ("pseudo_labels: sure", "options must have a number for pseudo_labels; got 'sure' in"),
        ("balancing: 3", "options must have text for balancing; got 3 in"),
        ("loss_weights: 3", "options must have a list of numbers for loss_weights; got 3 in"),
        ("loss_weights: [1, a]", r"options must have a list of numbers for loss_weights; got \[1, 'a'\] in"),
        ("loggers: wandb", "options must have a list of text for loggers; got 'wandb' in"),
    ],
)
def test_what_is_no_setting_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_options(tmp_path / "own.yaml")


def test_settings_are_what_a_person_may_choose() -> None:
    known = settings_of_training()
    assert {"lr", "ranker", "epochs", "balancing"} <= set(known)
    assert not {"layout", "out", "resume", "callbacks", "names", "listed"} & set(known)
