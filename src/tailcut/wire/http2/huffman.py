"""The Huffman code of HPACK (RFC 7541, appendix B): bytes to text. Pure.

The code is canonical, so the lengths of its codewords define it. Text is decoded a byte at a time: a node of the code's
tree and a byte lead to another node, and yield at most two symbols. Each such step is computed when it is first needed,
and kept for all connections: at most 256 nodes with 256 bytes each.
"""

END = 256  # the EOS symbol, which must not be sent
# The length in bits of each symbol's codeword, and of that of EOS.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)


class HuffmanError(Exception):
    """The bytes are not valid in this code."""


class _Node(dict[int, "tuple[_Node, bytes]"]):
    """A position in the tree at the start of a byte: for each byte, the node where it ends, and the decoded symbols."""

    __slots__ = ("branches", "may_end")

    def __init__(self) -> None:
        super().__init__()
        self.branches: list[_Node | int] = [END, END]  # by the next bit: a node or a symbol
        self.may_end = False  # a string may end here: its last byte is padded with fewer than eight ones

    def __missing__(self, byte: int) -> "tuple[_Node, bytes]":
        node, symbols = self, bytearray()
        for shift in range(7, -1, -1):
            branch = node.branches[byte >> shift & 1]
            if isinstance(branch, _Node):
                node = branch
                continue
            if branch == END:
                raise HuffmanError("a string contains the EOS symbol")
            symbols.append(branch)
            node = _ROOT
        step = self[byte] = node, bytes(symbols)
        return step


def decode(data: bytes) -> bytes:
    """Decode a string literal.

    Raises:
        HuffmanError: it is truncated, or its padding is not the first bits of the EOS codeword.
    """
    node, parts = _ROOT, []
    for byte in data:
        node, symbols = node[byte]
        parts.append(symbols)
    if not node.may_end:
        raise HuffmanError("a string has invalid padding")
    return b"".join(parts)


def _tree() -> _Node:
    root = _Node()
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - before
        before = length
        node = root
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            branch = node.branches[bit]
            if not isinstance(branch, _Node):
                branch = node.branches[bit] = _Node()
            node = branch
        node.branches[code & 1] = symbol
        code += 1
    node = root
    for _ in range(8):
        node.may_end = True
        following = node.branches[1]
        assert isinstance(following, _Node)  # noqa: S101  EOS has a longer codeword
        node = following
    return root


_ROOT = _tree()
