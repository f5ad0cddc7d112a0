"""The response to a request for a model's configuration; needs no protobuf."""

from collections.abc import Mapping
from typing import Any


def completed(config: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a file with what it leaves open filled in from the model as it is served.

    Args:
        config: what `as_dict` made of the file; empty where there is none.
        live: what the server itself says of the model.
    """
    names = ("name", "platform", "backend", "input", "output", "instance_group")
    filled = {name: config.get(name) or live[name] for name in names}
    own = {name: value for name, value in live.items() if name != "dynamic_batching"}
    if not config.get("max_batch_size") and not config.get("input"):  # the model alone says what it takes
        filled |= {name: live[name] for name in ("max_batch_size", "dynamic_batching") if name in live}
    if config.get("platform") == "ensemble":  # which no backend computes
        filled |= {"backend": "", "instance_group": []}
    parameters = {**config.get("parameters", {}), **live["parameters"]}
    policy = config.get("version_policy") or {"latest": {"num_versions": 1}}
    return {**own, **config, **filled, "parameters": parameters, "version_policy": policy}
