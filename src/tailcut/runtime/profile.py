"""A profile: the frozen settings of one model, the measurements behind them, and the identity of the model.

The profile is all that the tuner passes to the server, so what was measured is what is served.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tailcut.engines.file_hash import external_weights_hash, file_hash, model_hash
from tailcut.engines.files import ENGINES_OF, FileKind, default_engine, kind_of, model_name
from tailcut.engines.none import read_signature
from tailcut.errors import ProfileError, TailcutError
from tailcut.runtime.profile_file import TOO_DEEP, read_tables, write_tables
from tailcut.runtime.profile_schema import SCHEMA
from tailcut.runtime.rows import SETTING_OF, Batching
from tailcut.runtime.samples import SampleRequest
from tailcut.runtime.settings import Settings, check
from tailcut.spec import ModelSpec

_NO_COPY = "settings.engine.precision = 'int8_static' needs [model.quantized], which tailcut tune --data writes"


class CopyRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A converted copy of a model; `path` is relative to the profile's folder where possible, like the model's."""

    path: str
    sha256: str


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that the settings are for. `path` is relative to the profile's folder where possible."""

    path: str
    sha256: str
    name: str
    weights: str | None = None  # a hash of samples of its external weights, where it has some
    signature: tuple[str, ...] = ()  # a line for each input and output, from `ModelSpec.signature`
    # Files written by `tailcut tune`: the model for precision int8_static, and what engines for ONNX run instead of a
    # PyTorch program.
    quantized: CopyRef | None = None
    converted: CopyRef | None = None

    @property
    def copies(self) -> dict[str, CopyRef]:
        """The copies that exist, by the name of their field."""
        copies = {"quantized": self.quantized, "converted": self.converted}
        return {name: copy for name, copy in copies.items() if copy is not None}


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another model in the server where a profile was measured, and its load."""

    name: str
    sha256: str  # of its file
    rate: float  # requests per second
    limit_ms: float  # for its p99


class Together(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The load of a model that was measured in one server with others, and these others."""

    rate: float  # requests per second
    limit_ms: float  # for its p99
    neighbours: tuple[Neighbour, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one model, with the machine and the measurements that they were chosen by."""

    schema: int = SCHEMA
    model: ModelRef
    settings: Settings = Settings()
    samples: tuple[SampleRequest, ...] = ()  # kinds of requests in the data that it was tuned with, for warming up
    together: Together | None = None  # where it was tuned together with other models
    machine: dict[str, Any] = {}
    evidence: dict[str, Any] = {}

    @classmethod
    def of_model(cls, path: str | Path, settings: Settings | None = None, name: str | None = None) -> "Profile":
        """A profile for a model file; an engine in the settings that cannot load the file is replaced by one that can.

        That is the usual engine for such files, or another one, where only that is installed.

        Raises:
            ModelFileError: the file is missing, unreadable, empty, or of an unknown kind.
        """
        path = Path(path)
        # The last symbolic link is kept: external weights are beside it, as in the snapshots of a Hugging Face cache.
        resolved = path.parent.resolve() / path.name
        ref = ModelRef(path=str(resolved), sha256=model_hash(path), name=name or model_name(path))
        settings, engines = settings or Settings(), ENGINES_OF[kind_of(path)]
        if settings.engine.name not in (*engines[1:], "none"):
            name_of_engine: Any = default_engine(path)
            engine = msgspec.structs.replace(settings.engine, name=name_of_engine)
            settings = msgspec.structs.replace(settings, engine=engine)
        return cls(model=ref, settings=settings)

    @classmethod
    def load(cls, path: str | Path) -> "Profile":
        """Read and check a profile file; paths in the result are absolute.

        Raises:
            ProfileError: the file is unreadable, not a profile, or of a later schema.
        """
        path = Path(path)
        tables = read_tables(path)
        try:
            profile = msgspec.convert(tables, cls)
            check(profile.settings)
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            raise ProfileError(f"{path}: not a valid profile: {error}") from None
        except RecursionError:
            raise ProfileError(f"{path}: not a valid profile: {TOO_DEEP}") from None
        if profile.settings.engine.precision == "int8_static" and profile.model.quantized is None:
            raise ProfileError(f"{path}: not a valid profile: {_NO_COPY}")
        return profile.with_paths(lambda name: str((path.parent / name).parent.resolve() / Path(name).name))

    def with_paths(self, relocate: Callable[[str], str]) -> "Profile":
        """The profile with `relocate` applied to the paths of its model files."""
        copies = {
            name: msgspec.structs.replace(copy, path=relocate(copy.path)) for name, copy in self.model.copies.items()
        }
        model: ModelRef = msgspec.structs.replace(self.model, path=relocate(self.model.path), **copies)
        return msgspec.structs.replace(self, model=model)

    def with_copy(self, path: Path, settings: Settings) -> "Profile":
        """The profile with these settings, whose engine runs a copy of the model: quantised, or a program as ONNX.

        Raises:
            ModelFileError: the file is missing, unreadable or empty.
        """
        copy = CopyRef(path=str(path.parent.resolve() / path.name), sha256=model_hash(path))
        field = "quantized" if settings.engine.precision == "int8_static" else "converted"
        model: ModelRef = msgspec.structs.replace(self.model, **{field: copy})
        return msgspec.structs.replace(self, model=model, settings=settings)

    @property
    def is_of_pipeline(self) -> bool:
        """Whether it is for a pipeline instead of a model; then `model.path` is FILE.py:VARIABLE."""
        return is_pipeline(self.model.path)

    @property
    def engine_file(self) -> Path:
        """The file that the engine loads: the model, or the copy that it runs instead.

        Raises:
            ProfileError: there is no quantised copy for precision int8_static.
        """
        engine, converted = self.settings.engine, self.model.converted
        if engine.precision != "int8_static":
            runs_onnx = converted is not None and engine.name in ENGINES_OF[FileKind.ONNX]
            return Path(converted.path if converted is not None and runs_onnx else self.model.path)
        if self.model.quantized is None:
            raise ProfileError(f"{self.model.path}: {_NO_COPY}")
        return Path(self.model.quantized.path)

    def with_weights(self) -> "Profile":
        """The profile with a hash of its model's external weights, by which other weights are noticed.

        Raises:
            ModelFileError: a file cannot be read.
        """
        result = external_weights_hash(Path(self.model.path))
        return msgspec.structs.replace(self, model=msgspec.structs.replace(self.model, weights=result))

    def with_signature(self) -> "Profile":
        """The profile with its inputs and outputs, which another file must have to replace the model.

        Raises:
            ModelFileError: the model file is missing or corrupt.
            UnsupportedError: a setting does not fit the model.
        """
        options = msgspec.structs.replace(self.settings.engine, precision="f32")  # all machines support it
        spec = read_signature(Path(self.model.path), options, self.model.name)
        return msgspec.structs.replace(self, model=msgspec.structs.replace(self.model, signature=spec.signature))

    def verify_model(self, name: str = "its profile") -> None:
        """Check that the model file, and its copies if any, are those that were measured.

        Args:
            name: of the profile's file, for the message.

        Raises:
            ModelFileError: a file is missing, unreadable or empty.
            ProfileError: a file has changed.
        """
        path = Path(self.model.path)
        what = self._changed()
        if what:
            raise ProfileError(
                f"{path}: {path.name} has {what} than {name}: tune it again, or serve it with --accept-model-change"
            )
        for copy in self.model.copies.values():
            if model_hash(Path(copy.path)) != copy.sha256:
                raise ProfileError(
                    f"{copy.path}: {Path(copy.path).name} has another SHA-256 than {name}: tune it again"
                )

    def accept_model(self, name: str) -> tuple["Profile", str]:
        """The profile for the present model file, and a warning where it is not the one that was measured.

        The caller has to check the signature with `check_signature`, when the model is open.

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
        if self.model.copies:
            kind = "quantised" if self.model.quantized is not None else "converted"
            raise ProfileError(f"{path}: {name} runs a {kind} copy of another {path.name}: tune it again")
        if not self.model.signature:
            raise ProfileError(f"{path}: {name} does not record the model's inputs and outputs: tune it again")
        model = msgspec.structs.replace(self.model, sha256=_source_hash(path), weights=None)
        warning = f"{path.name} is not the file that {name} was measured on: its figures are not proven for it"
        return msgspec.structs.replace(self, model=model), warning

    def check_open(self, model: Any) -> None:
        """Check the signature of an open model or pipeline, and close it where it differs.

        Raises:
            ProfileError: it differs.
        """
        try:
            self.check_signature(model.spec)
        except BaseException:
            model.close()
            raise

    def check_signature(self, spec: ModelSpec) -> None:
        """Check that a signature is the one recorded in the profile, if there is one.

        Raises:
            ProfileError: it differs.
        """
        recorded, now = self.model.signature, spec.signature
        if not recorded or now == recorded:
            return
        lost = ", ".join(line for line in recorded if line not in now)
        more = ", ".join(line for line in now if line not in recorded)
        words = [f"it lacks {lost}"] * bool(lost) + [f"it also has {more}"] * bool(more)
        difference = "; ".join(words) or "they are in another order"
        if self._is_cut(now):
            raise ProfileError(
                f"{self.model.path}: outputs or fixed_dims in settings.engine do not fit model.signature: "
                f"{difference}: tune it with --outputs or --fix"
            )
        raise ProfileError(f"{self.model.path}: its inputs and outputs are not those of the profile: {difference}")

    def _is_cut(self, now: tuple[str, ...]) -> bool:
        """Whether the file has what the profile records, but the engine's settings leave some of it out."""
        if self.is_of_pipeline:
            return False
        options = msgspec.structs.replace(self.settings.engine, precision="f32", outputs=(), fixed_dims=())
        try:
            whole = read_signature(Path(self.model.path), options, self.model.name).signature
        except TailcutError:
            return False
        return now != whole and set(self.model.signature) <= set(whole)

    def _changed(self) -> str:
        """What differs between the model file and the profile's record; empty where nothing does."""
        path = Path(self.model.path)
        if _source_hash(path) != self.model.sha256:
            return "another SHA-256"
        weights = self.model.weights
        return "other weights" if weights is not None and external_weights_hash(path) != weights else ""

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all, with the model's path relative to it where possible.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        folder = path.resolve().parent

        def relocate(name: str) -> str:
            inside = Path(name).is_absolute() and Path(name).is_relative_to(folder)
            return str(Path(name).relative_to(folder)) if inside else name

        raw = msgspec.to_builtins(self.with_paths(relocate))
        if not self.samples:
            del raw["samples"]
        if not self.model.signature:
            del raw["model"]["signature"]
        write_tables(path, raw)


def is_pipeline(source: str) -> bool:
    """Whether a source names a pipeline: a Python file and a variable in it, as in `embed.py:pipeline`."""
    file, colon, _ = source.rpartition(":")
    return file.endswith(".py") or (not colon and source.endswith(".py"))


def _source_hash(path: Path) -> str:
    """SHA-256 of a model file, or of the Python file of a pipeline."""
    if is_pipeline(str(path)):
        return file_hash(path.with_name(path.name.rpartition(":")[0]))
    return model_hash(path)


def with_batching(profile: Profile, batching: Batching) -> Profile:
    """The profile with the user's setting of batching instead of its own."""
    settings = profile.settings
    rows = msgspec.structs.replace(settings.batching, rows=SETTING_OF[batching])
    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(settings, batching=rows))


def copy_path(profile: Path, content: bytes, precision: str) -> Path:
    """The path for a copy of a profile's model: beside the profile, and never that of an unrelated file."""
    kind = "int8" if precision == "int8_static" else "pt2"
    stem = profile.name.removesuffix(".toml").removesuffix(".profile")
    path = profile.with_name(f"{stem}.{kind}.onnx")
    try:
        copies = Profile.load(profile).model.copies
    except ProfileError:
        copies = {}
    own = any(Path(copy.path) == path.parent.resolve() / path.name for copy in copies.values())
    if own or not path.exists():
        return path
    return profile.with_name(f"{stem}.{kind}-{hashlib.sha256(content).hexdigest()[:8]}.onnx")
