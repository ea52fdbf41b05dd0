import numpy as np
import pytest

from models.popularity import SMOOTHING_ROWS, Popularity, item_popularity

CLICKS = np.array([[1.0, 0.0], [1.0, 6.0], [0.0, 0.0], [0.0, 2.0]], dtype=np.float32)


def smoothed(total: float, rows: int, overall: float) -> float:
    return (total + SMOOTHING_ROWS * overall) / (rows + SMOOTHING_ROWS)


@pytest.mark.parametrize(
    "items",
    [np.array([70, 5, 70, 70]), np.array(["vase", "lamp", "vase", "vase"], dtype=object), np.array(list("baab"))],
    ids=["int64", "objects", "strings"],
)
def test_an_item_is_expected_to_do_as_it_did_with_the_overall_mean_mixed_in(items):
    found = item_popularity(items, CLICKS).predict(items[:2])
    for column, overall in enumerate((0.5, 2.0)):
        for row in range(2):
            own = items == items[row]
            expected = smoothed(CLICKS[own, column].sum(), own.sum(), overall)
            assert found[row, column] == pytest.approx(expected)
    assert found.dtype == np.float32


def test_many_items_agree_with_a_loop_over_rows():
    rng = np.random.default_rng(0)
    items, labels = rng.integers(0, 50, 600), rng.random((600, 2)).round()
    labels[rng.random((600, 2)) < 0.1] = np.nan
    found = item_popularity(items, labels).predict(np.arange(60))
    for column in range(2):
        known = [(i, v) for i, v in zip(items, labels[:, column], strict=True) if v == v]
        overall = sum(v for _, v in known) / len(known)
        for item in range(60):
            own = [v for i, v in known if i == item]
            assert found[item, column] == pytest.approx(smoothed(sum(own), len(own), overall), rel=1e-5)


def test_an_unknown_item_is_expected_to_do_as_all_do():
    popularity = item_popularity(np.array([3, 9, 9, 5]), CLICKS)
    np.testing.assert_allclose(popularity.predict(np.array([4, 1, 100])), [[0.5, 2.0]] * 3)


def test_unknown_labels_do_not_count():
    labels = np.array([[1.0], [np.nan], [0.0], [0.0]])
    found = item_popularity(np.array([1, 1, 2, 2]), labels).predict(np.array([1, 2]))
    np.testing.assert_allclose(found, [[smoothed(1, 1, 1 / 3)], [smoothed(0, 2, 1 / 3)]], rtol=1e-6)


@pytest.mark.parametrize("items", [np.array([7, 3, 7, 1]), np.array(["é", "", "é", "x"], dtype=object)])
def test_a_saved_popularity_predicts_as_before(items, tmp_path):
    popularity = item_popularity(items, CLICKS)
    popularity.save(tmp_path / "popularity.npz")
    loaded = Popularity.load(tmp_path / "popularity.npz")
    np.testing.assert_array_equal(loaded.predict(items), popularity.predict(items))
