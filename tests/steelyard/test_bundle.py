import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.bundle import BundleError, open_bundle
from tests.conftest import Shop


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Path:
    shutil.copytree(shop.bundle.folder, tmp_path / "bundle")
    return tmp_path / "bundle"


def manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_holds_its_parts_and_a_digest_of_each(shop: Shop) -> None:
    files = json.loads((shop.bundle.folder / "manifest.json").read_text())["files"]
    assert {"schema.yaml", "plan/plan.json", "ranker/ranker.pt", "metrics.json", "workflow/workflow.pkl"} <= set(files)
    on_disk = {p.relative_to(shop.bundle.folder).as_posix() for p in shop.bundle.folder.rglob("*") if p.is_file()}
    assert on_disk == {*files, "manifest.json"}
    assert open_bundle(shop.bundle.folder).fingerprint == shop.bundle.schema.fingerprint


def flipped(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return flip


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "must hold manifest.json; got none"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json must be JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), r"must have format 1; got \[\]"),
        (lambda f: manifest(f, format=2), "must have format 1; got 2"),
        (lambda f: (f / "manifest.json").write_text('{"format": 1}'), "must have fingerprint and files; got format"),
        (lambda f: (f / "ranker" / "ranker.pt").unlink(), "must hold ranker/ranker.pt; got none"),
        (flipped("ranker/ranker.pt"), "must be as it was written; got another ranker/ranker.pt"),
        (flipped("workflow/workflow.pkl"), "must be as it was written; got another workflow/workflow.pkl"),
        (lambda f: manifest(f, fingerprint="0" * 16), "schema.yaml of bundle .* must have fingerprint 0+; got"),
    ],
)
def test_a_spoiled_bundle_is_refused(copied: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copied)
    with pytest.raises(BundleError, match=message):
        open_bundle(copied)


def test_a_replaced_workflow_is_refused_before_it_could_run(copied: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    (copied / "workflow" / "workflow.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleError, match=r"got another workflow/workflow\.pkl"):
        open_bundle(copied)
    assert not (tmp_path / "sprung").exists()


def test_opening_a_bundle_unpickles_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("unpickled")

    for module in ("pickle", "cloudpickle"):
        for name in ("load", "loads"):
            monkeypatch.setattr(f"{module}.{name}", refuse)
    open_bundle(shop.bundle.folder)


def test_the_plan_of_another_schema_is_refused(copied: Path) -> None:
    path = copied / "plan" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    files = json.loads((copied / "manifest.json").read_text())["files"]
    manifest(copied, files={name: digest for name, digest in files.items() if name != "plan/plan.json"})
    with pytest.raises(BundleError, match=r"plan of bundle .* must have fingerprint .*; got another"):
        open_bundle(copied)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bundle must be a folder that `steelyard fit` wrote; got"):
        open_bundle(tmp_path / "nowhere")
