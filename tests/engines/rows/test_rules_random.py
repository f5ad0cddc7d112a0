"""Random operators."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, build, check

from tailcut.engines.rows import analyse_rows
from tailcut.engines.rows.needed import remove_unneeded
from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
RANDOM = [
    Case(NO, X, "r = RandomNormalLike(x) y = Add(x, r)"),
    Case(NO, X, "r = RandomUniform <shape = [1, 4]> () y = Add(x, r)"),
    Case(NO, X, "r = RandomNormal <shape = [4]> () y = Add(x, r)"),
    Case(NO, X, "y = RandomUniformLike(x)"),
    Case(NO, X, "s = Sigmoid(x) r = Bernoulli(s) y = Add(x, r)"),
    Case(NO, X, "i = Multinomial(x) y = Cast <to = 1> (i)"),
    Case(NO, X, "y = Dropout(x, {0.5}, t)", weights={"t": np.array(True)}),
]
CASES = [
    *RANDOM,
    Case(YES, X, "y = Dropout(x)"),
    Case(YES, X, "y = Dropout(x, {0.5}, t)", weights={"t": np.array(False)}),
    Case(YES, X, "y = Dropout <ratio = 0.5> (x)", opset=11),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_random(case: Case) -> None:
    """A random operator on the way to an output makes a model dependent, and Dropout does in training only."""
    check(case)


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_the_reason_says_random(case: Case) -> None:
    """The reason for a random model says that it is random."""
    assert "random" in analyse_rows(build(case)).reason


def test_random_beside_the_way() -> None:
    """A random operator that no output needs no longer counts when it is taken out, as it is for an engine."""
    model = build(Case(YES, X, "r = RandomNormalLike(x) y = Neg(x)"))
    assert analyse_rows(model).rows is UNKNOWN
    assert remove_unneeded(model.graph)
    assert analyse_rows(model).rows is YES
