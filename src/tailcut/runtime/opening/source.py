"""What a source names: a profile, a pipeline, or a bare model; and the requests that a profile knows."""

from pathlib import Path

from tailcut.engines.samples import Samples
from tailcut.errors import ProfileError, UsageError
from tailcut.runtime.opening.defaults import SAFE_SETTINGS
from tailcut.runtime.profile import Profile, is_pipeline
from tailcut.spec import ModelSpec


def open_profile(path: Path) -> Profile:
    """The profile in a .toml file, its model checked against its hash; or the defaults for a bare model file.

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
    """The name, with a version or without, that a source is served by, and its file; an empty name is the file's.

    A folder or a file may have an equals sign in its name: what is there as a whole is all path; and what has a slash
    before the sign, unless there is a file behind it, because names of models may have one too.

    Raises:
        UsageError: there is nothing on one side of the equals sign.
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
    return bool(file) and Path(file).exists()


def is_profile(path: Path) -> bool:
    """Whether a file is taken for a profile; any other is taken for a bare model."""
    return path.suffix == ".toml"


def is_bare(source: str) -> bool:
    """Whether a source is a model without a profile, whose settings are chosen by measuring."""
    return not is_profile(Path(source)) and not is_pipeline(source)


def known_samples(profile: Profile, spec: ModelSpec) -> Samples | None:
    """The most frequent kind of request in the data that the profile was tuned with; None where it does not say."""
    try:
        return profile.samples[0].of(spec) if profile.samples else None
    except ProfileError:  # warm-up says so
        return None
