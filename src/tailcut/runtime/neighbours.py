"""Whether profiles that were measured together are served together. Pure."""

from collections import Counter
from collections.abc import Sequence

from tailcut.runtime.profile import Profile


def other_neighbours(profiles: Sequence[Profile]) -> list[str]:
    """One line for each profile that was measured beside other models than those it is served with.

    Models are compared by the content of their files, because the server assigns names. A model that is loaded twice,
    by itself and in a pipeline, is not its own neighbour, unless it was measured beside a copy of its file.
    """
    lines = []
    for profile in profiles:
        if profile.together is None:
            continue
        measured = profile.together.neighbours
        left = Counter(other.model.sha256 for other in profiles)
        left[profile.model.sha256] -= 1
        missing = []
        for neighbour in measured:
            if left[neighbour.sha256] <= 0:
                missing.append(neighbour.name)
            left[neighbour.sha256] -= 1
        known = {profile.model.sha256, *(neighbour.sha256 for neighbour in measured)}
        added = {other.model.sha256: other.model.name for other in profiles if other.model.sha256 not in known}.values()
        differences = [
            f"{word} {', '.join(names)}" for word, names in (("without", missing), ("beside", added)) if names
        ]
        if differences:
            names = ", ".join(neighbour.name for neighbour in measured)
            lines.append(
                f"{profile.model.name}: measured together with {names}, but served "
                f"{' and '.join(differences)}: retune these models together"
            )
    return lines


def measured_together(profiles: Sequence[Profile]) -> bool:
    """Whether all of these profiles were measured together, and with no other model."""
    return all(profile.together is not None for profile in profiles) and not other_neighbours(profiles)
