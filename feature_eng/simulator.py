"""Logs of a shop whose true probabilities are known, as Parquet parts: any length, never in memory whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_eng.progress import row_bar
from feature_eng.schema import Schema
from feature_eng.schema_file import load_schema
from feature_eng.shop import (
    BRANDS,
    CATEGORIES,
    DAY_MS,
    DEVICES,
    SEGMENTS,
    START_MS,
    Dials,
    Floats,
    Ints,
    Shop,
    conditional_expectations,
    make_shop,
    published,
    stock_at,
)

HISTORY_LENGTH = 8
ROWS_PER_PART = 500_000
_STAMP = b"steelyard.simulator"
_PLAIN = (
    *("request_id", "timestamp", "click", "purchase", "order_value"),
    *("true_click", "true_purchase", "true_revenue", "propensity"),
)
# parts of other code are of another shop, even where the dials agree
_CODE = hashlib.sha256(Path(__file__).read_bytes() + Path(__file__).with_name("shop.py").read_bytes()).hexdigest()[:16]
_erf = np.vectorize(math.erf, otypes=[np.float64])  # numpy has none
Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Part:
    """One file of a log: rows of whole requests, but for the log's last."""

    path: Path
    first_request: int
    rows: int


@dataclass(frozen=True)
class Impressions:
    """What is shown: R requests of N candidates each, in order of position.

    Attributes:
        request: (R, 1) number of the request.
        time_ms: (R, 1) milliseconds since 1970 UTC.
        users: (R, 1) indices of users.
        items: (R, N) indices of items, different ones in a request.
        position: (1, N) from 1.
        propensity: (R, N) chance that an item beat the one it was drawn with, or None where nobody asked.
    """

    request: Ints
    time_ms: Ints
    users: Ints
    items: Ints
    position: Ints
    propensity: Floats | None = None


def shop_schema() -> Schema:
    """Return the schema of the logs that `simulate` writes."""
    return load_schema(Path(__file__).with_name("shop.yaml"))


def simulate(
    out: str | Path,
    *,
    rows: int,
    seed: int = 0,
    conflict: str = "medium",
    position_bias: float = 0.1,
    selection: float = 0.2,
    drift: float = 0.1,
    cold_rate: float = 0.1,
    confounding: float = 0.0,
    propensities: bool = False,
    users: int | None = None,
    items: int | None = None,
    candidates: int = 20,
    days: float = 28.0,
    rows_per_part: int = ROWS_PER_PART,
    workers: int | None = None,
    progress: bool | None = None,
) -> Path:
    """Write the log of a simulated shop; equal arguments write equal bits, however many workers write them.

    Whole parts of an earlier run with the same arguments are kept; parts that other arguments or another
    version of the simulator made are replaced.

    Args:
        out: a folder for `part-00000.parquet` and so on.
        rows: impressions to write.
        seed: at least 0.
        conflict: how far clicks and revenue want different items: none, medium or strong.
        position_bias: log-odds of a click lost per e-fold of position, at least 0.
        selection: how far an earlier ranker chose and ordered the candidates, 0 (chance) to 1.
        drift: log-odds by which a segment's taste for a category swings over 60 days, at least 0.
        cold_rate: share of the items that are published while the log runs, 0 to 1.
        confounding: log-odds of a click gained, and of a purchase given the click lost, where a user falls for an
            item's loudness by one deviation of both, at least 0; clicks then convert worse than other rows would.
        propensities: write `propensity`, the chance with which the earlier ranker preferred an item to the one that it
            was drawn with.
        users: how many; by default one a hundred rows.
        items: how many; by default one in 500 rows, within 200 and 50,000.
        candidates: impressions a request, at least 2.
        days: that the log spans.
        rows_per_part: rounded down to whole requests.
        workers: threads; by default one a core, at most 4. Each holds a part, some 300 MiB at the default size.
        progress: show a bar; by default where stderr is a terminal.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: `out` has parts that no simulator wrote.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    if not 0 < days < math.inf:
        raise ValueError(f"days must be above 0 and finite; got {days}")
    requests = -(-rows // max(candidates, 1))
    dials = Dials(
        seed=seed,
        conflict=conflict,
        position_bias=position_bias,
        selection=selection,
        drift=drift,
        cold_rate=cold_rate,
        users=max(rows // 100, 10) if users is None else users,
        items=min(max(rows // 500, 200), 50_000) if items is None else items,
        candidates=candidates,
        request_ms=max(int(days * DAY_MS) // requests, 1),
        days=days,
        confounding=confounding,
        propensities=propensities,
    )
    return _write_log(Path(out), dials, 0, rows, rows_per_part, workers, progress)


def simulate_after(
    log: str | Path,
    out: str | Path,
    *,
    rows: int,
    rows_per_part: int = ROWS_PER_PART,
    workers: int | None = None,
    progress: bool | None = None,
) -> Path:
    """Write what the same shop logs after the end of another log, for a test that lies in the future.

    Args:
        log: a folder that `simulate` wrote.
        out: see `simulate`, as for the others.
        rows: impressions to write.
        rows_per_part: rounded down to whole requests.
        workers: threads.
        progress: show a bar.

    Returns:
        The folder `out`.

    Raises:
        ValueError: `log` has no part that this version of `simulate` wrote, or is `out`, or an argument is out of
            range.
        FileExistsError: `out` has parts that no simulator wrote.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    if Path(log).resolve() == Path(out).resolve():
        raise ValueError(f"out must not be the log that goes before; got {out}")
    stamps = [stamp for part in Path(log).glob("part-*.parquet") if (stamp := _stamp_of(part))]
    if not stamps:
        raise ValueError(f"log must have parts that simulate wrote; got none in {log}")
    last = max(stamps, key=lambda stamp: int(stamp["first_request"]))
    if last["code"] != _CODE:
        raise ValueError(f"log must come from this simulator, {_CODE}; got one from {last['code']}")
    dials = Dials(**last["dials"])
    first = int(last["first_request"]) + -(-int(last["rows"]) // dials.candidates)
    return _write_log(Path(out), dials, first, rows, rows_per_part, workers, progress)


def _write_log(
    out: Path, dials: Dials, first: int, rows: int, rows_per_part: int, workers: int | None, progress: bool | None
) -> Path:
    if rows_per_part < dials.candidates:
        raise ValueError(f"rows_per_part must be at least {dials.candidates}, one request; got {rows_per_part}")
    threads = min(os.cpu_count() or 1, 4) if workers is None else workers
    if threads < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    out.mkdir(parents=True, exist_ok=True)
    parts = list(_cut(out, dials, first, rows, rows_per_part))
    to_write = _missing(out, dials, parts)
    with row_bar("simulating", rows, progress) as advance, ThreadPoolExecutor(threads) as pool:
        advance(rows - sum(part.rows for part in to_write))
        shop = make_shop(dials)
        for written in pool.map(lambda part: _write_part(shop, part), to_write):
            advance(written)
    return out


def _cut(out: Path, dials: Dials, first: int, rows: int, rows_per_part: int) -> Iterator[Part]:
    requests = rows_per_part // dials.candidates
    step = requests * dials.candidates
    for index, start in enumerate(range(0, rows, step)):
        yield Part(out / f"part-{index:05d}.parquet", first + index * requests, min(step, rows - start))


def _missing(out: Path, dials: Dials, parts: Sequence[Part]) -> list[Part]:
    """Remove the parts that other arguments or other code made, and return those that are not there."""
    found = {path: _stamp_of(path) for path in sorted(out.glob("part-*.parquet"))}
    foreign = [path.name for path, stamp in found.items() if stamp is None]
    if foreign:
        raise FileExistsError(f"out must have no parts but a simulator's; got {foreign[0]} in {out}")
    wanted = {part.path: json.loads(_stamp(dials, part)) for part in parts}
    for path, stamp in found.items():
        if stamp != wanted.get(path):
            path.unlink()
    return [part for part in parts if not part.path.exists()]


def _stamp(dials: Dials, part: Part) -> str:
    return json.dumps({"code": _CODE, "dials": asdict(dials), "first_request": part.first_request, "rows": part.rows})


def _stamp_of(path: Path) -> dict[str, Any] | None:
    """Return what a part was made from, or None where the simulator did not write it."""
    stamp = (pq.read_schema(path).metadata or {}).get(_STAMP)
    return json.loads(stamp) if stamp else None


def _write_part(shop: Shop, part: Part) -> int:
    table = simulate_part(shop, part.first_request, part.rows)
    table = table.replace_schema_metadata({_STAMP: _stamp(shop.dials, part)})
    beside = part.path.with_name(f".{part.path.name}.partial")
    dictionary = [name for name in table.column_names if name not in _PLAIN and name != "history"]
    pq.write_table(table, beside, use_dictionary=[*dictionary, "history.list.element"])
    beside.replace(part.path)
    return part.rows


def simulate_part(shop: Shop, first_request: int, rows: int) -> pa.Table:
    """Return the rows of requests from `first_request` on, the same whenever they are asked for together."""
    rng = np.random.default_rng((shop.dials.seed, 1, first_request))
    requests = np.arange(first_request, first_request - (-rows // shop.dials.candidates))
    shown = draw_impressions(shop, requests, rng)
    columns = {**_user_columns(shop, shown, rng), **_item_columns(shop, shown), **_outcomes(shop, shown, rng)}
    return pa.table(columns).slice(0, rows)


def draw_impressions(shop: Shop, requests: Ints, rng: np.random.Generator) -> Impressions:
    """Draw who comes when and what an earlier ranker shows them.

    Each request draws two items from each of N slices of what is published, and keeps the one that the ranker scores
    higher; so no item comes twice, and none before its publication.

    Args:
        shop: the shop.
        requests: (R,) numbers of requests.
        rng: where the draws come from.
    """
    count, dials = len(requests), shop.dials
    time_ms = START_MS + requests * dials.request_ms + rng.integers(dials.request_ms, size=count)
    users = (dials.users * rng.random(count, dtype=np.float32) ** 1.5).astype(np.int64)
    users = np.minimum(users, dials.users - 1)[:, None]
    slices = 2 * dials.candidates
    available = published(shop, time_ms)[:, None]
    edges = np.arange(slices + 1) * available // slices
    widths = edges[:, 1:] - edges[:, :-1]
    drawn = edges[:, :-1] + (widths * rng.random(widths.shape, dtype=np.float32)).astype(np.int64)
    drawn = np.minimum(drawn, edges[:, 1:] - 1)
    scores = np.float32(dials.selection) * (shop.click_appeal + shop.purchase_appeal)[drawn]
    scores += np.float32(1 - dials.selection) * rng.standard_normal(drawn.shape, dtype=np.float32)
    second = scores[:, 1::2] > scores[:, ::2]
    items = np.where(second, drawn[:, 1::2], drawn[:, ::2])
    order = np.argsort(-np.where(second, scores[:, 1::2], scores[:, ::2]), axis=1)
    propensity = None
    if dials.propensities:
        other = np.where(second, drawn[:, ::2], drawn[:, 1::2])
        chances = preference(shop, items, other)
        propensity = np.take_along_axis(chances, order, axis=1)
    return Impressions(
        request=requests[:, None],
        time_ms=time_ms[:, None],
        users=users,
        items=np.take_along_axis(items, order, axis=1),
        position=np.arange(1, dials.candidates + 1)[None],
        propensity=propensity,
    )


def preference(shop: Shop, items: Ints, others: Ints) -> Floats:
    """Return the chance with which the earlier ranker scores items above others, in the shape of both.

    A score is `selection` of the appeal and the rest standard normal noise, so a difference is normal too.
    """
    selection = shop.dials.selection
    appeal = shop.click_appeal + shop.purchase_appeal
    lead = selection * (appeal[items] - appeal[others]).astype(np.float64)
    if selection == 1:
        return (lead > 0).astype(np.float32)
    chances: Floats = (0.5 + 0.5 * _erf(lead / (2 * (1 - selection)))).astype(np.float32)
    return chances


def _user_columns(shop: Shop, shown: Impressions, rng: np.random.Generator) -> dict[str, Any]:
    users = shown.users[:, 0]
    repeats = shown.items.shape[1]
    each = {
        "request_id": shown.request[:, 0],
        "timestamp": shown.time_ms[:, 0],
        "user_id": users + 1,
        "budget": shop.budget[users],
    }
    columns: dict[str, Any] = {name: pa.array(np.repeat(values, repeats)) for name, values in each.items()}
    columns["user_segment"] = _words(np.repeat(shop.segment[users], repeats), SEGMENTS)
    columns["device"] = _words(np.repeat(shop.device[users], repeats), DEVICES)
    columns["history"] = _history(shop, users, repeats, rng)
    return columns


def _item_columns(shop: Shop, shown: Impressions) -> dict[str, Any]:
    items = shown.items.ravel()
    return {
        "item_id": pa.array(items + 1),
        "category": _words(shop.category[items], CATEGORIES),
        "brand": _words(shop.brand[items], BRANDS),
        "price": pa.array(shop.price[items]),
        "margin": pa.array(shop.margin[items]),
        "rating": pa.array(shop.rating[items]),
        "stock": pa.array(stock_at(shop, shown.items, shown.time_ms).ravel().astype(np.int32)),
        "published_at": pa.array(shop.published_at[items]),
        "title": _words(items.astype(np.int32), shop.title),
        "position": pa.array(np.broadcast_to(shown.position, shown.items.shape).astype(np.int16).ravel()),
        **({} if shown.propensity is None else {"propensity": pa.array(shown.propensity.ravel())}),
    }


def _outcomes(shop: Shop, shown: Impressions, rng: np.random.Generator) -> dict[str, Any]:
    """Draw what happens, from nothing but the true expectations."""
    given = conditional_expectations(shop, shown.users, shown.items, shown.position, shown.time_ms).reshape(-1, 3)
    truth = np.cumprod(given, axis=1, dtype=np.float32)
    clicked = rng.random(len(given), dtype=np.float32) < given[:, 0]
    bought = clicked & (rng.random(len(given), dtype=np.float32) < given[:, 1])
    value = np.zeros(len(given), dtype=np.float32)
    price = shop.price[shown.items.ravel()[bought]]
    value[bought] = price * (1 + rng.poisson(given[bought, 2] / price - 1))
    return {
        "click": pa.array(clicked.astype(np.int8)),
        "purchase": pa.array(bought.astype(np.int8)),
        "order_value": pa.array(value),
        **{f"true_{name}": pa.array(truth[:, k]) for k, name in enumerate(("click", "purchase", "revenue"))},
    }


def _history(shop: Shop, users: Ints, repeats: int, rng: np.random.Generator) -> pa.ListArray:
    """Draw up to `HISTORY_LENGTH` categories that each user looked at last: favourites mostly, others by chance."""
    shape = (len(users), HISTORY_LENGTH)
    favourite = np.take_along_axis(shop.favourites[users], rng.integers(2, size=shape), axis=1)
    chance = rng.integers(len(CATEGORIES), size=shape, dtype=np.int8)
    seen = np.where(rng.random(shape, dtype=np.float32) < 0.7, favourite, chance)
    lengths = rng.integers(HISTORY_LENGTH + 1, size=len(users))
    kept = np.repeat(np.arange(HISTORY_LENGTH) < lengths[:, None], repeats, axis=0)
    values = np.repeat(seen, repeats, axis=0)[kept]
    offsets = np.concatenate([[0], np.cumsum(np.repeat(lengths, repeats))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _words(values, CATEGORIES))


def _words(codes: Codes, words: Sequence[str] | npt.NDArray[Any]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(codes))
