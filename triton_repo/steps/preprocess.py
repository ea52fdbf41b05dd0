"""The preprocess step: a request's raw columns → packed features and weights, a row a candidate."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from feature_eng.columns import candidate_count
from feature_eng.digests import file_sha256
from feature_eng.plan_files import load_plan
from feature_eng.strings import from_wire
from models.blending import check_weights


class _Wire(np.ndarray):  # type: ignore[type-arg]
    """The bytes of a BYTES tensor, which Triton reshapes as if they were its values."""

    def reshape(self, *_: Any, **__: Any) -> _Wire:
        return self


class TritonPythonModel:
    """Runs the compiled plan; unbatched, since each request has candidates of its own number."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the plan, unless it is not the one that the repository was written with."""
        settings = json.loads(json.loads(args["model_config"])["parameters"]["steelyard"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"] / "plan"
        digest = file_sha256(folder / "plan.json")
        if digest != settings["sha256"]:
            raise ValueError(f"{folder / 'plan.json'} must have checksum {settings['sha256']}; got {digest}")
        self.plan = load_plan(folder)  # which checks its arrays against plan.json
        self.names = settings["objectives"]
        self.default_weights = np.array(settings["weights"], dtype=np.float32)
        self.max_candidates = settings["max_candidates"]
        # Triton makes a Python object of each string as a request comes in; the plan reads the bytes as they came.
        pb_utils.deserialize_bytes_tensor = lambda wire: wire.view(_Wire)
        gc.freeze()  # what is loaded stays: no request waits until it has been searched for garbage

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, a bad one with an error that names the tensor and the rule."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            outputs = self._features(request)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])

    def _features(self, request: Any) -> dict[str, Any]:
        columns = _columns(request)
        given = columns.get("objective_weights")
        weights = self.default_weights if given is None else check_weights(given, self.names)
        rows = candidate_count(self.plan.inputs, columns, self.max_candidates)
        categorical, continuous = self.plan.run(columns, rows)
        return {"categorical": categorical, "continuous": continuous, "weights": np.full((rows, len(weights)), weights)}


def _columns(request: Any) -> dict[str, Any]:
    """Return the tensors' values by name, strings where their bytes lie."""
    columns: dict[str, Any] = {}
    for tensor in request.inputs():
        name, values = tensor.name(), tensor.as_numpy()
        if type(values) is _Wire:
            values = from_wire(name, values.view(np.ndarray), tensor.shape()[0])
        columns[name] = values
    return columns
