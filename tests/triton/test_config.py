"""Reading `config.pbtxt`, and the JSON object that the server answers."""

from pathlib import Path

import pytest
from tests.triton.repositories import CONFIG, add_model

from tailcut.errors import UnsupportedError, UsageError
from tailcut.triton.answer import completed
from tailcut.triton.config import as_dict, parse_config, read_config
from tailcut.triton.names import type_of

LIVE = {
    "name": "m",
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "max_batch_size": 32,
    "input": [{"name": "x"}],
    "output": [{"name": "y"}],
    "instance_group": [{"name": "m", "count": 1, "kind": "KIND_CPU"}],
    "dynamic_batching": {"max_queue_delay_microseconds": 0},
    "parameters": {"rows": {"string_value": "independent"}},
}


def test_numbers_are_numbers_and_enumerations_are_names() -> None:
    """As Triton answers; protobuf's own JSON has 64-bit numbers as strings."""
    text = CONFIG.format(
        name="m",
        kind="TYPE_INT32",
        more='version_policy { specific { versions: [ 1, 3 ] } } parameters { key: "k" value { string_value: "v" } } '
        "dynamic_batching { priority_queue_policy { key: 2 value { max_queue_size: 5 } } }",
    )
    result = as_dict(parse_config(text, "here"))
    assert result["input"][0]["dims"] == [16]
    assert result["input"][0]["data_type"] == "TYPE_INT32"
    assert result["version_policy"] == {"specific": {"versions": [1, 3]}}
    assert result["parameters"] == {"k": {"string_value": "v"}}
    assert result["dynamic_batching"]["priority_queue_policy"]["2"]["max_queue_size"] == 5
    assert "sequence_batching" not in result


def test_what_the_file_leaves_open_comes_from_the_model() -> None:
    """Of a model without a file, everything; of one with a file, only what it does not say."""
    alone = completed({}, LIVE)
    assert (alone["max_batch_size"], alone["input"]) == (32, [{"name": "x"}])
    assert "dynamic_batching" in alone
    file = as_dict(parse_config(CONFIG.format(name="m", kind="TYPE_INT8", more=""), "here"))
    both = completed(file, LIVE)
    assert both["max_batch_size"] == 8
    assert [item["name"] for item in both["input"]] == ["INPUT0", "INPUT1"]
    assert both["instance_group"] == LIVE["instance_group"]
    assert both["version_policy"] == {"latest": {"num_versions": 1}}
    assert "dynamic_batching" not in both


def test_types_that_the_file_leaves_out_are_those_of_the_model() -> None:
    """Triton completes them, too."""
    file = as_dict(parse_config('input [ { name: "x" dims: [ 4 ] } ] output [ { name: "y" dims: [ 2 ] } ]', "here"))
    tensors = {"input": [{"name": "x", "data_type": "TYPE_FP32"}], "output": [{"name": "y", "data_type": "TYPE_INT64"}]}
    result = completed(file, LIVE | tensors)
    assert [tensor["data_type"] for tensor in result["input"] + result["output"]] == ["TYPE_FP32", "TYPE_INT64"]
    assert result["input"][0]["dims"] == [4]


def test_instance_groups_have_names_counts_and_kinds() -> None:
    """What a group leaves open is filled in; what it says stays."""
    text = 'instance_group [ { count: 2 }, { name: "mine" kind: KIND_GPU gpus: [ 0 ] } ]'
    first, second = completed(as_dict(parse_config(text, "here")), LIVE)["instance_group"]
    assert (first["name"], first["count"], first["kind"]) == ("m_0", 2, "KIND_CPU")
    assert (second["name"], second["count"], second["kind"], second["gpus"]) == ("mine", 1, "KIND_GPU", [0])


def test_pinned_memory_is_on_where_the_file_does_not_say() -> None:
    """As Triton has it, with the other fields of that message."""
    text = "optimization { priority: PRIORITY_MAX input_pinned_memory { enable: false } }"
    some = completed(as_dict(parse_config(text, "here")), LIVE)["optimization"]
    assert (some["input_pinned_memory"], some["output_pinned_memory"]) == ({"enable": False}, {"enable": True})
    assert some["priority"] == "PRIORITY_MAX"
    none = completed({}, LIVE)["optimization"]
    assert none.keys() == some.keys()
    assert none["input_pinned_memory"] == {"enable": True}


def test_an_ensemble_has_no_backend() -> None:
    """And no instances, and nothing to optimise: its models have them."""
    result = completed({"platform": "ensemble", "input": [{"name": "A"}]}, LIVE)
    assert (result["backend"], result["instance_group"]) == ("", [])
    assert "optimization" not in result


def test_a_number_that_no_type_has() -> None:
    """The text format takes any for an enumeration."""
    known, unknown = parse_config('input [ { data_type: 11 }, { name: "x" data_type: 99 } ]', "here").input
    assert type_of(known) == "TYPE_FP32"
    with pytest.raises(UnsupportedError, match="tensor 'x' has the unknown data_type 99"):
        type_of(unknown)


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_batch: 3", 'no field named "max_batch"'), ("max_batch_size: many", "1:17"), ("input [ {", "Expected")],
)
def test_a_configuration_that_is_none_names_the_place(tmp_path: Path, text: str, words: str) -> None:
    """One line with the file, the line and the column."""
    folder = add_model(tmp_path, "m")
    (folder / "config.pbtxt").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(folder)
    assert str(caught.value).startswith(f"{folder / 'config.pbtxt'}: not a model configuration: ")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Random bytes are refused in one line, and a model without a file has no configuration."""
    folder = add_model(tmp_path, "m")
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        read_config(folder)
    (folder / "config.pbtxt").unlink()
    assert read_config(folder) is None
