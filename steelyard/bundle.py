"""One folder per trained ranker: its parts, what binds them together, and the checks before they are used."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from feature_eng.digests import file_sha256
from feature_eng.schema import Schema
from feature_eng.schema_file import load_schema

FORMAT = 1
MANIFEST = "manifest.json"
PACKAGES = ("steelyard", "nvtabular", "numpy", "torch")


class BundleError(ValueError):
    """A bundle is not whole, was changed, or holds parts that do not belong together."""


@dataclass(frozen=True)
class Bundle:
    """Paths of a bundle's parts; `open_bundle` has checked them."""

    folder: Path
    schema: Schema
    fingerprint: str

    @property
    def workflow(self) -> Path:
        """Folder of the fitted NVTabular workflow; a pickle, for offline use alone."""
        return self.folder / "workflow"

    @property
    def plan(self) -> Path:
        """Folder of the compiled plan."""
        return self.folder / "plan"

    @property
    def ranker(self) -> Path:
        """The ranker's TorchScript file."""
        return self.folder / "ranker" / "ranker.pt"

    @property
    def popularity(self) -> Path:
        """The training log's item means, for the baseline."""
        return self.folder / "popularity.npz"

    @property
    def triton(self) -> Path:
        """Where `export` writes the Triton repository unless told otherwise."""
        return self.folder / "triton"


def write_manifest(folder: Path, schema: Schema) -> None:
    """Record the schema's fingerprint, the versions and a digest of every file of a finished bundle."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        "fingerprint": schema.fingerprint,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def open_bundle(folder: str | Path) -> Bundle:
    """Return a bundle whose files are as they were written.

    Raises:
        BundleError: a file is missing or was changed, or the schema or the plan is of another bundle.
        FileNotFoundError: the folder is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"bundle must be a folder that `steelyard fit` wrote; got {folder}, which is not there")
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder} must hold {name}; got none")
        if file_sha256(path) != digest:
            raise BundleError(f"bundle {folder} must be as it was written; got another {name}")
    schema = load_schema(folder / "schema.yaml")
    fingerprint = manifest["fingerprint"]
    plan = json.loads((folder / "plan" / "plan.json").read_text(encoding="utf-8"))["fingerprint"]
    for part, found in (("schema.yaml", schema.fingerprint), ("plan", plan)):
        if found != fingerprint:
            raise BundleError(f"{part} of bundle {folder} must have fingerprint {fingerprint}; got {found}")
    return Bundle(folder, schema, fingerprint)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"bundle {folder} must hold {MANIFEST}; got none") from None
    except ValueError as error:
        raise BundleError(f"{path} must be JSON; got {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise BundleError(f"bundle {folder} must have format {FORMAT}; got {found}")
    if not {"fingerprint", "files"} <= manifest.keys():
        raise BundleError(f"{path} must have fingerprint and files; got {', '.join(manifest)}")
    return manifest
