"""Decides whether a model's requests may share batches, by its signature, its graph, a proof, and the user. Pure.

Batching assumes that each row of a request is computed independently of the others. A model for which that does not
hold would silently give wrong answers, so nothing is batched without evidence: the graph must show that its rows are
independent, and the run-time proof must not contradict it. A negative result overrides a positive one, and the user's
setting overrides both (decision 021).
"""

from dataclasses import dataclass
from typing import Literal

from tailcut.errors import UnsupportedError, UsageError
from tailcut.spec import ModelSpec, RowEvidence, Rows

RowsSetting = Literal["auto", "independent", "dependent"]
Batching = Literal["auto", "on", "off"]  # as an option of commands, and an argument of `Model.open`

SETTING_OF: dict[Batching, RowsSetting] = {"auto": "auto", "on": "independent", "off": "dependent"}
_HOW_TO_TURN_ON = "--batching on turns batching on"


def check_batching(batching: object) -> None:
    """Check an argument `batching`.

    Raises:
        UsageError: it is neither a valid word nor None.
    """
    if batching is not None and batching not in tuple(SETTING_OF):
        raise UsageError(f"batching must be 'auto', 'on', 'off' or None, got {batching!r}")


@dataclass(frozen=True, slots=True)
class RowDecision:
    """The decision about a model's rows, with its reason and the evidence of each source; None: it was not needed."""

    rows: Rows
    reason: str
    user: RowsSetting
    signature: RowEvidence
    graph: RowEvidence | None = None
    proof: RowEvidence | None = None
    warning: str = ""  # one line for the user, whose setting contradicts the evidence

    @property
    def batched(self) -> bool:
        """Whether requests may be merged and split."""
        return self.rows is Rows.INDEPENDENT

    def describe(self) -> str:
        """The decision in one line."""
        how = "batched" if self.batched else "each request runs whole"
        return f"rows {self.rows.value}, {how}: {self.reason}"


def read_signature(spec: ModelSpec) -> RowEvidence:
    """The evidence of the shapes alone: dependent where a first axis is missing or fixed, else unknown.

    The names of axes are a hint for the reader and never evidence: exporters use any name for a batch, and an axis that
    all tensors share may be a time.
    """
    for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            if not tensor.shape or tensor.shape[0] is not None:
                what = "has no axes" if not tensor.shape else f"has its first axis fixed at {tensor.shape[0]}"
                return RowEvidence(Rows.DEPENDENT, f"{side} {tensor.name!r} {what}")
    names = sorted({tensor.first_axis for tensor in spec.inputs + spec.outputs if tensor.first_axis})
    called = f"the first axis is called {', '.join(map(repr, names[:4]))}" if names else "the first axis has no name"
    return RowEvidence(Rows.UNKNOWN, called)


def needs_proof(spec: ModelSpec, user: RowsSetting) -> bool:
    """Whether the run-time proof could change the decision or its reason."""
    return spec.batchable and spec.rows is not Rows.DEPENDENT and user != "dependent"


def decide_rows(spec: ModelSpec, proof: RowEvidence | None, user: RowsSetting = "auto") -> RowDecision:
    """Combine the evidence of all sources.

    Args:
        spec: as the engine read it: `rows` and `rows_reason` are the evidence of its graph.
        proof: the result of the run-time proof; None where it was not made.
        user: the setting `batching.rows`.

    Raises:
        UnsupportedError: the user asks for batching, but the signature rules it out.
    """
    signature = read_signature(spec)
    if signature.rows is Rows.DEPENDENT:
        if user == "independent":
            raise UnsupportedError(
                f"model {spec.name!r} cannot be batched: {signature.reason}: use --batching auto or off"
            )
        return RowDecision(Rows.DEPENDENT, signature.reason, user, signature)
    graph = RowEvidence(spec.rows, spec.rows_reason)
    if user == "dependent":
        return RowDecision(Rows.DEPENDENT, "batching was turned off by the user", user, signature, graph, proof)
    negative = next(
        (evidence for evidence in (proof, graph) if evidence is not None and evidence.rows is Rows.DEPENDENT), None
    )
    if user == "independent":
        warning = "" if negative is None else f"batched as asked, although answers may be wrong: {negative.reason}"
        return RowDecision(
            Rows.INDEPENDENT, "batching was turned on by the user", user, signature, graph, proof, warning
        )
    rows, reason = _weigh(signature, graph, proof, negative)
    return RowDecision(rows, reason, user, signature, graph, proof)


def _weigh(
    signature: RowEvidence, graph: RowEvidence, proof: RowEvidence | None, negative: RowEvidence | None
) -> tuple[Rows, str]:
    """The decision where the user leaves it to the evidence."""
    if negative is not None:
        return Rows.DEPENDENT, negative.reason
    if graph.rows is Rows.UNKNOWN:
        passed = proof is not None and proof.rows is Rows.INDEPENDENT
        tried = "; the run-time proof found no difference, but cannot see every case" if passed else ""
        return Rows.UNKNOWN, f"{graph.reason} ({signature.reason}){tried}; {_HOW_TO_TURN_ON}"
    if proof is None or proof.rows is Rows.UNKNOWN:
        unproven = "" if proof is None else f"; not proven at run time: {proof.reason}"
        return Rows.INDEPENDENT, f"{graph.reason}{unproven}"
    return Rows.INDEPENDENT, f"{graph.reason}; {proof.reason}"
