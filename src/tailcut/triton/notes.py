"""Notes on configuration fields that mean something else here: for each a line with what is done instead. Pure."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_DEFAULT_PRIORITY = 100  # the priority of a request without one
_IGNORED = {  # fields that are not used, with what is done instead
    "runtime": "the engine is chosen by platform, backend and the kind of the file",
    "cc_model_filenames": "the same file serves every machine",
    "metric_tags": "metrics carry the name and the version of the model",
    "model_metrics": "metrics have the buckets that the documentation lists",
    "response_cache": "every request is computed",
    "model_repository_agents": "files are read from the folder itself",
    "model_operations": "operators come from the engine, and from onnxruntime-extensions where that is installed",
    "batch_input": "a model gets only the inputs of the request",
    "batch_output": "outputs have one row for each row of the request",
}
_OF_MODELS = {  # fields that ensembles do not use, because their models have them
    "version_policy": "an ensemble is served as one version, of the models that its steps name",
    "default_model_filename": "each model has its own file",
    "instance_group": "each model has the instances of its own configuration",
    "model_warmup": "each model is warmed up by itself",
    "optimization": "each model has its own",
}


def notes_of(config: Any, parameters: Collection[str]) -> Iterator[str]:
    """Yield a line for each field of a model that means something else here, the field first.

    Args:
        config: the message of `config.pbtxt`.
        parameters: names of the parameters that are applied.
    """
    yield from _notes_of_fields(config, _IGNORED)
    yield from _notes_of_tensors(config)
    yield from _notes_of_instances(config)
    yield from _notes_of_optimization(config.optimization)
    if config.HasField("dynamic_batching"):
        yield from _notes_of_batching(config.dynamic_batching, config.max_batch_size)
    yield from _notes_of_parameters(config, parameters)
    if any(warmup.count for warmup in config.model_warmup):
        yield "count of model_warmup is not used: each request is computed up to three times on each instance"
    if any(tensor.input_data_file for warmup in config.model_warmup for tensor in warmup.inputs.values()):
        yield "input_data_file of model_warmup is not read: zeros are sent"


def notes_of_ensemble(config: Any) -> Iterator[str]:
    """Yield a line for each field of an ensemble that means something else here, or that its models have instead."""
    yield from _notes_of_fields(config, _IGNORED | _OF_MODELS)
    yield from _notes_of_tensors(config)
    yield from _notes_of_parameters(config, ())
    for name, instead in (
        ("max_inflight_requests", "the queue of each model is bounded"),
        ("model_namespace", "a model is found by its name in this repository"),
    ):
        scheduling = config.ensemble_scheduling
        if any(_is_set(message, name) for message in (scheduling, *scheduling.step)):
            yield f"{name} of ensemble_scheduling is not used: {instead}"


def _notes_of_fields(config: Any, ignored: Mapping[str, str]) -> Iterator[str]:
    for name, instead in ignored.items():
        if _is_set(config, name):
            yield f"{name} is not used: {instead}"


def _notes_of_parameters(config: Any, known: Collection[str]) -> Iterator[str]:
    others = sorted(name for name in config.parameters if name not in known)
    if others:
        yield f"parameters {', '.join(others)} are not used: clients get them unchanged in the model's configuration"


def _notes_of_tensors(config: Any) -> Iterator[str]:
    if any(tensor.format for tensor in config.input):
        yield "format of inputs is not used: clients send the shape that dims says"
    if any(tensor.allow_ragged_batch for tensor in config.input):
        yield "allow_ragged_batch is not used: requests share a batch if their rows have the same shape"
    if any(tensor.label_filename for tensor in config.output):
        yield "label_filename is not used: the classification extension is not served, and outputs are numbers"
    if any(tensor.is_non_linear_format_io for tensor in (*config.input, *config.output)):
        yield "is_non_linear_format_io is not used: tensors are row-major"


def _notes_of_instances(config: Any) -> Iterator[str]:
    groups = config.instance_group
    kind = {"KIND_GPU": 1, "KIND_MODEL": 3}
    for what, wanted in (
        ("GPUs", any(group.kind == kind["KIND_GPU"] or group.gpus for group in groups)),
        ("KIND_MODEL", any(group.kind == kind["KIND_MODEL"] for group in groups)),
    ):
        if wanted:
            yield f"instance_group of {what}: computed where --device says, by default on the CPU"
    for name, instead in (
        ("name", "all instances are one pool"),
        ("rate_limiter", "batches start as soon as an instance is idle"),
        ("host_policy", "pinning and NUMA nodes follow the profile"),
        ("profile", "it is for TensorRT alone"),
        ("passive", "every instance computes"),
        ("secondary_devices", "one device computes a model"),
    ):
        if any(_is_set(group, name) for group in groups):
            yield f"{name} of instance_group is not used: {instead}"


def _notes_of_optimization(policy: Any) -> Iterator[str]:
    accelerators = policy.execution_accelerators
    others = [
        accelerator.name for accelerator in accelerators.cpu_execution_accelerator if accelerator.name != "openvino"
    ]
    others += [accelerator.name for accelerator in accelerators.gpu_execution_accelerator]
    if others:
        yield f"execution_accelerators {', '.join(others)} are not used: the engine runs without them"
    if any(
        item.parameters for item in (*accelerators.cpu_execution_accelerator, *accelerators.gpu_execution_accelerator)
    ):
        yield "parameters of execution_accelerators are not used: engines have options of their own"
    for name, instead in (
        ("priority", "all models of a server share its cores alike"),
        ("cuda", "graphs and precision on a device are those of the profile"),
        ("input_pinned_memory", "rows are in the server's own memory"),
        ("output_pinned_memory", "rows are in the server's own memory"),
        ("gather_kernel_buffer_threshold", "bodies are received into rows"),
        ("eager_batching", "a body is received into its row before its batch is formed"),
    ):
        if _is_set(policy, name):
            yield f"{name} of optimization is not used: {instead}"


def _notes_of_batching(policy: Any, most: int) -> Iterator[str]:
    if policy.preferred_batch_size:
        sizes = list(policy.preferred_batch_size)
        yield f"preferred_batch_size {sizes} is not used: a batch leaves when the learned cost of its size says so"
    if policy.preserve_ordering:
        yield "preserve_ordering is not used: batches of several instances may finish in another order"
    levels, default = policy.priority_levels, policy.default_priority_level
    if (levels or default) and default != levels:
        yield f"default_priority_level {default} is not used: requests without a priority have {_DEFAULT_PRIORITY}"
    waiting = policy.default_queue_policy.max_queue_size
    if waiting and most > 1:
        yield f"max_queue_size {waiting} counts requests: here {waiting} x {most} rows may wait, in any requests"
    policies = [policy.default_queue_policy, *policy.priority_queue_policy.values()]
    if any(policy.default_timeout_microseconds or policy.timeout_action for policy in policies):
        yield "timeouts of the queue policy are not used: a request has its own timeout, or the server's --deadline"
    if any(policy.allow_timeout_override for policy in policies):
        yield "allow_timeout_override is not used: a request's own timeout always counts"
    if policy.priority_queue_policy:
        yield "priority_queue_policy is not used: all priorities share one bounded queue"


def _is_set(message: Any, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())
