"""A log to a bundle: clean, fit, compile, pack, train, export, in stages that a killed run resumes from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from feature_eng.layout import Layout
from feature_eng.log_checks import LogPolicies
from feature_eng.log_sources import Paths, file_stamps, log_files
from feature_eng.logs import prepare_log
from feature_eng.lowering import lower
from feature_eng.packing import as_served, out_of_fold, write_features
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.progress import row_bar
from feature_eng.schema import Schema
from feature_eng.schema_file import load_schema, save_schema
from feature_eng.splitting import Split
from feature_eng.workflow import fit_workflow, load_workflow, save_workflow
from models.calibration import fit_calibration
from models.calibration_maps import METHODS, CalibratedRanker
from models.export import export_ranker
from models.feature_shards import Features
from models.objectives import chain_parents
from models.ranker import Ranker, save_ranker
from models.training import Training, check_training, train
from steelyard.bundle import Bundle, open_bundle, write_manifest
from steelyard.evaluating import evaluate_parts, save_popularity
from steelyard.relations import relations

# Under a run's folder: what becomes the bundle, beside the stages that only lead there.
BUNDLE = "bundle"
RUN = "run.json"


@dataclass(frozen=True)
class FitOptions:
    """What a fit may be told besides the log and the schema."""

    policies: LogPolicies = field(default_factory=LogPolicies)
    split: Split = "time"
    validation: float = 0.1
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: str = "none"
    calibrate_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what must be the same for a fit to be resumed."""
        return {
            "policies": self.policies.model_dump(),
            "split": self.split,
            "validation": self.validation,
            "training": dict(self.training),
            "calibration": self.calibration,
            "calibrate_by": self.calibrate_by,
        }


def fit(
    paths: Paths,
    schema: Schema,
    out: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    prepared: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Fit a bundle on a log; it appears once it is whole, its stages lie in `out.partial` until then.

    Args:
        paths: the log.
        schema: what its columns and objectives are.
        out: folder of the bundle, which must not exist yet.
        options: policies, split, training and calibration.
        resume: go on with the finished stages of a run with the same arguments.
        prepared: folder of `prepare` with the same log, schema, policies, split and validation, whose log, plan and
            features are taken over.
        report: told what is done, a line at a time.

    Raises:
        FileExistsError: the bundle exists.
        ValueError: a setting is unknown, there is nothing to resume, or it was fitted with other arguments.
        SchemaError: the log does not hold what the schema says.
    """
    if out.exists():
        raise FileExistsError(f"out must not exist yet; got {out}")
    check_options(options, schema)
    work = out.with_name(f"{out.name}.partial")
    if prepared is not None and not resume:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(prepared, work, copy_function=os.link)
        _record(work, run_of(paths, schema, options))
        resume = True
    schema, plan = prepare(paths, schema, work, options, resume=resume, report=report)
    _train(schema, plan, work, options, resume, report)
    write_manifest(work / BUNDLE, schema)
    (work / BUNDLE).replace(out)
    shutil.rmtree(work)
    return open_bundle(out)


def prepare(
    paths: Paths,
    schema: Schema,
    work: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Schema, Plan]:
    """Write what comes before training: the cleaned log, the plan and the packed features.

    Args:
        paths: the log.
        schema: what its columns and objectives are.
        work: folder for all of it: `log`, `features`, and `bundle` with the schema, the workflow and the plan.
        options: policies and split count here; the rest is remembered for `resume`.
        resume: go on with the finished stages of a run with the same arguments.
        report: told what is done, a line at a time.

    Returns:
        The schema with its dtypes, and the plan.

    Raises:
        ValueError: there is nothing to resume, or it was prepared with other arguments.
        SchemaError: the log does not hold what the schema says.
    """
    claim(work, run_of(paths, schema, options), resume)
    (work / BUNDLE).mkdir(exist_ok=True)
    schema = _clean(paths, schema, work, options, report)
    return schema, _features(schema, work, report)


def check_options(options: FitOptions, schema: Schema) -> None:
    """Refuse options that no fit can follow, before any work.

    Raises:
        ValueError: naming the setting, and those that there are.
    """
    check_settings(options.training.get("ranker") or {})
    check_training(parents=schema.parents, **options.training)
    if options.calibration not in ("none", *METHODS, "auto"):
        known = ", ".join(("none", *METHODS, "auto"))
        raise ValueError(f"calibration must be one of {known}; got {options.calibration!r}")


def check_settings(ranker: Mapping[str, Any]) -> None:
    """Refuse settings that make no ranker, by making a small one; those without a default come from the data.

    Raises:
        ValueError: naming the setting, and those that there are.
    """
    parameters = signature(Ranker).parameters.items()
    known = [name for name, p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.default is not None]
    for name, value in ranker.items():
        if name not in known:
            raise ValueError(f"ranker must have settings out of {', '.join(known)}; got {name}")
        try:
            Ranker([4], [1], 1, ["binary"], [-1], **{name: value})
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"ranker must have a possible {name}; got {value}: {error}") from None


def claim(work: Path, run: Mapping[str, Any], resume: bool) -> None:
    """Start the folder of a run anew, or check that the one to resume is of the same run.

    Raises:
        ValueError: there is nothing to resume, or it is of another run.
    """
    record = work / RUN
    if resume:
        if not record.exists():
            raise ValueError(f"resume must find an unfinished run; got none in {work}")
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [key for key in run if before.get(key) != run[key]]
        if changed:
            raise ValueError(f"resume must have the arguments of the unfinished run; got other {', '.join(changed)}")
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _record(work, run)


def run_of(paths: Paths, schema: Schema, options: FitOptions) -> Any:
    """Return what must be the same for a run to be resumed, as JSON gives it back."""
    files = file_stamps(log_files(paths))
    return json.loads(json.dumps({"files": files, "schema": schema.fingerprint, **options.to_json()}))


def _record(work: Path, run: Any) -> None:
    """Write what a run is of, in place of what stood there: a linked file must not be written through."""
    beside = work / f".{RUN}.partial"
    beside.write_text(json.dumps(run), encoding="utf-8")
    beside.replace(work / RUN)


def _clean(paths: Paths, schema: Schema, work: Path, options: FitOptions, report: Callable[[str], None]) -> Schema:
    """Write the cleaned log and the schema with its dtypes, unless an earlier run did."""
    done = work / BUNDLE / "schema.yaml"
    if not done.exists():
        prepared = prepare_log(
            paths, schema, work / "log", policies=options.policies, split=options.split, fraction=options.validation
        )
        data_report = prepared.report.model_dump_json(indent=1)
        (work / BUNDLE / "data_report.json").write_text(data_report, encoding="utf-8")
        beside = work / ".schema.partial"
        save_schema(prepared.schema, beside)
        beside.replace(done)
    counts = {side: _rows(work / "log" / side) for side in ("train", "validation")}
    report(f"cleaned log: {counts['train']:,} rows to train on, {counts['validation']:,} to validate")
    return load_schema(done)


def _features(schema: Schema, work: Path, report: Callable[[str], None]) -> Plan:
    """Fit and compile the workflow and pack the features, unless an earlier run did."""
    bundle = work / BUNDLE
    if not (bundle / "plan").exists():
        workflow = fit_workflow(schema, work / "log" / "train")
        shutil.rmtree(bundle / "workflow", ignore_errors=True)
        save_workflow(workflow, bundle / "workflow")
        save_plan(lower(workflow, schema), bundle / "plan")
    plan = load_plan(bundle / "plan")
    width = plan.layout.categorical_width
    report(f"features: {width} categorical and {len(plan.layout.continuous)} continuous columns")
    sides = {"train": None, "validation": as_served(plan, schema)}
    for side, compute in sides.items():
        log, out = work / "log" / side, work / "features" / side
        if out.exists() or not _rows(log):
            continue
        compute = compute or out_of_fold(load_workflow(bundle / "workflow"), plan.layout)
        with row_bar(f"{side} features", _rows(log)) as advance:
            write_features(
                compute,
                log,
                [o.label for o in schema.objectives],
                plan.layout,
                out,
                advance,
                position=schema.position,
                sampled=schema.sampled.label if side == "train" and schema.sampled else None,
                negatives=schema.sampled.negatives if schema.sampled else 1.0,
            )
    return plan


def _train(
    schema: Schema, plan: Plan, work: Path, options: FitOptions, resume: bool, report: Callable[[str], None]
) -> None:
    """Train, calibrate, export and evaluate the ranker."""
    validation = work / "features" / "validation"
    segment_place(plan.layout, options.calibrate_by)
    trained = train_prepared(schema, plan.layout, work, options.training, out=work / "training", resume=resume)
    bundle = work / BUNDLE
    save_ranker(trained.ranker, bundle / "ranker")
    report(f"ranker: best epoch {trained.best_epoch + 1} of {len(trained.history)}")
    ranker, calibration = _calibrated(trained.ranker, schema, plan.layout, work, options, report)
    export_ranker(ranker, bundle / "ranker" / "ranker.pt")
    save_popularity(schema, work / "log" / "train", bundle / "popularity.npz")
    metrics: dict[str, Any] = {"history": list(trained.history)}
    if calibration:
        metrics["calibration"] = calibration
    if validation.exists():
        parts = (bundle / "plan", bundle / "ranker" / "ranker.pt", bundle / "popularity.npz")
        metrics["validation"] = evaluate_parts(schema, *parts, work / "log" / "validation").to_json()
    (bundle / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")


def train_prepared(
    schema: Schema, layout: Layout, work: Path, training: Mapping[str, Any], *, out: Path, **options: Any
) -> Training:
    """Train a ranker on the features of `prepare`; see `train`.

    Args:
        schema: of the features.
        layout: where they stand.
        work: folder of `prepare`.
        training: flat arguments of `train` that differ from its defaults, a ranker's under `ranker`.
        out: folder for checkpoints and logs.
        **options: more arguments of `train`.
    """
    validation = work / "features" / "validation"
    ranker = {**relations(schema, layout), **(training.get("ranker") or {})}
    return train(
        work / "features" / "train",
        validation if validation.exists() else None,
        layout=layout,
        objective_kinds=[o.kind for o in schema.objectives],
        parents=schema.parents,
        names=schema.objective_names,
        listed=[feature.name for feature in schema.features if feature.kind in ("categorical", "categorical_list")],
        objectives=schema.learning,
        out=out,
        **{**training, "ranker": ranker, **options},
    )


def segment_place(layout: Layout, name: str | None) -> tuple[int, int]:
    """Return the column of `categorical` that holds a slot's id, and the slot's cardinality; -1 and 0 without a name.

    Raises:
        ValueError: there is no such slot, or it is a list.
    """
    if name is None:
        return -1, 0
    known = [slot.name for slot in layout.categorical if slot.width == 1]
    column = 0
    for slot in layout.categorical:
        if slot.name == name and name in known:
            return column, slot.cardinality
        column += slot.width
    raise ValueError(f"calibrate_by must be one of {', '.join(known)}; got {name}")


def _calibrated(
    ranker: Ranker, schema: Schema, layout: Layout, work: Path, options: FitOptions, report: Callable[[str], None]
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return what to export, and what was fitted for each objective; the ranker itself where nothing was asked."""
    if options.calibration == "none":
        return ranker, []
    if not (work / "features" / "validation").exists():
        report("calibration: no rows validate, so predictions pass through")
        return ranker, []
    predictions, labels, segments = [], [], []
    column, cardinality = segment_place(layout, options.calibrate_by)
    with torch.inference_mode():
        for categorical, continuous, outcomes in Features.open(work / "features" / "validation").chunks(16_384):
            predictions.append(ranker(categorical, continuous).numpy())
            labels.append(outcomes[:, : len(schema.objectives)].numpy())
            segments.append(categorical[:, max(column, 0)].numpy() if layout.categorical else np.zeros(len(outcomes)))
    kinds = [o.kind for o in schema.objectives]
    calibration, found = fit_calibration(
        np.concatenate(predictions),
        np.concatenate(labels),
        names=schema.objective_names,
        kinds=kinds,
        parents=chain_parents(kinds, schema.parents, schema.learning.get("estimators")),
        method=options.calibration,
        requests=validation_requests(schema, work / "log" / "validation"),
        segments=None if column < 0 else np.concatenate(segments),
        cardinality=cardinality,
        segment_column=column,
    )
    for each in found:
        told = each.note or f"{each.metric} {each.before:.4f}, {each.after:.4f} on rows that its maps did not see"
        report(f"calibration of {each.objective}: {each.method}; {told}")
    listed = [each.to_json() for each in found]
    return ranker if calibration is None else CalibratedRanker(ranker, calibration), listed


def validation_requests(schema: Schema, log: Path) -> NDArray[Any] | None:
    """Return each validation row's request in the order of the features, (B,); None where the schema names none."""
    if schema.request is None:
        return None
    requests: NDArray[Any] = pq.read_table(log, columns=[schema.request]).column(0).to_numpy()
    return requests


def _rows(folder: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in folder.glob("*.parquet"))
