from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from models.labelling import label_entropy, most_telling, pseudo_labels
from models.objective_losses import ObjectiveLoss
from models.ranker import Ranker
from tests.models.test_balancing import STILL, learner_of
from tests.models.test_training import fit, same_weights, write_shop

NAN = float("nan")


def test_a_sure_prediction_stands_for_an_unknown_binary_label_alone() -> None:
    predictions = torch.tensor([[0.95, 0.95, 9.0], [0.05, 0.5, 9.0], [0.89, 0.9, 9.0], [0.11, 0.1, 9.0]])
    labels = torch.full((4, 3), NAN)
    labels[0, 0] = 0.0
    found = pseudo_labels(predictions, labels, torch.tensor([True, True, False]), 0.9)
    expected = torch.tensor([[NAN, 1.0, NAN], [0.0, NAN, NAN], [NAN, 1.0, NAN], [NAN, 0.0, NAN]])
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_the_entropy_of_a_chain_is_that_of_its_joint_outcomes() -> None:
    click, purchase = 0.4, 0.1
    joint = entropy([1 - click, click - purchase, purchase])
    found = label_entropy(np.array([[click, purchase, 7.0]], np.float32), ["binary", "binary", "value"], [-1, 0, 1])
    assert found == pytest.approx([joint], rel=1e-6)


def test_the_entropies_of_independent_labels_add_up() -> None:
    found = label_entropy(np.array([[0.5, 0.5], [0.0, 1.0]], np.float32), ["binary", "binary"], [-1, -1])
    assert found == pytest.approx([2 * np.log(2), 0.0])


def test_a_label_whose_parent_never_happens_tells_nothing() -> None:
    assert label_entropy(np.array([[0.0, 0.0]], np.float32), ["binary", "binary"], [-1, 0]) == pytest.approx([0.0])


def test_the_most_telling_rows_come_first() -> None:
    assert most_telling(np.array([0.1, 0.5, 0.5, 0.9]), 3).tolist() == [3, 1, 2]


def test_sure_rows_weigh_as_the_known_ones_by_the_epoch() -> None:
    ranker = Ranker([9], [1], 0, ["binary"], [-1], base_rates=[0.5], **STILL)
    with torch.no_grad():
        ranker.heads.bias.fill_(3.0)  # p is about 0.95 for all
    loss = ObjectiveLoss(["binary"], [-1])
    module = learner_of(ranker, loss, epochs=4, pseudo_labels=0.9)
    module._trainer.current_epoch = 1  # type: ignore[union-attr]
    ids, none = torch.tensor([[4], [5], [6], [7]]), torch.zeros(4, 0)
    labels = torch.tensor([[1.0], [NAN], [NAN], [0.0]])
    total, sums = module.step_loss(ids, none, labels, None, 4)
    each = -torch.nn.functional.logsigmoid(ranker.logits(ids, none)[:, 0])
    known = each[0] + (ranker.logits(ids, none)[3, 0] + each[3])
    unknown = (each[1] + each[2]) / 2 * 2  # the mean of sure rows, for two known ones
    assert sums.item() == pytest.approx(known.item(), rel=1e-5)
    assert total.item() == pytest.approx(((known + unknown * 1 / 4) / 4).item(), rel=1e-5)


def test_pseudo_labels_train_and_change_nothing_where_all_labels_are_known(tmp_path: Path) -> None:
    for side, rows in (("train", 2_000), ("validation", 1_000)):
        write_shop(tmp_path / side, rows, seed=5)
    known = [fit(tmp_path, tmp_path / str(sure), pseudo_labels=sure) for sure in (None, 0.9)]
    assert same_weights(known[0].ranker, known[1].ranker)
    labels = np.load(tmp_path / "train" / "labels.npy")
    labels[200:] = np.nan
    np.save(tmp_path / "train" / "labels.npy", labels)
    few = [fit(tmp_path, tmp_path / f"few{sure}", pseudo_labels=sure, lr=2e-2) for sure in (None, 0.6)]
    assert not same_weights(few[0].ranker, few[1].ranker)


@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_an_impossible_confidence_is_refused(tmp_path: Path, confidence: float) -> None:
    write_shop(tmp_path / "train", 10, seed=1)
    with pytest.raises(ValueError, match=rf"pseudo_labels must be in \(0\.5, 1\); got {confidence}"):
        fit(tmp_path, tmp_path / "out", pseudo_labels=confidence)
