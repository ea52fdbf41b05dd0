import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from feature_eng.plan_files import load_plan, save_plan
from feature_eng.simulator import shop_schema
from tests.conftest import Shop
from triton_repo.repository import write_repository


def write(shop: Shop, folder: Path, **options: Any) -> Path:
    bundle = shop.bundle
    write_repository(folder, schema=bundle.schema, plan_dir=bundle.plan, ranker_path=bundle.ranker, **options)
    return folder


def config(folder: Path, model: str) -> pb.ModelConfig:
    return text_format.Parse((folder / model / "config.pbtxt").read_text(), pb.ModelConfig())


def test_the_ensemble_takes_one_user_and_any_number_of_items(shop: Shop, tmp_path: Path) -> None:
    ensemble = config(write(shop, tmp_path / "models"), "ranking")
    shapes = {tensor.name: list(tensor.dims) for tensor in ensemble.input}
    assert shapes["user_id"] == shapes["device"] == shapes["timestamp"] == [1]
    assert shapes["item_id"] == shapes["price"] == shapes["title"] == [-1]
    assert shapes["history__values"] == [-1]
    assert shapes["history__offsets"] == [2]
    assert shapes["objective_weights"] == [3]
    assert [tensor.name for tensor in ensemble.input if tensor.optional] == ["objective_weights"]
    assert {tensor.name: list(tensor.dims) for tensor in ensemble.output} == {"scores": [-1], "predictions": [-1, 3]}
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["preprocess", "rank", "blend"]


def test_rank_and_blend_batch_the_rows_of_many_requests(shop: Shop, tmp_path: Path) -> None:
    folder = write(shop, tmp_path / "models")
    plan = load_plan(shop.bundle.plan)
    assert config(folder, "preprocess").max_batch_size == 0
    for model in ("rank", "blend"):
        assert config(folder, model).max_batch_size == 16_384
        assert config(folder, model).HasField("dynamic_batching")
    widths = {tensor.name: list(tensor.dims) for tensor in config(folder, "rank").input}
    assert widths == {"categorical": [plan.layout.categorical_width], "continuous": [len(plan.layout.continuous)]}


def test_for_libtorch_the_ranker_s_tensors_go_by_place(shop: Shop, tmp_path: Path) -> None:
    folder = write(shop, tmp_path / "models", rank_backend="libtorch")
    rank = config(folder, "rank")
    assert (rank.backend, rank.platform) == ("pytorch", "pytorch_libtorch")
    assert [tensor.name for tensor in rank.input] == ["INPUT__0", "INPUT__1"]
    assert [path.name for path in (folder / "rank" / "1").iterdir()] == ["model.pt"]
    step = config(folder, "ranking").ensemble_scheduling.step[1]
    assert dict(step.input_map) == {"INPUT__0": "_categorical", "INPUT__1": "_continuous"}
    assert dict(step.output_map) == {"OUTPUT__0": "predictions"}


def test_a_client_can_read_the_schema_off_the_ensemble(shop: Shop, tmp_path: Path) -> None:
    about = json.loads(config(write(shop, tmp_path / "m"), "ranking").parameters["steelyard"].string_value)
    assert about["objectives"] == ["click", "purchase", "revenue"]
    assert about["item"] == "item_id"
    assert about["fingerprint"] == shop.bundle.fingerprint


def test_a_new_repository_replaces_the_old_one_whole(shop: Shop, tmp_path: Path) -> None:
    folder = write(shop, tmp_path / "models")
    (folder / "stale").mkdir()
    write(shop, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["blend", "preprocess", "rank", "ranking"]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_candidates": 0}, "max_candidates must be 1 to 16384, the rows of a batch; got 0"),
        ({"max_candidates": 20_000}, "max_candidates must be 1 to 16384, the rows of a batch; got 20000"),
        ({"rank_threads": 0}, "rank_threads must be at least 1; got 0"),
        ({"rank_backend": "onnx"}, "rank_backend must be python or libtorch; got onnx"),
    ],
)
def test_an_option_out_of_range_is_refused(shop: Shop, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(shop, tmp_path / "models", **options)
    assert not list(tmp_path.iterdir())


def test_the_plan_of_another_schema_is_refused(shop: Shop, tmp_path: Path) -> None:
    other = shop_schema().model_copy(update={"name": "other"})
    with pytest.raises(ValueError, match=r"plan must have the schema's fingerprint .*; got"):
        write_repository(tmp_path / "m", schema=other, plan_dir=shop.bundle.plan, ranker_path=shop.bundle.ranker)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["scores", "predictions", "objective_weights"])
def test_a_column_with_the_name_of_another_tensor_is_refused(shop: Shop, tmp_path: Path, name: str) -> None:
    plan = load_plan(shop.bundle.plan)
    taking = tuple(dataclasses.replace(i, name=name) if i.name == "price" else i for i in plan.inputs)
    rename = [
        dataclasses.replace(s, inputs=tuple(name if i == "price" else i for i in s.inputs)) for s in plan.instructions
    ]
    save_plan(dataclasses.replace(plan, inputs=taking, instructions=tuple(rename)), tmp_path / "plan")
    message = f"column must have a name that no other tensor of the ensemble has; got {name}"
    with pytest.raises(ValueError, match=message):
        write_repository(
            tmp_path / "m", schema=shop.bundle.schema, plan_dir=tmp_path / "plan", ranker_path=shop.bundle.ranker
        )
    assert not (tmp_path / "m").exists()


def test_no_column_can_have_the_name_of_a_tensor_between_the_steps(shop: Shop, tmp_path: Path) -> None:
    ensemble = config(write(shop, tmp_path / "m"), "ranking")
    steps = ensemble.ensemble_scheduling.step
    between = {name for step in steps for name in step.output_map.values()} - {"scores", "predictions"}
    assert between == {"_categorical", "_continuous", "_weights"}


def test_a_folder_that_holds_something_else_is_not_replaced(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(FileExistsError, match="folder must be new or a model repository of a ranker; got"):
        write(shop, tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_repository_holds_no_pickle(shop: Shop, tmp_path: Path) -> None:
    names = {path.suffix for path in write(shop, tmp_path / "models").rglob("*") if path.is_file()}
    assert names == {".pbtxt", ".py", ".json", ".sha256", ".npy", ".pt"}
