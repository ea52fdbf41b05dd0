"""A shop whose true p(click), p(purchase | click) and E[value | purchase] are known for every impression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

START_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC
DAY_MS = 86_400_000

SEGMENTS = ("bargain", "family", "home", "sport", "style", "tech")
DEVICES = ("desktop", "phone", "tablet")
NOUNS = {
    "audio": ("speaker", "headphones", "earbuds", "turntable", "microphone"),
    "beauty": ("serum", "cream", "perfume", "lipstick", "shampoo"),
    "books": ("novel", "atlas", "cookbook", "biography", "comic"),
    "clothing": ("jacket", "shirt", "dress", "jeans", "sweater"),
    "garden": ("shovel", "planter", "hose", "lantern", "hammock"),
    "grocery": ("coffee", "tea", "chocolate", "pasta", "honey"),
    "kitchen": ("kettle", "pan", "knife", "blender", "toaster"),
    "office": ("desk", "chair", "lamp", "notebook", "pen"),
    "phones": ("smartphone", "charger", "case", "cable", "powerbank"),
    "shoes": ("sneakers", "boots", "sandals", "slippers", "loafers"),
    "sports": ("racket", "ball", "bicycle", "tent", "dumbbell"),
    "toys": ("puzzle", "doll", "blocks", "train", "kite"),
}
CATEGORIES = tuple(NOUNS)
BRANDS_PER_CATEGORY = 5
BRANDS = tuple(f"{category}-{letter}" for category in CATEGORIES for letter in "abcde")
QUALITY_WORDS = (
    ("flimsy", "cheap"),
    ("basic", "plain"),
    ("solid", "classic"),
    ("fine", "refined"),
    ("superb", "premium"),
)
LOUD_WORDS = (("quiet", "modest"), ("regular", "usual"), ("hot", "trending"), ("wow", "unbelievable"))

_BUDGETS = np.array([25, 45, 60, 55, 80, 110])
_PRICES = np.array([70, 28, 18, 50, 35, 14, 48, 60, 110, 65, 75, 24])
# what a loud item gains in log-odds of a click it gains or loses in those of a purchase
_LOUD_CLICK = 0.6
_LOUD_PURCHASE = {"none": 0.3, "medium": -0.4, "strong": -1.2}
# how much cheaper, in log price, a loud item is
_LOUD_DISCOUNT = {"none": -0.2, "medium": 0.25, "strong": 0.5}
# what a category's taste, in log-odds of a click, adds to its need, in those of a purchase
_TASTE_NEED = {"none": 0.2, "medium": -0.3, "strong": -1.0}
_CLICK_BIAS, _PURCHASE_BIAS = -2.1, -1.1
_SEASON_DAYS = 60.0
_DEVICE_PURCHASE = np.array([0.2, -0.1, 0.0], dtype=np.float32)
_PEAK_HOUR = np.array([12, 17, 20, 7, 21, 22], dtype=np.float32)


@dataclass(frozen=True)
class Dials:
    """What a shop is made from; equal dials make equal shops.

    Attributes:
        seed: at least 0.
        conflict: how far clicks and revenue want different items: none, medium or strong.
        position_bias: log-odds of a click lost per e-fold of position, at least 0.
        selection: how far an earlier ranker chose and ordered the candidates, 0 (chance) to 1.
        drift: log-odds by which a segment's taste for a category swings over the season, at least 0.
        cold_rate: share of the items that are published while the log runs, 0 to 1.
        users: how many there are.
        items: how many there are, at least two a candidate.
        candidates: impressions a request, at least 2.
        request_ms: milliseconds between two requests.
        days: over which cold items come, in days.
        confounding: log-odds of a click gained, and of a purchase lost, where a user falls for an item's loudness by
            one deviation of both, at least 0.
        propensities: whether a log tells how likely the earlier ranker was to show what it showed.
    """

    seed: int
    conflict: str
    position_bias: float
    selection: float
    drift: float
    cold_rate: float
    users: int
    items: int
    candidates: int
    request_ms: int
    days: float
    confounding: float = 0.0
    propensities: bool = False

    def __post_init__(self) -> None:
        if self.conflict not in _LOUD_PURCHASE:
            raise ValueError(f"conflict must be none, medium or strong; got {self.conflict}")
        for name in ("seed", "position_bias", "drift", "confounding"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; got {getattr(self, name)}")
        for name in ("selection", "cold_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1; got {getattr(self, name)}")
        for name, lowest in (("users", 1), ("candidates", 2), ("request_ms", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}; got {getattr(self, name)}")
        if self.items * (1 - self.cold_rate) < 2 * self.candidates:
            raise ValueError(
                f"items must be at least two a candidate when the log starts; "
                f"got {self.items} items, {self.cold_rate} of them cold, for {self.candidates} candidates"
            )


@dataclass(frozen=True)
class Shop:
    """The arrays of a shop: U users, I items in order of publication, S segments, C categories.

    Attributes:
        dials: what it was made from.
        segment: (U,) index into `SEGMENTS`.
        device: (U,) index into `DEVICES`.
        budget: (U,) what a user likes to spend on an item.
        favourites: (U, 2) categories that a user likes beyond the segment's taste.
        user_click: (U,) log-odds that no column but the id shows.
        user_purchase: (U,) the same of a purchase.
        gullibility: (U,) how far loud items draw a user to click and then disappoint, of deviation 1 or so; four fifths
            of its variance are the segment's.
        category: (I,) index into `CATEGORIES`.
        brand: (I,) index into `BRANDS`.
        price: (I,) in the shop's currency.
        margin: (I,) share of the price, 0 to 1; high for loud items.
        rating: (I,) 1 to 5, a noisy half of the quality; titles tell the other half.
        published_at: (I,) milliseconds since 1970, ascending.
        full_stock: (I,) pieces after a delivery.
        delivery_days: (I,) days between two deliveries.
        click_appeal: (I,) log-odds of a click that depend on the item alone.
        purchase_appeal: (I,) the same of a purchase given the click.
        loudness: (I,) standard normal; appeals hold it already.
        title: (I,) words of the category, the quality and the loudness.
        taste: (S, C) log-odds of a click.
        season: (S, C) phase of the taste's swing, radians.
        need: (S, C) log-odds of a purchase given the click.
        more: (S, C) expected pieces beyond the first.
    """

    dials: Dials
    segment: npt.NDArray[np.int8]
    device: npt.NDArray[np.int8]
    budget: Floats
    favourites: npt.NDArray[np.int8]
    user_click: Floats
    user_purchase: Floats
    gullibility: Floats
    category: npt.NDArray[np.int8]
    brand: npt.NDArray[np.int8]
    price: Floats
    margin: Floats
    rating: Floats
    published_at: Ints
    full_stock: Floats
    delivery_days: Floats
    click_appeal: Floats
    purchase_appeal: Floats
    loudness: Floats
    title: npt.NDArray[Any]
    taste: Floats
    season: Floats
    need: Floats
    more: Floats


def make_shop(dials: Dials) -> Shop:
    """Draw a shop from its dials' seed."""
    rng = np.random.default_rng((dials.seed, 0))
    pairs = (len(SEGMENTS), len(CATEGORIES))
    taste = rng.normal(0, 0.8, pairs)
    drawn: dict[str, Any] = {
        "taste": taste,
        "season": rng.uniform(0, 2 * np.pi, pairs),
        "need": _TASTE_NEED[dials.conflict] * taste + rng.normal(0, 0.5, pairs),
        "more": rng.uniform(0.05, 1.0, pairs),
        **_draw_users(dials, rng),
        **_draw_items(dials, rng),
    }
    drawn["gullibility"] = _draw_gullibility(dials, drawn["segment"])
    single = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in drawn.items()}
    return Shop(dials, **single)


def _draw_users(dials: Dials, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    count = dials.users
    segment = rng.integers(len(SEGMENTS), size=count, dtype=np.int8)
    return {
        "segment": segment,
        "device": rng.choice(len(DEVICES), count, p=[0.35, 0.55, 0.1]).astype(np.int8),
        "budget": _BUDGETS[segment] * np.exp(rng.normal(0, 0.5, count)),
        "favourites": rng.integers(len(CATEGORIES), size=(count, 2), dtype=np.int8),
        "user_click": rng.normal(0, 0.15, count),
        "user_purchase": rng.normal(0, 0.1, count),
    }


def _draw_gullibility(dials: Dials, segment: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Draw a trait apart from all others, so that the rest of a shop is the same with it and without."""
    rng = np.random.default_rng((dials.seed, 2))
    shared = rng.permutation(np.linspace(-1.464, 1.464, len(SEGMENTS)))  # of deviation 1
    drawn: npt.NDArray[np.float64] = 0.8**0.5 * shared[segment] + 0.2**0.5 * rng.normal(0, 1, dials.users)
    return drawn


def _draw_items(dials: Dials, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    count = dials.items
    category = rng.integers(len(CATEGORIES), size=count, dtype=np.int8)
    rated, told, loud = rng.normal(0, 1, (3, count))
    price = np.exp(rng.normal(0, 0.5, count) - _LOUD_DISCOUNT[dials.conflict] * loud) * _PRICES[category]
    return {
        "category": category,
        "brand": (category * BRANDS_PER_CATEGORY + rng.integers(BRANDS_PER_CATEGORY, size=count)).astype(np.int8),
        "price": np.maximum(np.round(price, 2), 0.5),
        "margin": 0.1 + 0.5 / (1 + np.exp(-loud - rng.normal(0, 0.4, count))),
        "rating": np.clip(np.round(3.6 + 0.6 * rated + rng.normal(0, 0.15, count), 1), 1, 5),
        "published_at": _draw_published(dials, rng),
        "full_stock": np.floor(np.exp(rng.normal(3.5, 1, count))) + 1,
        "delivery_days": rng.uniform(3, 20, count),
        "click_appeal": 0.4 * rated + 0.35 * told + _LOUD_CLICK * loud + rng.normal(0, 0.12, count),
        "purchase_appeal": 0.4 * rated
        + 0.3 * told
        + _LOUD_PURCHASE[dials.conflict] * loud
        + rng.normal(0, 0.12, count),
        "loudness": loud,
        "title": _titles(category, told, loud, rng),
    }


def _draw_published(dials: Dials, rng: np.random.Generator) -> Ints:
    """Return ascending moments: warm items before the log, cold ones while it runs and a quarter of it beyond."""
    cold = int(dials.items * dials.cold_rate)
    days = np.concatenate([-rng.exponential(60, dials.items - cold), rng.uniform(0, 1.25 * dials.days, cold)])
    return np.sort(START_MS + (days * DAY_MS).astype(np.int64))


def _titles(
    category: npt.NDArray[np.int8],
    told: npt.NDArray[np.float64],
    loud: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[Any]:
    nouns = np.array(list(NOUNS.values()))[category, rng.integers(5, size=len(category))]
    words = [_level_words(QUALITY_WORDS, told, rng), _level_words(LOUD_WORDS, loud, rng), nouns]
    titles: npt.NDArray[Any] = np.array([" ".join(title) for title in zip(*words, strict=True)], dtype=object)
    return titles


def _level_words(
    levels: tuple[tuple[str, str], ...], trait: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[Any]:
    """Say a standard normal trait in words, one of two for each of its equally likely levels."""
    edges = np.quantile(trait, np.linspace(0, 1, len(levels) + 1)[1:-1])
    said: npt.NDArray[Any] = np.array(levels)[np.searchsorted(edges, trait), rng.integers(2, size=len(trait))]
    return said


def published(shop: Shop, time_ms: Ints) -> Ints:
    """Return how many items, the first so many, are published at each moment (n,)."""
    return np.searchsorted(shop.published_at, time_ms, side="right").astype(np.int64)


def stock_at(shop: Shop, items: Ints, time_ms: Ints) -> Floats:
    """Return pieces in stock, at least 0: they dwindle from one delivery to the next.

    Args:
        shop: the shop.
        items: indices of items; broadcasts with `time_ms`.
        time_ms: milliseconds since 1970 UTC.
    """
    since = (
        _days(time_ms) + np.float32(1000) - (items % 97).astype(np.float32)
    )  # deliveries of different items fall on different days
    sold = np.modf(since / shop.delivery_days[items])[0]
    left: Floats = np.floor(shop.full_stock[items] * (1 - sold))
    return left


def true_expectations(shop: Shop, users: Ints, items: Ints, position: Ints, time_ms: Ints) -> Floats:
    """Return the true p(click), p(purchase) and E[order value] of impressions, chained.

    Args:
        shop: the shop.
        users: indices of users, 0 to U − 1; these four arrays broadcast to one shape, say (n,).
        items: indices of items, 0 to I − 1.
        position: from 1, the top.
        time_ms: milliseconds since 1970 UTC.

    Returns:
        Expected values (n, 3): two probabilities and the shop's currency.
    """
    given = conditional_expectations(shop, users, items, position, time_ms)
    chained: Floats = np.cumprod(given, axis=-1, dtype=np.float32)
    return chained


def conditional_expectations(shop: Shop, users: Ints, items: Ints, position: Ints, time_ms: Ints) -> Floats:
    """Return p(click), p(purchase | click) and E[order value | purchase]; see `true_expectations`."""
    category, days = shop.category[items], _days(time_ms)
    pair = shop.segment[users].astype(np.intp) * len(CATEGORIES) + category
    price = shop.price[items]
    stretch = np.log(price / shop.budget[users])
    strain = stretch + np.sqrt(stretch * stretch + 1)  # near 0 for cheap items, twice the stretch for dear ones
    scarce = 1 / (1 + stock_at(shop, items, time_ms) / 5)
    favourites = shop.favourites[users]
    liked = (category == favourites[..., 0]) | (category == favourites[..., 1])
    age = days - _days(shop.published_at[items])
    click = (
        _CLICK_BIAS
        + shop.taste.take(pair)
        + shop.dials.drift * np.sin(days * np.float32(2 * np.pi / _SEASON_DAYS) + shop.season.take(pair))
        + shop.user_click[users]
        + shop.click_appeal[items]
        + np.float32(0.6) * liked
        + np.float32(0.6) * np.exp(age * np.float32(-1 / 14))
        + _by_hour(shop, users, days)
        - np.float32(0.5) * strain
        + np.float32(0.3) * scarce
        - np.float32(shop.dials.position_bias) * np.log(position.astype(np.float32))
    )
    purchase = (
        _PURCHASE_BIAS
        + shop.need.take(pair)
        + shop.user_purchase[users]
        + _DEVICE_PURCHASE[shop.device[users]]
        + shop.purchase_appeal[items]
        - np.float32(0.6) * strain
        + np.float32(0.4) * scarce
    )
    if shop.dials.confounding:
        fallen_for = np.float32(shop.dials.confounding) * shop.gullibility[users] * shop.loudness[items]
        click, purchase = click + fallen_for, purchase - fallen_for
    value = price * (1 + shop.more.take(pair))
    return np.stack(np.broadcast_arrays(_sigmoid(click), _sigmoid(purchase), value), axis=-1)


def _days(time_ms: Ints) -> Floats:
    days: Floats = ((time_ms - START_MS) / DAY_MS).astype(np.float32)
    return days


def _by_hour(shop: Shop, users: Ints, days: Floats) -> Floats:
    """Return log-odds of a click by the hour: each segment is keenest at an hour of its own."""
    since_peak = days * 24 - _PEAK_HOUR[shop.segment[users]]
    keen: Floats = np.float32(0.35) * np.cos(since_peak * np.float32(2 * np.pi / 24))
    return keen


def _sigmoid(logits: Floats) -> Floats:
    odds = np.exp(-logits)
    probabilities: Floats = 1 / (1 + odds)
    return probabilities
