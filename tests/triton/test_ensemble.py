"""The steps of an ensemble are checked; they are not served yet."""

from pathlib import Path

import pytest
from tests.triton.repositories import add_model

from tailcut.errors import UnsupportedError, UsageError
from tailcut.runtime.limits import Limits
from tailcut.triton.library import Library, Wishes

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "A" data_type: TYPE_INT32 dims: 16 }, { name: "B" data_type: TYPE_INT32 dims: 16 } ]
output [ { name: "TWICE" data_type: TYPE_INT32 dims: 16 } ]
ensemble_scheduling { step [
  { model_name: "first" model_version: -1
    input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "difference" } },
  { model_name: "second" model_version: -1
    input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "difference" }
    output_map { key: "OUTPUT0" value: "TWICE" } }
] }
"""


def loaded(folder: Path, text: str) -> None:
    add_model(folder, "first")
    add_model(folder, "second")
    add_model(folder, "bytes", kind="simple_int8")
    (folder / "both" / "1").mkdir(parents=True)
    (folder / "both" / "config.pbtxt").write_text(text)
    Library(folder, Wishes(Limits())).load("both", 1)


def test_a_valid_ensemble_is_not_served_yet(tmp_path: Path) -> None:
    """One line says that its steps fit together, and what to do."""
    with pytest.raises(UnsupportedError, match="a valid ensemble of first, second, but ensembles are not served yet"):
        loaded(tmp_path, ENSEMBLE)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"second" model', '"third" model', "step 'third' is not in the repository"),
        ('"second" model', '"both" model', "is an ensemble"),
        ('"second" model', '"bytes" model', r"expected INT8 \[-1, 16\], got INT32 \[-1, 16\]"),
        ('value: "sum" } input', 'value: "product" } input', "'product' is no input of the ensemble"),
        ('key: "INPUT1" value: "difference"', 'key: "INPUT9" value: "difference"', "lacks input 'INPUT1'"),
        ('key: "OUTPUT1" value: "difference"', 'key: "OUTPUT9" value: "difference"', "has no output 'OUTPUT9'"),
        ('value: "TWICE" }', 'value: "sum" }', "'sum' comes from two places"),
        ('value: "TWICE" }', 'value: "other" }', "output 'TWICE' of the ensemble comes from no step"),
        ('value: "A" } input', 'value: "TWICE" } input', "first, second wait for each other"),
        ("dims: 16 } ]\nensemble", "dims: 4 } ]\nensemble", "output 'TWICE' of the ensemble: expected"),
    ],
)
def test_steps_that_do_not_fit(tmp_path: Path, old: str, new: str, words: str) -> None:
    """One line that names the step and the tensor."""
    assert old in ENSEMBLE
    with pytest.raises(UsageError, match=words):
        loaded(tmp_path, ENSEMBLE.replace(old, new))
