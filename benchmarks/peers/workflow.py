"""A Triton step that runs the NVTabular workflow itself on a DataFrame a request, as Merlin serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import triton_python_backend_utils as pb_utils

from feature_eng.columns import candidate_count
from feature_eng.packing import pack
from feature_eng.plan_files import load_plan
from feature_eng.schema_file import load_schema
from feature_eng.workflow import load_workflow, serving_frame


class TritonPythonModel:
    """Preprocesses with the workflow; it unpickles it, which the product's own steps never do."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the workflow, and of the plan what it says of inputs and outputs."""
        version = Path(args["model_repository"]) / args["model_version"]
        settings = json.loads(json.loads(args["model_config"])["parameters"]["steelyard"]["string_value"])
        self.weights = np.array(settings["weights"], dtype=np.float32)
        self.schema = load_schema(version / "schema.yaml")
        self.workflow = load_workflow(version / "workflow")
        self.plan = load_plan(version / "plan")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensors = [name for i in self.plan.inputs for name in i.tensors]
        arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in tensors}
        rows = candidate_count(self.plan.inputs, arrays, len(self.plan.layout.continuous) * 1_000_000)
        frame = pd.DataFrame({i.name: _column(i, arrays, rows) for i in self.plan.inputs})
        transformed = self.workflow.transform(serving_frame(self.schema, frame))
        categorical, continuous = pack(transformed, self.plan.layout)
        outputs = {"categorical": categorical, "continuous": continuous, "weights": np.tile(self.weights, (rows, 1))}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _column(given: Any, arrays: dict[str, Any], rows: int) -> Any:
    values = arrays[given.tensors[0]]
    if given.dtype == "string":
        values = np.array([value.decode() for value in values], dtype=object)
    if not given.is_list:
        return np.broadcast_to(values, rows) if len(values) == 1 else values
    lists = np.split(values, arrays[given.tensors[1]][1:-1])
    return list(lists) * rows if len(lists) == 1 else list(lists)
