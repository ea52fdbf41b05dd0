import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import Load, closed_loop, joined, line_plot, median_seconds, panel_plot, report


def test_a_load_is_summed_up_in_milliseconds_and_rates() -> None:
    summary = Load((0.001,) * 99 + (0.1,), elapsed_s=2.0).summary(rows_per_call=64)
    assert summary["p50_ms"] == pytest.approx(1.0)
    assert summary["p99_ms"] == pytest.approx(1.0, abs=1.0)
    assert summary["requests_per_s"] == 50.0
    assert summary["rows_per_s"] == 3200.0


def test_loads_of_one_system_are_joined() -> None:
    assert joined([Load((1.0,), 1.0), Load((2.0, 3.0), 4.0)]) == Load((1.0, 2.0, 3.0), 5.0)


def test_callers_call_at_the_same_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    load = closed_loop([call] * 3, 0.2)
    assert most == 3
    assert len(load.seconds) > 3
    assert load.elapsed_s >= 0.2


def test_a_call_that_fails_fails_the_measurement() -> None:
    def fail() -> None:
        time.sleep(0.001)
        raise ConnectionError("no server")

    with pytest.raises(RuntimeError, match="every call must be answered; got no server"):
        closed_loop([fail], 0.05)


def test_a_report_names_the_hardware_and_holds_the_results(tmp_path: Path) -> None:
    results = [{"system": "steelyard", "candidates": 64, "p50_ms": 1.25}]
    report(results, tmp_path / "out.json", steps=[])
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["results"] == results
    assert {"cpu", "cores", "memory_gib", "gpus"} <= set(written["hardware"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    line_plot(tmp_path / "p.png", {"a": ([1, 10], [2, 3])}, title="t", x="x", y="y")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_panels_are_one_picture(tmp_path: Path) -> None:
    panel_plot(tmp_path / "p.svg", {"left": {"a": ([1, 10], [2, 3])}, "right": {}}, x="x", y="y")
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_what_was_not_measured_is_a_dash_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    report([{"system": "a", "p50_ms": None}], None)
    assert "│ a      │ -      │" in capsys.readouterr().out


def test_systems_take_turns_and_getting_ready_is_not_counted() -> None:
    made: list[tuple[str, int]] = []

    def caller(name: str, call_s: float) -> Callable[[int], Callable[[], None]]:
        def prepare(number: int) -> Callable[[], None]:
            made.append((name, number))
            time.sleep(0.02)
            return lambda: time.sleep(call_s)

        return prepare

    medians = median_seconds({"a": caller("a", 0.001), "b": caller("b", 0.05)}, seconds=0.002, rounds=2)
    assert 0.001 <= medians["a"] < 0.02
    assert 0.05 <= medians["b"] < 0.1
    assert made == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
