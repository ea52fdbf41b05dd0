"""The command line: one command a job, errors as sentences."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from steelyard.commands import labelling, logs, plans, reporting, serving, training, tuning

USER_MISTAKE = 2

app = typer.Typer(
    name="steelyard",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Weigh a shop's objectives against each other: from a behaviour log to scores out of Triton.",
)
for command in (
    logs.check,
    logs.simulate,
    training.fit,
    tuning.tune,
    training.evaluate,
    reporting.report,
    labelling.label,
    training.export,
    serving.serve,
    serving.rank,
    serving.score,
    serving.demo,
):
    app.command()(command)
app.add_typer(plans.app, name="plan")


def run() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2, a traceback with STEELYARD_DEBUG=1."""
    try:
        app()
    except (ValueError, OSError, TypeError, RuntimeError, ImportError, FloatingPointError) as error:
        if os.environ.get("STEELYARD_DEBUG"):
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_escaped(error)}", highlight=False)
        sys.exit(USER_MISTAKE)


def _escaped(error: BaseException) -> str:
    return str(error).replace("[", "\\[") or type(error).__name__
