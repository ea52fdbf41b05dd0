import numpy as np
import pytest
import torch

from models.experts import MultiGateMixture, SharedBottom


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
