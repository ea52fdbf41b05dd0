"""Plan, ranker and blend → a Triton model repository: `preprocess`, `rank`, `blend` and the ensemble `ranking`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from feature_eng.digests import file_sha256
from feature_eng.inputs import Input
from feature_eng.plan_files import load_plan
from feature_eng.schema import Schema
from triton_repo import steps

ENSEMBLE = "ranking"
WEIGHTS = "objective_weights"
SCORES = "scores"
PREDICTIONS = "predictions"
TYPES = {"int64": pb.TYPE_INT64, "string": pb.TYPE_STRING, "float32": pb.TYPE_FP32}

Backend = Literal["python", "libtorch"]

# libtorch knows a TorchScript's tensors by place alone
_RANK_TENSORS: dict[Backend, tuple[tuple[str, str], str]] = {
    "python": (("categorical", "continuous"), PREDICTIONS),
    "libtorch": (("INPUT__0", "INPUT__1"), "OUTPUT__0"),
}


def write_repository(
    folder: str | Path,
    *,
    schema: Schema,
    plan_dir: Path,
    ranker_path: Path,
    max_candidates: int = 4096,
    max_batch_rows: int = 16_384,
    rank_backend: Backend = "python",
    rank_threads: int = 1,
) -> None:
    """Write the model repository of a ranker; it replaces an earlier one once it is whole.

    Args:
        folder: of the repository.
        schema: with its dtypes resolved.
        plan_dir: the compiled plan; must be the schema's.
        ranker_path: the exported ranker.
        max_candidates: most candidates of one request.
        max_batch_rows: most rows that `rank` and `blend` take at once, at least `max_candidates`.
        rank_backend: `python`, or `libtorch` where the server has that backend, as NGC images do.
        rank_threads: CPU threads of the ranker.

    Raises:
        ValueError: an option is out of range, the plan is of another schema, or two tensors would have one name.
        FileExistsError: the folder holds something that is no model repository of ours.
    """
    if not 1 <= max_candidates <= max_batch_rows:
        raise ValueError(f"max_candidates must be 1 to {max_batch_rows}, the rows of a batch; got {max_candidates}")
    if rank_backend not in ("python", "libtorch"):
        raise ValueError(f"rank_backend must be python or libtorch; got {rank_backend}")
    if rank_threads < 1:
        raise ValueError(f"rank_threads must be at least 1; got {rank_threads}")
    plan = load_plan(plan_dir)
    if plan.fingerprint != schema.fingerprint:
        raise ValueError(f"plan must have the schema's fingerprint {schema.fingerprint}; got {plan.fingerprint}")
    _check_names(plan.inputs)
    folder = Path(folder)
    if folder.exists() and not (folder / ENSEMBLE / "config.pbtxt").exists():
        raise FileExistsError(f"folder must be new or a model repository of a ranker; got {folder}, which is neither")
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    about = _about(schema, max_candidates)
    checked = about | {"sha256": file_sha256(plan_dir / "plan.json")}
    settings = {"sha256": file_sha256(ranker_path), "threads": rank_threads}
    widths = {"categorical": plan.layout.categorical_width, "continuous": len(plan.layout.continuous)}
    objectives = len(schema.objectives)
    models = (
        _preprocess(plan.inputs, widths, objectives, checked),
        _rank(widths, objectives, max_batch_rows, rank_backend, settings),
        _blend(objectives, max_batch_rows, {"blend": schema.blend.kind}),
        _ensemble(plan.inputs, objectives, rank_backend, about),
    )
    for model in models:
        version = beside / model.name / "1"
        version.mkdir(parents=True)
        (beside / model.name / "config.pbtxt").write_text(text_format.MessageToString(model), encoding="utf-8")
        if model.backend == "python":
            source = Path(str(steps.__file__)).with_name(f"{model.name}.py")
            shutil.copyfile(source, version / "model.py")
    shutil.copytree(plan_dir, beside / "preprocess" / "1" / "plan")
    shutil.copyfile(ranker_path, beside / "rank" / "1" / ("ranker.pt" if rank_backend == "python" else "model.pt"))
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)


def _check_names(inputs: Sequence[Input]) -> None:
    """Refuse inputs that share a name with another tensor of the ensemble, which would answer one for the other."""
    taken = {WEIGHTS, SCORES, PREDICTIONS}
    for name in (name for given in inputs for name in given.tensors):
        if name in taken:
            raise ValueError(f"column must have a name that no other tensor of the ensemble has; got {name}")
        taken.add(name)


def _about(schema: Schema, max_candidates: int) -> dict[str, Any]:
    """Return what a client and the preprocess step read of the schema."""
    return {
        "schema": schema.name,
        "fingerprint": schema.fingerprint,
        "item": schema.item,
        "columns": [{"name": i.name, "role": i.role, "dtype": i.dtype, "is_list": i.is_list} for i in schema.inputs],
        "objectives": list(schema.objective_names),
        "blend": schema.blend.kind,
        "weights": list(schema.default_weights),
        "max_candidates": max_candidates,
    }


def _preprocess(
    inputs: Sequence[Input], widths: Mapping[str, int], objectives: int, about: Mapping[str, Any]
) -> pb.ModelConfig:
    outputs = [
        pb.ModelOutput(name="categorical", data_type=pb.TYPE_INT32, dims=[-1, widths["categorical"]]),
        pb.ModelOutput(name="continuous", data_type=pb.TYPE_FP32, dims=[-1, widths["continuous"]]),
        pb.ModelOutput(name="weights", data_type=pb.TYPE_FP32, dims=[-1, objectives]),
    ]
    return pb.ModelConfig(
        name="preprocess",
        backend="python",
        input=_request_inputs(inputs, objectives),
        output=outputs,
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)],
        parameters=_parameters(about),
    )


def _rank(
    widths: Mapping[str, int], objectives: int, rows: int, backend: Backend, about: Mapping[str, Any]
) -> pb.ModelConfig:
    in_python = backend == "python"
    names, output = _RANK_TENSORS[backend]
    types = (pb.TYPE_INT32, pb.TYPE_FP32)
    return pb.ModelConfig(
        name="rank",
        backend="python" if in_python else "pytorch",
        platform="" if in_python else "pytorch_libtorch",
        max_batch_size=rows,
        input=[
            pb.ModelInput(name=name, data_type=kind, dims=[width])
            for name, kind, width in zip(names, types, widths.values(), strict=True)
        ],
        output=[pb.ModelOutput(name=output, data_type=pb.TYPE_FP32, dims=[objectives])],
        dynamic_batching=pb.ModelDynamicBatching(),
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_AUTO, count=1)],
        model_warmup=[_warm_up(names, types, tuple(widths.values()), batch) for batch in (1, 64)],
        parameters=_parameters(about) if in_python else {},
    )


def _warm_up(names: Sequence[str], types: Sequence[int], widths: Sequence[int], rows: int) -> pb.ModelWarmup:
    zeros = {
        name: pb.ModelWarmup.Input(data_type=kind, dims=[width], zero_data=True)
        for name, kind, width in zip(names, types, widths, strict=True)
    }
    return pb.ModelWarmup(name=f"{rows} rows", batch_size=rows, inputs=zeros, count=2)


def _blend(objectives: int, rows: int, about: Mapping[str, Any]) -> pb.ModelConfig:
    return pb.ModelConfig(
        name="blend",
        backend="python",
        max_batch_size=rows,
        input=[
            pb.ModelInput(name=name, data_type=pb.TYPE_FP32, dims=[objectives]) for name in (PREDICTIONS, "weights")
        ],
        output=[pb.ModelOutput(name=SCORES, data_type=pb.TYPE_FP32, dims=[1])],
        dynamic_batching=pb.ModelDynamicBatching(),
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)],
        parameters=_parameters(about),
    )


def _ensemble(inputs: Sequence[Input], objectives: int, backend: Backend, about: Mapping[str, Any]) -> pb.ModelConfig:
    requested = _request_inputs(inputs, objectives)
    names = {tensor.name: tensor.name for tensor in requested}
    packed = {name: f"_{name}" for name in ("categorical", "continuous", "weights")}  # no column begins with _
    rank_inputs, rank_output = _RANK_TENSORS[backend]
    return pb.ModelConfig(
        name=ENSEMBLE,
        platform="ensemble",
        input=requested,
        output=[
            pb.ModelOutput(name=SCORES, data_type=pb.TYPE_FP32, dims=[-1]),
            pb.ModelOutput(name=PREDICTIONS, data_type=pb.TYPE_FP32, dims=[-1, objectives]),
        ],
        ensemble_scheduling=pb.ModelEnsembling(
            step=[
                _step("preprocess", names, packed),
                _step("rank", dict(zip(rank_inputs, packed.values(), strict=False)), {rank_output: PREDICTIONS}),
                _step("blend", {PREDICTIONS: PREDICTIONS, "weights": packed["weights"]}, {SCORES: SCORES}),
            ]
        ),
        parameters=_parameters(about),
    )


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    return pb.ModelEnsembling.Step(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)


def _request_inputs(inputs: Sequence[Input], objectives: int) -> list[pb.ModelInput]:
    """Return a request's tensors: [1] of the user and the context, [N] of the items, and the weights."""
    tensors = []
    for given in inputs:
        length = -1 if given.role == "item" else 1
        if given.is_list:
            values, offsets = given.tensors
            tensors.append(pb.ModelInput(name=values, data_type=TYPES[given.dtype], dims=[-1]))
            dims = [-1 if length == -1 else 2]
            tensors.append(pb.ModelInput(name=offsets, data_type=pb.TYPE_INT64, dims=dims))
        else:
            tensors.append(pb.ModelInput(name=given.name, data_type=TYPES[given.dtype], dims=[length]))
    return [*tensors, pb.ModelInput(name=WEIGHTS, data_type=pb.TYPE_FP32, dims=[objectives], optional=True)]


def _parameters(about: Mapping[str, Any]) -> dict[str, pb.ModelParameter]:
    return {"steelyard": pb.ModelParameter(string_value=json.dumps(about))}
