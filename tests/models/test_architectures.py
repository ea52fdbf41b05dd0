"""Every architecture with every other: it trains, and TorchScript gives its numbers in another process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.export import export_ranker
from models.histories import HISTORIES
from models.interactions import INTERACTIONS
from models.ranker import Ranker, load_ranker, save_ranker
from models.sharing import SHARING
from steelyard.pipeline import check_settings

PROJECT = Path(__file__).resolve().parents[2]
CARDINALITIES, WIDTHS, CONTINUOUS = [12, 12, 6, 5], [1, 4, 1, 1], 2
CHAINS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "binary": (("binary", "binary"), (-1, -1)),
    "chain": (("binary", "binary", "value"), (-1, 0, 1)),
}
COMBINATIONS = list(product(SHARING, ["none", *INTERACTIONS], ["mean", *HISTORIES], CHAINS))
FRESH = """
import json, pathlib, sys, torch, numpy as np
torch.set_num_threads(1)
ids, numbers = (torch.from_numpy(np.load(f"{sys.argv[1]}/{name}.npy")) for name in ("ids", "numbers"))
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pt")):
    ranker = torch.jit.load(path)
    found[path.stem] = ranker(ids, numbers).tolist()
print(json.dumps(found))
assert not any(name.split(".")[0] in ("models", "feature_eng", "steelyard") for name in sys.modules)
"""


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(1, high, count) for high in (12, 12, 12, 12, 12, 6, 5)], 1).astype(np.int32)
    lengths = rng.integers(0, 5, count)
    ids[:, 1:5] *= np.arange(4) < lengths[:, None]
    return torch.from_numpy(ids), torch.from_numpy(rng.normal(size=(count, CONTINUOUS)).astype(np.float32))


def ranker_of(sharing: str, interactions: str, histories: str, chain: str, side_towers: tuple[int, ...]) -> Ranker:
    kinds, parents = CHAINS[chain]
    torch.manual_seed(0)
    return Ranker(
        CARDINALITIES,
        WIDTHS,
        CONTINUOUS,
        kinds,
        parents,
        embedding=4,
        sharing=sharing,
        experts=2,
        expert_widths=(8,),
        interactions=interactions,
        histories=histories,
        history_targets=(-1, 0, -1, -1),
        slot_tables=(-1, 0, -1, -1),
        side_towers=side_towers,
        slot_sides=("item", "user", "user", "context"),
        continuous_sides=("item", "context"),
    )


def trained(ranker: Ranker, steps: int = 30) -> tuple[float, float]:
    """Train on labels that the first slot tells, and return the loss before and after."""
    ids, numbers = rows(64)
    labels = (ids[:, :1] > 6).float().expand(-1, ranker.chain.logits)
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(ranker.logits(ids, numbers), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in ranker.parameters()), "every parameter must take part"
    return losses[0], losses[-1]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train and export every combination, and read all exports in one fresh process."""
    folder = tmp_path_factory.mktemp("rankers")
    ids, numbers = rows(20)
    np.save(folder / "ids.npy", ids.numpy())
    np.save(folder / "numbers.npy", numbers.numpy())
    eager, losses = {}, {}
    for index, names in enumerate(COMBINATIONS):
        ranker = ranker_of(*names, (6,) if index % 5 < 2 else ())  # in turn, whatever the names
        losses[str(index)] = trained(ranker)
        export_ranker(ranker, folder / f"{index}.pt")
        with torch.no_grad():
            eager[str(index)] = ranker.eval()(ids, numbers).tolist()
    command = [sys.executable, "-I", "-c", FRESH, str(folder)]
    printed = subprocess.run(command, check=True, cwd=folder, timeout=250, capture_output=True, text=True).stdout
    return {"eager": eager, "scripted": json.loads(printed), "losses": losses}


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(COMBINATIONS)), ids=["-".join(map(str, c)) for c in COMBINATIONS])
def test_every_architecture_trains_and_gives_its_numbers_in_another_process(index: int, every: dict[str, Any]) -> None:
    before, after = every["losses"][str(index)]
    assert after < 0.9 * before
    np.testing.assert_allclose(every["scripted"][str(index)], every["eager"][str(index)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"sharing": name} for name in SHARING]
    + [{"interactions": name} for name in INTERACTIONS]
    + [{"histories": name} for name in HISTORIES]
    + [{"side_towers": [8]}, {"task_experts": 2}, {"levels": 3}, {"history_width": 8}, {"history_layers": 2}],
)
def test_every_architecture_is_a_setting_of_a_fit(settings: dict[str, Any]) -> None:
    check_settings(settings)


def test_a_saved_ranker_of_many_parts_predicts_the_same(tmp_path: Path) -> None:
    ranker = ranker_of("ple", "bilinear", "transformer", "chain", (6,)).eval()
    save_ranker(ranker, tmp_path)
    assert torch.equal(load_ranker(tmp_path)(*rows(20)), ranker(*rows(20)))


def test_what_the_default_ranker_does_not_use_is_not_in_its_graph() -> None:
    ranker = Ranker(CARDINALITIES, WIDTHS, CONTINUOUS, *CHAINS["chain"]).eval()
    graph = torch.jit.freeze(torch.jit.script(ranker)).inlined_graph
    operations = [node.kind().removeprefix("aten::") for node in graph.nodes() if node.kind().startswith("aten::")]
    lists = ["add", "numel", "size", "arange", "unsqueeze", "add", "view", "view", "embedding_bag", "view"]
    numbers, crosses = ["addcmul", "clamp"], ["cat", "linear", "linear", "addcmul"]
    bottom = ["linear", "relu_", "unsqueeze", "expand"]
    heads, chain = ["transpose", "baddbmm", "squeeze", "t"], ["neg", "logaddexp", "mm", "exp"]
    assert operations == [*lists, *numbers, *crosses, *bottom, *heads, *chain]


def test_the_example_of_an_architecture_in_the_guide_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guide = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "gated_bottom.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import gated_bottom  # type: ignore[import-not-found]

    monkeypatch.setitem(SHARING, "gated_bottom", gated_bottom.gated_bottom)
    check_settings({"sharing": "gated_bottom"})
    ranker = ranker_of("gated_bottom", "none", "mean", "chain", ())
    before, after = trained(ranker)
    assert after < 0.9 * before
    export_ranker(ranker, tmp_path / "ranker.pt")
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "ranker.pt")(*rows(20)), ranker.eval()(*rows(20)))
