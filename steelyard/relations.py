"""What a schema says of features beside each other: their sides, and which list is whose history."""

from __future__ import annotations

from typing import Any

from feature_eng.layout import Layout
from feature_eng.schema import RawColumn, Schema, sources


def relations(schema: Schema, layout: Layout) -> dict[str, Any]:
    """Return what a schema says of features beside each other, as flat arguments of `Ranker`.

    Args:
        schema: of the features.
        layout: where they stand.
    """
    roles = {column.name: column.role for column in schema.columns if isinstance(column, RawColumn)}
    features = {feature.name: feature for feature in schema.features}
    sides = {
        name: next(
            r for r in ("item", "context", "user") if r in {roles.get(source, "context") for source in sources(feature)}
        )
        for name, feature in features.items()
    }
    names = [slot.name for slot in layout.categorical]
    given = [getattr(features[name], "history_of", None) for name in names]
    targets = [names.index(target) if target else -1 for target in given]
    found: dict[str, Any] = {
        "slot_sides": [sides[name] for name in names],
        "continuous_sides": [sides.get(name, "context") for name in layout.continuous],
    }
    return found | ({"history_targets": targets, "slot_tables": targets} if max(targets, default=-1) >= 0 else {})
