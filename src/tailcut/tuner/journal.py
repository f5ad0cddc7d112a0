"""The journal of a tune, beside its profile: every estimate and trial as a JSON line, appended as soon as it is known.

A line has the key of what it was measured on: the model's hash, the engines' versions, the machine, the shape of a
request, and the settings. A later tune with the same key reuses estimates and request overheads of the last hours, so
a tune that was killed continues where it stopped. Races and verifications are stored but never reused: claims are
always measured anew.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tailcut.engines import EngineOptions
from tailcut.lab.trial import FAILED_MS
from tailcut.machine.fingerprint import fingerprint
from tailcut.runtime.pipeline_settings import StageSettings
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import Wiring

_HOURS = 6.0  # older measurements are repeated: the machine may have changed
_READ_BYTES = 16 << 20  # of the end of the file
_QUANTILES = 64  # of the times of one batch size
_VERSIONS = ("tailcut", "onnxruntime", "openvino", "torch", "numpy", "python")


@dataclass(frozen=True, slots=True)
class Key:
    """What all lines of one tune were measured on."""

    model: str
    engines: str
    machine: str
    request: str

    @classmethod
    def of(cls, model: Path, requests: Sequence[Mapping[str, np.ndarray]], rows: str) -> "Key":
        """The key of a model file on this machine, measured with these requests.

        Raises:
            ModelFileError: the model cannot be read.
        """
        return cls.of_ref(Profile.of_model(model).with_weights().model, requests, rows)

    @classmethod
    def of_ref(cls, ref: ModelRef, requests: Sequence[Mapping[str, np.ndarray]], rows: str) -> "Key":
        """The key of a model or pipeline given by its hashes."""
        facts = fingerprint()
        engines = " ".join(f"{name} {facts[name]}" for name in _VERSIONS if name in facts)
        machine = {name: value for name, value in facts.items() if name not in _VERSIONS}
        digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
        shapes = " ".join(
            f"{name}:{array.dtype}{list(array.shape)}" for request in requests for name, array in request.items()
        )
        return cls(f"{ref.sha256} {ref.weights or ''}".strip(), engines, digest, f"{shapes} rows:{rows}")


class Journal:
    """A file of JSON lines; without a path or key nothing is stored.

    Args:
        path: of the file; None stores nothing.
        key: of the lines to write, and of those to reuse.
        fresh: reuse nothing.
        warn: called once with a message if the file cannot be written; after that nothing more is stored.
    """

    def __init__(
        self, path: Path | None, key: Key | None, *, fresh: bool = False, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = path if key is not None else None
        self._key = {} if key is None else asdict(key)
        self.warn = warn
        self._fails = False
        oldest = time.time() - _HOURS * 3600
        self._known = [] if fresh or self._path is None else list(_lines(self._path, self._key, oldest))
        if self._path is not None:
            self._write(_end_line, self._path)

    @property
    def name(self) -> str:
        """The file's name."""
        return "" if self._path is None else self._path.name

    def add(self, kind: str, settings: Settings | EngineOptions | StageSettings, **values: Any) -> None:
        """Append one line, unless the file could not be written before."""
        if self._path is None or self._fails:
            return
        entry = {"kind": kind, "at": round(time.time(), 3), **self._key, "settings": msgspec.to_builtins(settings)}
        data = json.dumps(entry | values, default=float).encode() + b"\n"
        self._write(_append, self._path, data)

    def _write(self, write: Callable[..., None], path: Path, *args: bytes) -> None:
        """Write, or warn why that fails: minutes of measurements are not given up for their record."""
        try:
            write(path, *args)
        except OSError as error:
            self._fails = True
            self.warn(f"{path} cannot be written: {error.strerror}: the tune continues without it")

    def add_block(self, kind: str, settings: Settings, rate: float, latencies_ms: np.ndarray, **values: Any) -> None:
        """Store one open-loop block as soon as it was measured.

        Args:
            kind: of the line.
            settings: of the server.
            rate: requests per second offered.
            latencies_ms: of shape (answers,); failed requests are `FAILED_MS`.
            values: further keys of the line.
        """
        answered = latencies_ms[latencies_ms < FAILED_MS]
        p50_ms, p99_ms = np.quantile(answered, (0.5, 0.99)).round(4).tolist() if len(answered) else (None, None)
        figures = {"rate": rate, "samples": len(answered), "errors": len(latencies_ms) - len(answered)}
        self.add(kind, settings, **figures, p50_ms=p50_ms, p99_ms=p99_ms, **values)

    def add_estimate(self, estimate: EngineEstimate, *, whole: bool = True) -> None:
        """Store one engine configuration's measurements, or why there are none; the latest line of each counts.

        Args:
            estimate: what was measured.
            whole: whether all sizes were measured; if not, the configuration is measured again.
        """
        values = _estimate_values(estimate)
        self.add("estimate", estimate.options, **values, **({} if whole else {"whole": False}))

    def estimates(self, choices: Sequence[EngineOptions]) -> list[EngineEstimate]:
        """The stored estimates of these configurations, the latest of each; none that failed or was disturbed."""
        estimates: dict[EngineOptions, EngineEstimate] = {}
        for line in self._of("estimate"):
            options = _converted(line["settings"], EngineOptions)
            if options in choices and not line.get("error") and line.get("times_ns") and line.get("whole", True):
                estimates[options] = _estimate(options, line)
        return [estimate for estimate in estimates.values() if not estimate.was_disturbed]

    def add_way(self, settings: Settings, way: WayIn, *, measured: bool = True) -> None:
        """Store the request overhead with these settings; assumed values (`measured=False`) are not reused."""
        self.add("way", settings, **asdict(way), **({} if measured else {"measured": False}))

    def way(self, settings: Settings) -> WayIn | None:
        """The latest stored request overhead with these settings."""
        way = None
        for line in self._of("way"):
            if line.get("measured", True) and _converted(line["settings"], Settings) == settings:
                way = WayIn(**{name: int(line[name]) for name in WayIn.__dataclass_fields__ if name in line})
        return way

    def add_engine_ns(self, options: EngineOptions, slower_ns: int) -> None:
        """Store how much slower the loop is, for each batch, after this engine."""
        self.add("after_engine", options, slower_ns=slower_ns)

    def engine_ns(self, engine: str) -> int | None:
        """The latest stored value of `add_engine_ns` for an engine, in nanoseconds."""
        slower_ns = None
        for line in self._of("after_engine"):
            if line["settings"]["name"] == engine:
                slower_ns = int(line["slower_ns"])
        return slower_ns

    def add_wiring(self, settings: Settings, wiring: Wiring) -> None:
        """Store the fastest wire and socket, of those that a server of these settings accepts."""
        self.add("wiring", settings, **asdict(wiring))

    def wiring(self, settings: Settings) -> Wiring | None:
        """The latest stored wire and socket for these settings."""
        wiring = None
        for line in self._of("wiring"):
            if _converted(line["settings"], Settings) == settings:
                wiring = Wiring(line["wire"], line["socket"])
        return wiring

    def add_stage(self, name: str, times_ns: Mapping[int, float], cpu_ns: Mapping[int, float], memory: int) -> None:
        """Store a pipeline stage's times and CPU times per call (ns, by batch size), and its memory in bytes."""
        values = {"times_ns": _by_size(times_ns), "cpu_ns": _by_size(cpu_ns), "memory_bytes": memory}
        self.add("stage", StageSettings(name=name), **values)

    def stage(self, name: str) -> tuple[dict[int, float], dict[int, float], int] | None:
        """The latest stored times, CPU times and memory of a stage."""
        result = None
        for line in self._of("stage"):
            settings = _converted(line["settings"], StageSettings)
            if settings is not None and settings.name == name:
                times, cpu = ({int(k): float(v) for k, v in line[key].items()} for key in ("times_ns", "cpu_ns"))
                result = times, cpu, int(line["memory_bytes"])
        return result

    def _of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (line for line in self._known if line["kind"] == kind)


def _estimate_values(estimate: EngineEstimate) -> dict[str, Any]:
    if estimate.error is not None:
        return {"error": estimate.error}
    return {
        "times_ns": {str(size): _quantiles(estimate.times_ns[size]) for size in estimate.sizes},
        "paused_ns": _quantiles(estimate.paused_ns) if estimate.paused_ns else [],
        "cpu_ns": {str(size): round(value) for size, value in estimate.cpu_ns.items()},
        "memory_bytes": estimate.memory_bytes,
        "load_s": round(estimate.load_s, 4),
        "batched": estimate.batched,
    }


def _by_size(values: Mapping[int, float]) -> dict[str, int]:
    return {str(size): round(value) for size, value in values.items()}


def _quantiles(times: Sequence[np.ndarray]) -> list[int]:
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return [round(value) for value in np.quantile(np.concatenate(times), shares).tolist()]


def _estimate(options: EngineOptions, line: Mapping[str, Any]) -> EngineEstimate:
    return EngineEstimate(
        options,
        {int(size): [np.array(values, np.int64)] for size, values in line["times_ns"].items()},
        [np.array(line["paused_ns"], np.int64)] if line["paused_ns"] else [],
        {int(size): float(value) for size, value in line["cpu_ns"].items()},
        int(line["memory_bytes"]),
        float(line["load_s"]),
        bool(line["batched"]),
    )


def _converted(value: Any, kind: type[Any]) -> Any:
    """A stored value as a struct; None where another version wrote it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def lines_of(path: Path, ref: ModelRef) -> list[dict[str, Any]]:
    """Every readable line of one model, however old and on whatever machine, the latest last; none without a file."""
    return list(_lines(path, {"model": f"{ref.sha256} {ref.weights or ''}".strip()}, 0.0))


def _lines(path: Path, key: Mapping[str, str], oldest: float) -> Iterator[dict[str, Any]]:
    """Yield the lines since a time with this key; a line that was cut off or is damaged is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            data = file.read()
    except OSError:
        return
    for text in data.splitlines():
        try:
            line = json.loads(text)
            if line["at"] >= oldest and all(line[name] == value for name, value in key.items()) and line["kind"]:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def _append(path: Path, data: bytes) -> None:
    """Append all of the data: on a nearly full disk, a write may store only a part before the next one fails."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def _end_line(path: Path) -> None:
    """Terminate a last line that was cut off, so that the next one is not appended to it."""
    try:
        with path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return
