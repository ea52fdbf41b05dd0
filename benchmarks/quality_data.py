"""The logs that prediction quality is measured on, and their features: KuaiRand, the census, a simulated shop."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Logs:
    """A schema and the logs that it is of; `validation` is None where the end of `train` validates."""

    schema: Schema
    train: Paths
    validation: Paths | None
    test: Paths
    groups: str | None
    policies: LogPolicies = field(default_factory=LogPolicies)


def real_data() -> Path:
    """Return the folder of the real logs."""
    return Path(os.environ.get("STEELYARD_DATA", ROOT.parent / "shared" / "data"))


def kuairand(folder: Path, rows: int) -> Logs:
    """Return KuaiRand's logs, as the example prepares them; the last tenth before the test by time validates."""
    example = ROOT / "examples" / "kuairand"
    runpy.run_path(str(example / "prepare.py"))["prepare"](real_data() / "kuairand_pure", folder)
    schema = load_schema(example / "schema.yaml")
    fill = LogPolicies(conversions="fill")
    return Logs(schema, folder / "train.parquet", None, folder / "test.parquet", schema.user, fill)


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

    Returns:
        The folder of features; `answers`, beside it, has the test rows' labels (B, K), groups and truth.
    """
    features, work = folder / "features", folder / "work"
    shutil.rmtree(features, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    logs = make(work / "log", rows)
    prepared = prepare_log(
        logs.train,
        binary(logs.schema),
        work / "clean",
        policies=logs.policies,
        fraction=0.1 if logs.validation is None else 0.0,
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
    answers = folder / "answers"
    answers.mkdir(exist_ok=True)
    shutil.move(features / "test" / "labels.npy", answers / "labels.npy")
    test = pq.read_table(sides["test"])
    for name in ("groups", "truth"):
        (answers / f"{name}.npy").unlink(missing_ok=True)
    if logs.groups:
        np.save(answers / "groups.npy", np.unique(test.column(logs.groups).to_numpy(), return_inverse=True)[1])
    truths = [f"{TRUTH}{name}" for name in schema.objective_names]
    if set(truths) <= set(test.column_names):
        np.save(answers / "truth.npy", np.stack([test.column(name).to_numpy() for name in truths], 1))
    task = {
        "layout": plan.layout.to_json(),
        "objectives": schema.objective_names,
        "parents": schema.parents,
        "learning": schema.learning,
        "relations": relations(schema, plan.layout),
    }
    (features / "task.json").write_text(json.dumps(task, indent=1), encoding="utf-8")
    shutil.rmtree(work)
    return features
