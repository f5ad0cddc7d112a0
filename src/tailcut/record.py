"""The base class of everything that Tailcut prints or stores as JSON."""

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object with exactly the keys named."""
