"""How this Python was built, as far as it decides how fast it runs. Pure.

A build that was optimised with a profile of real programs (PGO) runs Python code up to 1.3 times as fast. Those of
distributions, conda, uv and the official images are; those of pyenv and of a plain `./configure && make` are not.
"""

from collections.abc import Mapping
from typing import Any

_USE_FLAG = "PGO_PROF_USE_FLAG"


def is_optimised(variables: Mapping[str, Any]) -> bool | None:
    """Whether the interpreter was built with a profile; None if the build does not say how.

    Args:
        variables: those of `sysconfig.get_config_vars()`.
    """
    arguments = variables.get("CONFIG_ARGS")
    if not arguments:
        return None
    if "--enable-optimizations" in arguments:
        return True
    # Debian and its descendants build with a profile without that argument, and clear the flag of the installed file.
    return False if variables.get(_USE_FLAG) else None
