from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from models.feature_shards import BatchSource, Features, ResidentBatches, StreamedBatches, summarise


def write(folder: Path, labels: ArrayLike, categorical: ArrayLike | None = None) -> Features:
    labels = np.asarray(labels, np.float32)
    ids = np.arange(len(labels))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "categorical.npy", np.asarray(ids[:, None] if categorical is None else categorical, np.int32))
    np.save(folder / "continuous.npy", np.stack([ids, np.full(len(ids), 3.0)], 1).astype(np.float32))
    np.save(folder / "labels.npy", labels)
    return Features.open(folder)


def numbered(folder: Path, rows: int) -> Features:
    return write(folder, np.arange(rows)[:, None] % 2)


@pytest.mark.parametrize("resident_gib", [1.0, 0.0])
def test_an_epoch_has_every_row_once_in_a_random_order(tmp_path: Path, resident_gib: float) -> None:
    source = BatchSource(numbered(tmp_path, 1003), resident_gib, torch.device("cpu"))
    batches = list(source(10, 5))
    assert len(batches) == len(source(10, 5)) == 101
    ids = torch.cat([categorical[:, 0] for categorical, _, _ in batches]).tolist()
    assert sorted(ids) == list(range(1003))
    assert ids != sorted(ids)
    for categorical, continuous, labels in batches:  # the three arrays stay aligned
        assert torch.equal(categorical[:, 0].float(), continuous[:, 0])
        assert torch.equal(categorical[:, 0] % 2, labels[:, 0].int())


@pytest.mark.parametrize("resident_gib", [1.0, 0.0])
def test_the_order_follows_from_the_seed(tmp_path: Path, resident_gib: float) -> None:
    source = BatchSource(numbered(tmp_path, 500), resident_gib, torch.device("cpu"))

    def order(seed: int | None) -> list[int]:
        return [int(i) for categorical, _, _ in source(16, seed) for i in categorical[:, 0]]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(None) == list(range(500))


def test_rows_that_do_not_fit_are_streamed(tmp_path: Path) -> None:
    features = numbered(tmp_path, 1000)
    device = torch.device("cpu")
    assert features.size_bytes == 1000 * 16
    assert isinstance(BatchSource(features, 16_000 / 2**30, device)(8, 0), ResidentBatches)
    assert isinstance(BatchSource(features, 15_999 / 2**30, device)(8, 0), StreamedBatches)


def test_streamed_blocks_come_from_all_over_the_rows(tmp_path: Path) -> None:
    batches = StreamedBatches(numbered(tmp_path, 1000), 10, seed=0, blocks=8)
    first = next(iter(batches))[0][:, 0]
    assert len(set((first // 10).tolist())) > 3  # a batch mixes several blocks
    together = torch.cat([categorical for (categorical, _, _), _ in zip(batches, range(8), strict=False)])
    assert len(set((together[:, 0] // 10).tolist())) == 8


def test_the_summary_counts_where_the_parent_happened(tmp_path: Path) -> None:
    nan = np.nan
    labels: list[list[float]] = [[1, 1, 8], [1, 0, 0], [0, 0, 0], [nan, nan, nan], [1, 1, 2]]
    ids = [[2, 4], [5, 4], [1, 3], [0, 9], [7, 2]]
    summary = summarise(write(tmp_path, labels, ids), ("binary", "binary", "value"), (-1, 0, 1))
    np.testing.assert_allclose(summary.base_rates, (3 / 4, 2 / 3, 5.0))
    np.testing.assert_allclose(summary.means, (2.0, 3.0))
    np.testing.assert_allclose(summary.scales, (np.sqrt(2), 1.0))  # a constant feature keeps its units
    assert summary.unseen_free == (False, False)


def test_columns_without_the_unseen_id_are_found(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path, [[1], [0]], [[4, 2], [1, 5]]), ("binary",), (-1,))
    assert summary.unseen_free == (True, False)


def test_objectives_that_never_happen_get_a_neutral_base_rate(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path, [[0, 0, 0]] * 3), ("binary", "binary", "value"), (-1, 0, 1))
    assert summary.base_rates == (0.0, 0.5, 1.0)


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    numbered(tmp_path, 10)
    np.save(tmp_path / "labels.npy", np.zeros((9, 1), np.float32))
    with pytest.raises(ValueError, match=r"must hold arrays of one length above 0; got .*'labels': 9"):
        Features.open(tmp_path)


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold arrays of one length above 0; got .*'labels': 0"):
        numbered(tmp_path, 0)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"categorical\.npy"):
        Features.open(tmp_path)
