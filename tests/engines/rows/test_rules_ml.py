"""Classical models."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO = Rows.INDEPENDENT, Rows.DEPENDENT
X = "(float[N, 3] x) => (float y)"
FLAT = "(float[N] x) => (float y)"
BOTH = "(float[N, 3] x) => (int64 a, float b)"
LINEAR = "coefficients = [0.1, 0.2, 0.3, 0.5, 0.2, 0.1], intercepts = [0.1, 0.2]"
TREE = """nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [1, 0, 0],
nodes_values = [0.5, 0.0, 0.0],
nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0]"""
LEAVES = "{kind}_treeids = [0, 0], {kind}_nodeids = [1, 2], {kind}_ids = [0, {other}], {kind}_weights = [1.0, 2.0]"

SVM = """coefficients = [0.5, -0.5], support_vectors = [0.1, 0.2, 0.3, 1.0, 0.5, 0.2], kernel_type = "RBF",
kernel_params = [0.5, 0.0, 3.0], rho = [0.1]"""

CASES = [
    Case(YES, X, f"y = ai.onnx.ml.SVMRegressor <n_supports = 2, {SVM}> (x)"),
    Case(
        YES, BOTH, f"a, b = ai.onnx.ml.SVMClassifier <classlabels_ints = [0, 1], vectors_per_class = [1, 1], {SVM}> (x)"
    ),
    Case(NO, FLAT, f"y = ai.onnx.ml.SVMRegressor <n_supports = 2, {SVM}> (x)", shows=False),
    Case(YES, X, "y = ai.onnx.ml.TreeEnsemble <n_targets = 1> (x)", runs=False),
    Case(NO, FLAT, "y = ai.onnx.ml.TreeEnsemble <n_targets = 1> (x)", runs=False),
    Case(YES, X, "y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (x)", runs=False),
    Case(NO, FLAT, "y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (x)", runs=False),
    Case(YES, X, "y = ai.onnx.ml.Scaler <offset = [1.0, 2.0, 3.0], scale = [1.0, 0.5, 2.0]> (x)"),
    Case(YES, X, 'y = ai.onnx.ml.Normalizer <norm = "L2"> (x)'),
    Case(NO, FLAT, 'y = ai.onnx.ml.Normalizer <norm = "L2"> (x)'),
    Case(YES, X, "y = ai.onnx.ml.Imputer <imputed_value_floats = [0.5]> (x)"),
    Case(YES, X, "y = ai.onnx.ml.Binarizer <threshold = 0.5> (x)"),
    Case(YES, X, f"y = ai.onnx.ml.LinearRegressor <targets = 2, {LINEAR}> (x)"),
    Case(
        NO,
        FLAT,
        "y = ai.onnx.ml.LinearRegressor <targets = 1, coefficients = [0.1], intercepts = [0.1]> (x)",
        shows=False,
    ),
    Case(
        YES,
        BOTH,
        f'a, b = ai.onnx.ml.LinearClassifier <classlabels_ints = [0, 1], post_transform = "SOFTMAX", {LINEAR}> (x)',
    ),
    Case(
        YES,
        X,
        f"y = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, {TREE}, {LEAVES.format(kind='target', other=0)}> (x)",
    ),
    Case(
        YES,
        BOTH,
        f"""a, b = ai.onnx.ml.TreeEnsembleClassifier <classlabels_int64s = [0, 1], {TREE},
        {LEAVES.format(kind="class", other=1)}> (x)""",
    ),
    Case(
        YES,
        "(int64[N] x) => (string y)",
        'y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["p", "q"]> (x)',
    ),
    Case(
        YES,
        "(string[N] x) => (int64 y)",
        'y = ai.onnx.ml.CategoryMapper <cats_int64s = [1, 2], cats_strings = ["b", "a b"]> (x)',
    ),
    Case(YES, "(int64[N, 2] x) => (float y)", "y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2]> (x)"),
    Case(
        YES,
        "(float[N, 3] x, float[N, 2] z) => (float y)",
        "y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3, 2]> (x, z)",
    ),
    Case(YES, X, "y = ai.onnx.ml.ArrayFeatureExtractor(x, [0, 2])"),
    Case(NO, "(float[N, 1] x) => (float y)", "t = Transpose(x) y = ai.onnx.ml.ArrayFeatureExtractor(t, [0])"),
    Case(
        YES,
        X,
        """a = ArgMax <axis = 1, keepdims = 1> (x) l = ai.onnx.ml.ArrayFeatureExtractor(w, a) y = Reshape(l, [-1])""",
        weights={"w": np.array([0.5, 2, 7], np.float32)},
    ),
    Case(
        NO,
        X,
        """a = ArgMax <axis = 1, keepdims = 1> (x) y = ai.onnx.ml.ArrayFeatureExtractor(w, a)""",
        weights={"w": np.array([0.5, 2, 7], np.float32)},
    ),
    Case(NO, X, "a = ArgMax <axis = 1, keepdims = 0> (x) y = ai.onnx.ml.ArrayFeatureExtractor(x, a)"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_classical_models(case: Case) -> None:
    """Tables of rows and features keep their rows apart; one axis alone is a single row of features."""
    check(case)
