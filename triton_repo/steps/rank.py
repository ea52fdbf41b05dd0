"""The rank step: packed features → one prediction per objective, over the rows of all waiting requests at once."""

from __future__ import annotations

import gc
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Runs the exported ranker on a CPU or a GPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ranker, unless its file is not the one that the repository was written with."""
        settings = json.loads(json.loads(args["model_config"])["parameters"]["steelyard"]["string_value"])
        path = Path(args["model_repository"]) / args["model_version"] / "ranker.pt"
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != settings["sha256"]:
            raise ValueError(f"{path} must have checksum {settings['sha256']}; got {digest}")
        torch.set_num_threads(settings["threads"])
        self.on_gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if self.on_gpu else "cpu")
        self.names = ("categorical", "continuous")
        self.ranker = torch.jit.load(io.BytesIO(data), map_location=self.device).forward
        self.inference = torch.inference_mode()
        gc.freeze()  # what is loaded stays: no request waits until it has been searched for garbage

    def execute(self, requests: list[Any]) -> list[Any]:
        """Rank the rows of all requests in one pass, and give each request its own."""
        inputs = [
            [torch.from_numpy(pb_utils.get_input_tensor_by_name(request, name).as_numpy()) for name in self.names]
            for request in requests
        ]
        packed = inputs[0] if len(inputs) == 1 else map(torch.cat, zip(*inputs, strict=True))
        predictions = self._predict(*packed)
        answers, start = [], 0
        for categorical, _ in inputs:
            stop = start + len(categorical)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("predictions", predictions[start:stop])]))
            start = stop
        return answers

    def _predict(self, categorical: torch.Tensor, continuous: torch.Tensor) -> Any:
        with self.inference:
            if self.on_gpu:
                return self.ranker(categorical.to(self.device), continuous.to(self.device)).cpu().numpy()
            return self.ranker(categorical, continuous).numpy()
