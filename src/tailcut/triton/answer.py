"""The response to a request for a model's configuration; needs no protobuf."""

from collections.abc import Mapping
from typing import Any

# What Triton gives every model but ensembles (NormalizeModelConfig in its core's model_config_utils.cc), with the
# fields of that message that have a default. It is here for clients that compare configurations: nothing uses it.
_OPTIMIZATION = {
    "priority": "PRIORITY_DEFAULT",
    "input_pinned_memory": {"enable": True},
    "output_pinned_memory": {"enable": True},
    "gather_kernel_buffer_threshold": 0,
    "eager_batching": False,
}


def completed(config: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a file with what it leaves open filled in from the model as it is served.

    Args:
        config: what `as_dict` made of the file; empty where there is none.
        live: what the server itself says of the model.
    """
    filled = {name: config.get(name) or live[name] for name in ("name", "platform", "backend", "input", "output")}
    for kind in ("input", "output"):
        types = {tensor["name"]: tensor["data_type"] for tensor in live[kind] if "data_type" in tensor}
        filled[kind] = [_typed(tensor, types) for tensor in filled[kind]]
    filled["instance_group"] = _groups(config, live) or live["instance_group"]
    own = {name: value for name, value in live.items() if name != "dynamic_batching"}
    if not config.get("max_batch_size") and not config.get("input"):  # the model alone says what it takes
        filled |= {name: live[name] for name in ("max_batch_size", "dynamic_batching") if name in live}
    if config.get("platform") == "ensemble":  # which no backend computes
        filled |= {"backend": "", "instance_group": []}
    else:
        filled["optimization"] = _OPTIMIZATION | config.get("optimization", {})
    parameters = {**config.get("parameters", {}), **live["parameters"]}
    policy = config.get("version_policy") or {"latest": {"num_versions": 1}}
    return {**own, **config, **filled, "parameters": parameters, "version_policy": policy}


def _typed(tensor: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """A tensor with the type that the model has, where the file leaves it out."""
    known = tensor.get("data_type", "TYPE_INVALID") != "TYPE_INVALID"
    name = tensor.get("name", "")
    return dict(tensor) if known or name not in types else {**tensor, "data_type": types[name]}


def _groups(config: Mapping[str, Any], live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The instance groups of a file, with the names, counts and kinds that it leaves open.

    As Triton has them, but for the count on its CPU with onnxruntime: 2 there, and 1 here, which is what computes.
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
