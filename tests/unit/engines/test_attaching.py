from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForSequenceClassification, LlamaForCausalLM

from lorascope.engines.attaching import Snapshot, fingerprint
from lorascope.engines.base import Subject
from lorascope.engines.holding import Holder
from lorascope.engines.loading import Need
from lorascope.errors import CheckpointError, EvaluationError, UnsupportedFormat

CAUSAL = Need("causal")
IDS = torch.arange(3, 15)[None]
Make = Callable[..., Subject]


@pytest.fixture
def holder() -> Holder:
    return Holder(device=torch.device("cpu"), dtype="auto")


@torch.no_grad()
def logits(model: object) -> torch.Tensor:
    return model(input_ids=IDS).logits[:, -12:]  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("adapter", ["lora", "lora-head", "pissa", "prompt"])
def test_the_base_is_plain_again_after_an_adapter(
    holder: Holder, subject: Make, checkpoints: Path, adapter: str
) -> None:
    plain = LlamaForCausalLM.from_pretrained(checkpoints / "llama").eval()
    before = logits(holder.ready(subject("llama"), CAUSAL).model)
    adapted = logits(holder.ready(subject(adapter, base="llama"), CAUSAL).model)
    after = holder.ready(subject("llama"), CAUSAL).model

    assert torch.equal(before, logits(plain))
    assert not torch.allclose(adapted, before, atol=1e-2)
    assert torch.equal(logits(after), before)
    assert type(after) is LlamaForCausalLM
    assert [name for name, _ in after.named_modules()] == [name for name, _ in plain.named_modules()]
    wanted = plain.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in after.state_dict().items())
    assert not any("peft" in name for name in vars(after))


@pytest.mark.parametrize("adapter", ["lora", "lora-head", "pissa", "prompt"])
def test_an_attached_adapter_answers_as_peft_does_on_a_fresh_base(
    holder: Holder, subject: Make, checkpoints: Path, adapter: str
) -> None:
    holder.ready(subject("lora-head", base="llama"), CAUSAL)
    ours = logits(holder.ready(subject(adapter, base="llama"), CAUSAL).model)
    fresh = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(checkpoints / "llama"), checkpoints / adapter)
    assert torch.equal(ours, logits(fresh.eval()))


def test_the_base_is_loaded_once_for_all_adapters_and_let_go_for_a_full_model(holder: Holder, subject: Make) -> None:
    base = holder.ready(subject("llama"), CAUSAL).plain
    assert holder.ready(subject("lora", base="llama"), CAUSAL).plain is base
    assert holder.ready(subject("pissa", base="llama"), CAUSAL).plain is base
    assert holder.ready(subject("prompt", base="llama"), CAUSAL).plain is base
    assert holder.ready(subject("llama"), CAUSAL).plain is base
    assert holder.ready(subject("gpt2"), CAUSAL).plain is not base
    assert holder.ready(subject("llama"), CAUSAL).plain is not base


def test_a_base_whose_weights_were_changed_in_place_is_loaded_again(holder: Holder, subject: Make) -> None:
    before = logits(holder.ready(subject("llama"), CAUSAL).model)
    ready = holder.ready(subject("lora", base="llama"), CAUSAL)
    ready.model.merge_adapter()
    ready.model.unmerge_adapter()  # adding and taking away again leaves rounding behind
    after = holder.ready(subject("llama"), CAUSAL)
    assert after.plain is not ready.plain
    assert torch.equal(logits(after.model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_fingerprint_sees_the_smallest_change(dtype: torch.dtype) -> None:
    layer = torch.nn.Module()
    layer.register_buffer("weight", torch.ones(5, 5, dtype=dtype))
    before = fingerprint(layer)
    raw = layer.weight.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[layer.weight.element_size()])
    raw[2, 3] += 1
    assert fingerprint(layer) != before
    raw[2, 3] -= 1
    assert fingerprint(layer) == before


def test_a_snapshot_undoes_hooks_freezing_resizing_and_settings(checkpoints: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(checkpoints / "llama").eval()
    before, rows = logits(model), model.config.vocab_size
    snapshot = Snapshot(model)
    model.resize_token_embeddings(rows + 3, mean_resizing=False)
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: output * 0)
    model.requires_grad_(False)
    model.train()
    model.generation_config.repetition_penalty = 9.0
    snapshot.restore()
    assert torch.equal(logits(model), before)
    assert model.config.vocab_size == rows
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.generation_config.repetition_penalty is None


def test_added_tokens_make_the_base_longer_only_while_their_adapter_is_on_it(
    holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    longer = LlamaForCausalLM.from_pretrained(checkpoints / "llama")
    rows = longer.config.vocab_size
    longer.resize_token_embeddings(rows + 4, mean_resizing=False)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(longer, config).save_pretrained(tmp_path / "longer", save_embedding_layers=True)
    adapter = replace(subject("lora", base="llama"), path=tmp_path / "longer", content_hash="longer")
    assert logits(holder.ready(adapter, CAUSAL).model).shape[-1] == rows + 4
    assert logits(holder.ready(subject("llama"), CAUSAL).model).shape[-1] == rows


def test_an_adapter_of_another_base_is_refused_and_the_base_stays_plain(
    holder: Holder, subject: Make, checkpoints: Path
) -> None:
    with pytest.raises(EvaluationError, match="cannot be attached"):
        holder.ready(subject("lora", base="gpt2"), CAUSAL)
    plain = holder.ready(subject("gpt2"), CAUSAL).model
    assert not [name for name, _ in plain.named_modules() if "lora" in name]


def test_an_adapter_that_lacks_weights_is_refused(
    holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "partial"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((checkpoints / "lora" / "adapter_config.json").read_bytes())
    tensors = load_file(checkpoints / "lora" / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layers.1" not in name},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(EvaluationError, match="lacks weights"):
        holder.ready(replace(subject("lora", base="llama"), path=folder), CAUSAL)


def test_pickled_weights_need_leave(holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((checkpoints / "lora" / "adapter_config.json").read_bytes())
    torch.save(load_file(checkpoints / "lora" / "adapter_model.safetensors"), folder / "adapter_model.bin")
    pickled = replace(subject("lora", base="llama"), path=folder)
    with pytest.raises(UnsupportedFormat, match="pickle"):
        holder.ready(pickled, CAUSAL)
    ours = logits(holder.ready(replace(pickled, allow_pickle=True), CAUSAL).model)
    assert torch.equal(ours, logits(holder.ready(subject("lora", base="llama"), CAUSAL).model))

    model = LlamaForCausalLM.from_pretrained(checkpoints / "llama")
    folder = tmp_path / "pickled-model"
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat, match="pickle"):
        holder.ready(replace(subject("llama"), path=folder), CAUSAL)
    assert holder.ready(replace(subject("llama"), path=folder, allow_pickle=True), CAUSAL).plain is not None


def test_a_head_must_be_trained(holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path) -> None:
    """The base has no head, an adapter without one neither; an adapter that saves it can answer."""
    headless = tmp_path / "base"
    BertForSequenceClassification.from_pretrained(checkpoints / "bert-emotions").bert.save_pretrained(headless)
    base = replace(subject("bert-emotions"), path=headless)
    with pytest.raises(EvaluationError, match=r"classifier\.weight"):
        holder.ready(base, Need("sequence", 3))

    for name, saved in (("with", ["classifier"]), ("without", None)):
        config = LoraConfig(target_modules=["query"], modules_to_save=saved)
        model = BertForSequenceClassification.from_pretrained(headless, num_labels=3)
        get_peft_model(model, config).save_pretrained(tmp_path / name)
    adapter = replace(
        subject("lora", base="bert-emotions"), path=tmp_path / "with", base_path=headless, content_hash="with"
    )
    assert logits(holder.ready(adapter, Need("sequence", 3)).model).shape == (1, 3)
    with pytest.raises(EvaluationError, match=r"classifier\.bias"):
        holder.ready(replace(adapter, path=tmp_path / "without"), Need("sequence", 3))


def test_missing_and_damaged_checkpoints(holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        holder.ready(replace(subject("llama"), path=tmp_path), CAUSAL)
    with pytest.raises(CheckpointError, match="without its base"):
        holder.ready(replace(subject("lora", base="llama"), base_path=None), CAUSAL)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in (checkpoints / "llama").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes()[: 2000 if path.suffix == ".safetensors" else None])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        holder.ready(replace(subject("llama"), path=damaged), CAUSAL)


def test_an_adapter_may_bring_a_head_of_another_size_than_the_bases(
    holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    path = checkpoints / "bert-emotions"
    model = BertForSequenceClassification.from_pretrained(path, num_labels=5, ignore_mismatched_sizes=True)
    get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=["classifier"])).save_pretrained(
        tmp_path
    )
    adapter = replace(subject("lora", base="bert-emotions"), path=tmp_path)
    assert logits(holder.ready(adapter, Need("sequence", 5)).model).shape == (1, 5)
    assert logits(holder.ready(subject("bert-emotions"), Need("sequence", 3)).model).shape == (1, 3)
    with pytest.raises(EvaluationError, match=r"classifier\.weight"):
        holder.ready(subject("bert-emotions"), Need("sequence", 5))


@pytest.mark.parametrize("adapter", [None, "lora", "lora-head"])
def test_tokens_beyond_the_embedding_are_refused(holder: Holder, subject: Make, adapter: str | None) -> None:
    ready = holder.ready(subject("llama") if adapter is None else subject(adapter, base="llama"), CAUSAL)
    assert ready.rows == ready.plain.config.vocab_size
    ready.refuse_unknown([0, ready.rows - 1])
    with pytest.raises(EvaluationError, match="rows"):
        ready.refuse_unknown([0, ready.rows])


def test_a_padding_token_of_the_tokenizers_own_is_passed_over(
    holder: Holder, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    """Added without a row in the embedding, as many fine-tunes do."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.save_pretrained(tmp_path)
    ready = holder.ready(replace(subject("llama"), tokenizer_path=tmp_path), CAUSAL)
    assert ready.tokenizer.pad_token_id == ready.rows
    assert ready.pad_id == ready.tokenizer.eos_token_id
