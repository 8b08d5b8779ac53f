from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from lorascope.checkpoints.changes import BaseModules, changes_of
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.errors import EvaluationError, OutputError, UsageError
from lorascope.weights.deltas import DenseDelta
from lorascope.workflows import repair as workflow
from lorascope.workflows.repair import RepairOptions, intruder_triplets, repair
from lorascope.workflows.repair_record import load_record

IDS = torch.arange(2, 18).reshape(2, 8)
LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


@dataclass(frozen=True)
class Case:
    """A base model's maker and how it is adapted: a PEFT configuration, or None for a full fine-tune."""

    build: Callable[[], Any]
    lora: dict[str, Any] | None
    stored: torch.dtype = torch.float32
    written: str = "adapter"
    tolerance: float = 2e-4


def llama(**more: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **more}))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=40))


def bert() -> Any:
    sizes = {name: size for name, size in LLAMA.items() if name != "vocab_size"}
    return BertModel(BertConfig(**sizes, vocab_size=40, max_position_embeddings=32))


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**LLAMA, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2))


ALL = {"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": "all-linear"}
CONV = {**ALL, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
HEAD = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query", "value"], "bias": "lora_only"}
TIED = {**ALL, "target_modules": ["q_proj", "lm_head"]}
PATTERNS = {**ALL, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"0.mlp.up_proj": 7}, "bias": "lora_only"}
SAVED = {**ALL, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}
EMBEDDED = {**ALL, "target_modules": ["q_proj", "v_proj", "embed_tokens"]}
CASES = {
    "lora": Case(llama, ALL),
    "rslora": Case(llama, {**ALL, "use_rslora": True}),
    "patterns": Case(lambda: llama(attention_bias=True), PATTERNS),
    "orthogonal": Case(llama, {**ALL, "init_lora_weights": "orthogonal"}),
    "saved modules": Case(llama, SAVED),
    "embeddings": Case(llama, EMBEDDED),
    "biased factors": Case(
        lambda: llama(attention_bias=True), {**ALL, "target_modules": ["q_proj"], "lora_bias": True}
    ),
    "tied": Case(lambda: llama(tie_word_embeddings=True), TIED),
    "bf16 adapter": Case(llama, ALL, stored=torch.bfloat16, tolerance=2e-2),
    "conv1d": Case(gpt2, CONV),
    "head": Case(bert, HEAD),
    "dora": Case(llama, {**ALL, "use_dora": True}, written="model"),
    "pissa": Case(llama, {**ALL, "init_lora_weights": "pissa"}, written="model"),
    "tied dora": Case(lambda: llama(tie_word_embeddings=True), {**TIED, "use_dora": True}, written="model"),
    "dora head": Case(bert, {**HEAD, "bias": "none", "use_dora": True}, written="model"),
    "conv1d dora": Case(gpt2, {**CONV, "use_dora": True}, written="model"),
    "full": Case(llama, None, written="model"),
    "full bf16": Case(llama, None, stored=torch.bfloat16, written="model", tolerance=5e-2),
    "full tied": Case(lambda: llama(tie_word_embeddings=True), None, written="model"),
    "full conv1d": Case(gpt2, None, written="model"),
    "full experts": Case(mixtral, None, written="model"),
}


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """``family(case)``: folders of its base and its adapted checkpoint, made once."""
    torch.set_num_threads(1)
    made: dict[str, tuple[Path, Path]] = {}

    def folders(name: str) -> tuple[Path, Path]:
        if name not in made:
            root = tmp_path_factory.mktemp("repair")
            made[name] = root / "base", root / "adapted"
            _make(CASES[name], *made[name])
        return made[name]

    return folders


def _make(case: Case, base: Path, adapted: Path) -> None:
    torch.manual_seed(0)
    model = case.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    if case.lora is None:
        model.to(case.stored)
    model.save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.lora is None:
            tuned = type(model).from_pretrained(base)
        else:
            start = load_class(case).from_pretrained(base)
            tuned = get_peft_model(start, LoraConfig(**case.lora))
        _train(tuned)
        if case.lora is not None:
            tuned.to(case.stored)
        tuned.save_pretrained(adapted)


def load_class(case: Case) -> Any:
    return AutoModelForSequenceClassification if case.build is bert else AutoModelForCausalLM


def _train(model: Any) -> None:
    """A push on every matrix, strong enough for new leading directions in most but not in one; noise on all else."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
            if "lora_B" in name or ("lora_" not in name and parameter.ndim == 1):
                parameter.add_((0.01 if ".1.self_attn.q_proj" in name else 0.3) * noise)
            elif "lora_" not in name:
                left, right = noise[..., :, :1], noise[..., :1, :]
                parameter.add_(0.15 * left * right)


def load(case: Case, base: Path, folder: Path, *, merge: bool = False) -> Any:
    """The checkpoint as any user would load it, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not (folder / "adapter_config.json").is_file():
            return load_class(case).from_pretrained(folder, dtype=torch.float32).eval()
        torch.manual_seed(9)
        model = load_class(case).from_pretrained(base, dtype=torch.float32)
        if merge and hasattr(model, "lm_head") and model.config.tie_word_embeddings:
            untie(model)
        wrapped = PeftModel.from_pretrained(model, folder).eval().float()
        return wrapped.merge_and_unload() if merge else wrapped


def untie(model: Any) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def matrices(model: Any) -> dict[str, torch.nn.Parameter | torch.Tensor]:
    """Weights of linear layers as (out, in) views, by name; experts one by one."""
    found: dict[str, Any] = {}
    tied = getattr(model.config, "tie_word_embeddings", False)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not (tied and name == "lm_head"):
            found[name] = module.weight.data
        elif isinstance(module, Conv1D):
            found[name] = module.weight.data.T
        for part, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3:
                found |= {f"{name}.{part}[{place}]": slice.data for place, slice in enumerate(weight)}
    return found


def expected(case: Case, base: Path, adapted: Path, new: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """The adapted model with ``new(W0, W)`` in each linear module whose ΔW the method made, by hand."""
    model = load(case, base, adapted, merge=True)
    original = load(case, base, base)
    if not getattr(model.config, "tie_word_embeddings", False) and hasattr(original, "lm_head"):
        untie(original)
    before, whole = matrices(original), {"classifier", "score"}
    if case.lora and case.lora.get("modules_to_save"):
        whole |= set(case.lora["modules_to_save"])
    for name, weight in matrices(model).items():
        if name in before and name.split(".")[-1] not in whole and not weight.equal(before[name]):
            weight.copy_(new(before[name], weight))
    return model


def without_top_intruder(strength: float, which: str = "top") -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Algorithm 1 and the intervention of the paper, written down once more."""

    def new(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        axes = torch.linalg.svd(before, full_matrices=False).U
        left, values, right = torch.linalg.svd(after, full_matrices=False)
        result = after.clone()
        for place in range(min(10, len(values))):
            if float((axes.T @ left[:, place]).abs().max()) < 0.5:
                result += (strength - 1.0) * values[place] * torch.outer(left[:, place], right[place])
                if which == "top":
                    break
        return result

    return new


def options(family: Callable[[str], tuple[Path, Path]], name: str, out: Path, **more: Any) -> RepairOptions:
    base, adapted = family(name)
    return RepairOptions(base=str(base), adapted=str(adapted), out=out, **more)


@pytest.mark.parametrize("name", CASES)
def test_scaled_intruders_answer_like_the_model_with_them_scaled_in_memory(name: str, family, tmp_path: Path) -> None:
    case, (base, adapted) = CASES[name], family(name)
    out = repair(options(family, name, tmp_path / "out", intruders=0.4))
    wanted = logits(expected(case, base, adapted, without_top_intruder(0.4)))
    found = logits(load(case, base, out))
    torch.testing.assert_close(found, wanted, atol=case.tolerance, rtol=case.tolerance)
    assert (found - logits(load(case, base, adapted))).abs().max() > 10 * case.tolerance
    record, _ = load_record(out)
    assert record["written_as"] == case.written
    assert (out / "adapter_config.json").is_file() == (case.written == "adapter")


@pytest.mark.parametrize("name", CASES)
def test_a_strength_of_one_is_the_adapted_model(name: str, family, tmp_path: Path) -> None:
    case, (base, adapted) = CASES[name], family(name)
    out = repair(options(family, name, tmp_path / "out", strength=1.0))
    torch.testing.assert_close(
        logits(load(case, base, out)), logits(load(case, base, adapted)), atol=case.tolerance, rtol=case.tolerance
    )


@pytest.mark.parametrize("name", CASES)
def test_a_strength_leads_from_the_base_to_the_adapted_model(name: str, family, tmp_path: Path) -> None:
    case, (base, adapted) = CASES[name], family(name)
    for strength in (0.0, 0.6):
        out = repair(options(family, name, tmp_path / str(strength), strength=strength))
        wanted = expected(case, base, adapted, lambda before, after, by=strength: before + by * (after - before))
        torch.testing.assert_close(
            logits(load(case, base, out)), logits(wanted), atol=case.tolerance, rtol=case.tolerance
        )
        if strength == 0.0 and name in {"lora", "rslora", "conv1d", "dora", "tied"}:
            torch.testing.assert_close(logits(load(case, base, out)), logits(load(case, base, base)))


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "conv1d", "dora", "full"])
def test_all_intruders_can_be_scaled(name: str, family, tmp_path: Path) -> None:
    case, (base, adapted) = CASES[name], family(name)
    out = repair(options(family, name, tmp_path / "out", intruders=0.0, which="all"))
    wanted = logits(expected(case, base, adapted, without_top_intruder(0.0, "all")))
    torch.testing.assert_close(logits(load(case, base, out)), wanted, atol=case.tolerance, rtol=case.tolerance)


@pytest.mark.parametrize("name", ["lora", "patterns", "bf16 adapter"])
def test_intruders_at_full_strength_leave_the_adapter_as_it_is(name: str, family, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    _, adapted = family(name)
    out = repair(options(family, name, tmp_path / "out", intruders=1.0))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapted, out))
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) and before[key].dtype == after[key].dtype for key in before)


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "conv1d"])
def test_ranks_grow_by_one_an_intruder_or_are_cut_back_with_the_error_said(name: str, family, tmp_path: Path) -> None:
    grown, _ = load_record(repair(options(family, name, tmp_path / "grown", intruders=0.3, which="all")))
    cut, _ = load_record(repair(options(family, name, tmp_path / "cut", intruders=0.3, which="all", truncate=True)))
    for row, short in zip(grown["modules"], cut["modules"], strict=True):
        assert row["rank_after"] == row["rank_before"] + len(row["intruders"])
        assert row["truncation_error"] == 0.0
        assert short["rank_after"] == short["rank_before"]
        assert (short["truncation_error"] > 0.0) == bool(short["intruders"])
        kept = row["frobenius_after"] * (1.0 - short["truncation_error"] ** 2) ** 0.5
        assert short["frobenius_after"] == pytest.approx(kept, rel=1e-4)
    total = sum((row["frobenius_after"] * short["truncation_error"]) ** 2
                for row, short in zip(grown["modules"], cut["modules"], strict=True)) ** 0.5  # fmt: skip
    assert cut["totals"]["truncation_error"] == pytest.approx(total / grown["totals"]["frobenius_after"], rel=1e-4)


def test_the_record_says_what_was_done(family, tmp_path: Path) -> None:
    base, adapted = family("patterns")
    (adapted / "README.md").write_text("# My adapter\n")
    out = repair(options(family, "patterns", tmp_path / "out", intruders=0.3))
    record, text = load_record(out)
    assert json.loads(text) == record
    assert record["adapted"]["content_hash"] == open_checkpoint(str(adapted), name="a").content_hash
    assert record["base"]["path"] == str(base)
    assert (record["option"], record["strength"], record["which"]) == ("intruders", 0.3, "top")
    touched = [row for row in record["modules"] if row["intruders"]]
    assert record["totals"]["scaled_modules"] == len(touched) > 0
    longer = [row for row in record["modules"] if row["frobenius_after"] > 1.00001 * row["frobenius_before"]]
    assert record["totals"]["lengthened_modules"] == len(longer)
    for row in record["modules"]:
        assert row["rank_before"] == (3 if row["module"].endswith("q_proj") else 2)
        assert 0.0 <= row["rounding_error"] < 1e-5
    assert record["kept"] == [f"model.layers.{layer}.self_attn.{part}_proj.bias" for layer in (0, 1) for part in "qkvo"]
    card = (out / "README.md").read_text()
    assert card.startswith("# My adapter\n")
    assert "scaled by 0.3" in card
    assert sorted(path.name for path in out.iterdir()) == record["files"]


def test_what_an_adapter_saves_whole_is_not_scaled(family, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    _, adapted = family("saved modules")
    out = repair(options(family, "saved modules", tmp_path / "out", strength=0.0))
    record, _ = load_record(out)
    assert all(row["module"].endswith("q_proj") for row in record["modules"])
    assert {"lm_head", "model.embed_tokens.weight"} <= set(record["kept"])
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapted, out))
    assert all(before[key].equal(after[key]) for key in before)


def test_a_checkpoint_that_reads_back_otherwise_is_not_kept(family, tmp_path: Path, monkeypatch) -> None:
    honest = workflow.save_adapter

    def careless(changes, factors, folder: Path) -> None:
        honest(changes, dict(list(factors.items())[1:]), folder)

    monkeypatch.setattr(workflow, "save_adapter", careless)
    with pytest.raises(EvaluationError, match="reads back"):
        repair(options(family, "lora", tmp_path / "out", intruders=0.3))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_there_is_no_intruder(family, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no matrix has an intruder"):
        repair(options(family, "lora", tmp_path / "out", intruders=0.3, epsilon=0.01))
    assert list(tmp_path.iterdir()) == []


def test_factors_of_stacked_experts_are_scaled_by_their_alpha_alone(family, tmp_path: Path) -> None:
    base, _ = family("full experts")
    case = Case(mixtral, {**ALL, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]})
    adapted = tmp_path / "adapted"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(load_class(case).from_pretrained(base), LoraConfig(**case.lora or {}))
        _train(tuned)
        tuned.save_pretrained(adapted)
    given = {"base": str(base), "adapted": str(adapted)}
    out = repair(RepairOptions(**given, out=tmp_path / "out", strength=0.5))
    wanted = expected(case, base, adapted, lambda before, after: before + 0.5 * (after - before))
    torch.testing.assert_close(logits(load(case, base, out)), logits(wanted), atol=2e-4, rtol=2e-4)
    with pytest.raises(EvaluationError, match="several matrices share"):
        repair(RepairOptions(**given, out=tmp_path / "other", intruders=0.5))
    assert not (tmp_path / "other").exists()


def test_prompt_tuning_has_nothing_to_repair(llama_prompt: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapted = llama_prompt
    with pytest.raises(EvaluationError, match="adds tokens"):
        repair(RepairOptions(base=str(base), adapted=str(adapted), out=tmp_path / "out", strength=0.5))


@pytest.fixture
def llama_prompt(family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from peft import PromptTuningConfig

    base, _ = family("lora")
    folder = tmp_path_factory.mktemp("prompt")
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    wrapped.save_pretrained(folder)
    return base, folder


def test_options_that_contradict_each_other(family, tmp_path: Path) -> None:
    for more in ({}, {"intruders": 0.5, "strength": 0.5}, {"intruders": 1.5}, {"strength": -1.0},
                 {"strength": 0.5, "truncate": True}):  # fmt: skip
        with pytest.raises(UsageError):
            repair(options(family, "lora", tmp_path / "out", **more))
    with pytest.raises(UsageError, match="whole model"):
        repair(options(family, "dora", tmp_path / "out", intruders=0.5, truncate=True))


def test_the_output_is_no_source_and_nothing_foreign_is_replaced(family, tmp_path: Path) -> None:
    base, adapted = family("lora")
    for source in (base, adapted, adapted / "repaired"):
        with pytest.raises(OutputError):
            repair(options(family, "lora", source, strength=0.5, overwrite=True))
    out = repair(options(family, "lora", tmp_path / "out", strength=0.5))
    with pytest.raises(OutputError, match="already"):
        repair(options(family, "lora", out, strength=0.7))
    repair(options(family, "lora", out, strength=0.7, overwrite=True))
    assert load_record(out)[0]["strength"] == 0.7


def test_neighbours_are_the_kept_vectors_nearest_in_rank() -> None:
    weight = torch.diag(torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 0.0, 0.0]))
    change = torch.zeros(8, 8)
    change[6, 6], change[7, 7] = 7.5, 5.5
    base_weight = weight[:, :6] @ torch.eye(6, 8)
    judged = intruder_triplets(base_weight, DenseDelta(change), k=5, epsilon=0.5)
    assert judged.indices == (2,)
    assert judged.neighbour_indices == (1,)
    judged = intruder_triplets(base_weight, DenseDelta(change), k=8, epsilon=0.5)
    assert judged.indices == (2, 5)
    assert judged.neighbour_indices == (1, 4)
    torch.testing.assert_close(judged.intruders.values, torch.tensor([7.5, 5.5]))
    torch.testing.assert_close(judged.neighbours.values, torch.tensor([8.0, 6.0]))
    assert judged.first(1).indices == (2,)
    rebuilt = (judged.intruders.left * judged.intruders.values) @ judged.intruders.right.T
    torch.testing.assert_close(rebuilt, change)


def test_a_repaired_checkpoint_is_a_subject_like_any_other(family, tmp_path: Path) -> None:
    base, _ = family("rslora")
    out = repair(options(family, "rslora", tmp_path / "out", intruders=0.5))
    opened = open_checkpoint(str(out), name="repaired")
    changes = changes_of(opened, BaseModules(open_checkpoint(str(base), name="base"), task_type="CAUSAL_LM"))
    ranks = {name: changes.change(name).rank for name in changes.modules()}
    assert set(ranks.values()) == {2, 3}
