"""Every field of a configuration is applied, refused, or has a line that says what is done instead."""

from collections.abc import Iterator
from typing import Any

import pytest

from tailcut.errors import UnsupportedError
from tailcut.triton.config import parse_config
from tailcut.triton.notes import notes_of, notes_of_ensemble
from tailcut.triton.settings import refuse

APPLIED = {  # other tests show how
    "backend",
    "default_model_filename",
    "ensemble_scheduling",
    "input.data_type",
    "input.dims",
    "input.name",
    "input.reshape.shape",
    "instance_group.count",
    "dynamic_batching.max_queue_delay_microseconds",
    "dynamic_batching.priority_levels",  # which any request may name
    "max_batch_size",
    "model_warmup.batch_size",
    "model_warmup.inputs.data_type",  # checked by what the model takes
    "model_warmup.inputs.dims",
    "model_warmup.inputs.random_data",
    "model_warmup.inputs.zero_data",
    "model_warmup.name",
    "name",
    "optimization.graph.level",
    "output.data_type",
    "output.dims",
    "output.name",
    "output.reshape.shape",
    "platform",
    "version_policy",
}
OF_ENSEMBLES = {"max_inflight_requests", "step.model_namespace"}  # noted; the other ones are applied


def leaves(message: Any, field: Any, above: tuple[str, ...] = (), most: int = 4) -> Iterator[tuple[str, Any]]:
    """Yield each field at or below this one by its path, with a configuration that sets nothing else."""
    path = (*above, field.name)
    values = field.message_type
    if ".".join(path) in APPLIED or values is None or not most:
        yield ".".join(path), message
        return
    if values.GetOptions().map_entry:
        values = values.fields_by_name["value"].message_type
    if values is None or not values.fields:
        yield ".".join(path), message
        return
    for inner in values.fields:
        yield from leaves(message, inner, path, most - 1)


def fill(message: Any, path: list[str]) -> None:
    """Set one field to a value that is not its default."""
    field = message.DESCRIPTOR.fields_by_name[path[0]]
    there = getattr(message, path[0])
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"].message_type
        key = 1 if field.message_type.fields_by_name["key"].cpp_type != field.CPPTYPE_STRING else "key"
        if value is None:
            there[key] = "value"
        elif len(path) > 1:
            fill(there[key], path[1:])
        else:
            there[key].SetInParent()
    elif field.message_type is not None:
        own = there.add() if hasattr(there, "add") else there
        own.SetInParent()
        if len(path) > 1:
            fill(own, path[1:])
    else:
        value = "x" if field.cpp_type == field.CPPTYPE_STRING else 1
        if hasattr(there, "append"):
            there.append(value)
        else:
            setattr(message, path[0], value)


def paths() -> list[str]:
    config = parse_config("", "here")
    return [path for field in config.DESCRIPTOR.fields for path, _ in leaves(config, field)]


@pytest.mark.parametrize("path", sorted(set(paths()) - APPLIED))
def test_what_is_not_applied_is_noted(path: str) -> None:
    """In a line that has the name of the field, or of one that it belongs to; or the model is refused."""
    config = parse_config("max_batch_size: 8", "here")
    fill(config, path.split("."))
    try:
        refuse(config)
    except UnsupportedError as error:
        text = str(error)
    else:
        text = " ".join(notes_of(config, ()))
    assert text, path
    words = {"queue_policy": "queue policy", "is_shape_tensor": "shape tensor", "gpus": "GPUs", "kind": "GPUs"}
    assert any(words.get(name, name).rstrip("s") in text for name in path.replace("default_queue", "queue").split("."))


def test_the_fields_of_an_ensemble() -> None:
    """Those of its scheduling that are not applied have a line as well."""
    for path in sorted(OF_ENSEMBLES):
        config = parse_config("", "here")
        fill(config, ["ensemble_scheduling", *path.split(".")])
        [note] = notes_of_ensemble(config)
        assert note.startswith(path.rpartition(".")[2])


@pytest.mark.parametrize(("kind", "what"), [("KIND_GPU", "GPUs"), ("KIND_MODEL", "KIND_MODEL")])
def test_a_kind_of_instances_that_is_not_the_default(kind: str, what: str) -> None:
    """Where a model is computed is said by the command line."""
    [note] = notes_of(parse_config(f"instance_group {{ kind: {kind} }}", "here"), ())
    assert note == f"instance_group of {what}: computed where --device says, by default on the CPU"


def test_all_applied_fields_exist() -> None:
    """The list above holds no name that a configuration does not have."""
    assert set(paths()) >= APPLIED
