"""The blend step: predictions and weights → one score a row."""

from __future__ import annotations

import gc
import json
from typing import Any

import triton_python_backend_utils as pb_utils

from models.blending import blend


class TritonPythonModel:
    """Weighs the objectives; the weights may differ from row to row, since rows of many requests come together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the kind of blend."""
        self.kind = json.loads(json.loads(args["model_config"])["parameters"]["steelyard"]["string_value"])["blend"]
        gc.freeze()  # what is loaded stays: no request waits until it has been searched for garbage

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score each request's rows."""
        answers = []
        for request in requests:
            names = ("predictions", "weights")
            predictions, weights = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names)
            scores = blend(predictions, weights, self.kind)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("scores", scores)]))
        return answers
