"""Random operators and text."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, build, check

from tailcut.engines.rows import analyse_rows
from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
WORDS = 'ngram_counts = [0], ngram_indexes = [0, 1], pool_strings = ["a", "b"]'
TF = f'mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, {WORDS}'

RANDOM = [
    Case(NO, X, "r = RandomNormalLike(x) y = Add(x, r)"),
    Case(NO, X, "r = RandomUniform <shape = [1, 4]> () y = Add(x, r)"),
    Case(NO, X, "s = Sigmoid(x) r = Bernoulli(s) y = Add(x, r)"),
    Case(NO, X, "i = Multinomial(x) y = Cast <to = 1> (i)"),
    Case(NO, X, "y = Dropout(x, {0.5}, t)", weights={"t": np.array(True)}),
]
CASES = [
    *RANDOM,
    Case(YES, X, "y = Dropout(x)"),
    Case(YES, X, "y = Dropout(x, {0.5}, t)", weights={"t": np.array(False)}),
    Case(YES, X, "y = Dropout <ratio = 0.5> (x)", opset=11),
    Case(YES, "(string[N] x) => (string y)", 'y = StringNormalizer <locale = "C", case_change_action = "UPPER"> (x)'),
    Case(NO, "(string[N] x) => (string y)", 'y = StringNormalizer <locale = "C", stopwords = ["b"]> (x)'),
    Case(YES, "(string[N, 3] x) => (float y)", f"y = TfIdfVectorizer <{TF}> (x)"),
    Case(NO, "(string[N] x) => (float y)", f"y = TfIdfVectorizer <{TF}> (x)"),
    Case(NO, "(string[N] x) => (string y, int64 n)", 'y, n = StringSplit <delimiter = " "> (x)', opset=20),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_random_and_text(case: Case) -> None:
    """Random operators on the way to an output, and operators over all words, depend on more than a row."""
    check(case)


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_the_reason_says_random(case: Case) -> None:
    """The reason for a random model says that it is random."""
    assert "random" in analyse_rows(build(case)).reason


def test_random_beside_the_way() -> None:
    """A random operator that no output needs does not count."""
    assert analyse_rows(build(Case(YES, X, "r = RandomNormalLike(x) y = Neg(x)"))).rows is YES
