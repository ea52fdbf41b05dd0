"""A fit on every row of a log, for as long as a first fit, validated on the newest of them, found best."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from feature_eng.log_sources import Paths
from feature_eng.schema import Schema
from steelyard.bundle import MANIFEST, Bundle, open_bundle, write_manifest
from steelyard.pipeline import BUNDLE, FitOptions, check_options, claim, fit, run_of

CHOSEN, ANEW = "chosen", "anew"


def fit_twice(
    paths: Paths,
    schema: Schema,
    out: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Fit a bundle with rows that validate, then another on all rows, with as many epochs as were best for the first.

    The newest rows tell the most of what comes next, and a first fit keeps them for validation. The bundle is the
    second fit's; its `metrics.json` has the first one's validation, and under `refit` the rows, epochs and history of
    the second.

    Args:
        paths: the log.
        schema: what its columns and objectives are.
        out: folder of the bundle, which must not exist yet.
        options: of the first fit.
        resume: go on with the finished stages of a run with the same arguments.
        report: told what is done, a line at a time.

    Raises:
        FileExistsError: the bundle exists.
        ValueError: no rows validate, predictions are to be calibrated, a setting cannot be, there is nothing to
            resume, or it was fitted with other arguments.
        SchemaError: the log does not hold what the schema says.
    """
    if out.exists():
        raise FileExistsError(f"out must not exist yet; got {out}")
    check_options(options, schema)
    if options.validation == 0:
        raise ValueError("validation must be above 0 to find the epochs of a refit; got 0")
    if options.calibration != "none":
        raise ValueError(f"calibration must be none, since no row of a refit validates; got {options.calibration!r}")
    work = out.with_name(f"{out.name}.partial")
    claim(work, run_of(paths, schema, options) | {"refit": True}, resume)
    chosen = _fitted(paths, schema, work / CHOSEN, options, report)
    metrics = _metrics(chosen)
    epochs = best_epochs(metrics["history"])
    report(f"refit: all rows, {epochs} epochs")
    training = {**options.training, "epochs": epochs}
    anew = _fitted(paths, schema, work / ANEW, replace(options, validation=0.0, training=training), report)
    metrics["refit"] = {"rows": _rows(anew), "epochs": epochs, "history": _metrics(anew)["history"]}
    assembled = work / BUNDLE
    shutil.rmtree(assembled, ignore_errors=True)
    others = shutil.ignore_patterns("metrics.json", MANIFEST)
    shutil.copytree(anew.folder, assembled, copy_function=os.link, ignore=others)
    (assembled / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    write_manifest(assembled, anew.schema)
    assembled.replace(out)
    shutil.rmtree(work)
    return open_bundle(out)


def best_epochs(history: Any) -> int:
    """Return after how many of a training's epochs its validation was best, all of them where it told nothing."""
    scores = [epoch["val_score"] for epoch in history]
    told = [score for score in scores if not math.isnan(score)]
    return scores.index(min(told)) + 1 if told else len(scores)


def _fitted(paths: Paths, schema: Schema, out: Path, options: FitOptions, report: Callable[[str], None]) -> Bundle:
    """Return a fit's bundle, which an earlier run may have finished or begun."""
    if out.exists():
        return open_bundle(out)
    return fit(paths, schema, out, options, resume=out.with_name(f"{out.name}.partial").exists(), report=report)


def _metrics(bundle: Bundle) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((bundle.folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _rows(bundle: Bundle) -> int:
    report = json.loads((bundle.folder / "data_report.json").read_text(encoding="utf-8"))
    rows: int = report["rows_kept"]
    return rows
