import pytest
import torch

from models.averaging import PolynomialAveraging, polynomial_average


def averages(recency: float, values: list[float]) -> list[float]:
    average, found = torch.tensor(0.0), []
    for count, value in enumerate(values):
        average = polynomial_average(average, torch.tensor(value), torch.tensor(count), recency=recency)
        found.append(average.item())
    return found


def test_without_recency_all_steps_weigh_alike() -> None:
    assert averages(0.0, [4.0, 2.0, 6.0, 0.0]) == pytest.approx([4.0, 3.0, 4.0, 3.0])


def test_recency_weighs_step_t_by_its_polynomial() -> None:
    values = [4.0, 2.0, 6.0, 1.0]
    weights = [1 * 2, 2 * 3, 3 * 4, 4 * 5]  # of recency 2: t (t + 1)
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert averages(2.0, values)[-1] == pytest.approx(expected)


def test_one_step_of_every_few_counts() -> None:
    counted = [step for step in range(12) if PolynomialAveraging(9.0, every=4).should_update(step_idx=step)]
    assert counted == [3, 7, 11]
    assert not PolynomialAveraging(9.0, every=1).should_update(epoch_idx=0)


def test_a_recency_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="averaging must be at least 0; got -1"):
        PolynomialAveraging(-1, every=1)
