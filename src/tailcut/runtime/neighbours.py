"""Whether profiles that were measured together are served together: pure."""

from collections.abc import Sequence

from tailcut.runtime.profile import Profile


def other_neighbours(profiles: Sequence[Profile]) -> list[str]:
    """One line for each profile that was measured beside other models than it is served with.

    Models are compared by the content of their files, because a name is the server's to give. A model that is loaded
    twice, by itself and in a pipeline, is no neighbour of its own.
    """
    lines = []
    contents = {profile.model.sha256: profile.model.name for profile in profiles}
    for profile in profiles:
        if profile.together is None:
            continue
        measured = {neighbour.sha256: neighbour.name for neighbour in profile.together.neighbours}
        served = {content: name for content, name in contents.items() if content != profile.model.sha256}
        missing = [name for content, name in measured.items() if content not in served]
        added = [name for content, name in served.items() if content not in measured]
        differences = [
            f"{word} {', '.join(names)}" for word, names in (("without", missing), ("beside", added)) if names
        ]
        if differences:
            lines.append(
                f"{profile.model.name}: measured together with {', '.join(measured.values())}, but served "
                f"{' and '.join(differences)}: retune these models together"
            )
    return lines


def measured_together(profiles: Sequence[Profile]) -> bool:
    """Whether these profiles, all of them, were measured with just one another."""
    return all(profile.together is not None for profile in profiles) and not other_neighbours(profiles)
