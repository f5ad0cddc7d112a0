"""The layout of a model repository: DIR/NAME/config.pbtxt and DIR/NAME/VERSION/model.onnx. Loads no models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.engines.files import profile_beside
from tailcut.errors import MissingFileError, MissingModelFileError, UsageError
from tailcut.spec import check_model_name
from tailcut.triton.names import CONFIG_FILE

# The model files to look for if the configuration names none; model.onnx may be a folder that contains one.
_FILES = (
    "model.onnx",
    "model.xml",
    "model.savedmodel",
    "model.graphdef",
    "model.tflite",
    "model.pdmodel",
    "model.pt2",
    "model.pt",
)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of a repository; `config` is the message of its configuration, or None if it has none."""

    name: str
    path: Path
    config: Any | None

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Read the configuration of the model in a folder.

        Raises:
            UsageError: the configuration is invalid or names another model, or the folder's name is no valid model
            name.
        """
        from tailcut.triton.config import read_config  # noqa: PLC0415  protobuf is an extra

        config = read_config(path)
        name = path.name if path.name not in {"", ".."} else path.resolve().name  # a link's own name, as in the index
        if config is not None and config.name and config.name != name:
            raise UsageError(f"{path / CONFIG_FILE}: is for a model {config.name!r}, but its folder is called {name!r}")
        check_model_name(name)
        return cls(name, path, config)

    @property
    def is_ensemble(self) -> bool:
        """Whether it is an ensemble, which other models of the repository compute."""
        config = self.config
        return config is not None and (config.HasField("ensemble_scheduling") or config.platform == "ensemble")

    def versions(self) -> list[int]:
        """The versions to serve by the version policy, oldest first; by default only the newest."""
        there = self._existing()
        policy = None if self.config is None else self.config.version_policy
        choice = policy.WhichOneof("policy_choice") if policy is not None else None
        if policy is None or choice in {None, "latest"}:
            newest = policy.latest.num_versions if policy is not None and choice else 1
            return there[-max(1, newest) :]
        return there if choice == "all" else [version for version in there if version in policy.specific.versions]

    def notes(self) -> list[str]:
        """A note if the version policy names versions that have no folder."""
        wanted = [] if self.config is None else self.config.version_policy.specific.versions
        missing = sorted({*wanted} - {*self._existing()})
        names = ", ".join(map(str, missing))
        return [f"version_policy specific names versions without a folder, which are not served: {names}"] * bool(names)

    def without_versions(self) -> MissingModelFileError:
        """The error for a model that has no version to serve."""
        there = self._existing()
        if there and self.config is not None:
            wanted = list(self.config.version_policy.specific.versions)
            return MissingModelFileError(
                f"{self.path / CONFIG_FILE}: version_policy specific {wanted} names none of the versions that exist: "
                f"{', '.join(map(str, there))}"
            )
        return MissingModelFileError(f"{self.path}: has no version to serve: put the model into {self.path / '1'}")

    def _existing(self) -> list[int]:
        return sorted(int(folder.name) for folder in self.path.iterdir() if _is_version(folder))

    def file(self, version: int) -> Path:
        """The model file of a version.

        Raises:
            MissingModelFileError: there is none; the message names the files that were looked for.
            UsageError: `default_model_filename` is not a file name.
        """
        folder = self.path / str(version)
        named = "" if self.config is None else self.config.default_model_filename
        if named and Path(named).name != named:
            raise UsageError(f"{self.path / CONFIG_FILE}: default_model_filename {named!r} is not a file's name")
        for name in (named,) if named else _FILES:
            path = folder / name
            if path.is_dir() and (path / "model.onnx").is_file():  # the folder of a model with external weights
                path /= "model.onnx"
            if path.exists():
                return path
        advice, inner = "", folder / "model.savedmodel"
        if (folder / "saved_model.pb").is_file():
            advice = f"; it is a SavedModel itself: name {folder}, or move what is in it to {inner}"
        raise MissingModelFileError(f"{folder}: has no model file: {named or ' or '.join(_FILES)}{advice}")

    def profile(self, version: int) -> Path | None:
        """The profile of a tuned version; None if it was not tuned."""
        path = profile_beside(self.file(version))
        return path if path.is_file() else None


def model_folders(repository: Path) -> dict[str, Path]:
    """The folders of all models in a repository, by name.

    Raises:
        MissingFileError: there is no such folder.
        UsageError: the path is not a folder, or cannot be read.
    """
    try:
        return {path.name: path for path in sorted(repository.iterdir()) if path.is_dir() and path.name[0] != "."}
    except FileNotFoundError:
        raise MissingFileError(f"{repository}: no such model repository") from None
    except OSError as error:
        raise UsageError(f"{repository}: not a model repository: {error.strerror}") from None


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one model of a repository: it has a configuration or versions, and is no SavedModel."""
    if not path.is_dir() or (path / "saved_model.pb").is_file():
        return False
    return (path / CONFIG_FILE).is_file() or any(map(_is_version, path.iterdir()))


def folder_of(model: Path) -> Path | None:
    """The folder, with a configuration, of the model that a file of one of its versions belongs to; None for others."""
    version = next((folder for folder in list(model.absolute().parents)[:2] if _is_version(folder)), None)
    return version.parent if version is not None and (version.parent / CONFIG_FILE).is_file() else None


def state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """The names, sizes and modification times of a model's files, without those that `tailcut tune` writes there."""
    files = []
    for file in sorted(_files(folder)):
        try:
            status = file.stat()
        except OSError:  # deleted meanwhile
            continue
        files.append((str(file.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(files)


def _files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder, following links except those to a folder `above` it."""
    try:
        status = folder.stat()
        own = status.st_dev, status.st_ino
        inside = [] if own in above else list(folder.iterdir())
    except OSError:  # deleted meanwhile, or not readable
        return
    for path in inside:
        if path.is_dir():
            yield from _files(path, above | {own})
        elif path.is_file() and not _is_own(path.name):
            yield path


def _is_own(name: str) -> bool:
    return name.endswith((".report.html", ".trials.jsonl")) or name.startswith(".")


def _is_version(folder: Path) -> bool:
    name = folder.name
    return name.isascii() and name.isdecimal() and name == str(int(name)) and int(name) > 0 and folder.is_dir()
