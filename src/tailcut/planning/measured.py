"""The measurements of a profile: in its evidence, or else in the journal of its tune beside it."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tailcut.errors import ProfileError
from tailcut.runtime.profile import Profile
from tailcut.tuner.journal import lines_of
from tailcut.tuner.service import MeasuredService, measured_service


@dataclass(frozen=True, slots=True)
class MeasuredProfile:
    """A profile with the measurements of its configuration.

    Args:
        path: of the profile.
        profile: as it was read.
        service: the measurements.
        source: the file that has them.
    """

    path: Path
    profile: Profile
    service: MeasuredService
    source: Path


def read_measured(path: Path) -> MeasuredProfile:
    """Read a profile and its measurements.

    Raises:
        ProfileError: the profile cannot be read, is of a later schema, is a pipeline's, or has no measurements.
    """
    profile = Profile.load(path)
    if profile.is_of_pipeline:
        raise ProfileError(f"{path}: a pipeline cannot be planned: its stages have no service times by batch size")
    kept = profile.evidence.get("service")
    if kept is not None:
        try:
            return MeasuredProfile(path, profile, msgspec.convert(kept, MeasuredService), path)
        except msgspec.ValidationError as error:
            raise ProfileError(f"{path}: evidence.service is not valid: {error}: tune the model again") from None
    journal = path.with_name(f"{path.name.removesuffix('.toml').removesuffix('.profile')}.trials.jsonl")
    cores = profile.machine.get("usable_cpus")
    if isinstance(cores, int | float) and cores > 0:
        service = measured_service(lines_of(journal, profile.model), profile.settings, float(cores))
        if service is not None:
            return MeasuredProfile(path, profile, service, journal)
    raise ProfileError(
        f"{path}: the profile has no service times, and neither has {journal.name} beside it: tune the model again "
        f"(tailcut tune {profile.model.path})"
    )
