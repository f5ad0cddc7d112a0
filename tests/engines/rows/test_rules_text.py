"""Operators on text."""

import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO = Rows.INDEPENDENT, Rows.DEPENDENT
WORDS = 'ngram_counts = [0], ngram_indexes = [0, 1], pool_strings = ["a", "b"]'
TF = f'mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, {WORDS}'
TOKENS = 'com.microsoft.Tokenizer <mark = 0, mincharnum = 1, pad_value = "#", separators = [" "]> (x)'

CASES = [
    Case(YES, "(string[N] x) => (string y)", 'y = StringNormalizer <locale = "C", case_change_action = "UPPER"> (x)'),
    Case(NO, "(string[N] x) => (string y)", 'y = StringNormalizer <locale = "C", stopwords = ["b"]> (x)'),
    Case(YES, "(string[N, 3] x) => (float y)", f"y = TfIdfVectorizer <{TF}> (x)"),
    Case(NO, "(string[N] x) => (float y)", f"y = TfIdfVectorizer <{TF}> (x)"),
    Case(NO, "(string[N] x) => (string y, int64 n)", 'y, n = StringSplit <delimiter = " "> (x)', opset=20),
    # scikit-learn's text pipelines: tokens are filled up to the longest text, and the filling is not counted.
    Case(YES, "(string[N] x) => (float y)", f"t = {TOKENS} y = TfIdfVectorizer <{TF}> (t)"),
    Case(YES, "(string[N, 1] x) => (float y)", f"t = {TOKENS} f = Flatten(t) y = TfIdfVectorizer <{TF}> (f)"),
    Case(NO, "(string[N] x) => (float y)", f"t = {TOKENS} y = TfIdfVectorizer <{TF}> (t)".replace("#", "b")),
    Case(
        NO, "(string[N, 2] x) => (float y)", f"t = {TOKENS} f = Flatten(t) y = TfIdfVectorizer <{TF}> (f)", shows=False
    ),
    Case(NO, "(string[N] x) => (string y)", f"y = {TOKENS}"),
    Case(NO, "(string[N] x) => (float y)", f"t = {TOKENS} s = Shape(t) y = Expand({{1.0}}, s)"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text(case: Case) -> None:
    """Operators over all words depend on more than a row, unless what other rows add is ignored."""
    check(case)
