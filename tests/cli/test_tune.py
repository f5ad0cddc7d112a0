"""`tailcut tune` as a user runs it: a real search on a real model, Ctrl-C in the middle, and mistakes in one line."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.in_process import fork_trials, ran
from tests.processes import interrupted, killed_at_end
from tests.schemas import validated
from tests.servers import serving
from tests.triton.repositories import add_model

from tailcut.cli.tune_sources import models_of
from tailcut.engines.file_hash import file_hash
from tailcut.errors import UsageError
from tailcut.planning.measured import read_measured
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.tuner.service import MeasuredService
from tailcut.tuner.space import BASELINE, RUNG_FIELDS, changed

TUNE = [sys.executable, "-m", "tailcut", "tune"]
VERDICTS = {"better", "worse", "indistinct", "rejected", "estimated", "raced", "skipped"}
CANDIDATE_KEYS = {"setting", "p50_ms", "p95_ms", "p99_ms", "throughput", "p99_ratio", "verdict", "reason"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    perceptron([16, 32, 4], folder / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    np.savez(folder / "mlp.npz", x=x)
    return folder


@pytest.mark.slow
def test_a_model_of_a_repository_is_tuned_as_it_is_served(tmp_path: Path) -> None:
    """In batches of at most what its configuration says, and its server takes the profile, whatever the file's name."""
    more = 'default_model_filename: "net.onnx"'
    version = add_model(tmp_path / "repository", "one", more=more) / "1"
    (version / "model.onnx").rename(version / "net.onnx")
    command = [*TUNE, "--model-repository", str(version.parent), "--budget", "20s", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    profile = Profile.load(version / "net.profile.toml")
    assert profile.settings.batching.max_batch_size <= 8
    with serving(tmp_path, "--model-repository", version.parents[1]) as server:
        assert "one: serving net.profile.toml" in server.stderr.read_text()


@pytest.fixture(scope="module")
def tuned(folder: Path) -> tuple[dict, str]:
    """What a short tune prints on stdout, read, and on stderr: in this process, and its servers are forked."""
    with pytest.MonkeyPatch.context() as patch:
        fork_trials(patch)
        options = ("--budget", "8s", "--rate", "1200", "--slo", "50ms", "--json")
        done = ran(folder, "tune", "mlp.onnx", "--data", "mlp.npz", *options)
    assert done.returncode == 0, done.stderr
    return validated("tune", done.stdout), done.stderr


def test_the_result_has_every_rung(tuned: tuple[dict, str]) -> None:
    """Six rungs in their order, each candidate with its verdict and reason, each kept one among its candidates."""
    result, story = tuned
    assert [rung["name"] for rung in result["rungs"]] == list(RUNG_FIELDS)
    for rung in result["rungs"]:
        settings = [candidate["setting"] for candidate in rung["candidates"]]
        assert set((rung["kept"] or "").split(" + ")) <= {*settings, ""}
        assert rung["kept"] or rung["note"]
        assert rung["name"] in story
        for candidate in rung["candidates"]:
            assert candidate.keys() >= CANDIDATE_KEYS
            assert candidate["verdict"] in {
                "better",
                "worse",
                "indistinct",
                "rejected",
                "estimated",
                "raced",
                "skipped",
            }
            assert candidate["reason"]
            assert (candidate["cost"] is None) <= (candidate["samples"] == 0 or sys.platform != "linux")
    assert sum(item["verdict"] == "estimated" for rung in result["rungs"] for item in rung["candidates"]) >= 3
    assert result["estimated"]
    assert any(item["front"] for item in result["estimated"])
    assert result["winner"] in {item["setting"] for item in result["estimated"] if item["raced"]}


def test_every_measurement_is_stored_beside_the_profile(tuned: tuple[dict, str], folder: Path) -> None:
    """Estimates, request overheads, heats and the verification, each as one line with its key."""
    lines = [json.loads(text) for text in (folder / tuned[0]["trials"]).read_text().splitlines()]
    assert {line["kind"] for line in lines} >= {"estimate", "way", "heat", "verified"}
    assert len({(line["model"], line["engines"], line["machine"], line["request"]) for line in lines}) == 1
    assert all(line["settings"] for line in lines)


def test_the_noise_of_the_machine_is_in_the_result(tuned: tuple[dict, str]) -> None:
    """The share of quiet time, the worst gap, and how late the client was."""
    noise = tuned[0]["noise"]
    assert 0 <= noise["quiet_share"] <= 1
    assert noise["worst_gap_ms"] >= 0
    assert noise["probes"] > 3
    assert noise["client_lateness_p99_ms"] >= 0


@pytest.mark.slow
def test_a_profile_is_checked_again(tuned: tuple[dict, str], folder: Path) -> None:
    """The estimates of the tune before are taken over, its settings race and are verified, and changes are named.

    The objective is the least CPU time at the rate, and the constraints are kept.
    """
    command = [*TUNE, "--retune", tuned[0]["profile"], "-o", "again.toml", "--report", "again.html", "--json"]
    command += [
        "--data",
        "mlp.npz",
        "--budget",
        "5s",
        "--rate",
        "1200",
        "--slo",
        "50ms",
        "--objective",
        "cost",
        "--memory",
        "2GB",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = validated("tune", done.stdout)
    assert result["reused_estimates"] >= 3
    assert "reusing" in done.stderr
    assert result["retune"]["before"] == Profile.load(folder / tuned[0]["profile"]).settings.describe()
    assert result["retune"]["wrong"] is None
    assert result["verification"]["previous"]["samples"] > 0
    assert (result["retune"]["changed"] == {}) is (result["retune"]["before"] == result["retune"]["after"])
    assert result["objective"]["kind"] == "cost"
    assert sys.platform != "linux" or result["verification"]["memory_within"] is True


@pytest.mark.slow
def test_profiles_are_compared(tuned: tuple[dict, str], folder: Path) -> None:
    """Each with its figures and its ratios to the first; one that answers wrongly is named, and the exit code is 1."""
    first = folder / "float.toml"
    profile = Profile.load(folder / tuned[0]["profile"])
    floats = changed(profile.settings, engine={"name": "onnxruntime", "precision": "f32"})  # whichever won the race
    msgspec.structs.replace(profile, settings=floats).save(first)
    rounded = changed(floats, engine={"precision": "int8"})
    msgspec.structs.replace(profile, settings=rounded).save(folder / "rounded.toml")
    command = [*TUNE, "--compare", first.name, "rounded.toml", "--accuracy", "exact", "--budget", "5s"]
    done = subprocess.run(
        [*command, "--rate", "500", "--slo", "50ms", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    record = validated("tune", done.stdout)
    item, other = record["profiles"]
    assert (item["right"], other["right"], record["worse"]) == (True, False, True)
    assert item["samples"] >= 459
    assert item["verdict"] is None
    assert item["slo_met"] in {True, False, None}


def test_whether_requests_are_batched_is_reported_with_its_reason(tuned: tuple[dict, str]) -> None:
    """In the result with every source, and while the tune runs."""
    result, story = tuned
    assert result["rows"]["batched"] is True
    assert result["rows"]["setting"] == "auto"
    assert "keeps the rows apart" in result["rows"]["reason"]
    assert set(result["rows"]["evidence"]) == {"signature", "graph", "proof"}
    assert "rows independent, batched" in story


def test_the_verification_is_of_all_arms_on_fresh_samples(tuned: tuple[dict, str]) -> None:
    """Baseline and tuned at one rate, without errors, and the ratios with their intervals; no reference in a short one.

    On a machine that is busy with other things the client can be late, the time too short or the rate too high for an
    arm: no percentile of that arm is told then, and no ratio to it.
    """
    checked = tuned[0]["verification"]
    told, few = set(), set()
    assert "reference" not in checked
    for arm in ("baseline", "tuned"):
        assert checked[arm]["samples"] > 100
        assert checked[arm]["errors"] == 0
        assert sys.platform != "linux" or checked[arm]["cost"]["cpu_ns"] > 1_000
        p50, p95, p99 = (checked[arm][name] for name in ("p50_ms", "p95_ms", "p99_ms"))
        told |= {arm} if p99 is not None else set()
        few |= {arm} if checked[arm]["samples"] < 459 else set()
        assert p50 <= p95 <= p99 if arm in told else p50 is p95 is None or arm in few
    assert (checked["no_ratio_because"] is None) is ({"baseline", "tuned"} <= told) or few
    assert (checked["p99_ratio"] is None) is not ({"baseline", "tuned"} <= told)
    assert checked["reference_p99_ratio"] is None
    for name in ("p99_ratio", "throughput_ratio"):
        ratio = checked[name]
        assert ratio is None or ratio["low"] <= ratio["point"] <= ratio["high"]
    assert checked["slo_met"] in {True, False, None}
    accuracy = tuned[0]["accuracy"]
    assert accuracy["worst"] >= 0.999
    assert (accuracy["right"], accuracy["metric"], accuracy["differing"]) == (True, "built-in", None)
    assert accuracy["spread"] < 0.045
    assert accuracy["requests"] > 100


def test_the_profile_says_where_it_comes_from(tuned: tuple[dict, str], folder: Path) -> None:
    """Settings, machine, the model's hash and the evidence stand in the file, and the server runs it."""
    profile = Profile.load(folder / tuned[0]["profile"])
    profile.verify_model()
    assert profile.machine["usable_cpus"] >= 1
    assert profile.evidence["verified"] is True
    assert profile.evidence["rate_offered"] == 1200
    assert profile.evidence["clients"] == tuned[0]["verification"]["clients"]
    closed = profile.evidence.get("saturated") or profile.evidence["tuned"]
    loop = read_measured(folder / tuned[0]["profile"]).loop
    assert loop is not None
    assert loop.throughput == closed["throughput"] > 0
    assert profile.evidence["tuned"]["samples"] == tuned[0]["verification"]["tuned"]["samples"] > 0
    assert profile.evidence["rows"]["rows"] == "independent"
    assert profile.settings.batching.rows == "auto"
    service = msgspec.convert(profile.evidence["service"], MeasuredService)  # what `tailcut plan` simulates with
    assert service.sizes[0] == 1
    assert 1 < float(np.median(service.quantiles_us[0])) < 100_000
    assert sum(service.way_in.values()) > 0
    with serving(folder, folder / tuned[0]["profile"]) as server, server.connect() as wire:
        assert wire.ask(b"GET /v2/models/mlp/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200


def test_the_report_stands_beside_it(tuned: tuple[dict, str], folder: Path) -> None:
    """One HTML file that names the model and shows how to do it again."""
    page = (folder / tuned[0]["report"]).read_text(encoding="utf-8")
    assert "mlp" in page
    assert "tailcut tune mlp.onnx --data mlp.npz" in page
    assert "Requests are batched (rows independent)" in page


@pytest.mark.slow
def test_control_c_keeps_the_best_so_far(folder: Path) -> None:
    """An interrupted tune writes a profile that serves, says that it is not verified, and leaves with 130.

    The model's name needs percent-encoding in every URL.
    """
    model = perceptron([16, 32, 4], folder / "a b% 模型?.onnx")
    command = [*TUNE, model.name, "--budget", "15s", "-o", "stopped.toml", "--report", "stopped.html", "--json"]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with killed_at_end(child):
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("racing"):
                break
        for _ in range(2):  # the second one while the first is handled
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.2)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert validated("tune", out)["verification"] is None
    assert "interrupted: the profile contains the best settings so far" in err
    assert "Traceback" not in err
    stopped = Profile.load(folder / "stopped.toml")
    stopped.verify_model()
    assert stopped.evidence["verified"] is False
    assert stopped.settings.io.wire == "raw"  # the best so far, which is not the baseline
    assert "Not verified" in (folder / "stopped.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["mlp.onnx", "-o", "kept.toml"], ["--retune", "kept.toml"]])
def test_control_c_before_the_race_writes_nothing(folder: Path, arguments: list[str]) -> None:
    """The profile that lies there stays as it is, byte by byte; one line says so, and the command leaves with 130."""
    settings = changed(BASELINE, engine={"threads": 1}, batching={"max_batch_size": 4})
    Profile.of_model(folder / "mlp.onnx", settings).save(folder / "kept.toml")
    before = (folder / "kept.toml").read_bytes()
    command = [*TUNE, *arguments, "--budget", "30s", "--report", "kept.html", "--json"]
    code, out, err = interrupted(command, folder, "the baseline sustains")
    assert code == 130, err
    assert (folder / "kept.toml").read_bytes() == before
    assert not (folder / "kept.html").exists()
    assert err.splitlines()[-1] == "tailcut: interrupted before anything better was found: no file was written"
    result = validated("tune", out)
    assert (result["profile"], result["report"], result["objective"]["interrupted"]) == (None, None, True)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_the_first_phase_says_that_nothing_is_written(
    folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """While the model is learned, and there is nothing to tell yet."""
    command = [*TUNE, "mlp.onnx", "--budget", "30s", "-o", str(tmp_path / "early.toml")]
    ended, out, err = interrupted(command, folder, "computing the reference", number)
    assert (ended, out) == (code, ""), err
    assert err.splitlines()[-1] == "tailcut: interrupted before anything better was found: no file was written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [("the baseline sustains", 143), ("racing", 130)])
def test_sigterm_ends_a_tune_as_control_c_does(folder: Path, tmp_path: Path, words: str, code: int) -> None:
    """Nothing of it stays in the folder of temporary files, and what was found is written."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    files = [str(tmp_path / "ended.toml"), "--report", str(tmp_path / "ended.html")]
    command = [*TUNE, "mlp.onnx", "--budget", "15s", "--json", "-o", *files]
    result = interrupted(command, folder, words, signal.SIGTERM, os.environ | {"TMPDIR": str(temporary)})
    assert result[0] == code, result[2]
    assert validated("tune", result[1])["objective"]["interrupted"] is True
    assert "Traceback" not in result[2]
    assert (tmp_path / "ended.toml").exists() is (code == 130)
    assert list(temporary.glob("tailcut-*")) == []


@pytest.mark.slow
def test_wrong_answers_in_the_verification_leave_no_profile(folder: Path) -> None:
    """Exit code 1 and one line that names settings and measure; neither profile nor report; JSON says the same."""
    (folder / "never.py").write_text(
        "def equal(reference, candidate):\n"
        "    return all(a[name] is b[name] for a, b in zip(reference, candidate) for name in a)\n"
    )
    arguments = ["mlp.onnx", "--metric", "never:equal", "--budget", "5s", "-o", "wrong.toml", "--report", "wrong.html"]
    done = subprocess.run(
        [*TUNE, *arguments, "--json"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tailcut: no profile written: wrong answers with batching.bind=False")
    assert last.endswith("never:equal is 0, below 0.999")
    result = validated("tune", done.stdout)
    assert (result["profile"], result["report"], result["verification"]) == (None, None, None)
    assert result["accuracy"]["right"] is False
    assert result["objective"]["metric"] == "never:equal"
    for rung in result["rungs"]:
        assert {candidate["verdict"] for candidate in rung["candidates"]} <= {
            "rejected",
            "estimated",
            "indistinct",
            "better",
            "worse",
        }
    assert not (folder / "wrong.toml").exists()
    assert not (folder / "wrong.html").exists()


def _broken(folder: Path) -> None:
    (folder / "empty.onnx").touch()
    (folder / "noise.onnx").write_bytes(b"\xff\x00noise" * 40)
    (folder / "not.npz").write_bytes(b"nothing of the kind")
    np.savez(folder / "other.npz", z=np.zeros((3, 16), np.float32))
    np.savez(folder / "wide.npz", x=np.zeros((3, 17), np.float32))
    np.savez(folder / "none.npz", x=np.zeros((0, 16), np.float32))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.onnx"], "nowhere.onnx: no such model file"),
        (["empty.onnx"], "empty.onnx: the model file is empty"),
        (["noise.onnx"], "noise.onnx: not an ONNX model"),
        (["stopped.toml"], "give the model itself"),
        (["mlp.onnx", "--data", "nowhere.npz"], "nowhere.npz: no such data file"),
        (
            ["mlp.onnx", "--data", "not.npz"],
            "not a readable .npz file: write one with numpy.savez(path, NAME=array), or a .jsonl",
        ),
        (["mlp.onnx", "--data", "other.npz"], "has no array 'x'"),
        (["mlp.onnx", "--data", "wide.npz"], "[3, 17]"),
        (["mlp.onnx", "--data", "none.npz"], "no rows"),
        (["mlp.onnx", "--accuracy", "high"], "--accuracy"),
        (["mlp.onnx", "--metric", "nowhere_at_all:f"], "--metric: nowhere_at_all cannot be imported"),
        (["mlp.onnx", "--metric", "json:dumps", "--accuracy", "exact"], "a number as --accuracy"),
        (["mlp.onnx", "--budget", "1s"], "--budget"),
        (["mlp.onnx", "--slo", "quick"], "quick"),
        (["mlp.onnx", "--rate", "-1"], "rate"),
        (["mlp.onnx", "--rate", "1e12"], "a run has at most 100,000,000"),
        (["mlp.onnx", "--slo", "20"], "--slo 20: 20ms or 20s?"),
        (["mlp.onnx", "--rate", "inf"], "'--rate': inf is not a finite number"),
        (["mlp.onnx", "--rate", "nan"], "'--rate': nan is not a finite number"),
        (["mlp.onnx", "-o", "tuned"], "-o tuned: a profile's name ends in .toml, such as tuned.toml"),
        (["mlp.onnx", "-o", "mlp.onnx"], "-o mlp.onnx: a profile's name ends in .toml"),
        (["mlp.onnx", "--report", "mlp.onnx"], "--report mlp.onnx would overwrite mlp.onnx, which is read"),
        (["mlp.onnx", "--data", "mlp.npz", "--report", "./mlp.npz"], "would overwrite mlp.npz, which is read"),
        (["mlp.onnx", "-o", "p.toml", "--report", "p.toml"], "--report p.toml would overwrite the file of -o"),
        (["mlp.onnx", "--report", "mlp.trials.jsonl"], "the trials mlp.trials.jsonl would overwrite the file of"),
        (["mlp.onnx", "--outputs", "y, z"], "the model has no output 'z'"),
        (["mlp.onnx", "-o", "no/such/folder/p.toml"], "no such folder"),
        (["mlp.onnx", "--memory", "lots"], "not an amount of memory"),
        (["mlp.onnx", "--objective", "joy"], "--objective"),
        (["mlp.onnx", "--cpus", "0"], "--cpus"),
        (["mlp.onnx", "--rates", "1,2"], "--rate for one"),
        (["mlp.onnx", "--slo", "1ms,2ms"], "2 limits for 1 model"),
        (["mlp.onnx", "--data", "none.npz", "--data", "none.npz"], "2 files for 1 model"),
        (["mlp.onnx", "--retune", "p.toml"], "leave out MODEL"),
        (["--retune", "nowhere.toml"], "nowhere.toml: no such profile"),
        (["--compare", "p.toml", "q.toml", "--markdown"], "leave out options of the search"),
        (["--compare", "p.toml", "q.toml", "--wire", "json"], "leave out options of the search"),
        (["--compare", "p.toml", "q.toml", "--batching", "on"], "leave out options of the search"),
        (["--compare", "p.toml"], "two or more profiles"),
        (["--compare", "p.toml", "q.toml"], "p.toml: no such profile"),
        (["mlp.onnx", "--colour"], "--colour"),
        ([], "MODEL"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, mistake: Callable[..., str], arguments: list[str], words: str) -> None:
    """What is wrong and where, before any time is spent: exit code 2, nothing on stdout."""
    _broken(folder)
    assert words in mistake(folder, "tune", *arguments)


def test_profiles_of_pipelines_are_compared_by_bench(folder: Path) -> None:
    """The message names what bench has: a command that can be given."""
    (folder / "compared.py").write_text("")
    model = ModelRef(path="compared.py:pipeline", sha256=file_hash(folder / "compared.py"), name="compared")
    for name in ("one.toml", "two.toml"):
        Profile(model=model).save(folder / name)
    with pytest.raises(UsageError, match=r"compare with tailcut bench (--\w+) and (--\w+)") as caught:
        models_of([folder / "one.toml", folder / "two.toml"], None, compare=True)
    words = re.findall(r"--\w+", str(caught.value))
    helped = subprocess.run(
        [sys.executable, "-m", "tailcut", "bench", "--help"], capture_output=True, text=True, check=True
    )
    assert [word for word in words if word not in helped.stdout] == []
