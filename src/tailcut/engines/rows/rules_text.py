"""Operators on text. Rows that are padded to the longest one are followed until the padding is ignored."""

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.sizes import ONE, number
from tailcut.engines.rows.values import Mixes, Unclear, Value


def _string_normalizer(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and operation.attributes.get("stopwords"):
        raise Mixes("drops words, and rows with them")
    return value


def _tf_idf(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and (value.rank != 2 or value.rows.axis != 0):
        raise Mixes("counts words over all rows")
    if value.filler is not None and value.filler in operation.attributes.get("pool_strings", ()):
        raise Mixes("counts what the longest row adds to the others")
    length = number(max(operation.attributes["ngram_indexes"]) + 1)
    return Value((*value.sizes[:-1], length), value.rows)


def _string_split(operation: Operation) -> Value:
    if any(value.rows for value in operation.given):
        raise Mixes("makes every row as long as the longest")
    raise Unclear("splits text")


def _tokenizer(operation: Operation) -> Value:
    """onnxruntime's: text to `[..., tokens]`, where shorter rows are padded with `pad_value`."""
    value = operation.need(0)
    filler = str(operation.attributes["pad_value"])
    return Value(
        (*value.sizes, operation.unknown(value.rank)), value.rows, filler=None if value.rows is None else filler
    )


def flattened_tokens(value: Value, axis: int) -> Value:
    """Tokens of `[rows, 1, tokens]` as `[rows, tokens]`.

    Raises:
        Mixes: padding would be between other tokens.
    """
    if axis != 1 or any(size != ONE for size in value.sizes[1:-1]):
        raise Mixes("makes every row as long as the longest")
    return Value((value.sizes[0], value.sizes[-1]), value.rows, filler=value.filler)


RULES: Table = {
    "StringNormalizer": Rule(_string_normalizer),
    "TfIdfVectorizer": Rule(_tf_idf, filled=True),
    "StringSplit": Rule(_string_split),
}
MICROSOFT: Table = {"Tokenizer": Rule(_tokenizer)}
