import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.export import export_ranker
from models.ranker import Ranker

BATCHES = (1, 7, 64, 4096)
FRESH = """
import sys, pathlib, torch, numpy as np
ranker = torch.jit.load(sys.argv[1])
for rows in (1, 7, 64, 4096):
    ids, numbers = (torch.from_numpy(np.load(f"{sys.argv[2]}/{name}.npy")[:rows]) for name in ("ids", "numbers"))
    for _ in range(3):  # the first calls profile and compile
        predictions = ranker(ids, numbers)
    np.save(f"{sys.argv[2]}/{rows}.npy", predictions.numpy())
assert not any(name.split(".")[0] in ("models", "feature_eng", "steelyard") for name in sys.modules)
"""

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no crosses, one expert layer, no tower": {"crosses": 0, "experts": 3, "expert_widths": (16,), "tower_widths": ()},
    "experts and towers": {"crosses": 2, "experts": 4, "expert_widths": (64, 32), "tower_widths": (32,)},
    "own widths": {"slot_embeddings": (None, 5, None, 24)},
    "zero-inflated lognormal": {"value_losses": ("gamma", "gamma", "ziln", "gamma")},
    "entire space": {"estimators": ("esmm", "entire_space", "esmm", "esmm"), "tower_widths": (8,)},
    "statistics": {"continuous_means": (1.0, -2.0, 3.0), "continuous_scales": (0.5, 2.0, 4.0)},
}


@pytest.fixture(scope="module")
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, high, max(BATCHES)) for high in (500, 30, 30, 30, 9, 40)]
    categorical = torch.from_numpy(np.stack(columns, 1).astype(np.int32))
    return categorical, torch.from_numpy(rng.normal(size=(max(BATCHES), 3)).astype(np.float32))


def trained_looking(**options: Any) -> Ranker:
    torch.manual_seed(0)
    kinds, parents = ("binary", "binary", "value", "binary"), (-1, 0, 1, -1)
    ranker = Ranker([500, 30, 9, 40], [1, 3, 1, 1], 3, kinds, parents, **options)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return ranker


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exported_ranker_gives_the_eager_numbers(
    variant: str, tmp_path: Path, rows: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ranker = trained_looking(**VARIANTS[variant]).eval()
    export_ranker(ranker, tmp_path / "ranker.pt")
    exported = torch.jit.load(tmp_path / "ranker.pt")
    for batch in BATCHES:
        categorical, continuous = (tensor[:batch] for tensor in rows)
        for _ in range(3):
            with torch.no_grad():
                torch.testing.assert_close(
                    exported(categorical, continuous), ranker(categorical, continuous), rtol=1e-5, atol=1e-5
                )


def test_a_fresh_process_with_only_torch_gives_the_eager_numbers(
    tmp_path: Path, rows: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ranker = trained_looking().eval()
    export_ranker(ranker, tmp_path / "ranker.pt")
    for name, tensor in zip(("ids", "numbers"), rows, strict=True):
        np.save(tmp_path / f"{name}.npy", tensor.numpy())
    command = [sys.executable, "-I", "-c", FRESH, str(tmp_path / "ranker.pt"), str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    for batch in BATCHES:
        with torch.no_grad():
            eager = ranker(*(tensor[:batch] for tensor in rows)).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{batch}.npy"), eager, rtol=1e-5, atol=1e-5)


def test_exporting_leaves_a_ranker_in_training_as_it_is(tmp_path: Path) -> None:
    ranker = trained_looking().train()
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    export_ranker(ranker, tmp_path / "new" / "ranker.pt")
    assert ranker.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in ranker.state_dict().items())
