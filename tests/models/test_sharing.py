from typing import Any

import numpy as np
import pytest
import torch

from models.sharing import SHARING
from models.sharing.aitm import InformationTransfer
from models.sharing.mmoe import MultiGateMixture
from models.sharing.ple import ProgressiveExtraction
from models.sharing.shared_bottom import SharedBottom

Array = np.ndarray[Any, Any]


def arrays(module: torch.nn.Module) -> dict[str, Array]:
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def test_each_objective_reads_its_own_mixture_of_the_experts() -> None:
    torch.manual_seed(1)
    mixture = MultiGateMixture(5, 3, (4, 2), gates=2)
    x = torch.randn(6, 5)
    w1, b1 = mixture.first.weight.detach().numpy().reshape(3, 4, 5), mixture.first.bias.detach().numpy().reshape(3, 4)
    w2, b2 = (parameter.detach().numpy() for parameter in mixture.rest.parameters())
    gate_w, gate_b = mixture.gates.weight.detach().numpy(), mixture.gates.bias.detach().numpy()
    expected = np.zeros((2, 6, 2))
    for row, features in enumerate(x.numpy()):
        experts = []
        for e in range(3):
            hidden = np.maximum(w1[e] @ features + b1[e], 0)
            experts.append(np.maximum(hidden @ w2[e] + b2[e, 0], 0))
        for k in range(2):
            scores = np.exp((gate_w @ features + gate_b)[3 * k : 3 * k + 3])
            expected[k, row] = np.dot(scores / scores.sum(), experts)
    np.testing.assert_allclose(mixture(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_experts_of_one_layer_need_no_batched_matmul() -> None:
    mixture = MultiGateMixture(5, 3, (4,), gates=2)
    assert mixture.outputs == 4
    assert mixture(torch.randn(6, 5)).shape == (2, 6, 4)


def test_all_objectives_read_the_same_bottom() -> None:
    bottom = SharedBottom(5, (4, 2), objectives=3)
    x = torch.randn(6, 5)
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in bottom.parameters())
    expected = np.maximum(np.maximum(x.numpy() @ w1.T + b1, 0) @ w2.T + b2, 0)
    assert bottom.outputs == 2
    np.testing.assert_allclose(bottom(x).detach().numpy(), np.stack([expected] * 3), rtol=1e-5, atol=1e-6)


def test_a_bottom_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expert_widths must name at least one layer; got none"):
        SharedBottom(3, [], 2)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="experts must be at least 1; got 0"):
        MultiGateMixture(3, 0, [4], 2)
    with pytest.raises(ValueError, match="expert_widths must name at least one layer; got none"):
        MultiGateMixture(3, 2, [], 2)


def test_a_mixture_of_one_expert_is_a_shared_bottom() -> None:
    numbers = {"experts": 1, "task_experts": 1, "levels": 1}
    assert isinstance(SHARING["mmoe"](3, (4,), (-1, 0), 0.0, **numbers), SharedBottom)
    assert isinstance(SHARING["mmoe"](3, (4,), (-1, 0), 0.0, **(numbers | {"experts": 2})), MultiGateMixture)


def test_progressive_extraction_mixes_own_and_shared_experts_level_by_level() -> None:
    torch.manual_seed(2)
    objectives, own, shared = 2, 2, 1
    module = ProgressiveExtraction(5, shared, own, 2, (4,), objectives)
    x = torch.randn(3, 5)
    w = arrays(module)
    expected = np.zeros((objectives, 3, 4))
    for row, features in enumerate(x.numpy()):
        states = [features] * (objectives + 1)
        for level in range(2):
            mine = f"levels.{level}."
            reads = [0, 0, 1, 1, 2]  # two experts of either objective, then the shared one
            experts = [
                np.maximum(
                    states[state] @ w[mine + "perceptrons.layers.0.weight"][e]
                    + w[mine + "perceptrons.layers.0.bias"][e, 0],
                    0,
                )
                for e, state in enumerate(reads)
            ]
            mixed = []
            for k in range(objectives):
                gate = softmax(states[k] @ w[mine + "gates.weight"][k] + w[mine + "gates.bias"][k, 0])
                mixed.append(gate[0] * experts[2 * k] + gate[1] * experts[2 * k + 1] + gate[2] * experts[4])
            if level == 0:
                gate = softmax(w[mine + "shared_gate.weight"] @ states[2] + w[mine + "shared_gate.bias"])
                mixed.append(sum(weight * expert for weight, expert in zip(gate, experts, strict=True)))
            states = mixed
        expected[:, row] = states
    assert "levels.1.shared_gate.weight" not in w
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["experts", "task_experts", "levels"])
def test_progressive_extraction_of_nothing_is_refused(name: str) -> None:
    numbers = {"experts": 1, "task_experts": 1, "levels": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        ProgressiveExtraction(3, widths=(4,), objectives=2, **numbers)
    with pytest.raises(ValueError, match="expert_widths must name at least one layer; got none"):
        ProgressiveExtraction(3, 1, 1, 1, (), 2)


def test_a_child_attends_to_its_own_state_and_to_its_parents_new_one() -> None:
    torch.manual_seed(3)
    parents = (1, 2, -1)  # children stand before their parents: 2 is the root, then 1, then 0
    module = InformationTransfer(5, (4,), parents)
    x = torch.randn(3, 5)
    w = arrays(module)
    expected = np.zeros((3, 3, 4))
    for row, features in enumerate(x.numpy()):
        states = {
            k: np.maximum(features @ w["perceptrons.layers.0.weight"][k] + w["perceptrons.layers.0.bias"][k, 0], 0)
            for k in range(3)
        }
        for unit, (child, parent) in enumerate([(1, 2), (0, 1)]):
            mine = f"units.{unit}."
            passed = w[mine + "information.0.weight"] @ states[parent] + w[mine + "information.0.bias"]
            both = [np.maximum(passed, 0), states[child]]
            matrices = w[mine + "projections.weight"].reshape(3, 4, 4)
            biases = w[mine + "projections.bias"].reshape(3, 4)
            value, key, query = ([m @ u + b for u in both] for m, b in zip(matrices, biases, strict=True))
            weights = softmax(np.array([key[u] @ query[u] for u in range(2)]) / np.sqrt(4))
            states[child] = weights[0] * value[0] + weights[1] * value[1]
        expected[:, row] = [states[k] for k in range(3)]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_objective_without_a_parent_reads_its_own_perceptron_alone() -> None:
    module = InformationTransfer(5, (4, 3), (-1, -1))
    assert len(module.units) == 0
    x = torch.randn(6, 5)
    assert torch.equal(module(x), module.perceptrons(x.expand(2, -1, -1)))


def test_a_transfer_between_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expert_widths must name at least one layer; got none"):
        InformationTransfer(3, (), (-1,))
    with pytest.raises(ValueError, match="parents must form no cycle"):
        InformationTransfer(3, (4,), (1, 0))
