"""A profile: the frozen settings of one model, their evidence, and the versioned TOML file they live in.

The profile is all that tuner and server share, so what was measured is what ships. Files are written whole or not at
all: to a temporary sibling, then renamed.
"""

import hashlib
import logging
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from tailcut.engines.base import EngineOptions, parse_fixed_dim
from tailcut.engines.files import ENGINES_OF, FileKind, kind_of, model_name, parts_of
from tailcut.engines.none import read_signature
from tailcut.errors import MissingProfileError, ModelFileError, ProfileError, UnsupportedError
from tailcut.machine.allocator import Allocator
from tailcut.runtime.pipeline_settings import PipelineSettings
from tailcut.runtime.profile_schema import SCHEMA, upgrade
from tailcut.runtime.rows import SETTING_OF, Batching, RowsSetting
from tailcut.runtime.samples import SampleRequest
from tailcut.spec import ModelSpec

_log = logging.getLogger("tailcut")
_MOST_BUCKETS = 64
_LARGEST_BYTES = 16 << 20
_LARGEST_INT = 1 << 63
_NO_COPY = "settings.engine.precision = 'int8_static' needs [model.quantized], which tailcut tune --data writes"
_TOO_DEEP = "its values lie too deep in one another"
# A dotted key of more parts than any profile's; each look begins where a word does, so that looking takes linear time.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""", re.ASCII)


class PaddedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input that is filled up along its free dimension, and with what."""

    name: str
    value: float = 0.0


class PaddingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of different lengths share a batch: each is filled up to the smallest bucket that holds it."""

    buckets: tuple[int, ...]  # lengths, ascending
    inputs: tuple[PaddedInput, ...]


class BatchingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests share an engine call."""

    max_batch_size: int = 1
    max_queue_delay_us: int = 0  # longest wait for company while an engine is idle; 0 never waits
    bind: bool = True  # the engine computes on slab rows in place; false copies in and out by `run`
    # On a thread of its own; on the loop's thread; or there only a short batch that nothing else waits for.
    dispatch: Literal["worker", "inline", "adaptive"] = "worker"
    padding: PaddingSettings | None = None  # of a free dimension beside the batch
    rows: RowsSetting = "auto"  # whether requests may be merged and split; auto: where the evidence says so


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows live, and what the collector may touch."""

    huge_pages: bool = False  # ask for transparent huge pages under the slab
    prefault: bool = False  # touch every page of the slab at start
    lock: bool = False  # keep the slab's pages from being swapped out
    allocator: Allocator = "system"  # of the whole process: loaded before anything else by `tailcut serve`
    keep_freed: bool = False  # the C library keeps freed memory instead of giving it back to the kernel
    gc_freeze: bool = False  # freeze the collector after load and collect only between batches


class IoSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bytes reach the rows."""

    wire: Literal["json", "binary", "raw"] = "binary"  # what clients sent when it was measured; all are always served
    direct_bytes: int = 65536  # bodies at least this long are received by the kernel straight into the row
    busy_poll_us: int = 0  # after an answer, poll the sockets for so long instead of sleeping in the kernel
    fast_path: bool = True  # compiled code serves connections that repeat themselves
    socket: Literal["tcp", "unix"] = "tcp"  # what clients connected to when it was measured; see `serve --uds`
    workers: int = 1  # processes that `tailcut serve` starts, where its own --workers says nothing


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a rung of the ladder may turn."""

    engine: EngineOptions = EngineOptions()
    batching: BatchingSettings = BatchingSettings()
    memory: MemorySettings = MemorySettings()
    io: IoSettings = IoSettings()
    pipeline: PipelineSettings | None = None  # of its steps, where it is a pipeline that was tuned

    def describe(self, base: "Settings | None" = None) -> str:
        """The settings that differ from `base` (default: the defaults), as `engine.threads=2 io.workers=2`."""
        base = base or Settings()
        mine, theirs = msgspec.to_builtins(self), msgspec.to_builtins(base)
        words = [
            f"{section}.{key}={_brief(value)}"
            for section, values in mine.items()
            if section != "pipeline"
            for key, value in values.items()
            if value != theirs[section][key]
        ]
        steps = "" if self.pipeline is None else self.pipeline.describe(base.pipeline)
        return " ".join([*words, steps] if steps else words)


class QuantizedRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The quantised copy of a model that precision int8_static runs; `path` as the model's own."""

    path: str
    sha256: str


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model the settings are for. `path` is relative to the profile's own folder where it can be."""

    path: str
    sha256: str
    name: str
    weights: str | None = None  # a hash of samples of its external weights, where it has any
    signature: tuple[str, ...] = ()  # a line for each input and output, as `ModelSpec.signature` has them
    quantized: QuantizedRef | None = None  # a file that `tailcut tune --data` wrote


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another model in the server that a profile was measured in, and how much it was asked."""

    name: str
    sha256: str  # of its file
    rate: float  # requests a second
    limit_ms: float  # that its p99 was held to


class Together(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a profile was measured in one server with others, and how much it was asked itself."""

    rate: float  # requests a second
    limit_ms: float  # that its p99 was held to
    neighbours: tuple[Neighbour, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's settings with the machine and the measurements they rest on."""

    schema: int = SCHEMA
    model: ModelRef
    settings: Settings = Settings()
    samples: tuple[SampleRequest, ...] = ()  # kinds of requests in the data it was tuned with, for warming up
    together: Together | None = None  # where it was tuned together with other models
    machine: dict[str, Any] = {}
    evidence: dict[str, Any] = {}

    @classmethod
    def of_model(cls, path: Path, settings: Settings | None = None, name: str | None = None) -> "Profile":
        """A profile for a bare model file; settings of an engine that does not compute such files get one that does.

        Raises:
            ModelFileError: the file is missing, unreadable, empty, or of a kind that is not loaded.
        """
        # The last link stays: external weights lie beside it, as in the snapshots of a Hugging Face cache.
        place = path.parent.resolve() / path.name
        ref = ModelRef(path=str(place), sha256=model_hash(path), name=name or model_name(path))
        settings, engines = settings or Settings(), ENGINES_OF[kind_of(path)]
        if settings.engine.name not in (*engines, "none"):
            engine = msgspec.structs.replace(settings.engine, name=engines[0])
            settings = msgspec.structs.replace(settings, engine=engine)
        return cls(model=ref, settings=settings)

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Read and check a profile file; the model's path comes back absolute.

        Raises:
            ProfileError: unreadable, not a profile, or of a later schema.
        """
        try:
            raw = _parsed(path)
        except FileNotFoundError:
            raise MissingProfileError(f"{path}: no such profile") from None
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path}: not a readable profile: {error}") from None
        except RecursionError:
            raise ProfileError(f"{path}: not a readable profile: {_TOO_DEEP}") from None
        schema = raw.get("schema")
        if not isinstance(schema, int) or not 1 <= schema < _LARGEST_INT:
            raise ProfileError(f"{path}: not a Tailcut profile: it has no schema number")
        if schema > SCHEMA:
            raise ProfileError(f"{path}: schema {schema} is newer than this Tailcut reads ({SCHEMA}): upgrade Tailcut")
        try:
            raw, renamed = upgrade(raw, schema)
            profile = msgspec.convert(raw, cls)
            _check(profile.settings)
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            raise ProfileError(f"{path}: not a valid profile: {error}") from None
        except RecursionError:
            raise ProfileError(f"{path}: not a valid profile: {_TOO_DEEP}") from None
        if profile.settings.engine.precision == "int8_static" and profile.model.quantized is None:
            raise ProfileError(f"{path}: not a valid profile: {_NO_COPY}")
        if renamed:
            _tell_renamed(path, schema, ", ".join(renamed))
        return profile.with_paths(lambda name: str((path.parent / name).parent.resolve() / Path(name).name))

    def with_paths(self, place: Callable[[str], str]) -> "Profile":
        """The profile with the paths of its model files replaced by what `place` makes of them."""
        model, copy = self.model, self.model.quantized
        if copy is not None:
            copy = msgspec.structs.replace(copy, path=place(copy.path))
        return msgspec.structs.replace(
            self, model=msgspec.structs.replace(model, path=place(model.path), quantized=copy)
        )

    def with_quantized(self, path: Path) -> "Profile":
        """The profile with a quantised copy of its model.

        Raises:
            ModelFileError: the file is missing, unreadable or empty.
        """
        copy = QuantizedRef(path=str(path.parent.resolve() / path.name), sha256=model_hash(path))
        return msgspec.structs.replace(self, model=msgspec.structs.replace(self.model, quantized=copy))

    @property
    def is_of_pipeline(self) -> bool:
        """Whether it is for a pipeline, and not for a model; `model.path` is then FILE.py:VARIABLE."""
        return is_pipeline(self.model.path)

    @property
    def engine_file(self) -> Path:
        """The file that the engine loads: the model, or with precision int8_static its quantised copy.

        Raises:
            ProfileError: there is no such copy.
        """
        if self.settings.engine.precision != "int8_static":
            return Path(self.model.path)
        if self.model.quantized is None:
            raise ProfileError(f"{self.model.path}: {_NO_COPY}")
        return Path(self.model.quantized.path)

    def with_weights(self) -> "Profile":
        """The profile with a hash of its model's external weights, so that others are not taken for those measured.

        Raises:
            ModelFileError: a file cannot be read.
        """
        found = _weights_hash(Path(self.model.path))
        return msgspec.structs.replace(self, model=msgspec.structs.replace(self.model, weights=found))

    def with_signature(self) -> "Profile":
        """The profile with the inputs and outputs that it serves, which another file must have to replace the model.

        Raises:
            ModelFileError: the model file is missing or corrupt.
            UnsupportedError: a setting that the model cannot have.
        """
        options = msgspec.structs.replace(self.settings.engine, precision="f32")  # which they all have
        spec = read_signature(Path(self.model.path), options, self.model.name)
        return msgspec.structs.replace(self, model=msgspec.structs.replace(self.model, signature=spec.signature))

    def verify_model(self, name: str = "its profile") -> None:
        """Check that the model file, and its quantised copy where there is one, are those that were measured.

        Args:
            name: of the profile's file, for the message.

        Raises:
            ModelFileError: one is missing, unreadable or empty.
            ProfileError: it is another model.
        """
        path = Path(self.model.path)
        what = self._changed()
        if what:
            raise ProfileError(
                f"{path}: {path.name} has {what} than {name}: tune it again, or serve it with --accept-model-change"
            )
        copy = self.model.quantized
        if copy is not None and model_hash(Path(copy.path)) != copy.sha256:
            raise ProfileError(f"{copy.path}: {Path(copy.path).name} has another SHA-256 than {name}: tune it again")

    def accept_model(self, name: str) -> tuple["Profile", str]:
        """The profile for the model file as it is now, and a warning where that is not the one that was measured.

        The caller checks that the signature is the same, which needs the model to be open.

        Args:
            name: of the profile's file, for messages.

        Raises:
            ModelFileError: the file is missing, unreadable or empty.
            ProfileError: another model cannot be accepted for this profile.
        """
        path = Path(self.model.path)
        if not self._changed():
            self.verify_model(name)
            return self, ""
        if self.model.quantized is not None:
            raise ProfileError(f"{path}: {name} runs a quantised copy of another {path.name}: tune it again")
        if not self.model.signature:
            raise ProfileError(f"{path}: {name} does not record the model's inputs and outputs: tune it again")
        model = msgspec.structs.replace(self.model, sha256=model_hash(path), weights=None)
        warning = f"{path.name} is not the file that {name} was measured on: its figures are not proven for it"
        return msgspec.structs.replace(self, model=model), warning

    def check_signature(self, spec: ModelSpec) -> None:
        """Check that an open model has the inputs and outputs that the profile records, where it does.

        Raises:
            ProfileError: it has others.
        """
        if self.model.signature and spec.signature != self.model.signature:
            lost = ", ".join(set(self.model.signature) - set(spec.signature)) or "the same in another order"
            found = ", ".join(set(spec.signature) - set(self.model.signature)) or "the same in another order"
            raise ProfileError(
                f"{self.model.path}: its inputs and outputs are not those of the profile: {found} instead of {lost}"
            )

    def _changed(self) -> str:
        """What the model file has that is another than the profile's; empty where nothing is."""
        path = Path(self.model.path)
        if model_hash(path) != self.model.sha256:
            return "another SHA-256"
        weights = self.model.weights
        return "other weights" if weights is not None and _weights_hash(path) != weights else ""

    def save(self, path: Path) -> None:
        """Write the file whole or not at all, with the model's path relative to it where they share a folder tree.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = path.resolve().parent

        def place(name: str) -> str:
            inside = Path(name).is_absolute() and Path(name).is_relative_to(folder)
            return str(Path(name).relative_to(folder)) if inside else name

        raw = msgspec.to_builtins(self.with_paths(place))
        if not self.samples:
            del raw["samples"]
        if not self.model.signature:
            del raw["model"]["signature"]
        write_atomically(path, tomli_w.dumps(_without_none(raw)))


@lru_cache(1024)  # a command reads a profile several times, and says this once
def _tell_renamed(path: Path, schema: int, renamed: str) -> None:
    _log.info("%s: a profile of schema %d: %s", path, schema, renamed)


def is_pipeline(source: str) -> bool:
    """Whether a source names a pipeline: a Python file and a variable in it, as in `embed.py:pipeline`."""
    file, colon, _ = source.rpartition(":")
    return file.endswith(".py") or (not colon and source.endswith(".py"))


def with_batching(profile: Profile, batching: Batching) -> Profile:
    """The profile with the user's word on batching instead of its own."""
    settings = profile.settings
    rows = msgspec.structs.replace(settings.batching, rows=SETTING_OF[batching])
    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(settings, batching=rows))


def copy_path(profile: Path, content: bytes) -> Path:
    """Where the quantised copy of a profile's model goes: beside the profile, and over no file that is not its own."""
    stem = profile.name.removesuffix(".toml").removesuffix(".profile")
    path = profile.with_name(f"{stem}.int8.onnx")
    try:
        copy = Profile.load(profile).model.quantized
    except ProfileError:
        copy = None
    own = copy is not None and Path(copy.path) == path.parent.resolve() / path.name
    if own or not path.exists():
        return path
    return profile.with_name(f"{stem}.int8-{hashlib.sha256(content).hexdigest()[:8]}.onnx")


def _parsed(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, which may be anything: no larger, and with no longer keys, than a profile has.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML, or no profile could be like it. The parser's time grows with the square of a dotted
            key's parts.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise ValueError(f"it has more than {_LARGEST_BYTES >> 20} MiB")
    text = data.decode("utf-8")
    if _LONG_KEY.search(text):
        raise ValueError(_TOO_DEEP)
    return tomllib.loads(text)


def model_hash(path: Path) -> str:
    """SHA-256 of a model file, in hexadecimal; of a SavedModel's directory, that of its graph.

    Of a pipeline, FILE.py:VARIABLE, that of the file.

    Raises:
        ModelFileError: the file is missing, unreadable, empty, or of another kind.
    """
    if is_pipeline(str(path)):
        return _hash([path.with_name(path.name.rpartition(":")[0])])
    return _hash([parts_of(path, kind_of(path))[0]])


def file_hash(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal.

    Raises:
        ModelFileError: it cannot be read.
    """
    return _hash([path])


def _weights_hash(path: Path) -> str | None:
    """A hash of the weights that lie beside a model's graph: of samples for ONNX, of all bytes for other kinds."""
    kind = kind_of(path)
    if kind is FileKind.ONNX:
        from tailcut.engines.graph import weights_hash  # noqa: PLC0415  onnx takes 0.2 s, and few have such files

        return weights_hash(path)
    weights = parts_of(path, kind)[1]
    return _hash(weights) if weights else None


def _hash(files: Iterable[Path]) -> str:
    """SHA-256 of one file, or of the hashes of several.

    Raises:
        ModelFileError: one cannot be read.
    """
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8.

    Raises:
        OSError: as the operating system says.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write's own error names no file
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check(settings: Settings) -> None:
    limits = {
        "engine.threads": (settings.engine.threads, 0, 1024),
        "engine.instances": (settings.engine.instances, 1, 256),
        "batching.max_batch_size": (settings.batching.max_batch_size, 1, 65536),
        "batching.max_queue_delay_us": (settings.batching.max_queue_delay_us, 0, 10_000_000),
        "engine.spin_us": (settings.engine.spin_us, 0, 1_000_000),
        "io.direct_bytes": (settings.io.direct_bytes, 0, 1 << 40),
        "io.busy_poll_us": (settings.io.busy_poll_us, 0, 10_000),
    }
    for text in settings.engine.fixed_dims:
        try:
            parse_fixed_dim(text)
        except UnsupportedError as error:
            raise ValueError(f"settings.engine.{error}") from None
    for stage in () if settings.pipeline is None else settings.pipeline.stages:
        limits[f"pipeline: {stage.name}: workers"] = (stage.workers, 1, 256)
        limits[f"pipeline: {stage.name}: max_batch_size"] = (stage.max_batch_size, 1, 65536)
        limits[f"pipeline: {stage.name}: max_queue_delay_us"] = (stage.max_queue_delay_us, 0, 10_000_000)
    padding = settings.batching.padding
    if padding is not None:
        buckets = padding.buckets
        rising = all(low < high for low, high in pairwise(buckets))
        if not (padding.inputs and 1 <= len(buckets) <= _MOST_BUCKETS and rising and buckets[0] >= 1):
            raise ValueError(f"settings.batching.padding needs inputs, and 1 to {_MOST_BUCKETS} rising buckets")
    if settings.batching.max_queue_delay_us and settings.batching.dispatch == "inline":
        raise ValueError("settings.batching.max_queue_delay_us needs dispatch = 'worker': an inline loop cannot wait")
    if settings.batching.dispatch == "adaptive" and settings.engine.instances != 1:
        raise ValueError("settings.batching.dispatch = 'adaptive' needs engine.instances = 1")
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            told = value if abs(value) < _LARGEST_INT else "far too large"  # Python does not write any number of digits
            raise ValueError(f"settings.{name} is {told}, must be {low} to {high}")


def _brief(value: Any) -> Any:
    """A value in one word: of padding the buckets, of pixels their scale, of outputs the names."""
    if isinstance(value, dict):
        return "/".join(f"{number:.6g}" for number in value.get("buckets") or value["scale"])
    if isinstance(value, list | tuple):
        return ",".join(item["name"] if isinstance(item, dict) else item for item in value)
    return value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
