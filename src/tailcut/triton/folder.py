"""The layout of a model repository: DIR/NAME/config.pbtxt and DIR/NAME/VERSION/model.onnx. Nothing is loaded here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.engines.files import profile_beside
from tailcut.errors import MissingFileError, MissingModelFileError, UsageError
from tailcut.spec import check_model_name
from tailcut.triton.names import CONFIG_FILE

# What a version's folder is searched for where the configuration names no file; model.onnx may be a folder with one.
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
    """One model of a repository, with what its files say; `config` is a message, or None where there is none."""

    name: str
    path: Path
    config: Any | None

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """The model in a folder.

        Raises:
            UsageError: its configuration cannot be read, or is for a model of another name; or no URL can have its own.
        """
        from tailcut.triton.config import read_config  # noqa: PLC0415  protobuf is an extra

        config = read_config(path)
        name = path.name if path.name not in {"", ".."} else path.resolve().name  # of a link its own, as in the index
        if config is not None and config.name and config.name != name:
            raise UsageError(f"{path / CONFIG_FILE}: is for a model {config.name!r}, but its folder is called {name!r}")
        check_model_name(name)
        return cls(name, path, config)

    @property
    def is_ensemble(self) -> bool:
        """Whether other models of the repository compute it."""
        config = self.config
        return config is not None and (config.HasField("ensemble_scheduling") or config.platform == "ensemble")

    def versions(self) -> list[int]:
        """The versions that the policy has served, oldest first; by default the newest alone."""
        there = self._existing()
        policy = None if self.config is None else self.config.version_policy
        choice = policy.WhichOneof("policy_choice") if policy is not None else None
        if policy is None or choice in {None, "latest"}:
            newest = policy.latest.num_versions if policy is not None and choice else 1
            return there[-max(1, newest) :]
        return there if choice == "all" else [version for version in there if version in policy.specific.versions]

    def notes(self) -> list[str]:
        """A line where the policy names versions that have no folder."""
        wanted = [] if self.config is None else self.config.version_policy.specific.versions
        missing = sorted({*wanted} - {*self._existing()})
        names = ", ".join(map(str, missing))
        return [f"version_policy specific names versions without a folder, which are not served: {names}"] * bool(names)

    def without_versions(self) -> MissingModelFileError:
        """What is wrong where there is no version to serve."""
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
            MissingModelFileError: there is none; names the files that are looked for.
        """
        folder = self.path / str(version)
        named = "" if self.config is None else self.config.default_model_filename
        if named and Path(named).name != named:
            raise UsageError(f"{self.path / CONFIG_FILE}: default_model_filename {named!r} is not a file's name")
        for name in (named,) if named else _FILES:
            path = folder / name
            if path.is_dir() and (path / "model.onnx").is_file():  # a folder for a model with external weights
                path /= "model.onnx"
            if path.exists():
                return path
        advice, inner = "", folder / "model.savedmodel"
        if (folder / "saved_model.pb").is_file():
            advice = f"; it is a SavedModel itself: name {folder}, or move what is in it to {inner}"
        raise MissingModelFileError(f"{folder}: has no model file: {named or ' or '.join(_FILES)}{advice}")

    def profile(self, version: int) -> Path | None:
        """The profile of a version that was tuned."""
        path = profile_beside(self.file(version))
        return path if path.is_file() else None


def model_folders(repository: Path) -> dict[str, Path]:
    """The folders of all models in a repository, by name.

    Raises:
        UsageError: it is not a folder.
    """
    try:
        return {path.name: path for path in sorted(repository.iterdir()) if path.is_dir() and path.name[0] != "."}
    except FileNotFoundError:
        raise MissingFileError(f"{repository}: no such model repository") from None
    except OSError as error:
        raise UsageError(f"{repository}: not a model repository: {error.strerror}") from None


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one model of a repository: it has versions, with or without a configuration."""
    if not path.is_dir() or (path / "saved_model.pb").is_file():
        return False
    return (path / CONFIG_FILE).is_file() or any(map(_is_version, path.iterdir()))


def folder_of(model: Path) -> Path | None:
    """The folder of the model, with a configuration, that a file in one of its versions belongs to; None elsewhere."""
    version = next((folder for folder in list(model.absolute().parents)[:2] if _is_version(folder)), None)
    return version.parent if version is not None and (version.parent / CONFIG_FILE).is_file() else None


def state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a model's files do: their names, sizes and times, without the reports that `tailcut` writes."""
    files = []
    for file in sorted(_files(folder)):
        try:
            status = file.stat()
        except OSError:  # gone since
            continue
        files.append((str(file.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(files)


def _files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder, also behind links; a link to a folder `above` it is not followed."""
    try:
        status = folder.stat()
        own = status.st_dev, status.st_ino
        inside = [] if own in above else list(folder.iterdir())
    except OSError:  # gone since, or not ours to read
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
