"""A bundle's batch scoring job: its plan, ranker and blend over a log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from feature_eng.log_sources import Paths
from feature_eng.logs import open_log
from feature_eng.progress import row_bar
from models.blending import weights_from
from models.scoring import Scoring, score_log
from steelyard.bundle import MANIFEST, Bundle


def score_with_bundle(
    bundle: Bundle, paths: Paths, out: Path, weights: Mapping[str, float] | None = None
) -> tuple[int, float]:
    """Score a log with a bundle; see `score_log`.

    Args:
        bundle: checked.
        paths: the log.
        out: folder of the result, which must not exist yet.
        weights: by objective; the schema's where absent.

    Returns:
        Rows scored and seconds taken.
    """
    schema = bundle.schema
    vector = schema.default_weights if weights is None else weights_from(schema.objective_names, weights)
    scoring = Scoring(
        plan=bundle.plan.resolve(),
        ranker=bundle.ranker.resolve(),
        objectives=schema.objective_names,
        weights=tuple(map(float, vector)),
        kind=schema.blend.kind,
    )
    identity = hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()
    started = time.monotonic()
    log = open_log(paths, schema, labels=False)
    with row_bar("scored", sum(piece.rows for piece in log.pieces)) as advance:
        rows = score_log(log, scoring, out, identity=identity, advance=advance)
    return rows, time.monotonic() - started
