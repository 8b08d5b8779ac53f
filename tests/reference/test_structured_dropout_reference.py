"""DropKey, DropAttention and HiddenCut against loops that write the paper's formulas out, forward and backward."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lorascope.schema.recipe import AttentionDrop, HiddenDrop
from lorascope.training.structured_dropout import attention, masks
from lorascope.training.structured_dropout.hidden_cut import HiddenCut

BATCH, HEADS, KEY_HEADS, TOKENS, SIZE = 2, 4, 2, 7, 6
STRUCTURES = ("element", "column", "span")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Attending(nn.Module):
    """What an attention module shows to the function that computes for it."""

    def __init__(self, drop, *, causal=True, heads=HEADS, key_heads=KEY_HEADS):
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = heads // key_heads
        setattr(self, attention.MARK, drop)


def inputs(seed=0, tokens=TOKENS):
    torch.manual_seed(seed)
    shapes = [(BATCH, heads, tokens, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(shape, dtype=torch.float64).float().requires_grad_() for shape in shapes]


def row_by_row(query, key, value, visible, dropped, kind, *, scale, softcap=None, bias=None):
    """The definition, one query at a time, over the keys that it may see."""
    dropped = dropped.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    output = torch.zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    rows = {}
    for b, h, i in itertools.product(*map(range, query.shape[:3])):
        group = h // (query.shape[1] // key.shape[1])
        seen = [j for j in range(key.shape[2]) if visible[b, i, j]]
        if not seen:
            continue
        mask = torch.tensor([0.0 if dropped[b, h, i, j] else 1.0 for j in seen])
        if mask.sum() == 0:
            mask = torch.ones_like(mask)
        logits = torch.stack([(query[b, h, i] * key[b, group, j]).sum() * scale for j in seen])
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if bias is not None:
            logits = logits + torch.stack([bias[0, h, i, j] for j in seen])
        if kind == "dropkey":
            powers = torch.exp(logits - logits.detach().max()) * mask
            weights = powers / powers.sum()
        else:
            full = torch.exp(logits - logits.detach().max())
            weights = mask * full / full.sum()
            weights = weights / weights.sum().detach()
        rows[b, i, h] = sum(weights[n] * value[b, group, j] for n, j in enumerate(seen))
    for place, row in rows.items():
        output = output.index_put(tuple(torch.tensor([each]) for each in place), row[None])
    return output


def gradients(output, tensors, seed=9):
    torch.manual_seed(seed)
    return torch.autograd.grad((output * torch.randn_like(output)).sum(), tensors)


def draw(drop, tokens=TOKENS, seed=3):
    torch.manual_seed(seed)
    return masks.dropped_keys(
        drop.structure, batch=BATCH, heads=HEADS, queries=tokens, keys=tokens, rate=drop.rate, span=drop.span,
        device=torch.device("cpu"),
    )  # fmt: skip


def run(drop, tensors, mask=None, seed=3, causal=True, **options):
    module = Attending(drop, causal=causal).train()
    torch.manual_seed(seed)
    return attention.structured_attention(module, *tensors, mask, **options)[0]


def assert_same(first, second, tensors):
    torch.testing.assert_close(first, second, atol=2e-5, rtol=2e-5)
    for one, other in zip(gradients(first, tensors), gradients(second, tensors), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=5e-5)


def causal_visible(tokens=TOKENS):
    return torch.ones(BATCH, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.parametrize("kind", ["dropkey", "dropattention"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("causal", [True, False])
def test_each_kind_and_structure_is_the_definition_in_value_and_gradient_with_grouped_heads(kind, structure, causal):
    drop = AttentionDrop(kind=kind, structure=structure, rate=0.5, span=0.3)
    tensors = inputs()
    visible = causal_visible() if causal else torch.ones(BATCH, TOKENS, TOKENS, dtype=torch.bool)
    expected = row_by_row(*tensors, visible, draw(drop), kind, scale=SIZE**-0.5)
    assert_same(run(drop, tensors, causal=causal), expected, tensors)


@pytest.mark.parametrize("kind", ["dropkey", "dropattention"])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_given_mask_with_padding_and_blocks_is_respected_as_bools_and_as_numbers(kind, numbers):
    visible = causal_visible()
    visible[0, :, :3] = False  # padding at the left: its queries see nothing
    visible[1, 4:, :4] = False  # two packed texts
    drop = AttentionDrop(kind=kind, rate=0.5)
    tensors = inputs(1)
    mask = visible[:, None]
    if numbers:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    result = run(drop, tensors, mask)
    expected = row_by_row(*tensors, visible, draw(drop), kind, scale=SIZE**-0.5)
    if kind == "dropkey" and numbers:  # rows of padding alone are the mean of all values there, as in SDPA
        result, expected = (torch.cat([each[:1, 3:].reshape(-1), each[1:].reshape(-1)]) for each in (result, expected))
    assert_same(result, expected, tensors)


@pytest.mark.parametrize("kind", ["dropkey", "dropattention"])
def test_position_bias_and_softcap_are_part_of_the_logits(kind):
    drop = AttentionDrop(kind=kind, structure="element", rate=0.4)
    tensors = inputs(2)
    bias = torch.randn(1, HEADS, TOKENS, TOKENS, requires_grad=True)
    visible = causal_visible()
    expected = row_by_row(*tensors, visible, draw(drop), kind, scale=1.0, bias=bias)
    assert_same(run(drop, tensors, scaling=1.0, position_bias=bias), expected, [*tensors, bias])
    capped = row_by_row(*tensors, visible, draw(drop), kind, scale=0.7, softcap=1.5)
    assert_same(run(drop, tensors, scaling=0.7, softcap=1.5), capped, tensors)


@pytest.mark.parametrize("rate", [0.2, 0.95])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_feature_that_spares_the_mask_is_the_definition_too(monkeypatch, rate, scaling):
    monkeypatch.setattr(attention, "FEATURE_FROM", 2)
    seen = []
    plain = attention.sdpa_attention_forward
    monkeypatch.setattr(
        attention, "sdpa_attention_forward", lambda *a, **k: seen.append((a[4], k["is_causal"])) or plain(*a, **k)
    )
    drop = AttentionDrop(rate=rate)
    tensors = inputs(4)
    result = run(drop, tensors, scaling=scaling)
    assert seen == [(None, True)]
    expected = row_by_row(*tensors, causal_visible(), draw(drop), "dropkey", scale=scaling or SIZE**-0.5)
    # a query whose drop is undone has logits with 1024 taken from each: float32 then holds them to 6e-5
    torch.testing.assert_close(result, expected, atol=3e-4, rtol=3e-4)
    for one, other in zip(gradients(result, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_the_feature_is_left_out_where_float16_could_not_hold_it(monkeypatch):
    monkeypatch.setattr(attention, "FEATURE_FROM", 2)
    tensors = inputs(4)
    result = run(AttentionDrop(rate=0.5), tensors, scaling=0.01)
    expected = row_by_row(*tensors, causal_visible(), draw(AttentionDrop(rate=0.5)), "dropkey", scale=0.01)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_dropattention_is_dropkey_forward_and_another_gradient(structure):
    tensors = inputs(5)
    both = [
        run(AttentionDrop(kind=kind, structure=structure, rate=0.4), tensors) for kind in ("dropkey", "dropattention")
    ]
    torch.testing.assert_close(*both, atol=1e-6, rtol=1e-6)
    first, second = (gradients(output, tensors) for output in both)
    assert not torch.allclose(first[0], second[0], atol=1e-3)
    torch.testing.assert_close(first[2], second[2], atol=1e-5, rtol=1e-5)  # the values' gradient is the same


@pytest.mark.parametrize("structure", STRUCTURES)
def test_hidden_cut_is_a_mask_and_its_rescaling(structure):
    drop = HiddenDrop(structure=structure, rate=0.25, span=0.3)
    output = torch.randn(3, 10, 8, requires_grad=True)
    torch.manual_seed(1)
    cut = HiddenCut(drop)(nn.Identity().train(), (), output)
    kept = cut != 0
    torch.testing.assert_close(cut, output * kept / 0.75)
    (gradient,) = torch.autograd.grad(cut.sum(), output)
    torch.testing.assert_close(gradient, kept / 0.75)
    assert 0 < kept.float().mean() < 1
