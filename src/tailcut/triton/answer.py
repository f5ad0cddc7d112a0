"""Builds the answer to a request for a model's configuration, without protobuf."""

from collections.abc import Mapping
from typing import Any

# What Triton adds for every model except ensembles (NormalizeModelConfig in model_config_utils.cc of its core), with
# all fields that have a default. Only for clients that compare configurations: Tailcut uses none of it.
_OPTIMIZATION = {
    "priority": "PRIORITY_DEFAULT",
    "input_pinned_memory": {"enable": True},
    "output_pinned_memory": {"enable": True},
    "gather_kernel_buffer_threshold": 0,
    "eager_batching": False,
}


def completed(config: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A file's configuration, completed from the model that is served.

    Args:
        config: the file's configuration, from `as_dict`; empty if there is no file.
        live: the server's own configuration of the model.
    """
    filled = {name: config.get(name) or live[name] for name in ("name", "platform", "backend", "input", "output")}
    for kind in ("input", "output"):
        types = {tensor["name"]: tensor["data_type"] for tensor in live[kind] if "data_type" in tensor}
        filled[kind] = [_typed(tensor, types) for tensor in filled[kind]]
    filled["instance_group"] = _groups(config, live) or live["instance_group"]
    own = {name: value for name, value in live.items() if name != "dynamic_batching"}
    if not config.get("max_batch_size") and not config.get("input"):  # only the model tells what it accepts
        filled |= {name: live[name] for name in ("max_batch_size", "dynamic_batching") if name in live}
    if config.get("platform") == "ensemble":  # no backend computes an ensemble
        filled |= {"backend": "", "instance_group": []}
    else:
        filled["optimization"] = _OPTIMIZATION | config.get("optimization", {})
    parameters = {**config.get("parameters", {}), **live["parameters"]}
    policy = config.get("version_policy") or {"latest": {"num_versions": 1}}
    return {**own, **config, **filled, "parameters": parameters, "version_policy": policy}


def _typed(tensor: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """A tensor with the model's type if the file leaves it out."""
    known = tensor.get("data_type", "TYPE_INVALID") != "TYPE_INVALID"
    name = tensor.get("name", "")
    return dict(tensor) if known or name not in types else {**tensor, "data_type": types[name]}


def _groups(config: Mapping[str, Any], live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A file's instance groups, completed with the names, counts and kinds that it leaves out.

    The defaults are Triton's, except for the count with onnxruntime on the CPU: Triton has 2; it is 1 here, which is
    how many instances there are.
    """
    kind = live["instance_group"][0]["kind"]
    return [
        group
        | {
            "name": group.get("name") or f"{live['name']}_{index}",
            "count": max(1, group.get("count", 0)),
            "kind": kind if group.get("kind", "KIND_AUTO") == "KIND_AUTO" else group["kind"],
        }
        for index, group in enumerate(config.get("instance_group", ()))
    ]
