"""A search for a training's settings with Optuna: features once, many trials, a study that resumes."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from feature_eng.digests import file_sha256
from feature_eng.log_sources import Paths
from feature_eng.plan_files import load_plan
from feature_eng.schema import Schema
from feature_eng.schema_file import load_schema
from models.feature_shards import Features
from models.search_space import DEFAULT_GROUPS, GROUPS, Shop, default_parameters, merged, suggest_options
from models.tuning import HYPERVOLUME, VALUE, EpochValues, Value, random_capture, reachable_hypervolume, worth_captured
from steelyard.options_file import write_options
from steelyard.pipeline import BUNDLE, FitOptions, check_options, prepare, train_prepared, validation_requests
from steelyard.relations import relations

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

# Under a search's folder.
PREPARED, JOURNAL, TRIALS, BEST, LOCK = "prepared", "study.journal", "trials", "best.yaml", ".lock"
# Attributes of a study: what it is of, trials that a stopped search left, and trials whose worker died.
IDENTITY, STOPPED, DIED = "identity", "stopped", "died"
# Trials that run to their end before the median of earlier ones may stop one.
UNPRUNED = 5


@dataclass(frozen=True)
class Search:
    """What a search is told besides what a fit is told.

    Attributes:
        maximise: an objective's name, `value` or `hypervolume`; an objective of that name comes first.
        groups: what it may choose, out of `GROUPS`.
        trials: how many a study has at the end, those of earlier runs included.
        jobs: processes that run trials at once.
        k: places of a request that `value` and `hypervolume` count.
        pruner: `median` stops trials that are below the median of earlier ones at the same epoch.
        seed: of what is suggested.
    """

    maximise: str = VALUE
    groups: tuple[str, ...] = DEFAULT_GROUPS
    trials: int = 30
    jobs: int = 1
    k: int = 10
    pruner: Literal["median", "none"] = "median"
    seed: int = 0


@dataclass(frozen=True)
class _Work:
    """What a process that runs trials is told."""

    out: Path
    training: dict[str, Any]
    search: Search

    @property
    def prepared(self) -> Path:
        return self.out / PREPARED


def tune(
    paths: Paths,
    schema: Schema,
    out: Path,
    options: FitOptions,
    search: Search,
    *,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Study:
    """Search for the settings that are worth most on the validation rows.

    Args:
        paths: the log; no other is read.
        schema: what its columns and objectives are.
        out: folder that must not exist yet, unless resumed or left by a search that could not begin: `prepared`,
            `study.journal` and `best.yaml`.
        options: policies, split, and the training's settings that stay as they are.
        search: what to choose, by what, how often.
        resume: go on with the study in `out`.
        report: told what is done, a line at a time.

    Returns:
        The study; its trials' `options` say what `best.yaml` says of the best.

    Raises:
        FileExistsError: the folder exists.
        ValueError: a setting is unknown, the study is of other arguments, or no trial came to its end.
        BlockingIOError: another search works in the folder.
        RuntimeError: Optuna is not installed.
        SchemaError: the log does not hold what the schema says.
    """
    _optuna()
    check_options(options, schema)
    if out.exists() and not resume and not _ended_before_a_study(out):
        raise FileExistsError(f"out must not exist yet, or --resume go on with what it holds; got {out}")
    if options.validation == 0:
        raise ValueError("validation must be above 0, so that trials can be told apart; got 0")
    training = dict(options.training)
    groups = _groups(schema, search)
    _check_search(schema, search, groups, training)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        schema, plan = prepare(paths, schema, out / PREPARED, options, resume=resume, report=report)
        work = _Work(out, training, search)
        relation = relations(schema, plan.layout)
        shop = Shop(len(schema.objectives), max(relation.get("history_targets", [-1]), default=-1) >= 0)
        identity = _identity(work, groups)
        if (out / JOURNAL).exists():
            _check_study(load_study(out), identity)
        values_of(schema, out / PREPARED, search)  # refuses what cannot be maximised before any training
        _check_shop(groups, shop)
        study = _open_study(out, identity, shop)
        remaining = search.trials - len(counted_trials(study))
        if remaining > 0:
            with _trial_bar(study, search.trials, report) as tell:
                if search.jobs == 1:
                    _run_trials(work, groups, shop, partial(_take, [remaining]), tell)
                else:
                    _run_processes(work, groups, shop, remaining, tell)
        shutil.rmtree(out / TRIALS, ignore_errors=True)
        best = _best(study)
        count = len(counted_trials(study))
        told = f"{search.maximise} {best.value:.6g} on validation rows: trial {best.number}, the best of {count}"
        write_options(out / BEST, best.user_attrs["options"], told)
    return study


def load_study(out: Path, **settings: Any) -> Study:
    """Return the study in a search's folder, which is begun where there is none.

    Args:
        out: of the search.
        **settings: Optuna's, such as a sampler.
    """
    study: Study = _optuna().create_study(
        storage=_storage(out), study_name="tune", direction="maximize", load_if_exists=True, **settings
    )
    return study


def values_of(schema: Schema, prepared: Path, search: Search) -> tuple[Value | None, int]:
    """Return what a trial's predictions are worth, or None and the objective whose gain counts.

    Args:
        schema: of the log.
        prepared: folder of `prepare`.
        search: says what is maximised.

    Raises:
        ValueError: there is nothing of that name, no request to rank in, or nothing that could be captured.
    """
    names = schema.objective_names
    if search.maximise in names:
        return None, names.index(search.maximise)
    if search.maximise not in (VALUE, HYPERVOLUME):
        known = ", ".join((*names, VALUE, HYPERVOLUME))
        raise ValueError(f"maximise must be one of {known}; got {search.maximise}")
    requests = validation_requests(schema, prepared / "log" / "validation")
    if requests is None:
        raise ValueError(f"maximise must be an objective where the schema names no request; got {search.maximise}")
    rows = Features.open(prepared / "features" / "validation")
    labels = np.concatenate([labels.numpy()[:, : len(names)] for *_, labels in rows.chunks()])
    if search.maximise == VALUE:
        worth = partial(
            worth_captured,
            labels=labels,
            requests=requests,
            weights=schema.default_weights,
            blend_kind=schema.blend.kind,
            k=search.k,
        )
        if not np.isfinite(worth(np.zeros_like(labels))):
            raise ValueError(f"maximise must be of what happened in validation rows; got {VALUE}, which is 0 in all")
        return worth, -1
    chance = random_capture(labels, requests, search.k)
    for name, share in zip(names, chance, strict=True):
        if not share < 1:
            told = "which never happened" if share != share else f"of which chance captures {share:.0%}"
            raise ValueError(f"k must leave every objective something to rank; got {search.k} for {name}, {told}")
    return lambda predictions: reachable_hypervolume(predictions, labels, requests, search.k), -1


def counted_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that ended, but for those that a stopped search left."""
    stopped = study.user_attrs.get(STOPPED, [])
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in stopped]


def failure(study: Study, trial: FrozenTrial) -> str:
    """Return why a trial failed, or nothing."""
    if trial.state.name != "FAIL":
        return ""
    if trial.number in study.user_attrs.get(STOPPED, []):
        return "the search was stopped"
    return str(trial.user_attrs.get("reason") or study.user_attrs.get(DIED, {}).get(str(trial.number), "unknown"))


def ended(study: Study, trial: FrozenTrial) -> str:
    """Return how a trial ended, in words."""
    if trial.state.name == "COMPLETE":
        return f"{trial.value:.4f}"
    if trial.state.name == "PRUNED":
        return f"pruned after epoch {len(trial.intermediate_values)}, at {trial.value:.4f}"
    return f"failed: {failure(study, trial)}"


def _ended_before_a_study(out: Path) -> bool:
    """Return whether a folder is a search's that could not begin, such as one of a log that was refused."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return LOCK in names and names <= {LOCK, PREPARED}


def _groups(schema: Schema, search: Search) -> tuple[str, ...]:
    """Return what is searched: balancing is left out of the defaults where there is one objective."""
    single = len(schema.objectives) == 1 and search.groups == DEFAULT_GROUPS
    return tuple(group for group in search.groups if not (single and group == "balancing"))


def _check_search(schema: Schema, search: Search, groups: Sequence[str], training: Mapping[str, Any]) -> None:
    if not groups:
        raise ValueError(f"search must name groups out of {', '.join(GROUPS)}; got none")
    for name in ("trials", "jobs", "k"):
        if getattr(search, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(search, name)}")
    names = (*schema.objective_names, VALUE, HYPERVOLUME)
    if search.maximise not in names:
        raise ValueError(f"maximise must be one of {', '.join(names)}; got {search.maximise}")
    shop = Shop(len(schema.objectives), histories=True)
    chosen = suggest_options(_Defaults(default_parameters(shop)), groups, shop)
    fixed = [name for name in training if name in chosen and name != "ranker"]
    fixed += [name for name in training.get("ranker") or {} if name in chosen.get("ranker", {})]
    if fixed:
        raise ValueError(f"search must not choose what is given; got {', '.join(fixed)} given and in search")


def _check_shop(groups: Sequence[str], shop: Shop) -> None:
    suggest_options(_Defaults(default_parameters(shop)), groups, shop)


@dataclass(frozen=True)
class _Defaults:
    """Suggests what training does by itself."""

    parameters: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.parameters[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.parameters[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self.parameters[name])


def _optuna() -> Any:
    """Return Optuna, quiet but for errors.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RuntimeError("tune must have Optuna installed; got none, `pip install steelyard[tune]` adds it") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other searches out of the folder; the lock goes with the process, however it ends.

    Raises:
        BlockingIOError: one is there.
    """
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"out must be used by one search at a time; got {out}, where one runs") from None
        _mend(out / JOURNAL)
        yield


def _mend(journal: Path) -> None:
    """Cut off the line that a kill left unfinished, and the lock that it left; Optuna would stumble over both."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _identity(work: _Work, groups: Sequence[str]) -> dict[str, Any]:
    """Return what must be the same for a study to go on, as JSON gives it back."""
    bundle, features = work.prepared / BUNDLE, work.prepared / "features"
    found = {
        "schema": load_schema(bundle / "schema.yaml").fingerprint,
        "features": [
            file_sha256(bundle / "plan" / "plan.json"),
            *(Features.open(features / side).rows for side in ("train", "validation")),
        ],
        "settings": work.training,
        "maximise": work.search.maximise,
        "k": work.search.k,
        "search": list(groups),
    }
    same: dict[str, Any] = json.loads(json.dumps(found))
    return same


def _check_study(study: Study, identity: Mapping[str, Any]) -> None:
    """Refuse a study of another schema, of other features, or that searches otherwise."""
    before = study.user_attrs.get(IDENTITY, identity)
    changed = [name for name in identity if before.get(name) != identity[name]]
    if changed:
        raise ValueError(f"resume must go on with the study's own {changed[0]}; got another {changed[0]}")


def _open_study(out: Path, identity: Mapping[str, Any], shop: Shop) -> Study:
    """Open the study in a folder, or begin one with the defaults; trials that a stopped search left are queued anew."""
    optuna, study = _optuna(), load_study(out)
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, identity)
        study.enqueue_trial(default_parameters(shop))
    left = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]
    for trial in left:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}))
    if left:
        study.set_user_attr(STOPPED, [*study.user_attrs.get(STOPPED, []), *(trial.number for trial in left)])
        shutil.rmtree(out / TRIALS, ignore_errors=True)
    return study


def _storage(out: Path) -> Any:
    _optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(out / JOURNAL)))


def _run_trials(
    work: _Work, groups: Sequence[str], shop: Shop, take: Callable[[], bool], tell: Callable[[], None]
) -> None:
    """Run trials for as long as there is one to take."""
    optuna = _optuna()
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
        if work.search.pruner == "median"
        else optuna.pruners.NopPruner()
    )
    done = len(load_study(work.out).get_trials(deepcopy=False))
    # a resumed study goes on, and a second process begins, with other random numbers
    seed = np.random.SeedSequence([work.search.seed, done, os.getpid() if work.search.jobs > 1 else 0])
    sampler = optuna.samplers.TPESampler(seed=int(seed.generate_state(1)[0]))
    study = load_study(work.out, sampler=sampler, pruner=pruner)
    schema = load_schema(work.prepared / BUNDLE / "schema.yaml")
    layout = load_plan(work.prepared / BUNDLE / "plan").layout
    value, objective = values_of(schema, work.prepared, work.search)

    def run(trial: Trial) -> float:
        options = merged(work.training, suggest_options(trial, groups, shop))
        trial.set_user_attr("options", options)
        folder = work.out / TRIALS / str(trial.number)
        try:
            watch = EpochValues(value, objective, partial(_watched, trial))
            quiet: dict[str, Any] = {"devices": 1, "loggers": (), "progress": False, "callbacks": [watch]}
            trained = train_prepared(schema, layout, work.prepared, options, out=folder, **quiet)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        best = trained.history[trained.best_epoch]
        gains = {name: 1 - best[f"val_{k}"] for k, name in enumerate(schema.objective_names)}
        trial.set_user_attr("gains", gains)
        trial.set_user_attr("epochs", len(trained.history))
        trial.set_user_attr("parameters", sum(each.numel() for each in trained.ranker.parameters()))
        return watch.values[trained.best_epoch]

    while take():
        study.optimize(run, n_trials=1, catch=(Exception,), callbacks=[lambda study, trial: tell()])


def _watched(trial: Trial, epoch: int, value: float) -> None:
    """Tell a trial's study of an epoch, and end the trial where it is behind.

    Raises:
        TrialPruned: it is.
    """
    trial.report(value, epoch)
    if trial.should_prune():
        raise _optuna().TrialPruned


def _take(left: Any) -> bool:
    """Return whether one is left, and take it."""
    left[0] -= 1
    return bool(left[0] >= 0)


def _take_shared(left: Any) -> bool:
    with left.get_lock():
        left.value -= 1
        return bool(left.value >= 0)


def _process(work: _Work, groups: Sequence[str], shop: Shop, left: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // work.search.jobs))
    with suppress(KeyboardInterrupt):  # the parent tells of it
        _run_trials(work, groups, shop, partial(_take_shared, left), lambda: None)


def _end_with_parent() -> None:
    """End this process when its parent has, however that came: a search that was killed must not go on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_processes(work: _Work, groups: Sequence[str], shop: Shop, count: int, tell: Callable[[], None]) -> None:
    """Run trials in processes; a trial whose process dies has failed, and the others go on."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    left = context.Value("q", count)
    running = [
        context.Process(target=_process, args=(work, groups, shop, left), daemon=True)
        for _ in range(min(work.search.jobs, count))
    ]
    for process in running:
        process.start()
    try:
        while any(process.is_alive() for process in running):
            time.sleep(0.2)
            tell()
    finally:
        for process in running:
            process.terminate()
            process.join()
    codes = [process.exitcode for process in running if process.exitcode]
    if codes:
        _bury(work, codes[0])
    tell()


def _bury(work: _Work, code: int) -> None:
    """Fail the trials that died with their process."""
    optuna, study = _optuna(), load_study(work.out)
    reasons = dict(study.user_attrs.get(DIED, {}))
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            reasons[str(trial.number)] = f"its process ended with code {code}"
    study.set_user_attr(DIED, reasons)


@contextmanager
def _trial_bar(study: Study, trials: int, report: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield a function that tells of trials that ended since it was called last: a bar on a terminal, and lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shape = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"))
    told = {trial.number for trial in counted_trials(study)}
    with Progress(*shape, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=trials, completed=len(told), best="")

        def tell() -> None:
            for trial in counted_trials(study):
                if trial.number not in told:
                    told.add(trial.number)
                    report(f"trial {trial.number}: {ended(study, trial)}")
            complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
            best = max(complete, key=lambda trial: trial.value or 0.0, default=None)
            text = f"best {best.value:.4f}, trial {best.number}" if best else ""
            bar.update(task, completed=len(told), best=text)

        tell()
        yield tell


def _best(study: Study) -> FrozenTrial:
    """Return the best trial that came to its end.

    Raises:
        ValueError: none did.
    """
    complete = [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    if not complete:
        reasons = [failure(study, trial) for trial in counted_trials(study) if failure(study, trial)]
        raise ValueError(f"trials must have one that comes to its end; got {reasons[0] if reasons else 'none'}")
    return study.best_trial
