"""A Triton step that computes nothing: zeros of its outputs' shapes, a row for each of its input's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with zeros, so that what is measured is the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the outputs' widths, and which input's first dimension counts the rows."""
        config = json.loads(args["model_config"])
        self.counted = config["parameters"]["rows_of"]["string_value"]
        widths = {output["name"]: [int(d) for d in output["dims"] if int(d) > 0] for output in config["output"]}
        self.dtypes = {o["name"]: pb_utils.triton_string_to_numpy(o["data_type"]) for o in config["output"]}
        self.widths = {name: [] if name == "scores" else width for name, width in widths.items()}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        rows = pb_utils.get_input_tensor_by_name(request, self.counted).shape()[0]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.zeros((rows, *width), self.dtypes[name])) for name, width in self.widths.items()]
        )
