"""Models that onnxruntime has saved with the channels of images in blocks."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
from tests.engines.rows.graphs import Case, build, check, requests, rows_are_alone

from tailcut.engines.rows import analyse_rows
from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 16, 6, 6] x) => (float y)"
LAST = "(float[N, 6, 6, 16] x) => (float y)"
WEIGHTS = {"w": (16, 16, 3, 3), "b": (16,), "k": (1, 16, 6, 6)}
PADDED = "pads = [1, 1, 1, 1]"
DOMAIN = "com.microsoft.nchwc"


def between(body: str, channels: int = 16) -> str:
    return f"i = {DOMAIN}.ReorderInput(x) {body} y = {DOMAIN}.ReorderOutput <channels = {channels}> (o)"


CASES = [
    Case(YES, X, between(f"o = {DOMAIN}.Conv(i, w, b)"), weights=WEIGHTS),
    Case(
        YES, X, between(f'o = {DOMAIN}.Conv <pads = [1, 1, 1, 1], activation = "Relu"> (i, w, b, i)'), weights=WEIGHTS
    ),
    Case(
        NO, X, between(f"o = {DOMAIN}.Conv <pads = [1, 1, 1, 1]> (i, w, b, k)"), weights={**WEIGHTS, "k": (1, 16, 6, 6)}
    ),
    *(
        Case(YES, X, between(f"o = {DOMAIN}.{kind} <kernel_shape = [2, 2], strides = [2, 2]> (i)"))
        for kind in ("MaxPool", "AveragePool")
    ),
    *(Case(YES, X, between(f"o = {DOMAIN}.{kind}(i)")) for kind in ("GlobalMaxPool", "GlobalAveragePool")),
    Case(YES, X, between(f"o = {DOMAIN}.Upsample <scales = [1, 1, 2, 2]> (i)")),
    Case(NO, X, between(f"o = {DOMAIN}.Upsample <scales = [2, 1, 2, 2]> (i)"), runs=False),
    Case(
        YES,
        LAST,
        f"""i = {DOMAIN}.ReorderInput <channels_last = 1> (x) o = {DOMAIN}.Conv(i, w, b)
        r = {DOMAIN}.ReorderOutput <channels = 16, channels_last = 1> (o) y = Reshape(r, [-1, 256])""",
        weights=WEIGHTS,
    ),
    Case(YES, "(float[N, 4, 6, 6] x) => (float y)", between(f"o = {DOMAIN}.GlobalMaxPool(i)", 4)),
    Case(
        NO,
        "(float[N, 1, 6, 6] x) => (float y)",
        f"""t = Transpose <perm = [1, 0, 2, 3]> (x) i = {DOMAIN}.ReorderInput(t) y = {DOMAIN}.GlobalMaxPool(i)""",
        runs=False,
    ),
    Case(
        NO,
        X,
        f"""i = {DOMAIN}.ReorderInput(x) t = Transpose <perm = [1, 0, 2, 3]> (i) o = {DOMAIN}.GlobalMaxPool(t)
        y = Transpose <perm = [1, 0, 2, 3]> (o)""",
        runs=False,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nchwc(case: Case) -> None:
    """Blocks of channels lie inside a row."""
    check(case)


def test_a_saved_model(tmp_path: Path) -> None:
    """What onnxruntime's optimiser makes of a network of convolutions has independent rows as the network itself."""
    body = f"""a = Conv <{PADDED}> (x, v) r = Relu(a) c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    d = Conv <{PADDED}, group = 2> (c, w) e = Add(d, c) g = Concat <axis = 1> (e, e)
    h = AveragePool <kernel_shape = [2, 2]> (g) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm(f, k)"""
    weights = {"v": (16, 3, 3, 3), "w": (16, 8, 3, 3), "k": (32, 3)}
    model = build(Case(YES, "(float[N, 3, 8, 8] x) => (float y)", body, weights=weights))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "saved.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = onnx.load(tmp_path / "saved.onnx")
    evidence = analyse_rows(saved)
    assert evidence.rows is YES, evidence.reason
    assert rows_are_alone(saved, requests(saved))
