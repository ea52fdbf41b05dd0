"""The logs that prediction quality is measured on, and their features: KuaiRand, the census, a simulated shop."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from feature_eng.log_checks import LogPolicies
from feature_eng.log_encoding import TRUTH
from feature_eng.log_sources import Paths
from feature_eng.logs import clean_log, prepare_log
from feature_eng.lowering import lower
from feature_eng.packing import as_served, out_of_fold, write_features
from feature_eng.schema import Schema
from feature_eng.schema_file import load_schema
from feature_eng.simulator import shop_schema, simulate, simulate_after
from feature_eng.workflow import fit_workflow
from steelyard.relations import relations

ROOT = Path(__file__).resolve().parent.parent


# What is left of the training rows' end to stop a training, where the logs name no rows for it.
VALIDATION = 0.1


@dataclass(frozen=True)
class Logs:
    """A schema and the logs that it is of.

    Attributes:
        schema: of all logs.
        train: rows to learn from.
        validation: rows that stop a training and choose settings; None where the end of `train` is.
        test: rows to judge by, if any.
        groups: column of the groups that GAUC orders within.
        policies: what to do with rows that the checks find.
        search: share at the end of `train` that chooses settings instead, where the test lies further ahead than the
            validation; in (0, 1).
    """

    schema: Schema
    train: Paths
    validation: Paths | None
    test: Paths | None
    groups: str | None
    policies: LogPolicies = field(default_factory=LogPolicies)
    search: float | None = None


def real_data() -> Path:
    """Return the folder of the real logs."""
    return Path(os.environ.get("STEELYARD_DATA", ROOT.parent / "shared" / "data"))


def kuairand(folder: Path, rows: int) -> Logs:
    """Return KuaiRand's logs, as the example prepares them; settings are chosen on three days after three others."""
    example = ROOT / "examples" / "kuairand"
    runpy.run_path(str(example / "prepare.py"))["prepare"](real_data() / "kuairand_pure", folder)
    schema = load_schema(example / "schema.yaml")
    fill = LogPolicies(conversions="fill")
    return Logs(schema, folder / "train.parquet", None, folder / "test.parquet", schema.user, fill, search=0.4)


def census(folder: Path, rows: int) -> Logs:
    """Return the census's parts, as the example splits them."""
    example = ROOT / "examples" / "census"
    runpy.run_path(str(example / "prepare.py"))["prepare"](real_data() / "census_income_kdd", folder)
    parts = [folder / f"{name}.parquet" for name in ("train", "validation", "test")]
    return Logs(load_schema(example / "schema.yaml"), *parts, None)


def simulated(folder: Path, rows: int) -> Logs:
    """Return a simulated shop's log, and what it logs next."""
    log = simulate(folder / "log", rows=rows)
    test = simulate_after(log, folder / "test", rows=max(rows // 3, 1))
    schema = shop_schema()
    return Logs(schema, log, None, test, schema.request)


DATA: dict[str, Callable[[Path, int], Logs]] = {"kuairand": kuairand, "census": census, "simulated": simulated}


def binary(schema: Schema) -> Schema:
    """Return a schema with its binary objectives alone, since no peer predicts values beside them."""
    kept = tuple(objective for objective in schema.objectives if objective.kind == "binary")
    weights = {o.name: schema.blend.weights[o.name] for o in kept if o.name in schema.blend.weights}
    blend = schema.blend.model_copy(update={"weights": weights})
    return schema.model_copy(update={"objectives": kept, "blend": blend})


def pack(make: Callable[[Path, int], Logs], folder: Path, rows: int) -> Path:
    """Write the features of a data set's rows, and apart from them what test rows turned out to be.

    Args:
        make: out of `DATA`.
        folder: for all that is written.
        rows: of a data set that is simulated.

    Returns:
        The folder of features, with `search` in it where other rows choose settings; `answers`, beside it, has the test
        rows' labels (B, K), groups and truth.
    """
    features, work, answers = folder / "features", folder / "work", folder / "answers"
    for old in (features, work, answers):
        shutil.rmtree(old, ignore_errors=True)
    logs = make(work / "log", rows)
    if logs.search is not None:
        _write_task(replace(logs, test=None), logs.search, work / "search", features / "search")
    schema = _write_task(logs, VALIDATION, work, features)
    answers.mkdir()
    shutil.move(features / "test" / "labels.npy", answers / "labels.npy")
    test = pq.read_table(work / "test")
    if logs.groups:
        np.save(answers / "groups.npy", np.unique(test.column(logs.groups).to_numpy(), return_inverse=True)[1])
    truths = [f"{TRUTH}{name}" for name in schema.objective_names]
    if set(truths) <= set(test.column_names):
        np.save(answers / "truth.npy", np.stack([test.column(name).to_numpy() for name in truths], 1))
    shutil.rmtree(work)
    return features


def _write_task(logs: Logs, fraction: float, work: Path, features: Path) -> Schema:
    """Clean logs into `work`, fit a workflow on the training rows, write all rows' features, and what they are."""
    prepared = prepare_log(
        logs.train,
        binary(logs.schema),
        work / "clean",
        policies=logs.policies,
        fraction=fraction if logs.validation is None else 0.0,
    )
    schema = prepared.schema
    sides = {"train": prepared.train, "validation": prepared.validation}
    for side, log in (("validation", logs.validation), ("test", logs.test)):
        if log is not None:
            sides[side] = clean_log(log, schema, work / side, policies=logs.policies).folder
    workflow = fit_workflow(schema, prepared.train)
    plan = lower(workflow, schema)
    labels = [objective.label for objective in schema.objectives]
    for side, parts in sides.items():
        compute = out_of_fold(workflow, plan.layout) if side == "train" else as_served(plan, schema)
        write_features(compute, parts, labels, plan.layout, features / side)
    task = {
        "layout": plan.layout.to_json(),
        "objectives": schema.objective_names,
        "parents": schema.parents,
        "learning": schema.learning,
        "relations": relations(schema, plan.layout),
    }
    (features / "task.json").write_text(json.dumps(task, indent=1), encoding="utf-8")
    return schema
