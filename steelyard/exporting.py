"""A bundle's plan, ranker and blend as a Triton model repository."""

from __future__ import annotations

from pathlib import Path

from steelyard.bundle import Bundle
from triton_repo.repository import Backend, write_repository


def export_bundle(
    bundle: Bundle, out: Path | None = None, *, max_candidates: int = 4096, backend: Backend = "python"
) -> Path:
    """Write the model repository of a bundle.

    Args:
        bundle: checked.
        out: the repository's folder, replaced once the new one is whole; the bundle's own `triton` by default.
        max_candidates: most candidates that one request may rank.
        backend: `python` or `libtorch`, for the rank step.

    Returns:
        The repository's folder.
    """
    folder = out or bundle.triton
    write_repository(
        folder,
        schema=bundle.schema,
        plan_dir=bundle.plan,
        ranker_path=bundle.ranker,
        max_candidates=max_candidates,
        rank_backend=backend,
    )
    return folder
