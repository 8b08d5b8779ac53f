"""ΔW is what the layers really compute: adapted layer minus base layer on probe inputs, for every method."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lorascope.checkpoints.changes import AdapterChanges, BaseModules, ModelChanges, changes_of
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.errors import InvalidComparison

TARGETS = {
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "output.dense"],
    "t5": ["q", "wi"],
}
SQUARE = {"llama": ["q_proj", "o_proj"], "gpt2": ["attn.c_proj"], "bert": ["query", "key"], "t5": ["q", "v"]}


def lora(architecture, **settings):
    turned = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS[architecture], **turned, **settings})


def method(name, architecture):
    targets, square = TARGETS[architecture], SQUARE[architecture]
    turned = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    key, ring = {"llama": ("k_proj", 0), "gpt2": ("c_fc", 0), "bert": ("key", 1), "t5": ("k", 0)}[architecture]
    made = {
        "lora": lambda: lora(architecture),
        "rslora": lambda: lora(architecture, use_rslora=True),
        "patterns": lambda: lora(
            architecture, target_modules=[*targets, key], rank_pattern={key: 2}, alpha_pattern={rf"{ring}\..*{key}": 9}
        ),
        "gaussian": lambda: lora(architecture, init_lora_weights="gaussian"),
        "eva": lambda: lora(architecture, init_lora_weights="eva", eva_config=peft.EvaConfig()),
        "dora": lambda: lora(architecture, use_dora=True),
        "pissa": lambda: lora(architecture, init_lora_weights="pissa"),
        "olora": lambda: lora(architecture, init_lora_weights="olora"),
        "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=targets, **turned),
        "loha": lambda: peft.LoHaConfig(r=3, target_modules=targets),
        "lokr": lambda: peft.LoKrConfig(r=3, target_modules=targets),
        "ia3": lambda: peft.IA3Config(target_modules=targets, feedforward_modules=[targets[1]], **turned),
        "vera": lambda: peft.VeraConfig(r=4, target_modules=square, **turned),
        "vera-bare": lambda: peft.VeraConfig(r=4, target_modules=square, save_projection=False, **turned),
        "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=targets, **turned),
        "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=targets, **turned),
        "hra": lambda: peft.HRAConfig(r=4, target_modules=targets),
        "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=targets, **turned),
        "vblora": lambda: peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=8, topk=2, target_modules=targets),
        "ln": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made[name]()


def opened(base, adapted):
    first = open_checkpoint(str(base), name="base")
    subject = open_checkpoint(str(adapted), name="adapted")
    modules = BaseModules(first, task_type=subject.adapter.task_type if subject.adapter else None)
    return modules, changes_of(subject, modules)


def dense(change, base):
    if change.factors is not None:
        assert change.adapted is None
        return change.factors.scaling * change.factors.up @ change.factors.down
    return change.adapted - base.weight(change.module)


def slope(layer, x):
    """What the layer makes of ``x`` without its bias."""
    return layer(x) - layer(torch.zeros_like(x))


@torch.no_grad()
def holds_in_the_layers(base, changes, before, after):
    """Probe each changed module: the layers' difference equals ΔW @ x, and the number of modules probed."""
    generator = torch.Generator().manual_seed(3)
    for change in map(changes.change, changes.modules()):
        x = torch.randn(9, base.linear(change.module).in_features, generator=generator)
        moved = slope(after.get_submodule(change.module), x) - slope(before.get_submodule(change.module), x)
        assert moved.abs().max() > 1e-3, f"{change.module} did not move"
        scale = float(moved.abs().max())
        torch.testing.assert_close(x @ dense(change, base).T, moved, atol=1e-4 * max(scale, 1.0), rtol=0)
    return len(changes.modules())


CASES = [
    *[(name, architecture) for name in ("lora", "rslora", "patterns", "dora", "ia3") for architecture in TARGETS],
    *[(name, "gpt2") for name in ("pissa", "adalora", "vera", "fourierft")],
    *[
        (name, "llama")
        for name in ("gaussian", "eva", "pissa", "olora", "adalora", "loha", "lokr", "vera", "vera-bare")
    ],
    *[(name, "llama") for name in ("oft", "boft", "hra", "fourierft", "vblora")],
]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_adapters_change_what_their_layers_compute(build, base_of, adapt, attach, name, architecture):
    folder = adapt(architecture, method(name, architecture))
    base, changes = opened(base_of(architecture), folder)
    after = attach(build(architecture), folder).get_base_model()
    probed = holds_in_the_layers(base, changes, build(architecture), after)
    adapted = [n for n, m in after.named_modules() if hasattr(m, "base_layer")]
    assert changes.modules() == [n for n in base.names if n in adapted]
    assert probed == len(adapted) > 0


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "gaussian", "eva"])
def test_plain_lora_stays_factored(base_of, adapt, name):
    _, changes = opened(base_of("llama"), adapt("llama", method(name, "llama")))
    assert not changes.is_merged
    for change in map(changes.change, changes.modules()):
        assert change.factors is not None
        assert change.rank == change.factors.down.shape[0] == change.factors.up.shape[1]
        assert change.stored_dtype == "F32"


@pytest.mark.parametrize("name", ["ln", "prompt", "prefix"])
def test_methods_without_a_linear_change_have_none(base_of, adapt, name):
    _, changes = opened(base_of("llama"), adapt("llama", method(name, "llama")))
    assert changes.modules() == []


def test_poly_has_no_merge_and_so_no_change(base_of, adapt):
    config = peft.PolyConfig(r=4, n_tasks=2, n_skills=2, target_modules=TARGETS["llama"])
    _, changes = opened(base_of("llama"), adapt("llama", config))
    assert changes.has_no_merge
    assert changes.modules() == []


def test_modules_that_an_adapter_saves_whole_are_changes_too(build, base_of, adapt, attach):
    for name, settings in {"plain": {}, "merged": {"use_dora": True}}.items():
        folder = adapt("llama", lora("llama", modules_to_save=["lm_head"], bias="all", **settings), name)
        base, changes = opened(base_of("llama"), folder)
        after = attach(build("llama"), folder).get_base_model()
        assert changes.modules()[-1] == "lm_head"
        assert changes.change("lm_head").method == "full"
        assert holds_in_the_layers(base, changes, build("llama"), after) == 5


@pytest.mark.parametrize("settings", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("merged", [False, True])
def test_an_output_layer_tied_in_the_base_and_changed_by_the_adapter(build, adapt, attach, tmp_path, settings, merged):
    build("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    folder = adapt("llama", lora("llama", use_dora=merged, **settings), model=build("llama", tie_word_embeddings=True))
    base, changes = opened(tmp_path / "base", folder)
    assert "lm_head" not in base.names
    assert changes.modules()[-1] == "lm_head"
    after = attach(build("llama", tie_word_embeddings=True), folder).get_base_model()
    holds_in_the_layers(base, changes, build("llama", tie_word_embeddings=True), after)


def test_an_output_layer_that_the_file_does_not_share_is_a_module(build, tmp_path, rewrite):
    for seed, name in enumerate(("base", "full")):
        build("t5", seed=seed, tie_word_embeddings=False).save_pretrained(tmp_path / name)
        own = torch.full((40, 16), 1.0 + seed)
        rewrite(tmp_path / name / "model.safetensors", lambda tensors, own=own: tensors.update({"lm_head.weight": own}))
    base, changes = opened(tmp_path / "base", tmp_path / "full")
    assert changes.modules()[-1] == "lm_head"
    assert dense(changes.change("lm_head"), base).eq(1.0).all()

    def share(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"].clone()

    for name in ("base", "full"):
        rewrite(tmp_path / name / "model.safetensors", share)
    _, tied = opened(tmp_path / "base", tmp_path / "full")
    assert "lm_head" not in tied.modules()


def test_a_full_model_that_unties_its_output_layer_though_its_class_ties_it(build, tmp_path, rewrite):
    for seed, name in enumerate(("base", "full")):
        build("t5", seed=seed).save_pretrained(tmp_path / name)
    own = torch.full((40, 16), 2.0)
    rewrite(tmp_path / "full" / "model.safetensors", lambda tensors: tensors.update({"lm_head.weight": own}))
    base, changes = opened(tmp_path / "base", tmp_path / "full")
    assert "lm_head" not in base.names
    assert changes.modules()[-1] == "lm_head"
    assert changes.change("lm_head").adapted.eq(2.0).all()

    def share(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"].clone()

    rewrite(tmp_path / "full" / "model.safetensors", share)
    _, tied = opened(tmp_path / "base", tmp_path / "full")
    assert "lm_head" not in tied.modules()


def test_adapted_embeddings_are_no_linear_change(base_of, adapt):
    folder = adapt("llama", lora("llama", target_modules=["embed_tokens", "q_proj"]))
    _, changes = opened(base_of("llama"), folder)
    assert changes.modules() == [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]


@pytest.mark.parametrize("name", ["dora", "pissa"])
def test_a_base_in_bfloat16_is_merged_in_float32(build, adapt, attach, tmp_path, name):
    narrow = build("llama").to(torch.bfloat16)
    narrow.save_pretrained(tmp_path / "base")
    wide = build("llama")
    wide.load_state_dict({key: value.float() for key, value in narrow.state_dict().items()})
    folder = adapt("llama", method(name, "llama"), model=wide)
    base, changes = opened(tmp_path / "base", folder)
    reference = build("llama")
    reference.load_state_dict({key: value.float() for key, value in narrow.state_dict().items()})
    after = attach(reference, folder).get_base_model()
    before = build("llama")
    before.load_state_dict({key: value.float() for key, value in narrow.state_dict().items()})
    assert holds_in_the_layers(base, changes, before, after) == 4


@pytest.mark.parametrize("architecture", list(TARGETS))
def test_full_models(build, base_of, disturbed, tmp_path, architecture):
    after = disturbed(architecture)
    after.save_pretrained(tmp_path / "full")
    base, changes = opened(base_of(architecture), tmp_path / "full")
    assert isinstance(changes, ModelChanges)
    assert holds_in_the_layers(base, changes, build(architecture), after) == len(base.names)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_merged_adapter_is_the_adapter(base_of, adapt, attach, build, tmp_path, architecture):
    folder = adapt(architecture, lora(architecture))
    attach(build(architecture), folder).merge_and_unload().save_pretrained(tmp_path / "merged")
    base, factored = opened(base_of(architecture), folder)
    _, merged = opened(base_of(architecture), tmp_path / "merged")
    for module in base.names:
        whole = dense(merged.change(module), base)
        if module in factored.modules():
            torch.testing.assert_close(whole, dense(factored.change(module), base), atol=1e-6, rtol=0)
        else:
            assert not whole.any()


def test_a_sharded_model_in_bfloat16(base_of, disturbed, tmp_path):
    after = disturbed("llama").to(torch.bfloat16)
    after.save_pretrained(tmp_path / "full", max_shard_size="5KB")
    assert (tmp_path / "full" / "model.safetensors.index.json").is_file()
    base, changes = opened(base_of("llama"), tmp_path / "full")
    assert changes.modules() == base.names
    for change in map(changes.change, changes.modules()):
        assert change.stored_dtype == "BF16"
        assert change.adapted.dtype == torch.float32
        torch.testing.assert_close(change.adapted, after.get_submodule(change.module).weight.float())


def test_a_bare_base_against_a_classifier_and_the_other_way_round(build, base_of, disturbed, tmp_path):
    classifier = disturbed("bert", "BertForSequenceClassification", num_labels=5)
    classifier.save_pretrained(tmp_path / "classifier")
    base, changes = opened(base_of("bert"), tmp_path / "classifier")
    assert changes.modules() == base.names
    assert len(base.names) == 13
    for change in map(changes.change, changes.modules()):
        weight = classifier.bert.get_submodule(change.module).weight
        torch.testing.assert_close(change.adapted, weight.detach())

    back, reverse = opened(tmp_path / "classifier", base_of("bert"))
    assert reverse.unmatched == ["classifier"]
    assert reverse.modules() == [name for name in back.names if name != "classifier"]


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_for_five_labels_on_a_bare_base(build, base_of, adapt, merged):
    config = lora("bert", task_type="SEQ_CLS", use_dora=merged)
    model = build("bert", "BertForSequenceClassification", num_labels=5)
    folder = adapt("bert", config, model=model)
    base, changes = opened(base_of("bert"), folder)
    assert changes.is_merged is merged
    assert changes.modules() == [n for n in base.names if n.endswith(("query", "output.dense"))]
    assert "classifier" not in base.names
    bare = BaseModules(base.checkpoint)
    again = AdapterChanges(changes.subject, bare)
    assert [f"bert.{name}" for name in again.modules()] == changes.modules()
    for ours, theirs in zip(map(again.change, again.modules()), map(changes.change, changes.modules()), strict=True):
        torch.testing.assert_close(dense(ours, bare), dense(theirs, base))


def test_a_head_with_another_number_of_labels_is_set_apart(build, disturbed, tmp_path):
    build("bert", "BertForSequenceClassification", num_labels=2).save_pretrained(tmp_path / "base")
    disturbed("bert", "BertForSequenceClassification", num_labels=5).save_pretrained(tmp_path / "full")
    base, changes = opened(tmp_path / "base", tmp_path / "full")
    assert changes.resized == ["classifier"]
    assert changes.modules() == [name for name in base.names if name != "classifier"]


def test_a_resized_vocabulary_leaves_the_output_layer_out(base_of, build, tmp_path):
    after = build("llama", seed=4)
    after.resize_token_embeddings(44)
    after.save_pretrained(tmp_path / "full")
    _, changes = opened(base_of("llama"), tmp_path / "full")
    assert changes.resized == ["lm_head"]
    assert "lm_head" not in changes.modules()


def test_another_shape_in_the_trunk_is_refused_by_name(base_of, build, tmp_path):
    build("t5", d_kv=4, seed=2).save_pretrained(tmp_path / "full")
    with pytest.raises(
        InvalidComparison, match=r"SelfAttention.q.weight is 8×16 in the adapted model and 16×16 in the"
    ):
        opened(base_of("t5"), tmp_path / "full")


def test_an_output_layer_that_only_one_of_the_two_ties_is_set_apart(base_of, build, tmp_path):
    build("llama", seed=6, tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    base, changes = opened(base_of("llama"), tmp_path / "tied")
    assert changes.unmatched == ["lm_head"]
    assert changes.modules() == [name for name in base.names if name != "lm_head"]


def test_a_weight_that_the_file_lacks_is_refused_and_not_invented(base_of, build, tmp_path, rewrite):
    build("llama", seed=5).save_pretrained(tmp_path / "full")
    gone = "model.layers.1.mlp.up_proj.weight"
    rewrite(tmp_path / "full" / "model.safetensors", lambda tensors: tensors.pop(gone))
    with pytest.raises(InvalidComparison, match=r"has no weight for model.layers.1.mlp.up_proj"):
        opened(base_of("llama"), tmp_path / "full")


def llava(seed):
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(seed)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=39)
    return transformers.LlavaForConditionalGeneration(config).eval()


def test_tensors_that_transformers_renames_at_loading(tmp_path, adapt, attach):
    for seed, name in enumerate(("base", "full")):
        llava(seed).save_pretrained(tmp_path / name)
    before, after = llava(0), llava(1)
    base, changes = opened(tmp_path / "base", tmp_path / "full")
    assert not set(base.keys.values()) & set(base.checkpoint.tensors.specs), "the file's own names should differ"
    assert holds_in_the_layers(base, changes, before, after) == len(base.skeleton.linear) == 16

    config = lora("llama", target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM")
    folder = adapt("llama", config, model=llava(0))
    base, changes = opened(tmp_path / "base", folder)
    assert holds_in_the_layers(base, changes, before, attach(llava(0), folder).get_base_model()) == 1


def test_a_weight_that_loading_would_invent_is_no_weight_of_the_base(build, tmp_path):
    build("bert").save_pretrained(tmp_path / "base")
    base = BaseModules(open_checkpoint(str(copied_without(tmp_path / "base", "pooler")), name="base"))
    assert "pooler.dense" in base.skeleton.linear
    assert "pooler.dense" not in base.names
    assert len(base.names) == 12


def copied_without(folder, part):
    file = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if part not in key}, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("wanted", "given", "problem"),
    [
        ("llama", "gpt2", "changes model.layers.0.mlp.down_proj, which the base GPT2LMHeadModel has not"),
        ("bert", "llama", "which the base LlamaForCausalLM has not"),
    ],
)
def test_an_adapter_of_another_architecture(base_of, adapt, wanted, given, problem):
    with pytest.raises(InvalidComparison) as error:
        opened(base_of(given), adapt(wanted, lora(wanted)))
    assert problem in str(error.value)
    assert f"tiny-{wanted}" in str(error.value.remedy)


def test_an_adapter_of_another_size(build, base_of, adapt):
    folder = adapt("llama", lora("llama"), model=build("llama", hidden_size=32))
    with pytest.raises(InvalidComparison, match=r"made for a 32×24 weight, the base has 16×24 in .*down_proj"):
        opened(base_of("llama"), folder)


def test_a_merged_method_of_another_size_and_one_with_a_tensor_too_few(build, base_of, adapt, rewrite):
    wide = adapt("llama", method("dora", "llama"), "wide", model=build("llama", hidden_size=32))
    with pytest.raises(InvalidComparison, match="PEFT cannot attach this dora adapter"):
        opened(base_of("llama"), wide)
    cut = adapt("llama", method("dora", "llama"), "cut")
    gone = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"
    rewrite(cut / "adapter_model.safetensors", lambda tensors: tensors.pop(gone))
    with pytest.raises(InvalidComparison, match=f"lacks 1 tensors.*{gone}"):
        opened(base_of("llama"), cut)


def test_embeddings_that_the_adapter_enlarged_do_not_fit_the_base(build, base_of, adapt):
    model = build("llama")
    model.resize_token_embeddings(44)
    folder = adapt("llama", lora("llama", modules_to_save=["embed_tokens", "lm_head"]), model=model)
    with pytest.raises(InvalidComparison, match="made for a 44×16 weight, the base has 40×16"):
        opened(base_of("llama"), folder)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_reading_an_adapter_asks_no_network_about_the_base_it_names(base_of, adapt, reconfigure, monkeypatch, name):
    folder = adapt("llama", method(name, "llama"))
    reconfigure(folder / "adapter_config.json", base_model_name_or_path="someone/elsewhere")

    def refuse(*_arguments, **_settings):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    base, changes = opened(base_of("llama"), folder)
    assert len([dense(changes.change(module), base) for module in changes.modules()]) == 4
