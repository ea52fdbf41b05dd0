"""A bundle's report on a log: everything that is known of its ranker, as one HTML file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from feature_eng.arrow_columns import plan_columns
from feature_eng.layout import NO_NUMBER
from feature_eng.log_checks import LogPolicies
from feature_eng.log_sources import Paths
from feature_eng.logs import clean_log
from models.blending import blend
from models.comparison import Difference, compare, compare_scores
from models.importance import integrated_gradients, permutation_importance, skills
from models.leaks import suspects
from models.prediction import load_predictor
from models.ranker import load_ranker
from models.tuning import worth
from steelyard.bundle import Bundle
from steelyard.evaluating import COLD, TIME, JudgedRows, judge_parts
from steelyard.pages import Section, check_installed, write_page
from steelyard.report_data import labels_of, predictions_of, sample_rows, shuffled_predictions, skills_alone
from steelyard.report_sections import (
    calibration_section,
    comparison_section,
    conflict_section,
    curves_section,
    fairness_section,
    gradients_section,
    leaks_section,
    metrics_section,
    permutation_section,
    slices_section,
)


def write_report(
    bundle: Bundle,
    paths: Paths,
    output: Path,
    *,
    against: Bundle | None = None,
    by: Sequence[str] = (),
    groups: Sequence[str] = (),
    policies: LogPolicies | None = None,
    k: int = 10,
    replicates: int = 100,
    sampled_rows: int = 20_000,
    gradient_rows: int = 256,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Judge a bundle on a log in every way there is, and write a page that opens without a network.

    Args:
        bundle: checked.
        paths: a log that the ranker has not seen, with labels.
        output: the HTML file.
        against: a former bundle, to be judged on the same rows.
        by: columns of the log that slice it, besides time and who is cold.
        groups: columns of the log between whose values exposure and calibration are compared.
        policies: what to do with rows that the checks find.
        k: places that NDCG and value captured count.
        replicates: bootstrap replicates behind the intervals.
        sampled_rows: rows that columns are shuffled among, and tried alone on.
        gradient_rows: pairs of rows behind integrated gradients.
        seed: of samples and orders.
        report: told what is done, a line at a time.

    Raises:
        ValueError: a column is not one of the log or is a list, or the former bundle cannot read the log.
        IsADirectoryError: the output is a folder.
        RuntimeError: Jinja2, matplotlib or captum is not installed.
    """
    check_installed("report", "report", ("jinja2", "matplotlib", "captum"))
    if output.is_dir():
        raise IsADirectoryError(f"output must be a file; got the folder {output}")
    schema = bundle.schema
    metrics = json.loads((bundle.folder / "metrics.json").read_text(encoding="utf-8"))
    history = metrics.get("history", [])
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        log = clean_log(paths, schema, Path(folder) / "log", policies=policies).folder
        single = [field.name for field in pq.read_schema(min(log.glob("*.parquet"))) if not field.type.num_fields]
        for column in groups:
            if column not in single:
                raise ValueError(f"group must be a column of the cleaned log that is no list; got {column}")
        kinds = [COLD, *([TIME] if schema.time else []), *by]
        rows = judge_parts(bundle, log, by=[*kinds, *groups])
        report("metrics and slices")
        sections = [
            metrics_section(rows.evaluate(k=k, replicates=replicates)),
            slices_section(rows, kinds, k, replicates),
            curves_section(rows, history),
            calibration_section(rows, metrics.get("calibration", []), replicates),
            conflict_section(history),
        ]
        report("importance and leak suspects")
        sections += _looked_into(bundle, log, sampled_rows, gradient_rows, seed)
        report("fairness and comparison")
        # one after the fairness section, so that leak suspects close the page's first half
        sections.insert(-1, fairness_section(rows, groups, replicates))
        sections.append(_compared(rows, against, log, k, replicates))
    lead = (
        f"The bundle {bundle.folder.name} of the shop {schema.name}, judged on {len(rows.predictions):,} rows; "
        f"objectives: {', '.join(schema.objective_names)}."
    )
    write_page(output, f"Report on {bundle.folder.name}", lead, sections)


def _looked_into(bundle: Bundle, log: Path, sampled_rows: int, gradient_rows: int, seed: int) -> list[Section]:
    """Return the sections on columns and features, of a sample of the rows."""
    schema, names = bundle.schema, bundle.schema.objective_names
    table = sample_rows(log, sampled_rows, seed)
    labels = labels_of(schema, table)
    predictor = load_predictor(bundle.plan, bundle.ranker)
    predict = shuffled_predictions(predictor, schema, table)
    columns = [given.name for given in schema.inputs]
    drops = permutation_importance(predict, columns, labels, seed=seed)
    requests = table.column(schema.request).to_numpy() if schema.request else None
    alone = skills_alone(schema, table, requests, seed)
    of_ranker = skills(labels, predict(None, np.arange(table.num_rows)))
    packed = predictor.plan.run(plan_columns(table, schema.inputs), table.num_rows)
    return [
        permutation_section(drops, names, table.num_rows),
        _gradients(bundle, packed, gradient_rows, seed),
        leaks_section(alone, of_ranker, names, suspects(alone, of_ranker, names)),
    ]


def _gradients(bundle: Bundle, packed: tuple[Any, Any], rows: int, seed: int) -> Section:
    rng = np.random.default_rng(seed)
    count = min(rows, len(packed[0]))
    order = rng.permutation(len(packed[0]))
    chosen, others = (
        (torch.from_numpy(packed[0][places]), torch.from_numpy(packed[1][places]))
        for places in (order[:count], rng.permutation(order)[:count])
    )
    ranker = load_ranker(bundle.folder / "ranker")
    attributions, missed, moved = {}, 0.0, 0.0
    for objective, name in enumerate(bundle.schema.objective_names):
        found, gaps = integrated_gradients(ranker, chosen, others, objective=objective)
        attributions[name] = found
        missed, moved = missed + float(np.abs(gaps).sum()), moved + float(np.abs(found.sum(axis=1)).sum())
    layout = load_predictor(bundle.plan, bundle.ranker).plan.layout
    numbers = [name for name in layout.continuous if name != NO_NUMBER]
    features = [*(slot.name for slot in layout.categorical), *numbers]
    attributions = {name: found[:, : len(features)] for name, found in attributions.items()}
    return gradients_section(attributions, features, missed / max(moved, 1e-12), count)


def _compared(rows: JudgedRows, against: Bundle | None, log: Path, k: int, replicates: int) -> Section:
    if against is None:
        return comparison_section(None, "")
    old, schema = against.schema, rows.schema
    kinds = {objective.name: objective.kind for objective in schema.objectives}
    former_kinds = {objective.name: objective.kind for objective in old.objectives}
    both = [name for name, kind in kinds.items() if former_kinds.get(name) == kind]
    apart = [name for name in dict.fromkeys((*schema.objective_names, *old.objective_names)) if name not in both]
    requests = rows.columns.get(schema.request or "")
    differences: tuple[Difference, ...] = ()
    if both:
        own = rows.predictions[:, [schema.objective_names.index(name) for name in both]]
        former = predictions_of(against, schema, log)[:, [old.objective_names.index(name) for name in both]]
        labels = rows.labels[:, [schema.objective_names.index(name) for name in both]]
        told: dict[str, Any] = {"k": k, "replicates": replicates}
        differences = compare(
            own, former, labels, names=both, kinds=[kinds[name] for name in both], requests=requests, **told
        )
        if requests is not None and tuple(both) == schema.objective_names:
            weights = np.asarray(schema.default_weights, dtype=np.float32)
            new_scores, old_scores = (blend(each, weights, schema.blend.kind) for each in (own, former))
            merit = worth(rows.labels, schema.default_weights)
            whole = compare_scores(new_scores, old_scores, merit, requests, **told)
            differences = ((whole,) if whole else ()) + differences
    return comparison_section(differences, against.folder.name, apart)
