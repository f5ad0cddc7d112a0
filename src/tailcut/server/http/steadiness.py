"""When a client takes the fast path: after a few messages that are alike but for their data."""

from tailcut.spec import ModelSpec
from tailcut.wire.v2.template import Template, template_of

LONG_WAY = 64  # messages before one that came back from the fast path tries it again
STEADY = 3  # messages in a row, and a client takes the fast path


class Steadiness:
    """Of one connection whose bodies are JSON: what they have in common is looked for only where enough have come."""

    __slots__ = ("_alike", "_before")

    def __init__(self) -> None:
        self._alike = 0
        self._before: Template | None = None  # of the last body that was looked at

    def is_over(self) -> None:
        """The client came back from the fast path, or cannot take it."""
        self._alike = -LONG_WAY

    def may_go(self) -> bool:
        """Count a message; whether `template` is to be asked for."""
        self._alike += 1
        return self._alike > STEADY

    def template(self, spec: ModelSpec, body: bytes, json_size: int | None) -> Template | None:
        """What a body, read without an error, has in common with the one before, where that is all but its data."""
        before, found = self._before, template_of(spec, body, json_size)
        self._before = found
        if found is None or (before is not None and (before.before, before.behind) != (found.before, found.behind)):
            self.is_over()
            return None
        return found if before is not None else None
