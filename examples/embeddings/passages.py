"""Writes passages.npz: a corpus to tune and to judge a text encoder with, as token ids.

python passages.py tokenizer.json encoder.onnx

The passages are paragraphs of Python's own documentation, which every Python has. Take your own instead.
"""

import sys
from collections import defaultdict
from pydoc_data.topics import topics

import numpy as np
import onnx
from tokenizers import Tokenizer

SHORTEST, LONGEST = 80, 600  # characters
MOST_TOKENS = 64


def passages() -> list[str]:
    """Paragraphs of prose, each once."""
    paragraphs = {" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")}
    return sorted(text for text in paragraphs if SHORTEST <= len(text) <= LONGEST and text[0].isalpha())


def main(tokenizer_file: str, model_file: str) -> None:
    """One array for each input of the model and each length: `input_ids/21` has all passages of 21 tokens."""
    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    by_length = defaultdict(list)
    for encoded in tokenizer.encode_batch(passages()):
        by_length[len(encoded.ids)].append(encoded.ids)
    names = [item.name for item in onnx.load(model_file, load_external_data=False).graph.input]
    arrays = {}
    for length, rows in by_length.items():
        ids = np.array(rows, np.int64)
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        arrays |= {f"{name}/{length}": known[name] for name in names}
    np.savez("passages.npz", **arrays)
    print(f"wrote passages.npz: {sum(map(len, by_length.values()))} passages of {len(by_length)} lengths")


if __name__ == "__main__":
    main(*sys.argv[1:])
