"""Adapters merged into the base in memory, where that is proven to change nothing but rounding.

Merged, an adapter costs no multiplication of its own. Before answers are taken from a merged model, some of the task's
own items go through it unmerged and merged; where their log-probabilities differ by more than the tolerance, or merging
is not possible, the adapter stays beside the base. A merged base is not computed back but loaded again, so it is the
same bit for bit when the adapter leaves.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorascope.engines.base import Subject
from lorascope.engines.batching import is_out_of_memory
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import Need
from lorascope.engines.prompts import encode, prompt_of
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LabelsItem, LikelihoodItem, ScoreItem, TokensItem

TOLERANCE = 1e-3
"""Largest difference allowed between merged and unmerged: of a log-probability (nats), or of an output of a head."""

FEWEST_ITEMS = 32
"""With fewer items waiting, merging and its proof cost more than they save."""

_ITEMS = 8
_LONGEST = 256
_POSITIONS = 32
_MOST_PROBABLE = 16
_FULL_PRECISION = (torch.float32, torch.float64)
_REFUSALS = (AttributeError, ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeProof:
    """Whether an adapter was merged, and by what evidence.

    ``largest_difference`` (None where nothing was compared) is the largest absolute difference between merged and
    unmerged over ``positions`` token positions of up to 8 of the task's own items: of the log-probabilities (nats) of
    the text's next token and of the 16 most probable ones at the last 32 positions of each, for models with a head of
    the head's outputs. Merged when it is at most ``tolerance``; ``reason`` says in words why or why not.
    """

    subject: str
    merged: bool
    tolerance: float
    largest_difference: float | None
    positions: int
    reason: str


Proofs = dict[tuple[str, str | None, Need], MergeProof]
"""By an adapter's content hash, its base's, and the model class in which it runs."""


def ready_to_answer(holder: Holder, subject: Subject, need: Need, items: Sequence[Item], proofs: Proofs) -> Ready:
    """The subject, its adapter merged where ``holder`` may, where enough ``items`` wait and where it is proven.

    An adapter is tried once; what came of it is in ``proofs`` and holds from then on.

    Raises:
        CheckpointError, EvaluationError: as :meth:`Holder.ready`.
    """
    merged = holder.merged(subject, need)
    if merged is not None:
        return merged
    ready = holder.ready(subject, need)
    key = (subject.content_hash, subject.base_hash, need)
    known = proofs.get(key)
    if holder.merge == "never" or subject.kind == "model" or len(items) < FEWEST_ITEMS:
        return ready
    if known is not None and not known.merged:
        return ready
    if known is None and (reason := obstacle(ready)) is not None:
        proofs[key] = _unmerged(subject, reason)
        return ready
    proof = known
    try:
        if known is None:
            proof = proofs[key] = _merged_and_compared(ready, need, items)
        else:
            merge(ready)
    except EvaluationError as error:
        proof = proofs[key] = _unmerged(subject, error.problem)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        proof = proofs[key] = _unmerged(subject, "memory runs out while merged and unmerged are compared")
    if proof is not None and proof.merged:
        holder.mark_merged()
        return ready
    holder.detach()
    return holder.ready(subject, need)


def obstacle(ready: Ready) -> str | None:
    """Why an adapter is not even tried; None where it is."""
    if ready.virtual or not hasattr(ready.model, "merge_adapter"):
        return "its method has nothing that could be merged"
    if getattr(ready.plain, "is_quantized", False):
        return "the base is quantised, and merging would round anew"
    dtype = ready.plain.dtype
    if dtype not in _FULL_PRECISION:
        return f"the weights are {str(dtype).removeprefix('torch.')}, in which a merged weight is rounded"
    return None


def merge(ready: Ready) -> None:
    """Merge the attached adapter into the base, in memory; the caller has to detach it afterwards.

    The base is changed in place, without a second copy of its weights: once the adapter leaves, it is loaded again.

    Raises:
        EvaluationError: the adapter's method cannot be merged, or memory runs out.
    """
    try:
        ready.model.merge_adapter()
    except _REFUSALS as error:
        reason = "memory runs out" if is_out_of_memory(error) else str(error)
        raise EvaluationError(
            f"the adapter of '{ready.subject.name}' cannot be merged: {reason}",
            where=str(ready.subject.path),
            remedy="measure it unmerged",
        ) from error


def _unmerged(subject: Subject, reason: str) -> MergeProof:
    return MergeProof(
        subject=subject.name, merged=False, tolerance=TOLERANCE, largest_difference=None, positions=0, reason=reason
    )


def _merged_and_compared(ready: Ready, need: Need, items: Sequence[Item]) -> MergeProof:
    """Merge, and say whether it may stay."""
    rows = _rows(ready, items)
    with torch.inference_mode():
        before = [_outputs(ready, need, row) for row in rows]
    merge(ready)
    with torch.inference_mode():
        after = [_outputs(ready, need, row, one.tokens) for row, one in zip(rows, before, strict=True)]
    pairs = list(zip(before, after, strict=True))
    largest = _largest_difference([(one.values, two.values) for one, two in pairs])
    positions = sum(one.positions for one in before)
    # A difference that is not a number fails this comparison, as it has to.
    equal = largest <= TOLERANCE
    return MergeProof(
        subject=ready.subject.name,
        merged=equal,
        tolerance=TOLERANCE,
        largest_difference=largest if largest == largest else None,
        positions=positions,
        reason=(
            f"merged and unmerged agree within {TOLERANCE:g} on {len(rows)} of the task's items"
            if equal
            else f"merged and unmerged differ by more than {TOLERANCE:g}, or give values that are not finite"
        ),
    )


def _largest_difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """NaN where there is nothing to compare or any difference is NaN, which Python's ``max`` would pass over."""
    if not pairs:
        return float("nan")
    return float(torch.stack([(one - two).abs().max() for one, two in pairs]).max())


class _Outputs(NamedTuple):
    """Values (positions, k) to compare, and the tokens whose log-probabilities they are (None for a head)."""

    values: Tensor
    tokens: Tensor | None
    positions: int


def _outputs(ready: Ready, need: Need, row: list[int], tokens: Tensor | None = None) -> _Outputs:
    """What the model says at the end of one row, of the same ``tokens`` as before if those are given."""
    ids = torch.tensor([row], device=ready.device)
    options: dict[str, Any] = {}
    if need.family == "seq2seq":
        options["decoder_input_ids"] = ready.plain.prepare_decoder_input_ids_from_labels(labels=ids)
    elif "logits_to_keep" in inspect.signature(ready.plain.forward).parameters:
        options["logits_to_keep"] = _POSITIONS
    given = ready.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    if need.family not in {"causal", "seq2seq"}:
        return _Outputs(given.logits[0].float().cpu(), None, len(row))
    logprobs = given.logits[0, -_POSITIONS:].float().log_softmax(dim=-1)
    if tokens is None:
        following = ids[0] if need.family == "seq2seq" else torch.cat([ids[0, 1:], ids[0, :1]])
        most = min(_MOST_PROBABLE, logprobs.shape[-1])
        tokens = torch.cat([logprobs.topk(most, dim=-1).indices, following[-len(logprobs) :, None]], dim=-1)
    return _Outputs(logprobs.gather(1, tokens).cpu(), tokens, len(logprobs))


def _rows(ready: Ready, items: Sequence[Item]) -> list[list[int]]:
    """Token rows of some items from all over the task: the ends of their texts, at most 256 tokens of each."""
    step = max(1, len(items) // _ITEMS)
    longest = min(_LONGEST, ready.context)
    rows = [_tokens(ready, item)[-longest:] for item in items[::step][:_ITEMS]]
    for row in rows:
        ready.refuse_unknown(row)
    return [row for row in rows if row]


def _tokens(ready: Ready, item: Item) -> list[int]:
    """An item as one text, with its (first) right answer where it has one."""
    if isinstance(item, (GenerateItem, ChoiceItem)):
        text = item.prompt if isinstance(item, GenerateItem) else item.context
        prompt = prompt_of(ready, text, item.messages)
        right = item.references[0] if isinstance(item, GenerateItem) else item.choices[item.answer]
        return encode(ready, f"{prompt.text} {right}", special=not prompt.chat)
    if isinstance(item, (LabelsItem, ScoreItem, LikelihoodItem)):
        return encode(ready, item.text, special=True)
    if isinstance(item, TokensItem):
        return encode(ready, " ".join(item.tokens), special=True)
    return []
