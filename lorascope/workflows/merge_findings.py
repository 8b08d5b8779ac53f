"""Which adapters answered merged into their base, and the proof that this changed nothing but rounding."""

from __future__ import annotations

from collections.abc import Iterable

from lorascope.engines.merging import MergeProof
from lorascope.schema.comparison import Finding

MERGED = "merged:"
"""What the ids of these findings begin with."""


def find_merges(proofs: Iterable[MergeProof]) -> list[Finding]:
    """One finding for each adapter that merging was tried with."""
    return [_found(proof) for proof in dict.fromkeys(proofs)]


def _found(proof: MergeProof) -> Finding:
    state = "merged into the base" if proof.merged else "beside the base, not merged"
    evidence = [proof.reason]
    if proof.largest_difference is not None:
        evidence.append(
            f"largest difference {proof.largest_difference:.2g} nats (or units of a head's output) over "
            f"{proof.positions} positions, tolerance {proof.tolerance:g}"
        )
    return Finding(
        id=f"{MERGED}{proof.subject}",
        severity="info",
        area="behaviour",
        subject=proof.subject,
        title=f"{proof.subject} answered {state}",
        evidence=evidence,
    )
