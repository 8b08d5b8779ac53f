from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from transformers import LlamaConfig, LlamaForCausalLM

from lorascope.schema.recipe import StructuredDropout
from lorascope.training.structured_dropout import Compensation, apply_structured_dropout, consistency_loss


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(*shape), torch.randn(*shape)


def symmetric(p, q):
    return 0.5 * (kl_divergence(p, q) + kl_divergence(q, p))


def jensen_shannon(p, q):
    middle = Categorical(probs=(p.probs + q.probs) / 2)
    return 0.5 * (kl_divergence(p, middle) + kl_divergence(q, middle))


def test_single_label_is_the_symmetric_divergence_of_two_categoricals():
    first, second = logits(6, 5)
    value = consistency_loss(first, second, kind="single_label", labels=torch.zeros(6).long(), one_branch=False)
    torch.testing.assert_close(value, symmetric(Categorical(logits=first), Categorical(logits=second)).mean())


def test_single_label_js_is_at_most_log_two():
    first, second = logits(6, 5)
    labels = torch.zeros(6).long()
    value = consistency_loss(first, second, kind="single_label", labels=labels, one_branch=True, divergence="js")
    torch.testing.assert_close(value, jensen_shannon(Categorical(logits=first), Categorical(logits=second)).mean())
    far = torch.tensor([[50.0, -50.0]])
    most = consistency_loss(far, -far, kind="single_label", labels=labels[:1], one_branch=True, divergence="js")
    assert most.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_multi_label_is_the_mean_over_bernoullis(divergence):
    first, second = logits(4, 7)
    labels = torch.zeros(4, 7)
    value = consistency_loss(first, second, kind="multi_label", labels=labels, one_branch=False, divergence=divergence)
    if divergence == "kl":
        expected = symmetric(Bernoulli(logits=first), Bernoulli(logits=second)).mean()
    else:
        p, q = (Categorical(torch.stack([each.sigmoid(), 1 - each.sigmoid()], -1)) for each in (first, second))
        expected = jensen_shannon(p, q).mean()
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_scores_by_half_the_square():
    value = consistency_loss(
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([[3.0], [2.0]]),
        kind="score",
        labels=torch.zeros(2),
        one_branch=False,
    )
    assert value.item() == pytest.approx(1.0)


def test_causal_counts_where_the_next_label_counts_and_tokens_where_their_own_does():
    first, second = logits(2, 5, 8)
    labels = torch.tensor([[-100, -100, 3, 4, -100], [-100, 1, -100, -100, -100]])
    every = symmetric(Categorical(logits=first), Categorical(logits=second))
    causal = consistency_loss(first, second, kind="causal", labels=labels, one_branch=False)
    torch.testing.assert_close(causal, (every[0, 1] + every[0, 2] + every[1, 0]) / 3)
    tokens = consistency_loss(first, second, kind="tokens", labels=labels, one_branch=False)
    torch.testing.assert_close(tokens, (every[0, 2] + every[0, 3] + every[1, 1]) / 3)


def test_the_divisor_of_the_loss_divides_the_term_too():
    first, second = logits(2, 5, 8)
    labels = torch.ones(2, 5).long()
    mean = consistency_loss(first, second, kind="causal", labels=labels, one_branch=False)
    counted = consistency_loss(first, second, kind="causal", labels=labels, one_branch=False, count=torch.tensor(32))
    torch.testing.assert_close(counted, mean * 8 / 32)


def test_nothing_that_counts_gives_zero_with_a_gradient_of_zero():
    first, second = (each.requires_grad_() for each in logits(1, 4, 8))
    labels = torch.full((1, 4), -100)
    value = consistency_loss(first, second, kind="causal", labels=labels, one_branch=False)
    value.backward()
    assert value.item() == 0
    assert not first.grad.any()


@pytest.mark.parametrize("kind", ["causal", "tokens", "single_label", "multi_label", "score"])
@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_equal_outputs_are_not_apart_and_one_branch_has_the_gradient(kind, divergence):
    shape = (2, 4, 8) if kind in {"causal", "tokens"} else (2, 8)
    labels = torch.ones(shape[:-1]).long()
    first, second = (each.requires_grad_() for each in logits(*shape))
    same = consistency_loss(first, first, kind=kind, labels=labels, one_branch=False, divergence=divergence)
    assert same.item() == pytest.approx(0, abs=1e-6)
    value = consistency_loss(first, second, kind=kind, labels=labels, one_branch=True, divergence=divergence)
    assert value > 0
    value.backward()
    assert first.grad.any()
    assert second.grad is None


def test_wide_logits_stay_finite():
    first, second = (each.requires_grad_() for each in logits(3, 6))
    value = consistency_loss(
        first * 300, second * 300, kind="single_label", labels=torch.ones(3).long(), one_branch=False, divergence="js"
    )
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(first.grad).all()


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    made = LlamaForCausalLM(config).train()
    apply_structured_dropout(made, StructuredDropout(preset="hiddenkey", rate=0.4, layers="all"))
    return made


IDS = torch.randint(3, 32, (2, 9), generator=torch.Generator().manual_seed(0))


def passes(model, seen=None, **settings):
    dropout = StructuredDropout(preset="hiddenkey", rate=0.4, **settings)
    compensation = Compensation.of(dropout, "causal")

    def run():
        outputs = model(input_ids=IDS, labels=IDS)
        if seen is not None:
            seen.append((model.training, torch.is_grad_enabled()))
        return outputs

    torch.manual_seed(3)
    return compensation.passes(run, model, IDS)


def test_two_branches_are_both_graded_and_both_have_gradients(model):
    seen = []
    graded, term = passes(model, seen)
    assert seen == [(True, True), (True, True)]
    assert len(graded) == 2
    assert not torch.equal(graded[0].logits, graded[1].logits)
    for output in graded:
        (gradient,) = torch.autograd.grad(term, output.logits, retain_graph=True)
        assert gradient.any()
    expected = consistency_loss(graded[0].logits, graded[1].logits, kind="causal", labels=IDS, one_branch=False)
    torch.testing.assert_close(term, expected)


def test_the_weight_multiplies_the_term(model):
    torch.testing.assert_close(passes(model, weight=0.25)[1], 0.25 * passes(model)[1])


def test_of_one_branch_the_second_pass_has_no_gradient(model):
    seen = []
    graded, term = passes(model, seen, branches="one")
    assert seen == [(True, True), (True, False)]
    assert len(graded) == 1
    assert term > 0
    torch.testing.assert_close(term, passes(model)[1])  # the value is that of two branches


def test_js_compares_with_evaluation_mode_and_restores_every_mode(model):
    frozen = model.model.layers[0].mlp.eval()
    seen = []
    graded, term = passes(model, seen, compensation="js")
    assert seen == [(True, True), (False, False)]
    assert len(graded) == 1
    assert model.training
    assert model.model.layers[0].self_attn.training
    assert not frozen.training
    model.eval()
    evaluated = model(input_ids=IDS).logits
    expected = consistency_loss(
        graded[0].logits, evaluated, kind="causal", labels=IDS, one_branch=True, divergence="js"
    )
    torch.testing.assert_close(term, expected)


def test_modes_are_restored_when_the_pass_fails(model):
    compensation = Compensation.of(StructuredDropout(preset="hiddenkey", compensation="js"), "causal")

    def run():
        if not model.training:
            raise RuntimeError("out of memory")
        return model(input_ids=IDS)

    with pytest.raises(RuntimeError, match="out of memory"):
        compensation.passes(run, model, IDS)
    assert all(module.training for module in model.modules())


def test_evaluation_is_one_pass_without_a_term(model):
    graded, term = passes(model.eval())
    assert len(graded) == 1
    assert term is None


def test_rescale_needs_no_second_pass():
    assert Compensation.of(StructuredDropout(preset="hiddenkey-minus"), "causal") is None
    assert Compensation.of(StructuredDropout(preset="hiddenkey", compensation="rescale"), "causal") is None
