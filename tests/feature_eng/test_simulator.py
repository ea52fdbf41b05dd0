from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_eng.shop import (
    CATEGORIES,
    DAY_MS,
    QUALITY_WORDS,
    START_MS,
    Dials,
    Shop,
    conditional_expectations,
    make_shop,
    published,
    stock_at,
    true_expectations,
)
from feature_eng.simulator import preference, shop_schema, simulate, simulate_after, simulate_part

DIALS: dict[str, Any] = {
    "seed": 3,
    "conflict": "medium",
    "position_bias": 0.1,
    "selection": 0.2,
    "drift": 0.1,
    "cold_rate": 0.1,
    "users": 500,
    "items": 400,
    "candidates": 20,
    "request_ms": DAY_MS // 500,
    "days": 28.0,
}
ROWS = 200_000


def shop_of(**dials: Any) -> Shop:
    return make_shop(Dials(**(DIALS | dials)))


def truths(table: pa.Table) -> np.ndarray:
    return np.column_stack([table[f"true_{name}"] for name in ("click", "purchase", "revenue")])


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


@pytest.fixture(scope="module")
def shop() -> Shop:
    return shop_of()


@pytest.fixture(scope="module")
def table(shop: Shop) -> pa.Table:
    return simulate_part(shop, 0, ROWS)


@pytest.mark.parametrize(("label", "truth"), [("click", 0), ("purchase", 1), ("order_value", 2)])
def test_outcomes_happen_as_often_as_the_truth_says(table: pa.Table, label: str, truth: int) -> None:
    expected, happened = truths(table)[:, truth], column(table, label)
    for rows in np.array_split(np.argsort(expected), 10):
        error = happened[rows].std() / np.sqrt(len(rows)) + 1e-9
        assert abs(happened[rows].mean() - expected[rows].mean()) < 4 * error + 0.01 * expected[rows].mean()


def test_rates_are_those_of_a_shop(table: pa.Table) -> None:
    clicked, bought = column(table, "click").mean(), column(table, "purchase").mean()
    assert 0.1 < clicked < 0.2
    assert 0.1 < bought / clicked < 0.25


def test_only_what_was_clicked_is_bought_and_only_what_was_bought_has_a_value(table: pa.Table) -> None:
    clicked, bought, value = (column(table, name) for name in ("click", "purchase", "order_value"))
    assert np.all(clicked[bought == 1] == 1)
    assert np.all((value > 0) == (bought == 1))


def test_an_order_is_worth_a_whole_number_of_pieces(table: pa.Table) -> None:
    bought = column(table, "purchase") == 1
    pieces = column(table, "order_value")[bought] / column(table, "price")[bought]
    np.testing.assert_allclose(pieces, np.round(pieces), rtol=1e-5)
    assert pieces.min() == pytest.approx(1)


def test_clicks_and_revenue_agree_less_as_the_conflict_grows() -> None:
    agreement = []
    for conflict in ("none", "medium", "strong"):
        by_request = truths(simulate_part(shop_of(conflict=conflict), 0, ROWS)).reshape(-1, 20, 3)
        centred = by_request - by_request.mean(1, keepdims=True)
        agreement.append(np.corrcoef(centred[..., 0].ravel(), centred[..., 2].ravel())[0, 1])
    none, medium, strong = agreement
    assert none > 0.5
    assert none - 0.1 > medium > strong + 0.1


def test_true_columns_are_the_expectations_of_their_rows(shop: Shop, table: pa.Table) -> None:
    names = ("user_id", "item_id", "position", "timestamp")
    users, items, position, time_ms = (column(table, name) for name in names)
    expected = true_expectations(shop, users - 1, items - 1, position, time_ms)
    np.testing.assert_allclose(truths(table), expected, rtol=1e-4)


def test_expectations_are_chained(shop: Shop) -> None:
    users, items = np.arange(50), np.arange(50)
    at = np.ones(50, np.int64), np.full(50, START_MS)
    click, purchase, value = conditional_expectations(shop, users, items, *at).T
    expected = np.stack([click, click * purchase, click * purchase * value], axis=1)
    np.testing.assert_allclose(true_expectations(shop, users, items, *at), expected, rtol=1e-6)


def test_the_position_costs_its_bias_in_log_odds_an_e_fold() -> None:
    shop = shop_of(position_bias=0.5)
    position = np.array([1, 2, 20])
    click = conditional_expectations(shop, np.zeros(3, int), np.zeros(3, int), position, np.full(3, START_MS))[:, 0]
    odds = np.log(click / (1 - click))
    np.testing.assert_allclose(odds[0] - odds, 0.5 * np.log(position), rtol=1e-4)


def test_taste_swings_by_the_drift_and_no_further() -> None:
    days = np.arange(0, 60, 10)
    swung = []
    for drift in (0.0, 0.4):
        shop = shop_of(drift=drift)
        # an item so old that its freshness is gone, at the same hour of each day
        click = conditional_expectations(shop, np.zeros(6, int), np.zeros(6, int), np.ones(6), START_MS + days * DAY_MS)
        odds = np.log(click[:, 0] / (1 - click[:, 0]))
        swung.append(odds)
    expected = 0.4 * np.sin(2 * np.pi * days / 60 + shop.season[shop.segment[0], shop.category[0]])
    np.testing.assert_allclose(swung[1] - swung[0], expected, atol=1e-4)


def test_a_selecting_ranker_shows_better_items_and_the_best_of_them_first() -> None:
    by_chance, chosen = (truths(simulate_part(shop_of(selection=s, position_bias=0), 0, 40_000)) for s in (0.0, 0.9))
    assert chosen[:, 0].mean() > 1.1 * by_chance[:, 0].mean()
    top, bottom = (chosen.reshape(-1, 20, 3)[:, place, 0].mean() for place in (0, 19))
    assert top > 1.2 * bottom
    first, last = (by_chance.reshape(-1, 20, 3)[:, place, 0].mean() for place in (0, 19))
    assert first == pytest.approx(last, rel=0.1)


def test_items_are_shown_only_after_their_publication(table: pa.Table) -> None:
    published_at = column(table, "published_at")
    assert np.all(published_at <= column(table, "timestamp"))
    assert np.any(published_at > START_MS)


def test_without_cold_items_everything_is_published_at_the_start() -> None:
    shop = shop_of(cold_rate=0.0)
    assert published(shop, np.array([START_MS])) == [400]


def test_no_item_comes_twice_in_a_request(table: pa.Table) -> None:
    by_request = np.sort(column(table, "item_id").reshape(-1, 20), axis=1)
    assert np.all(np.diff(by_request, axis=1) > 0)


def test_requests_hold_one_user_and_follow_each_other_in_time(table: pa.Table) -> None:
    for name in ("request_id", "user_id", "timestamp", "budget"):
        by_request = column(table, name).reshape(-1, 20)
        assert np.all(by_request == by_request[:, :1])
    assert np.all(np.diff(column(table, "timestamp")[::20]) >= 0)


def test_stock_dwindles_from_one_delivery_to_the_next(shop: Shop) -> None:
    moments = START_MS + np.linspace(0, 28, 500) * DAY_MS
    stock = stock_at(shop, np.array([int(shop.full_stock.argmax())]), moments.astype(np.int64))
    falls, deliveries = np.diff(stock) <= 0, np.flatnonzero(np.diff(stock) > 0)
    assert falls.mean() > 0.9
    assert len(deliveries) >= 1
    assert stock.min() >= 0


def test_titles_tell_a_half_of_the_quality_that_ratings_do_not() -> None:
    shop = shop_of(items=4000)
    level = {word: k for k, words in enumerate(QUALITY_WORDS) for word in words}
    told = np.array([level[title.split()[0]] for title in shop.title])
    assert np.corrcoef(told, shop.click_appeal)[0, 1] > 0.3
    assert abs(np.corrcoef(told, shop.rating)[0, 1]) < 0.06


def test_histories_show_what_users_like(shop: Shop, table: pa.Table) -> None:
    users = column(table, "user_id")[::20] - 1
    seen = [
        (user, CATEGORIES.index(c))
        for user, row in zip(users, table["history"][::20].to_pylist(), strict=True)
        for c in row
    ]
    user, category = np.array(seen).T
    liked = (shop.favourites[user] == category[:, None]).any(axis=1)
    assert 0.7 < liked.mean() < 0.8  # seven in ten by liking, the others now and then by chance


def test_the_schema_describes_the_log(table: pa.Table) -> None:
    schema = shop_schema()
    named = [i.name for i in schema.inputs] + [schema.request, schema.user, schema.item, schema.time]
    assert {*named, *schema.label_columns, *schema.fit_only_columns} <= set(table.column_names)
    assert [f"true_{name}" for name in schema.objective_names] == ["true_click", "true_purchase", "true_revenue"]
    assert not {"position", "true_click"} & {i.name for i in schema.inputs}


def test_default_shops_stay_as_they_were() -> None:
    drawn = simulate_part(shop_of(), 0, 4_000)
    kept = ("request_id", "timestamp", "user_id", "item_id", "price", "title", "history", "stock", "position", "click")
    text = repr([drawn[name].to_pylist() for name in (*kept, "purchase", "order_value")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "85746d1533f58a1e"


def test_confounding_moves_clicks_and_purchases_apart_and_nothing_else() -> None:
    plain, confounded = shop_of(), shop_of(confounding=0.8)
    users, items = np.arange(400), np.arange(400)
    at = np.ones(400, np.int64), np.full(400, START_MS)
    before, after = (conditional_expectations(shop, users, items, *at).astype(float) for shop in (plain, confounded))
    moved = np.log(after[:, :2] / (1 - after[:, :2])) - np.log(before[:, :2] / (1 - before[:, :2]))
    caught = plain.gullibility[:400] * plain.loudness
    np.testing.assert_allclose(moved, 0.8 * np.column_stack([caught, -caught]), atol=1e-4)
    np.testing.assert_array_equal(after[:, 2], before[:, 2])
    assert np.corrcoef(plain.loudness, plain.click_appeal)[0, 1] > 0.5
    means = np.array([plain.gullibility[plain.segment == s].mean() for s in range(6)])
    assert means[plain.segment].var() / plain.gullibility.var() == pytest.approx(0.8, abs=0.1)
    assert plain.gullibility.std() == pytest.approx(1, abs=0.1)


def test_confounded_clicks_convert_worse_than_what_is_not_clicked_would() -> None:
    ratios = []
    for confounding in (0.0, 1.5):
        drawn = truths(simulate_part(shop_of(confounding=confounding), 0, 40_000))
        conversion = drawn[:, 1] / drawn[:, 0]
        ratios.append(drawn[:, 1].sum() / drawn[:, 0].sum() / conversion.mean())
    assert ratios[0] == pytest.approx(1, abs=0.1)
    assert ratios[1] < 0.75


@pytest.mark.parametrize("selection", [0.0, 0.6, 1.0])
def test_propensities_tell_how_often_the_earlier_ranker_prefers_an_item(selection: float) -> None:
    shop = shop_of(selection=selection)
    first, second = int(shop.click_appeal.argmax()), int(shop.click_appeal.argmin())
    chance = preference(shop, np.array([first, second]), np.array([second, first]))
    noise = np.random.default_rng(0).standard_normal((2, 200_000))
    scores = selection * (shop.click_appeal + shop.purchase_appeal)[[first, second], None] + (1 - selection) * noise
    wins = (scores[0] > scores[1]).mean()
    np.testing.assert_allclose(chance, [wins, 1 - wins], atol=0.005)


def test_propensities_are_logged_where_asked_and_change_no_other_column() -> None:
    plain, logged = (
        simulate_part(shop_of(selection=0.3), 0, 20_000),
        simulate_part(shop_of(selection=0.3, propensities=True), 0, 20_000),
    )
    assert logged.drop_columns("propensity").equals(plain)
    shown = column(logged, "propensity")
    # an item of chance p is shown p of the time, so 1 / p over what is shown counts both items of each pair
    assert (1 / shown).mean() == pytest.approx(2, rel=0.02)
    assert shown.mean() > 0.52


def test_a_seed_gives_the_same_bits_however_many_workers_write(tmp_path: Path) -> None:
    one = simulate(tmp_path / "one", rows=9_990, seed=5, rows_per_part=2_000, workers=1)
    three = simulate(tmp_path / "three", rows=9_990, seed=5, rows_per_part=2_000, workers=3)
    other = simulate(tmp_path / "other", rows=9_990, seed=6, rows_per_part=2_000)
    assert [path.read_bytes() for path in sorted(one.iterdir())] == [
        path.read_bytes() for path in sorted(three.iterdir())
    ]
    assert not pq.read_table(one).equals(pq.read_table(other))


def test_parts_hold_whole_requests_but_for_the_last(tmp_path: Path) -> None:
    log = simulate(tmp_path, rows=4_990, rows_per_part=2_010)
    assert [pq.read_metadata(path).num_rows for path in sorted(log.iterdir())] == [2_000, 2_000, 990]
    assert np.array_equal(column(pq.read_table(log), "request_id"), np.arange(4_990) // 20)


def test_whole_parts_of_a_killed_run_are_kept(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"rows": 6_000, "rows_per_part": 2_000}
    whole = pq.read_table(simulate(tmp_path / "whole", **arguments))
    log = simulate(tmp_path / "log", **arguments)
    (log / "part-00001.parquet").rename(log / ".part-00001.parquet.partial")
    before = {path.name: path.stat().st_mtime_ns for path in log.glob("part-*")}
    simulate(log, **arguments)
    after = {path.name: path.stat().st_mtime_ns for path in log.iterdir()}
    assert before.items() <= after.items()
    assert sorted(after) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert pq.read_table(log).equals(whole)


def test_parts_made_with_other_arguments_are_replaced(tmp_path: Path) -> None:
    simulate(tmp_path / "log", rows=6_000, rows_per_part=2_000, seed=1)
    log = simulate(tmp_path / "log", rows=4_000, rows_per_part=2_000, seed=2)
    fresh = simulate(tmp_path / "fresh", rows=4_000, rows_per_part=2_000, seed=2)
    assert pq.read_table(log).equals(pq.read_table(fresh))


def test_parts_of_another_version_are_neither_kept_nor_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = simulate(tmp_path / "log", rows=2_000)
    before = (log / "part-00000.parquet").read_bytes()
    monkeypatch.setattr("feature_eng.simulator._CODE", "newer")
    with pytest.raises(ValueError, match="log must come from this simulator, newer; got one from"):
        simulate_after(log, tmp_path / "later", rows=100)
    simulate(log, rows=2_000)
    assert (log / "part-00000.parquet").read_bytes() != before
    simulate_after(log, tmp_path / "later", rows=100)


def test_a_log_that_no_simulator_wrote_is_left_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(FileExistsError, match=r"out must have no parts but a simulator's; got part-00000\.parquet in"):
        simulate(tmp_path, rows=100)
    assert pq.read_table(tmp_path).num_rows == 1


def test_the_same_shop_goes_on_after_a_log(tmp_path: Path) -> None:
    log = simulate(tmp_path / "log", rows=4_010, rows_per_part=2_000)
    later = pq.read_table(simulate_after(log, tmp_path / "later", rows=1_000))
    earlier = pq.read_table(log)
    assert column(later, "request_id").min() == column(earlier, "request_id").max() + 1
    assert column(later, "timestamp").min() >= column(earlier, "timestamp").max()
    prices = dict(zip(column(earlier, "item_id"), column(earlier, "price"), strict=True))
    again = [
        (prices[i], p) for i, p in zip(column(later, "item_id"), column(later, "price"), strict=True) if i in prices
    ]
    assert len(again) > 500
    assert all(before == after for before, after in again)


def test_a_log_goes_on_only_after_a_simulated_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log must have parts that simulate wrote; got none in"):
        simulate_after(tmp_path / "none", tmp_path / "out", rows=10)
    with pytest.raises(ValueError, match="out must not be the log that goes before; got"):
        simulate_after(tmp_path, tmp_path, rows=10)
    with pytest.raises(ValueError, match="rows must be at least 1; got 0"):
        simulate_after(tmp_path, tmp_path / "out", rows=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows must be at least 1; got 0"),
        ({"days": 0}, "days must be above 0 and finite; got 0"),
        ({"days": float("inf")}, "days must be above 0 and finite; got inf"),
        ({"seed": -1}, "seed must be at least 0 and finite; got -1"),
        ({"conflict": "mild"}, "conflict must be none, medium or strong; got mild"),
        ({"position_bias": -0.1}, r"position_bias must be at least 0 and finite; got -0\.1"),
        ({"position_bias": float("nan")}, "position_bias must be at least 0 and finite; got nan"),
        ({"drift": -1}, "drift must be at least 0 and finite; got -1"),
        ({"drift": float("inf")}, "drift must be at least 0 and finite; got inf"),
        ({"selection": 1.5}, r"selection must be between 0 and 1; got 1\.5"),
        ({"cold_rate": -0.5}, r"cold_rate must be between 0 and 1; got -0\.5"),
        ({"confounding": -1.0}, r"confounding must be at least 0 and finite; got -1\.0"),
        ({"users": 0}, "users must be at least 1; got 0"),
        ({"candidates": 1}, "candidates must be at least 2; got 1"),
        ({"items": 30}, r"items must be at least two a candidate when the log starts; got 30 items, 0\.1 of them cold"),
        ({"rows_per_part": 19}, "rows_per_part must be at least 20, one request; got 19"),
        ({"workers": 0}, "workers must be at least 1; got 0"),
    ],
)
def test_an_impossible_argument_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "log", **({"rows": 1_000} | arguments))
    assert not (tmp_path / "log").exists()
