"""benchmarks/gpu_dispatch.py: it runs where there is PyTorch and nothing else, and says what it has found."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.hidden import without

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "benchmarks" / "gpu_dispatch.py"
OTHERS = ("onnx", "onnxruntime", "openvino", "numba")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module("gpu_dispatch")


def test_what_is_unproven_is_what_the_guide_says() -> None:
    """Word for word, but for where lines end."""
    own = re.search(r'^UNPROVEN = """\n(.*?)"""$', PROGRAM.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    guide = (ROOT / "docs/guide/gpu.md").read_text(encoding="utf-8")
    listed = re.search(r"The following is unproven on a device:\n\n(.*?)\n\n", guide, re.DOTALL)
    assert own
    assert listed
    assert listed[1].split() == own[1].split()


@pytest.mark.slow
def test_it_needs_no_other_engine(tmp_path: Path) -> None:
    """All strategies and servers in one call: right answers, a verdict for each goal, and nothing is skipped."""
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--device", "cpu", "--small"],
        env=without(tmp_path, *OTHERS),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == rows[0].count("|") for line in rows)
    labels = {line.split("|")[1].split(",")[0].strip() for line in rows}
    assert {
        *("f32", "no graphs", "buckets off", "channels last", "uint8 pixels", "one instance", "no overlap", "tf32"),
        *("bf16", "f16", "not pinned", "shared graph memory", "compiled", "int8 weights"),
    } <= labels
    assert done.stdout.count("\nthrough the server") == 3
    assert "batches that the second engine computed" in done.stdout
    assert done.stdout.count("\n- of an echo, the same clients see") == 3
    assert len(re.findall(r"^- bytes (?:in|out): .* of the bus$", done.stdout, re.MULTILINE)) == 6
    _, goals = done.stdout.split("\ngoals (")
    assert len(re.findall(r"^- .*: (?:met|missed|not told: .*)$", goals, re.MULTILINE)) == 5
    assert "- answers against float32 on the CPU: met" in goals


def test_a_deadline_ends_whatever_runs(tmp_path: Path) -> None:
    """It says what was left out; that is no wrong answer."""
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--device", "cpu", "--small", "--deadline", "0.1"],
        env=without(tmp_path, *OTHERS),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "skipped for want of time: the program, which the deadline ended, and what comes after it" in done.stdout


def test_what_does_not_fit_is_skipped(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """By what it is expected to take."""
    report = benchmark.Report(60)
    assert report.begin("short", 10)
    assert not report.begin("long", 70)
    report.end("a device")
    printed = capsys.readouterr().out
    assert "skipped for want of time: long (needs 70 s)" in printed
    assert "short" not in printed


def test_goals_have_verdicts(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each, and one for each wrong answer; what is no number is wrong."""
    report = benchmark.Report(60)
    report.share("here", 0.95)
    report.share("there", 0.85)
    report.extra("here", 99)
    report.extra("there", 101)
    report.share("by slow clients", 0.85, 0.89)
    report.share("by quick clients", 0.85, 0.95)
    report.extra("by a slow client", 150, 120)
    report.extra("by a quick client", 99, 90)
    report.answer("right", 1e-4, 1e-3)
    report.answer("wrong", float("nan"), 1e-3)
    report.answer("far", 0.1, 1e-3)
    report.end("a device")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines if line.startswith("- ")] == [
        *("missed", "met", "missed", "met", "missed"),
        *("these clients miss it with an echo, too", "missed", "these clients miss it with an echo, too", "met"),
    ]
    assert any(
        "by slow clients: 0.85 of the graph alone (goal: 0.9; an echo: 0.89): not told" in item for item in lines
    )
    assert [line for line in lines if line.startswith("wrong: ")] == [
        "wrong: wrong: off by nan, at most 1e-03",
        "wrong: far: off by 1.0e-01, at most 1e-03",
    ]


def test_a_wrong_answer_is_the_exit_code(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goals that are missed are not: figures differ from machine to machine."""
    monkeypatch.setattr(sys, "argv", ["gpu_dispatch.py", "--device", "cpu", "--small"])
    for share, worst, code in ((0.1, 0.0, 0), (1.0, 1.0, 1)):

        def found(run: object, share: float = share, worst: float = worst) -> None:
            run.report.share("here", share)  # type: ignore[attr-defined]
            run.report.answer("here", worst, 1e-3)  # type: ignore[attr-defined]

        monkeypatch.setattr(benchmark.Run, "all", found)
        with pytest.raises(SystemExit) as ended:
            benchmark.main()
        assert ended.value.code == code
