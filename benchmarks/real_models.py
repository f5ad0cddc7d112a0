"""Models that other people made, through every step of Tailcut: one row a model and engine, no cell may be wrong.

    python benchmarks/real_models.py [--models minilm,ocr6_rec] [--engines onnxruntime,openvino] [--tune 20s]
                                     [--clients 12] [--requests 240] [-o FILE]

| column | what was done |
|---|---|
| loads | the engine opens the file |
| rows | what Tailcut found out about the model's rows, and by what |
| alone | each request asked alone in process, compared with onnxruntime's own answer |
| together | the same requests from `--clients` connections at once, through `tailcut serve` |
| req/s | answers per second of that run: Python's client, so it compares rows of this table only |
| tuned | `tailcut tune` without data, then its profile served and asked together |
| tuned, data | likewise, with the requests as `--data` |

The truth is `onnxruntime.InferenceSession(model).run(None, request)` for each request alone, with its defaults. A cell
is `right`, `WRONG (what)`, or the reason why it was refused, in Tailcut's own words. Exits with 1 when a cell is wrong.
Models come from `model_zoo.py`, which downloads packages once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from model_zoo import SOURCES, Feeds, fetch

from tailcut import Client
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import TailcutError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

Answers = list[dict[str, np.ndarray]]
ENGINES = ("onnxruntime", "openvino")
REQUESTS = 15  # distinct ones of each model
RTOL = {"onnxruntime": 1e-3, "openvino": 5e-3}  # of the answer's largest magnitude: rounding in another order
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "ignore"}


class RefusedError(Exception):
    """A step was refused, with the reason as a user reads it."""


@dataclass(slots=True)
class Row:
    """One model on one engine."""

    model: str
    engine: str
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return any(cell.startswith("WRONG") for cell in self.cells.values())


COLUMNS = ("loads", "rows", "alone", "together", "req/s", "tuned", "tuned, data")


def requests_of(name: str) -> list[Feeds]:
    random = np.random.default_rng(7)
    return [SOURCES[name].make(random, number) for number in range(REQUESTS)]


def truth_of(path: Path, requests: Sequence[Feeds]) -> Answers:
    """onnxruntime's own answers; a ZipMap's dictionaries become the array of their values."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [
        {name: _plain(value) for name, value in zip(names, session.run(None, request), strict=True)}
        for request in requests
    ]


def _plain(value: object) -> np.ndarray:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(item.values()) for item in value], np.float32)
    return np.asarray(value)


def difference(expected: np.ndarray, actual: np.ndarray, rtol: float, usual: float) -> str:
    """What is wrong with an array; nothing when it is right.

    Beside its own magnitude, or a hundredth of the output's `usual` one: a detector that finds nothing answers numbers
    of 1e-7, of which rounding is a good part.
    """
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} for {list(expected.shape)}"
    if expected.dtype.kind in "OSU":
        text = [item.decode() if isinstance(item, bytes) else item for item in actual.reshape(-1).tolist()]
        return "" if text == expected.reshape(-1).tolist() else "other strings"
    if expected.dtype.kind != "f":
        return "" if np.array_equal(expected, actual) else "other values"
    scale = max(float(np.abs(expected).max(initial=0.0)), usual / 100) or 1.0
    off = float(np.abs(expected.astype(np.float64) - actual).max(initial=0.0)) / scale
    return "" if off <= rtol else f"off by {off:.2g}"


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0)) if array.dtype.kind == "f" else 0.0


def compare(truth: Answers, answers: Sequence[dict[str, np.ndarray] | Exception | None], rtol: float) -> str:
    """A cell: right, or how many answers are wrong and how the first one is."""
    faults = []
    usual = {name: max(map(_magnitude, (item[name] for item in truth))) for name in truth[0]}
    for number, (want, got) in enumerate(zip(truth, answers, strict=True)):
        if not isinstance(got, dict):
            faults.append(f"request {number}: {got}")
            continue
        message = [f"{name}: {text}" for name in want if (text := difference(want[name], got[name], rtol, usual[name]))]
        faults += [f"request {number}, {text}" for text in message[:1]]
    return "right" if not faults else f"WRONG ({len(faults)} of {len(truth)}; {faults[0]})"


def alone(path: Path, engine: str, requests: Sequence[Feeds], truth: Answers) -> str:
    opened = open_engine(path, EngineOptions(name=engine))  # type: ignore[arg-type]  # one of ENGINES
    try:
        return compare(truth, [opened.run(request) for request in requests], RTOL[engine])
    finally:
        opened.close()


@contextmanager
def serving(*sources: Path) -> Iterator[tuple[str, Path]]:
    """`tailcut serve` in a process of its own; its address, and where its log is."""
    with tempfile.NamedTemporaryFile("w+b", suffix=".log") as log:
        command = [sys.executable, "-m", "tailcut", "serve", *map(str, sources), "--port", "0", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait(30)
                raise RefusedError(last_line(Path(log.name).read_text()))
            address = json.loads(line)
            yield f"http://{address['host']}:{address['port']}", Path(log.name)
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()


def together(  # noqa: PLR0913, PLR0917  a run is its parameters
    url: str, model: str, requests: Sequence[Feeds], truth: Answers, arguments: argparse.Namespace, rtol: float
) -> tuple[str, float]:
    """Send requests from many connections at once and compare every answer; the cell, and answers per second."""
    total = arguments.requests
    answers: list[dict[str, np.ndarray] | Exception | None] = [None] * total
    numbers = iter(range(total))
    lock = threading.Lock()

    def ask() -> None:
        with Client(url, timeout_s=60) as client:
            while True:
                with lock:
                    number = next(numbers, -1)
                if number < 0:
                    return
                try:
                    answers[number] = client.infer(model, requests[number % len(requests)])
                except Exception as error:  # noqa: BLE001  whatever it is, it stands in the cell
                    answers[number] = error

    threads = [threading.Thread(target=ask) for _ in range(arguments.clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    return compare([truth[number % len(truth)] for number in range(total)], answers, rtol), total / took


def last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("tailcut: ") if lines else "no reason was given"


def tuned(model: Path, requests: Sequence[Feeds], truth: Answers, arguments: argparse.Namespace, *, data: bool) -> str:
    """Tune, serve the profile, ask together. The gate's own bound applies to what a precision may change."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / f"{model.stem}.profile.toml"
        command = [sys.executable, "-m", "tailcut", "tune", str(model), "--budget", arguments.tune, "-o", str(profile)]
        if data:
            np.savez(Path(folder) / "data.npz", **{f"{k}/{n}": a for n, r in enumerate(requests) for k, a in r.items()})
            command += ["--data", str(Path(folder) / "data.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        if done.returncode or not profile.exists():
            raise RefusedError(last_line(done.stderr))
        settings = Profile.load(profile).settings
        rtol = RTOL[settings.engine.name] if settings.engine.precision == "f32" else 0.1
        with serving(profile) as (url, _):
            cell, _ = together(url, model.stem, requests, truth, arguments, rtol)
        kept = f"{settings.engine.name} {settings.engine.precision}"
        return f"{cell} ({kept})" if cell == "right" else f"{cell[:-1]}; {kept})"


def rows_of(log: str) -> str:
    """What the server's log says about the model's rows."""
    lines = [line for line in log.splitlines() if "independent" in line or "dependent" in line or "unknown" in line]
    return lines[0].split(": ", 1)[-1][:110] if lines else "not said"


def measure(name: str, engine: str, arguments: argparse.Namespace) -> Row:
    row = Row(name, engine)
    path = fetch(name)
    requests = requests_of(name)
    truth = truth_of(path, requests)
    try:
        row.cells["alone"] = alone(path, engine, requests, truth)
        row.cells["loads"] = "yes"
    except TailcutError as error:
        row.cells["loads"] = f"refused: {error}".replace(f"{path}: ", "")
        return row
    with tempfile.TemporaryDirectory() as folder:
        source = path
        if engine != ENGINES[0]:
            source = Path(folder) / f"{name}.toml"
            options = EngineOptions(name=engine)  # type: ignore[arg-type]  # one of ENGINES
            Profile.of_model(path, Settings(engine=options), name).save(source)
        try:
            with serving(source) as (url, log):
                cell, rate = together(url, name, requests, truth, arguments, RTOL[engine])
                row.cells["together"], row.cells["req/s"] = cell, f"{rate:,.0f}"
                row.cells["rows"] = rows_of(log.read_text())
        except RefusedError as reason:
            row.cells["together"] = f"refused: {reason}"
    if engine == ENGINES[0] and arguments.tune != "0":
        for column, data in (("tuned", False), ("tuned, data", True)):
            try:
                row.cells[column] = tuned(path, requests, truth, arguments, data=data)
            except RefusedError as reason:
                row.cells[column] = f"refused: {reason}".replace(str(path), path.name)
    return row


def table(rows: Sequence[Row]) -> str:
    lines = [f"| model | engine | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        cells = [row.cells.get(column, "").replace("|", "/") for column in COLUMNS]
        lines.append(f"| {row.model} | {row.engine} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SOURCES), help="names from model_zoo.py")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--tune", default="20s", help="the budget of a tune; 0 leaves the two last columns empty")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        for engine in arguments.engines.split(","):
            rows.append(measure(name, engine, arguments))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.output:
        arguments.output.write_text(table(rows) + "\n")
    wrong = [f"{row.model} on {row.engine}" for row in rows if row.wrong]
    print(f"\n{len(rows)} rows, {len(wrong)} wrong{': ' + ', '.join(wrong) if wrong else ''}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
