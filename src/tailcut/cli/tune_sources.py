"""What to tune: model files, a pipeline, a model of a repository, or the model of profiles."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailcut.runtime.profile import Profile
    from tailcut.runtime.settings import Settings


def trust_model(model: Path) -> None:
    from tailcut.cli.serving.sources import programs_of
    from tailcut.engines.trust import trust

    for file in programs_of(str(model)):
        trust(file)


def need_device(model: Path) -> None:
    """Load a model on the CUDA device once, to report what is missing.

    Raises:
        UnsupportedError: PyTorch or onnxruntime has no CUDA, there is no device, or it cannot compute the model.
    """
    from tailcut.engines import EngineOptions, open_engine
    from tailcut.engines.files import default_engine

    name: Any = default_engine(model)
    open_engine(model, EngineOptions(name=name, device="cuda")).close()


def of_repository(given: list[Path]) -> "tuple[list[Path], Settings, int | None]":
    """The model files given, and for a model of a repository, its configured settings and largest batch.

    Raises:
        UsageError: several models of a repository are given.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.settings import Settings
    from tailcut.triton.folder import is_model_folder

    if not any(map(is_model_folder, given)):
        return given, Settings(), None
    if len(given) > 1:
        raise UsageError("models of a repository are tuned one at a time: give only one")
    from tailcut.triton.library import newest_of

    path, reading = newest_of(given[0])
    return [path], reading.settings, reading.max_batch_size


def bounded(previous: "Profile | None", model: Path, largest: int | None) -> "tuple[Profile | None, int | None]":
    """A profile to re-check and the largest batch, within the limit of the configuration beside the profile's model.

    Without a profile to re-check, the arguments are returned unchanged.

    Raises:
        UsageError: the configuration cannot be read.
    """
    import msgspec

    from tailcut.triton.folder import folder_of

    folder = None if previous is None else folder_of(model)
    if previous is None or folder is None:
        return previous, largest
    from tailcut.triton.config import read_config

    config = read_config(folder)
    largest = None if config is None else config.max_batch_size or None
    batching = previous.settings.batching
    if largest is not None and batching.max_batch_size > largest:
        batching = msgspec.structs.replace(batching, max_batch_size=largest)
    settings = msgspec.structs.replace(previous.settings, batching=batching)
    return msgspec.structs.replace(previous, settings=settings), largest


def models_of(
    given: list[Path], retune: Path | None, *, compare: bool
) -> tuple[list[Path], dict[str, "Profile"], "Profile | None"]:
    """The models, the profiles to compare by name, and the profile to re-check.

    Raises:
        UsageError: the options cannot be combined, or a file cannot be tuned or compared.
        ProfileError: a profile cannot be read, or its model has changed.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import Profile

    if compare and (retune is not None or len(given) < 2):
        raise UsageError("--compare takes two or more profiles: tailcut tune --compare A.toml B.toml")
    if compare:
        profiles = {str(path): Profile.load(path) for path in given}
        first = next(iter(profiles.values()))
        if len(profiles) < len(given):
            raise UsageError("--compare: the same profile was given twice")
        for name, profile in profiles.items():
            profile.verify_model(name)
            if profile.is_of_pipeline:
                raise UsageError(
                    f"{name} is for a pipeline: serve it, and compare with tailcut bench --output and --against"
                )
            if (profile.model.sha256, profile.model.weights) != (first.model.sha256, first.model.weights):
                raise UsageError(f"{name} is for a different model than {given[0]}: compare profiles of one model")
        return [Path(first.model.path)], profiles, None
    if retune is not None:
        if given:
            raise UsageError("--retune reads the model's path from the profile: leave out MODEL")
        profile = Profile.load(retune)
        profile.verify_model(retune.name)
        return [Path(profile.model.path)], {}, profile
    if not given:
        raise UsageError("no MODEL given: give a model file, or several to tune them together")
    _need_tunable(given)
    return given, {}, None


def _need_tunable(given: list[Path]) -> None:
    """Check that the files given can be tuned.

    Raises:
        UsageError: one is a profile, or a pipeline among others.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    pipeline = next((path for path in given if is_pipeline(str(path))), None)
    if pipeline is not None and len(given) > 1:
        raise UsageError(f"{pipeline}: a pipeline is tuned by itself: leave out the others")
    profile_file = next((path for path in given if path.suffix == ".toml"), None)
    if profile_file is not None:
        raise UsageError(
            f"{profile_file} is a profile: give the model itself, or use --retune PROFILE to re-check a profile"
        )


def refuse_for_pipelines(model: Path, options: "Mapping[str, object]") -> None:
    """Refuse options for models only if a pipeline is tuned.

    Raises:
        UsageError: one of them was given.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    given = [name for name, value in options.items() if value]
    if given and is_pipeline(str(model)):
        raise UsageError(f"{model} is a pipeline: {', '.join(given)} is for models only: leave it out")
