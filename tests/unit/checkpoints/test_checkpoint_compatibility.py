"""Each check of the proof: what must be refused, what must be reported, and what must pass in silence."""

from __future__ import annotations

import shutil

import peft
import pytest
import torch
from transformers import BertModel

from lorascope.checkpoints.changes import BaseModules, changes_of
from lorascope.checkpoints.compatibility import prove, prove_base
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.errors import InvalidComparison

ADAPTER = "adapter_model.safetensors"
MODEL = "model.safetensors"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def lora(**settings):
    return peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], **settings})


def quiet(_done, _total):
    return None


def proof_of(base, adapted, task_type=None):
    subject = open_checkpoint(str(adapted), name="adapted")
    first = open_checkpoint(str(base), name="base")
    prove_base(first, quiet)
    modules = BaseModules(first, task_type=task_type)
    return prove(subject, modules, changes_of(subject, modules), quiet)


def ids(proof):
    return {finding.id.split(":")[0] for finding in proof.findings}


def refused(base, adapted, task_type=None):
    with pytest.raises(InvalidComparison) as error:
        proof_of(base, adapted, task_type)
    assert error.value.exit_code == 3
    assert error.value.where
    assert error.value.remedy
    return str(error.value)


def zero(mark):
    def change(tensors):
        for key in tensors:
            if mark in key:
                tensors[key] = torch.zeros_like(tensors[key])

    return change


def test_biases_that_peft_saves_under_a_head_s_wrapper_are_read_as_it_reads_them(
    build, base_of, adapt, attach, rewrite
):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", bias="all")
    folder = adapt("bert", config, model=model)
    wrapper = "base_model.model.classifier.modules_to_save.bias"
    rewrite(folder / ADAPTER, lambda tensors: tensors.update({wrapper: tensors[wrapper] + 5}))
    proof = proof_of(base_of("bert"), folder, "SEQ_CLS")
    assert set(proof.head) == {f"base_model.model.classifier.{part}" for part in ("weight", "bias")}

    subject = open_checkpoint(str(folder), name="adapted")
    assert not [key for key in subject.tensors.specs if "modules_to_save" in key or "original_module" in key]
    fresh = build("bert", "BertForSequenceClassification", num_labels=3)
    loaded = attach(fresh, folder).base_model.model.classifier
    kept = subject.tensors.get("base_model.model.classifier.bias")
    assert loaded.modules_to_save["default"].bias.equal(kept)
    modules = BaseModules(open_checkpoint(str(base_of("bert")), name="base"), task_type="SEQ_CLS")
    moved = {change.name for change in changes_of(subject, modules).others()}
    assert {"encoder.layer.0.attention.self.query.bias", "pooler.dense.bias"} <= moved


def test_a_wrapper_s_tensor_without_its_plain_name_belongs_to_nothing(base_of, adapt, rewrite):
    folder = adapt("llama", lora())
    lone = "base_model.model.score.modules_to_save.bias"
    rewrite(folder / ADAPTER, lambda tensors: tensors.update({lone: torch.ones(3)}))
    said = refused(base_of("llama"), folder, "SEQ_CLS")
    assert lone in said
    assert "(LlamaForCausalLM)" in said


def test_an_adapter_on_its_own_base_passes_in_silence(base_of, adapt):
    proof = proof_of(base_of("llama"), adapt("llama", lora()))
    assert proof.findings == []
    assert proof.changed == 2 * (16 * 16 + 16 * 24)
    assert proof.trainable == 2 * (4 * 16 + 4 * 16 + 4 * 24 + 4 * 16)
    assert proof.head == ()


def test_a_fine_tuned_model_passes_in_silence(base_of, disturbed, tmp_path):
    after = disturbed("llama")
    after.save_pretrained(tmp_path / "full")
    proof = proof_of(base_of("llama"), tmp_path / "full")
    assert proof.findings == []
    assert proof.changed == proof.trainable == sum(p.numel() for p in after.parameters())


def test_changed_parameters_are_counted_one_by_one(base_of, copied, rewrite):
    folder = copied(base_of("llama"))

    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][0, :3] += 1.0
        tensors["model.norm.weight"][0] += 1.0

    rewrite(folder / MODEL, change)
    assert proof_of(base_of("llama"), folder).changed == 4


# ‖ΔW‖ = 0


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_an_adapter_that_changes_nothing(base_of, adapt, rewrite, factor):
    folder = adapt("llama", lora())
    rewrite(folder / ADAPTER, zero(factor))
    said = refused(base_of("llama"), folder)
    assert "‖ΔW‖ = 0 in all 4 adapted modules" in said
    assert "the first is model.layers.0.self_attn.q_proj" in said


@pytest.mark.parametrize(
    "config",
    [
        lora(),
        lora(use_dora=True),
        lora(init_lora_weights="pissa"),
        lora(init_lora_weights="olora"),
        peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.LoHaConfig(r=2, target_modules=["q_proj"]),
        peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
        peft.HRAConfig(r=4, target_modules=["q_proj"]),
    ],
    ids=["lora", "dora", "pissa", "olora", "ia3", "loha", "oft", "hra"],
)
def test_an_untrained_adapter_of_any_method(base_of, adapt, config):
    assert "the adapter changes nothing" in refused(base_of("llama"), adapt("llama", config, trained=False))


@pytest.mark.parametrize(
    "config",
    [
        peft.LNTuningConfig(target_modules=["input_layernorm"]),
        peft.TrainableTokensConfig(token_indices=[3], target_modules=["embed_tokens"]),
        lora(modules_to_save=["norm", "lm_head"]),
    ],
    ids=["norms", "tokens", "saved"],
)
def test_a_method_that_changes_no_linear_module_is_refused_untrained_and_passes_trained(base_of, adapt, config):
    assert "the adapter changes nothing" in refused(base_of("llama"), adapt("llama", config, "fresh", trained=False))
    assert proof_of(base_of("llama"), adapt("llama", config, "trained")).findings == []


def test_a_method_that_only_gives_biases_is_not_dead(base_of, adapt):
    assert proof_of(base_of("llama"), adapt("llama", peft.BeftConfig(target_modules=["q_proj"]))).findings == []


def test_dead_factors_beside_a_trained_norm_are_a_critical_finding(base_of, adapt, rewrite):
    folder = adapt("llama", lora(modules_to_save=["norm"]))
    rewrite(folder / ADAPTER, zero("lora_B"))
    finding = next(f for f in proof_of(base_of("llama"), folder).findings if f.id == "dead-adapter:adapted")
    assert "model.norm.weight" in finding.evidence[1]


def test_an_expert_that_never_learned_is_named(adapt, rewrite, tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "tiny-llama")
    settings = lora(target_modules=[], target_parameters=["mlp.experts.down_proj"])
    folder = adapt("llama", settings, model=model)
    assert proof_of(tmp_path / "tiny-llama", folder).findings == []

    def change(tensors):
        (key,) = (key for key in tensors if "lora_B" in key)
        tensors[key].view(16, 4, 3)[:, :, 1] = 0.0

    rewrite(folder / ADAPTER, change)
    proof = proof_of(tmp_path / "tiny-llama", folder)
    (finding,) = proof.findings
    assert finding.title.startswith("1 of 3")
    assert "model.layers.0.mlp.experts.down_proj[1]" in finding.evidence[0]
    assert proof.changed == 2 * 16 * 8


def test_a_dead_adapter_beside_a_trained_head_is_a_critical_finding(build, base_of, adapt, rewrite):
    config = lora(task_type="SEQ_CLS", target_modules=["query"])
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    folder = adapt("bert", config, model=model)
    rewrite(folder / ADAPTER, zero("lora_B"))
    proof = proof_of(base_of("bert"), folder)
    finding = next(f for f in proof.findings if f.id == "dead-adapter:adapted")
    assert finding.severity == "critical"
    assert "classifier.weight" in finding.evidence[1]
    assert proof.changed == 0


def test_dead_modules_are_named(base_of, adapt, rewrite):
    folder = adapt("llama", lora())
    rewrite(folder / ADAPTER, zero(f"{Q0}.lora_B"))
    proof = proof_of(base_of("llama"), folder)
    finding = next(f for f in proof.findings if f.id == "dead-modules:adapted")
    assert finding.title.startswith("1 of 4")
    assert "model.layers.0.self_attn.q_proj" in finding.evidence[0]
    assert proof.changed == 16 * 16 + 2 * 16 * 24


def test_a_model_that_is_the_base_itself(base_of, copied):
    assert "is the base itself" in refused(base_of("llama"), copied(base_of("llama")))


def test_a_model_whose_head_alone_was_trained_is_none_that_learned_nothing(base_of, build, tmp_path):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    model.bert.load_state_dict(BertModel.from_pretrained(base_of("bert")).state_dict())
    model.save_pretrained(tmp_path / "probe")
    proof = proof_of(base_of("bert"), tmp_path / "probe")
    assert proof.changed == 0
    assert "classifier.weight" in proof.head


def test_a_model_that_is_the_base_cast_to_another_type(base_of, build, tmp_path):
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path / "cast")
    assert "‖ΔW‖ = 0" in refused(base_of("llama"), tmp_path / "cast")


def test_methods_without_delta_weights_are_not_dead(base_of, adapt):
    prompt = adapt("llama", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    proof = proof_of(base_of("llama"), prompt, "CAUSAL_LM")
    assert proof.findings == []
    assert (proof.changed, proof.head) == (None, ())
    deeper = adapt("llama", lora(layer_replication=[[0, 2], [1, 2]]), "deeper")
    assert proof_of(base_of("llama"), deeper).changed is None
    poly = adapt("llama", peft.PolyConfig(r=4, n_tasks=2, n_skills=2, target_modules=["q_proj"]), "poly")
    assert ids(proof_of(base_of("llama"), poly)) == {"no-merge"}


# NaN and infinity


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_with_broken_values_names_the_tensor(base_of, copied, rewrite, value, dtype):
    folder = copied(base_of("llama"))

    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].to(dtype)
        tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = value

    rewrite(folder / MODEL, change)
    with pytest.raises(InvalidComparison, match=r"model.layers.1.mlp.up_proj.weight has 1 values that are NaN or inf"):
        prove_base(open_checkpoint(str(folder), name="base"), quiet)


def test_subjects_with_broken_values_name_the_tensor(base_of, adapt, disturbed, rewrite, tmp_path):
    def change(tensors):
        for key in tensors:
            if key.endswith(("layers.0.self_attn.q_proj.lora_A.weight", "model.norm.weight")):
                tensors[key].view(-1)[:2] = float("nan")

    folder = adapt("llama", lora())
    rewrite(folder / ADAPTER, change)
    assert f"{Q0}.lora_A.weight has 2 values" in refused(base_of("llama"), folder)
    disturbed("llama").save_pretrained(tmp_path / "full")
    rewrite(tmp_path / "full" / MODEL, change)
    assert "tensor model.norm.weight has 2 values" in refused(base_of("llama"), tmp_path / "full")


# Architecture, shapes, modules


def test_the_base_may_not_be_an_adapter(adapt):
    folder = adapt("llama", lora())
    with pytest.raises(InvalidComparison, match="the base is an adapter"):
        prove_base(open_checkpoint(str(folder), name="base"), quiet)


@pytest.mark.parametrize(
    ("other", "entry"),
    [
        ("gpt2", "model_type is gpt2 in the adapted model and llama in the base"),
        ("deeper", "num_hidden_layers is 3 in the adapted model and 2 in the base"),
        ("heads", "num_attention_heads is 4 in the adapted model and 2 in the base"),
    ],
)
def test_models_of_another_architecture_or_size(base_of, build, tmp_path, other, entry):
    settings = {"deeper": {"num_hidden_layers": 3}, "heads": {"num_attention_heads": 4}}.get(other, {})
    build("gpt2" if other == "gpt2" else "llama", seed=3, **settings).save_pretrained(tmp_path / "full")
    assert entry in refused(base_of("llama"), tmp_path / "full")


def test_an_adapter_tensor_without_a_module(base_of, adapt, rewrite):
    folder = adapt("llama", lora())

    def change(tensors):
        tensors["base_model.model.model.layers.7.norm.weight"] = torch.ones(16)

    rewrite(folder / ADAPTER, change)
    said = refused(base_of("llama"), folder)
    assert "1 of 9 adapter tensors belong to no module of the base (LlamaForCausalLM)" in said
    assert "layers.7.norm.weight" in said


def test_a_tensor_of_another_method_has_no_module(base_of, adapt, rewrite):
    folder = adapt("llama", lora())
    rewrite(folder / ADAPTER, lambda tensors: tensors.update({f"{Q0}.ia3_l": torch.ones(16, 1)}))
    assert f"{Q0}.ia3_l" in refused(base_of("llama"), folder)


# Heads


def test_a_classifier_adapter_on_a_bare_base(build, base_of, adapt):
    model = build("bert", "BertForSequenceClassification", num_labels=5)
    folder = adapt("bert", lora(task_type="SEQ_CLS", target_modules=["query"]), model=model)
    for task_type in ("SEQ_CLS", None):
        proof = proof_of(base_of("bert"), folder, task_type)
        assert proof.head == ("base_model.model.classifier.bias", "base_model.model.classifier.weight")
        assert proof.findings == []


def test_a_classifier_adapter_whose_head_was_not_saved(build, base_of, adapt, rewrite):
    model = build("bert", "BertForSequenceClassification")
    folder = adapt("bert", lora(task_type="SEQ_CLS", target_modules=["query"]), model=model)

    def change(tensors):
        for key in [key for key in tensors if "classifier" in key]:
            del tensors[key]

    rewrite(folder / ADAPTER, change)
    said = refused(base_of("bert"), folder)
    assert "no trained classifier: BertForSequenceClassification needs it" in said
    assert "modules_to_save" in said


def test_a_head_of_which_only_the_last_layer_was_saved(tmp_path, adapt, rewrite):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, DistilBertModel

    config = DistilBertConfig(vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2)
    DistilBertModel(config).save_pretrained(tmp_path / "base")
    settings = lora(task_type="SEQ_CLS", target_modules=["q_lin"])
    folder = adapt("bert", settings, model=DistilBertForSequenceClassification(config))
    assert len(proof_of(tmp_path / "base", folder).head) == 4

    def change(tensors):
        for key in [key for key in tensors if "pre_classifier" in key]:
            del tensors[key]

    rewrite(folder / ADAPTER, change)
    assert "no trained pre_classifier" in refused(tmp_path / "base", folder)


def test_a_base_with_a_trained_head_needs_none_in_the_adapter(build, adapt, tmp_path):
    model = build("bert", "BertForSequenceClassification")
    model.save_pretrained(tmp_path / "base")
    folder = adapt("bert", lora(target_modules=["query"]), model=model)
    proof = proof_of(tmp_path / "base", folder)
    assert (proof.head, ids(proof)) == ((), {"base-name"})


def test_a_feature_model_without_its_pooler_is_only_doubtful(adapt, build, base_of, copied, rewrite):
    base = copied(base_of("bert"), "tiny-bert")

    def change(tensors):
        for key in [key for key in tensors if "pooler" in key]:
            del tensors[key]

    rewrite(base / MODEL, change)
    folder = adapt("bert", lora(task_type="FEATURE_EXTRACTION", target_modules=["query"]))
    proof = proof_of(base, folder, "FEATURE_EXTRACTION")
    assert ids(proof) == {"untrained"}
    assert "pooler.dense" in proof.findings[0].evidence[0]


def test_a_model_whose_own_head_is_not_in_its_file(base_of, disturbed, tmp_path, reconfigure):
    disturbed("bert").save_pretrained(tmp_path / "full")
    reconfigure(tmp_path / "full" / "config.json", architectures=["BertForSequenceClassification"])
    assert "no trained classifier" in refused(base_of("bert"), tmp_path / "full")


def test_a_trained_head_of_a_full_model_is_named(base_of, disturbed, tmp_path):
    disturbed("bert", "BertForTokenClassification", num_labels=4).save_pretrained(tmp_path / "full")
    proof = proof_of(base_of("bert"), tmp_path / "full")
    assert sorted(proof.head) == ["classifier.bias", "classifier.weight"]
    # Token classification has no pooler, so the base's is not compared.
    assert ids(proof) == {"unmatched"}


def test_a_prompt_tuned_classifier_has_a_head_too(build, base_of, adapt):
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    folder = adapt("bert", config, model=build("bert", "BertForSequenceClassification"))
    assert len(proof_of(base_of("bert"), folder, "SEQ_CLS").head) == 2


def test_heads_of_other_sizes_are_reported(build, disturbed, tmp_path):
    build("bert", "BertForSequenceClassification", num_labels=2).save_pretrained(tmp_path / "base")
    disturbed("bert", "BertForSequenceClassification", num_labels=5).save_pretrained(tmp_path / "full")
    assert ids(proof_of(tmp_path / "base", tmp_path / "full")) == {"resized"}


# Doubts


def test_an_adapter_that_names_another_base(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / "adapter_config.json", base_model_name_or_path="org/other-model", revision="abc")
    proof = proof_of(base_of("llama"), folder)
    assert ids(proof) == {"base-name"}
    evidence = " ".join(proof.findings[0].evidence)
    assert "org/other-model, revision abc" in evidence
    assert str(base_of("llama")) in evidence


@pytest.mark.parametrize("said", ["hub-owner/tiny-llama", "/elsewhere/tiny-llama", "tiny-llama/"])
def test_the_same_name_in_another_place_fits(base_of, adapt, reconfigure, said):
    folder = adapt("llama", lora())
    reconfigure(folder / "adapter_config.json", base_model_name_or_path=said)
    assert proof_of(base_of("llama"), folder).findings == []


def test_an_adapter_that_names_no_base(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / "adapter_config.json", base_model_name_or_path=None)
    assert "the adapter says nothing" in proof_of(base_of("llama"), folder).findings[0].evidence[0]


@pytest.mark.parametrize("merged", [False, True])
def test_patterns_that_match_nothing(base_of, adapt, reconfigure, merged):
    folder = adapt("llama", lora(use_dora=merged))
    reconfigure(folder / "adapter_config.json", alpha_pattern={"query_key_value": 64})
    proof = proof_of(base_of("llama"), folder)
    assert ids(proof) == {"pattern"}
    assert proof.findings[0].evidence == ["alpha_pattern: query_key_value"]


def test_another_stored_type(base_of, disturbed, tmp_path):
    disturbed("llama").to(torch.bfloat16).save_pretrained(tmp_path / "full")
    proof = proof_of(base_of("llama"), tmp_path / "full")
    assert ids(proof) == {"dtype"}
    assert "BF16" in proof.findings[0].title
    assert "F32" in proof.findings[0].title


def test_a_resized_vocabulary(base_of, disturbed, tmp_path):
    after = disturbed("llama")
    after.resize_token_embeddings(44)
    after.save_pretrained(tmp_path / "full")
    proof = proof_of(base_of("llama"), tmp_path / "full")
    assert ids(proof) == {"vocabulary", "resized"}
    assert "44 entries in the adapted model and 40" in " ".join(f.title for f in proof.findings)


def test_how_the_checkpoint_was_found_is_a_finding(base_of, adapt, tmp_path):
    shutil.move(adapt("llama", lora()), tmp_path / "run" / "checkpoint-9")
    proof = proof_of(base_of("llama"), tmp_path / "run")
    assert ids(proof) == {"taken"}
    assert "checkpoint-9" in proof.findings[0].title


def test_progress_counts_every_tensor_once(base_of, adapt):
    seen: list[tuple[int, int]] = []
    first = open_checkpoint(str(base_of("llama")), name="base")
    prove_base(first, lambda done, total: seen.append((done, total)))
    assert seen == [(n, len(first.tensors.specs)) for n in range(1, len(first.tensors.specs) + 1)]
