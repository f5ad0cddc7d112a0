"""Reads sources: a source is a profile, a pipeline, or a model without a profile."""

from pathlib import Path

from tailcut.engines.samples import Samples
from tailcut.errors import ProfileError, UsageError
from tailcut.runtime.opening.defaults import SAFE_SETTINGS
from tailcut.runtime.profile import Profile, is_pipeline
from tailcut.spec import ModelSpec


def open_profile(path: Path) -> Profile:
    """The profile in a .toml file, with the hash of its model checked; or a default profile for a model file.

    Raises:
        ProfileError: the profile is corrupt, of a later schema, or for another model.
        ModelFileError: the model file is missing or empty.
    """
    if is_profile(path):
        profile = Profile.load(path)
        profile.verify_model(path.name)
        return profile
    return Profile.of_model(path, SAFE_SETTINGS)


def split_source(text: str) -> tuple[str, str]:
    """The name, perhaps with a version, under which a source is served (empty: that of the file), and its path.

    Names of folders and files may contain an equals sign. So a text that exists as a path is all path, and so is one
    with a slash before the sign, unless a file of the name behind the sign exists: names of models may have slashes.

    Raises:
        UsageError: the name or the path is empty.
    """
    label, equals, path = text.partition("=")
    if not equals or _is_there(text) or ("/" in label and not _is_there(path)):
        return "", text
    if not label or not path:
        raise UsageError(f"{text!r} is neither FILE nor NAME=FILE")
    return label, path


def _is_there(source: str) -> bool:
    """Whether a source's file exists."""
    file = (source.rpartition(":")[0] or source) if is_pipeline(source) else source
    try:
        return bool(file) and Path(file).exists()
    except OSError:  # it is too long for a file's name
        return False


def is_profile(path: Path) -> bool:
    """Whether a file is taken to be a profile; any other is taken to be a model."""
    return path.suffix == ".toml"


def is_bare(source: str) -> bool:
    """Whether a source is a model without a profile, whose settings are measured."""
    return not is_profile(Path(source)) and not is_pipeline(source)


def known_samples(profile: Profile, spec: ModelSpec) -> Samples | None:
    """The most frequent kind of request in the data that the profile was tuned with; None where it has none."""
    try:
        return profile.samples[0].of(spec) if profile.samples else None
    except ProfileError:  # warm-up logs it
        return None
