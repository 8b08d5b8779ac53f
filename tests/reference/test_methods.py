"""Every way to change a weight against what models really compute: layer by layer, and the model as a whole.

Two checks for each cell of architecture × method. The layers: what an adapted layer gives more than the base's equals
ΔW·x, and its bias moved exactly when that is named. The model: the base with every reported ΔW added, and every other
parameter that is named taken over, gives the adapted model's own outputs; what went unnamed would show.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from lorascope.checkpoints.changes import AdapterChanges, BaseModules, Changes, ModuleChange, changes_of
from lorascope.checkpoints.compatibility import prove
from lorascope.checkpoints.conversion import ConvertedSource
from lorascope.checkpoints.modules import meta_model
from lorascope.checkpoints.opening import open_checkpoint

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
GROUPED = {**SMALL, "num_key_value_heads": 1}
MOE = {**GROUPED, "num_hidden_layers": 1, "num_experts_per_tok": 2}
TOKENS = torch.tensor([[5, 9, 3, 17, 30, 8], [7, 7, 12, 1, 39, 2]])


@dataclass(frozen=True)
class Architecture:
    """A tiny model: its class, configuration, the modules that adapters target, square ones among them."""

    cls: str
    config: str
    settings: dict[str, Any]
    targets: list[str]
    square: list[str] = field(default_factory=list)
    turned: bool = False
    experts: tuple[str, ...] = ()


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "LlamaConfig", GROUPED, ["q_proj", "down_proj"], ["q_proj", "o_proj"]),
    "qwen3": Architecture("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 12}, ["q_proj", "up_proj"]),
    "gemma": Architecture("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 8}, ["k_proj", "gate_proj"]),
    "gpt2": Architecture(
        "GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40},
        ["c_attn", "mlp.c_proj"], ["attn.c_proj"], turned=True,
    ),
    "phi": Architecture("PhiForCausalLM", "PhiConfig", {**SMALL, "partial_rotary_factor": 0.5}, ["q_proj", "fc2"]),
    "gpt-neox": Architecture("GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL, ["query_key_value", "dense_4h_to_h"]),
    "opt": Architecture(
        "OPTForCausalLM", "OPTConfig",
        {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
        ["v_proj", "fc1"],
    ),
    "bert": Architecture("BertModel", "BertConfig", SMALL, ["query", "output.dense"], ["query", "key"]),
    "roberta": Architecture("RobertaForMaskedLM", "RobertaConfig", SMALL, ["value", "intermediate.dense"]),
    "deberta-v2": Architecture(
        "DebertaV2Model", "DebertaV2Config",
        {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_position_embeddings": 32},
        ["query_proj", "output.dense"],
    ),
    "distilbert": Architecture(
        "DistilBertForMaskedLM", "DistilBertConfig",
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 40}, ["q_lin", "ffn.lin2"],
    ),
    "t5": Architecture(
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 40}, ["q", "wi"],
    ),
    "bart": Architecture(
        "BartForConditionalGeneration", "BartConfig",
        {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_layers": 1, "decoder_layers": 1,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 32},
        ["q_proj", "fc1"],
    ),
    "mixtral": Architecture(
        "MixtralForCausalLM", "MixtralConfig", {**MOE, "num_local_experts": 3}, ["q_proj"],
        experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "qwen2-moe": Architecture(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
        {**MOE, "num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12},
        ["v_proj"], experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "gpt-oss": Architecture(
        "GptOssForCausalLM", "GptOssConfig",
        {**MOE, "intermediate_size": 12, "num_local_experts": 3, "head_dim": 8, "layer_types": ["full_attention"]},
        ["o_proj"], experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "llama4": Architecture(
        "Llama4ForCausalLM", "Llama4TextConfig",
        {**MOE, "num_local_experts": 3, "intermediate_size_mlp": 24, "head_dim": 8, "num_experts_per_tok": 1},
        ["o_proj"], experts=("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
    ),
    "vit": Architecture(
        "ViTForImageClassification", "ViTConfig",
        {**{key: value for key, value in SMALL.items() if key != "vocab_size"}, "image_size": 8, "patch_size": 4},
        ["q_proj", "fc1"],
    ),
}  # fmt: skip
ENCODER_DECODERS = {"t5", "bart"}


def lora(architecture: Architecture, **settings: Any) -> peft.LoraConfig:
    turned = {"fan_in_fan_out": True} if architecture.turned else {}
    return peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": architecture.targets, **turned, **settings})


def other(cls: str, square: bool = False, turned: bool = True, **settings: Any) -> Callable[[Architecture], Any]:
    """A method that is no LoRA; ``turned`` where it has to be told that weights lie (in, out)."""

    def configured(architecture: Architecture) -> Any:
        flag = {"fan_in_fan_out": True} if turned and architecture.turned else {}
        targets = architecture.square if square else architecture.targets
        return getattr(peft, cls)(**{"target_modules": targets, **flag, **settings})

    return configured


METHODS: dict[str, Callable[[Architecture], Any]] = {
    "lora": lora,
    "rslora": lambda a: lora(a, use_rslora=True),
    "patterns": lambda a: lora(a, rank_pattern={a.targets[0]: 2}, alpha_pattern={rf"1\..*{a.targets[1]}": 9}),
    "some-layers": lambda a: lora(a, layers_to_transform=[1]),
    "excluded": lambda a: lora(a, exclude_modules=rf".*0.*{a.targets[0]}"),
    "lora-bias": lambda a: lora(a, lora_bias=True),
    "bias-all": lambda a: lora(a, bias="all"),
    "bias-lora-only": lambda a: lora(a, bias="lora_only"),
    "gaussian": lambda a: lora(a, init_lora_weights="gaussian"),
    "orthogonal": lambda a: lora(a, r=4, init_lora_weights="orthogonal"),
    "dora": lambda a: lora(a, use_dora=True),
    "dora-bias": lambda a: lora(a, use_dora=True, bias="all"),
    "pissa": lambda a: lora(a, init_lora_weights="pissa"),
    "olora": lambda a: lora(a, init_lora_weights="olora"),
    "adalora": lambda a: other("AdaLoraConfig", init_r=4, target_r=2, total_step=9)(a),
    "loha": other("LoHaConfig", turned=False, r=3, alpha=5),
    "loha-patterns": lambda a: other("LoHaConfig", turned=False, r=3, rank_pattern={a.targets[0]: 2})(a),
    "lokr": other("LoKrConfig", turned=False, r=2, alpha=5),
    "lokr-patterns": lambda a: other("LoKrConfig", turned=False, r=3, alpha_pattern={a.targets[0]: 7})(a),
    "vera": other("VeraConfig", square=True, r=4),
    "vera-bare": other("VeraConfig", square=True, r=4, save_projection=False),
    "randlora": other("RandLoraConfig", r=4),
    "randlora-bare": other("RandLoraConfig", r=4, save_projection=False),
    "oft": other("OFTConfig", oft_block_size=4),
    "boft": other("BOFTConfig", boft_block_size=4),
    "hra": other("HRAConfig", turned=False, r=4),
    "hira": other("HiraConfig", r=4),
    "ia3": lambda a: other("IA3Config", feedforward_modules=[a.targets[1]])(a),
    "fourierft": other("FourierFTConfig", n_frequency=20),
    "vblora": other("VBLoRAConfig", r=2, num_vectors=8, vector_length=8, topk=2),
    "miss": other("MissConfig", turned=False, r=4),
    "miss-bat": other("MissConfig", turned=False, r=4, init_weights="bat"),
    "qalora": lambda a: lora(a, use_qalora=True, qalora_group_size=4),
    "mica": lambda a: lora(a, init_lora_weights="mica"),
    "adamss": other("AdamssConfig", turned=False),
    "beft": other("BeftConfig", turned=False),
    "c3a": other("C3AConfig", turned=False, block_size=4),
    "deft": other("DeftConfig", turned=False),
    "delora": other("DeloraConfig", turned=False),
    "glora": other("GloraConfig", turned=False),
    "gralora": other("GraloraConfig", turned=False),
    "osf": other("OSFConfig", turned=False),
    "peanut": other("PeanutConfig", turned=False),
    "psoft": other("PsoftConfig", turned=False, r=4),
    "pvera": other("PveraConfig", square=True, turned=False),
    "road": other("RoadConfig", turned=False, group_size=4),
    "shira": other("ShiraConfig", turned=False, r=2),
    "supertuning": other("SupertuningConfig", turned=False),
    "tinylora": other("TinyLoraConfig", turned=False),
    "unilora": other("UniLoraConfig", turned=False),
    "waveft": other("WaveFTConfig", turned=False, n_frequency=20),
    "head-saved": lambda a: lora(a, modules_to_save=["lm_head"]),
    "embeddings-saved": lambda a: lora(a, modules_to_save=["embed_tokens"]),
    "embeddings-lora": lambda a: lora(a, target_modules=["embed_tokens", "q_proj"]),
    "head-lora": lambda a: lora(a, target_modules=["lm_head", "q_proj"]),
    "token-rows": lambda a: lora(a, trainable_token_indices=[3, 8]),
    "tokens-alone": lambda a: peft.TrainableTokensConfig(token_indices=[3, 5], target_modules=["embed_tokens"]),
    "embeddings-dora": lambda a: lora(a, target_modules=["embed_tokens"], use_dora=True),
    "head-rows": lambda a: lora(a, trainable_token_indices={"lm_head": [3, 8]}),
    "word-embeddings": lambda a: lora(a, target_modules=["word_embeddings", "query"]),
    "pooler-saved": lambda a: lora(a, modules_to_save=["pooler"]),
    "convolution": lambda a: lora(a, target_modules=["projection", "q_proj"]),
    "norms": lambda a: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "norms-saved": lambda a: lora(a, modules_to_save=["norm"]),
    "experts": lambda a: lora(a, target_parameters=list(a.experts)),
    "weights-targeted": lambda a: peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=a.targets[1:], target_parameters=[f"{a.targets[0]}.weight"]
    ),
    "experts-rslora": lambda a: lora(a, target_parameters=[a.experts[1]], use_rslora=True),
    "experts-saved": lambda a: lora(a, modules_to_save=["experts"]),
    "all-linear": lambda a: lora(a, target_modules="all-linear"),
}  # fmt: skip
# Methods that PEFT does not offer for layers with (in, out) weights (or merges wrongly there: OLoRA), and cells that
# name modules which GPT-2 has not.
LLAMA_ALONE = {"loha", "loha-patterns", "lokr", "lokr-patterns", "hra", "miss", "miss-bat", "oft", "boft", "lora-bias",
               "head-saved", "embeddings-saved", "embeddings-lora", "head-lora", "token-rows", "tokens-alone", "norms",
               "norms-saved", "hira", "vblora", "randlora", "randlora-bare", "qalora", "mica", "adamss", "c3a",
               "deft", "delora", "glora", "gralora", "osf", "peanut", "psoft", "pvera", "road", "shira", "supertuning",
               "tinylora", "unilora", "waveft", "olora", "embeddings-dora", "head-rows",
               "weights-targeted"}  # fmt: skip
NOT_LLAMA = {"lora-bias", "beft", "pooler-saved", "convolution", "word-embeddings"}
EXPERTS = {"experts", "experts-rslora", "experts-saved"}
STACKED = [name for name, architecture in ARCHITECTURES.items() if architecture.experts]
CELLS = [
    *[(architecture, method) for architecture in ARCHITECTURES for method in ("lora", "dora")],
    *[("llama", method) for method in METHODS if method not in {*EXPERTS, *NOT_LLAMA, "lora", "dora"}],
    *[("gpt2", method) for method in METHODS if method not in {*EXPERTS, *NOT_LLAMA, *LLAMA_ALONE, "lora", "dora"}],
    *[
        ("bert", method)
        for method in (
            "ia3",
            "beft",
            "bias-all",
            "bias-lora-only",
            "lora-bias",
            "dora-bias",
            "all-linear",
            "pooler-saved",
            "word-embeddings",
        )
    ],
    ("vit", "convolution"),
    *[(architecture, method) for architecture in STACKED for method in sorted(EXPERTS)],
    *[(architecture, "all-linear") for architecture in ("mixtral", "qwen2-moe", "t5", "vit")],
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """(model, folder) of an architecture's base, made once for each set of settings; the model is not to be changed."""
    made: dict[tuple[str, Any], tuple[Any, Path]] = {}

    def base(name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, Path]:
        key = (name, dtype, tuple(settings.items()))
        if key not in made:
            architecture = ARCHITECTURES[name]
            torch.manual_seed(0)
            config = getattr(transformers, architecture.config)(**{**architecture.settings, **settings})
            model = getattr(transformers, architecture.cls)(config).eval().to(dtype)
            disturb(model, all_of_it=True)
            folder = tmp_path_factory.mktemp("bases") / f"tiny-{name}"
            model.save_pretrained(folder)
            made[key] = (model.float(), folder)
        return made[key]

    return base


def disturb(model: Any, size: float = 0.05, seed: int = 1, all_of_it: bool = False) -> None:
    """Add noise to trainable parameters, as training would, or to all: no bias of zeros, no norm of ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad or all_of_it:
            parameter.data += size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def write_adapter(model: Any, config: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(copy.deepcopy(model), config)
        disturb(wrapped)
        wrapped.peft_config["default"].base_model_name_or_path = "tiny"
        wrapped.save_pretrained(folder)
    return folder


def attached(model: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def opened(base: Path, adapted: Path) -> tuple[BaseModules, Changes]:
    subject = open_checkpoint(str(adapted), name="adapted")
    modules = BaseModules(open_checkpoint(str(base), name="base"))
    return modules, changes_of(subject, modules)


def dense(change: ModuleChange, base: BaseModules) -> torch.Tensor:
    if change.factors is not None:
        assert change.adapted is None
        return change.factors.scaling * change.factors.up @ change.factors.down
    assert change.adapted is not None
    return change.adapted - base.weight(change.module)


@torch.no_grad()
def outputs(model: Any, name: str) -> torch.Tensor:
    if name == "vit":
        pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
        return model(pixel_values=pixels).logits
    inputs = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    if name in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = TOKENS.flip(0)
    made = model(**inputs)
    return made.logits if "logits" in made else made.last_hidden_state


@torch.no_grad()
def layers_agree(base: BaseModules, changes: Changes, before: Any, after: Any) -> None:
    """ΔW·x is what each changed layer gives more than the base's; a bias moved just when it is named."""
    generator = torch.Generator().manual_seed(3)
    named = {change.name for change in changes.others()}
    for module in changes.modules():
        linear = base.linear(module)
        if linear.index is not None:
            continue
        x = torch.randn(5, linear.in_features, generator=generator)
        was, now = before.get_submodule(module), after.get_submodule(module)
        if isinstance(was(x), tuple):
            continue  # A router, which gives its choice beside its scores: the whole model's outputs stand for it.
        moved_bias = now(torch.zeros(1, linear.in_features)) - was(torch.zeros(1, linear.in_features))
        moved = now(x) - was(x) - moved_bias
        scale = max(float(moved.abs().max()), 1.0)
        expected = x @ dense(changes.change(module), base).T
        torch.testing.assert_close(expected, moved, atol=2e-5 * scale, rtol=1e-4)
        assert (f"{base.label(module)}.bias" in named) == bool(moved_bias.abs().max() > 1e-6), module


@torch.no_grad()
def rebuilt(base: BaseModules, changes: Changes, before: Any, values: dict[str, torch.Tensor]) -> Any:
    """The base with each reported ΔW added, and each other parameter that is named taken from ``values``."""
    model = copy.deepcopy(before)
    for name in base.shared if isinstance(changes, AdapterChanges) else ():
        # To an adapter a tied output layer is a layer of its own: PEFT changes the embeddings without it.
        output = model.get_submodule(name)
        output.weight = torch.nn.Parameter(output.weight.clone())
    for module in changes.modules():
        linear = base.linear(module)
        new = base.weight(module) + dense(changes.change(module), base)
        stored = new.T if linear.transposed else new
        if linear.index is not None:
            model.get_parameter(linear.parameter)[linear.index] = stored
        elif module in base.shared:
            model.get_submodule(module).weight = torch.nn.Parameter(stored)
        else:
            model.get_parameter(linear.parameter).copy_(stored)
    for change in changes.others():
        name = next(n for n, _ in model.named_parameters() if base.parameter_label(n) == change.name)
        old = model.get_parameter(name)
        if change.relative_change is not None and change.shape == tuple(old.shape):
            moved = float((values[name] - old).norm() / old.norm())
            assert change.relative_change == pytest.approx(moved, rel=1e-3)
        old.copy_(values[name])
    return model


def merged_values(wrapped: Any) -> dict[str, torch.Tensor]:
    """Parameters of the adapted model under the base's names, after PEFT's own merge."""
    values = {}
    for name, module in wrapped.get_base_model().named_modules():
        own = name.replace(".modules_to_save.default", "").replace(".token_adapter", "")
        if hasattr(module, "merge") and hasattr(module, "get_base_layer") and not hasattr(module, "parameter_name"):
            layer = copy.deepcopy(module)
            layer.merge(safe_merge=True)
            values |= {f"{own}.{n}": value.detach() for n, value in layer.get_base_layer().named_parameters()}
        elif hasattr(module, "parameter_name"):
            owner = own.replace(".base_layer", "")
            layer = copy.deepcopy(module)
            layer.merge(safe_merge=True)
            values[f"{owner}.{module.parameter_name}"] = layer.get_param().detach()
        elif "base_layer" not in name and "original_module" not in name:
            values |= {f"{own}.{n}": value.detach() for n, value in module.named_parameters(recurse=False)}
    return values


def models_agree(base: BaseModules, changes: Changes, before: Any, after: Any, name: str) -> None:
    model = rebuilt(base, changes, before, merged_values(after))
    expected, found = outputs(after, name), outputs(model, name)
    assert float((expected - outputs(before, name)).abs().max()) > 1e-4, "the adapter did nothing"
    torch.testing.assert_close(found, expected, atol=2e-5 * max(float(expected.abs().max()), 1.0), rtol=1e-4)


@pytest.mark.parametrize(("architecture", "method"), CELLS)
def test_adapters(base_of, tmp_path, architecture, method):
    before, folder = base_of(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = METHODS[method](ARCHITECTURES[architecture])
    adapter = write_adapter(before, config, tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    after = attached(before, adapter)
    layers_agree(base, changes, before, after.get_base_model())
    models_agree(base, changes, before, after, architecture)
    prove(changes.subject, base, changes, lambda done, total: None)


@torch.no_grad()
def tuned(model: Any, keep: Callable[[str], bool] = lambda name: True) -> Any:
    """A copy after a pretended full fine-tune of the parameters that ``keep`` names."""
    after = copy.deepcopy(model)
    for name, parameter in after.named_parameters():
        parameter.requires_grad_(keep(name))
    disturb(after)
    return after


def full_models_agree(base: BaseModules, changes: Changes, before: Any, after: Any, name: str) -> None:
    layers_agree(base, changes, before, after)
    model = rebuilt(base, changes, before, dict(after.named_parameters()))
    expected = outputs(after, name)
    assert float((expected - outputs(before, name)).abs().max()) > 1e-4
    torch.testing.assert_close(outputs(model, name), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_full_fine_tunes(base_of, tmp_path, architecture):
    before, folder = base_of(architecture)
    after = tuned(before)
    after.save_pretrained(tmp_path / "full")
    base, changes = opened(folder, tmp_path / "full")
    full_models_agree(base, changes, before, after, architecture)
    linear = {base.linear(module).parameter for module in changes.modules()}
    assert len(linear) + len(changes.others()) == len(dict(after.named_parameters()))
    assert base.skeleton.unread == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gpt-oss"])
def test_full_fine_tunes_in_other_types(base_of, tmp_path, architecture, dtype):
    before, folder = base_of(architecture, dtype=dtype)
    after = tuned(before).to(dtype)
    after.save_pretrained(tmp_path / "full")
    base, changes = opened(folder, tmp_path / "full")
    full_models_agree(base, changes, before, after.float(), architecture)
    stored = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    assert {changes.change(module).stored_dtype for module in changes.modules()} == {stored}


@pytest.mark.parametrize("part", ["bias", "norm", "embed", "experts"])
def test_full_models_in_which_only_some_parameters_differ(base_of, tmp_path, part):
    architecture = "gpt-oss" if part == "experts" else "bert"
    before, folder = base_of(architecture)
    after = tuned(before, lambda name: part in name.lower())
    after.save_pretrained(tmp_path / "full")
    base, changes = opened(folder, tmp_path / "full")
    full_models_agree(base, changes, before, after, architecture)
    moved = [module for module in changes.modules() if dense(changes.change(module), base).any()]
    kinds = {change.kind for change in changes.others()}
    assert (
        kinds == {"bias": {"bias", "norm"}, "norm": {"norm"}, "embed": {"embedding", "norm"}, "experts": {"bias"}}[part]
    )
    assert moved == ([module for module in base.names if "experts" in module] if part == "experts" else [])


@pytest.mark.parametrize("method", ["dora", "ia3", "oft", "loha", "norms", "dora-bias", "hira", "fourierft"])
def test_a_base_in_bfloat16_costs_no_precision(base_of, tmp_path, method):
    before, folder = base_of("llama", dtype=torch.bfloat16)
    adapter = write_adapter(before, METHODS[method](ARCHITECTURES["llama"]), tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    after = attached(before, adapter)
    layers_agree(base, changes, before, after.get_base_model())
    models_agree(base, changes, before, after, "llama")


@pytest.mark.parametrize("method", ["lora", "loha"])
def test_float16_values_that_would_overflow(base_of, tmp_path, method):
    before, folder = base_of("llama", dtype=torch.float16)
    config = METHODS[method](ARCHITECTURES["llama"])
    setattr(config, {"lora": "lora_alpha", "loha": "alpha"}[method], 4e8)
    adapter = write_adapter(before, config, tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    layers_agree(base, changes, before, attached(before, adapter).get_base_model())
    assert max(float(dense(changes.change(module), base).abs().max()) for module in changes.modules()) > 65504 / 2


TIED = ["embeddings-saved", "embeddings-lora", "head-lora", "head-saved", "token-rows", "tokens-alone", "lora", "dora"]


@pytest.mark.parametrize("method", TIED)
def test_tied_embeddings(base_of, tmp_path, method):
    before, folder = base_of("llama", tie_word_embeddings=True)
    adapter = write_adapter(before, METHODS[method](ARCHITECTURES["llama"]), tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    assert base.shared == {"lm_head": "model.embed_tokens.weight"}
    assert base.label("lm_head") == "lm_head"
    after = attached(before, adapter)
    layers_agree(base, changes, before, after.get_base_model())
    models_agree(base, changes, before, after, "llama")


@pytest.mark.parametrize("method", ["embeddings-saved", "embeddings-lora", "token-rows"])
def test_tied_embeddings_that_peft_keeps_tied(base_of, tmp_path, method):
    before, folder = base_of("llama", tie_word_embeddings=True)
    config = METHODS[method](ARCHITECTURES["llama"])
    config.ensure_weight_tying = True
    adapter = write_adapter(before, config, tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    models_agree(base, changes, before, attached(before, adapter), "llama")
    assert "lm_head" in changes.modules()


def test_full_fine_tune_of_tied_embeddings_and_one_that_unties_them(base_of, tmp_path):
    before, folder = base_of("llama", tie_word_embeddings=True)
    after = tuned(before)
    after.save_pretrained(tmp_path / "tied")
    base, changes = opened(folder, tmp_path / "tied")
    full_models_agree(base, changes, before, after, "llama")
    note = next(change.note for change in changes.others() if change.kind == "embedding")
    assert note == "40 of 40 rows differ; lm_head shares it"

    untied = tuned(base_of("llama")[0])
    untied.save_pretrained(tmp_path / "untied")
    base, changes = opened(folder, tmp_path / "untied")
    assert changes.modules()[-1] == "lm_head"
    models = rebuilt(base, changes, before, dict(untied.named_parameters()))
    torch.testing.assert_close(outputs(models, "llama"), outputs(untied, "llama"), atol=2e-5, rtol=1e-4)


def test_pissa_as_it_is_and_converted_to_lora(base_of, tmp_path):
    before, folder = base_of("llama")
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(init_lora_weights="pissa", **settings)
        wrapped = peft.get_peft_model(copy.deepcopy(before), config)
        wrapped.peft_config["default"].init_lora_weights = True
        wrapped.save_pretrained(tmp_path / "start")
        wrapped.peft_config["default"].init_lora_weights = "pissa"
        disturb(wrapped)
        wrapped.save_pretrained(tmp_path / "raw")
        wrapped.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start")
    base, raw = opened(folder, tmp_path / "raw")
    _, converted = opened(folder, tmp_path / "converted")
    assert isinstance(raw, AdapterChanges)
    assert isinstance(converted, AdapterChanges)
    assert (raw.is_merged, converted.is_merged) == (True, False)
    for module in raw.modules():
        one, two = dense(raw.change(module), base), dense(converted.change(module), base)
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)
    assert converted.change(raw.modules()[0]).rank == 6


def test_adalora_with_pruned_ranks(base_of, tmp_path):
    before, folder = base_of("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.AdaLoraConfig(
            init_r=4, target_r=2, tinit=1, tfinal=1, deltaT=1, total_step=4, target_modules=["q_proj"]
        )
        wrapped = peft.get_peft_model(copy.deepcopy(before), config)
        disturb(wrapped)
        for step in range(1, 5):
            wrapped(input_ids=TOKENS, labels=TOKENS).loss.backward()
            wrapped.base_model.update_and_allocate(step)
        wrapped.save_pretrained(tmp_path / "adapter")
    base, changes = opened(folder, tmp_path / "adapter")
    after = attached(before, tmp_path / "adapter")
    assert isinstance(changes, AdapterChanges)
    assert changes.config.raw["rank_pattern"]
    layers_agree(base, changes, before, after.get_base_model())
    models_agree(base, changes, before, after, "llama")


@pytest.mark.parametrize("architecture", STACKED)
def test_experts_lie_the_way_their_forward_takes_them(base_of, architecture):
    _, folder = base_of(architecture)
    base = BaseModules(open_checkpoint(str(folder), name="base"))
    hidden = 16
    for module in (base.linear(name) for name in base.names if "[" in name):
        sizes = (module.out_features, module.in_features)
        assert sizes[0] != sizes[1], "the sizes have to tell the two ways apart"
        assert sizes["down_proj" not in module.name] == hidden
        assert tuple(base.weight(module.name).shape) == sizes


def test_experts_stay_factored_and_are_named_by_the_files_key(base_of, tmp_path):
    before, folder = base_of("gpt-oss")
    adapter = write_adapter(before, METHODS["experts"](ARCHITECTURES["gpt-oss"]), tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    change = changes.change("model.layers.0.mlp.experts.down_proj[2]")
    assert change.factors is not None
    assert (change.rank, tuple(change.factors.up.shape), tuple(change.factors.down.shape)) == (3, (16, 3), (3, 12))
    assert base.label(change.module) == change.module
    labels = [base.label(module) for module in base.keys]
    assert len(set(labels)) == len(labels)


def test_an_adapter_from_before_transformers_stacked_the_experts(base_of, tmp_path):
    before, folder = base_of("mixtral")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "w1", "w2", "w3"])
        written = write_adapter(before, copy.deepcopy(config), tmp_path / "new")
    del written
    stem = "base_model.model.model.layers.0"
    sizes = {"w1": (24, 16), "w3": (24, 16), "w2": (16, 24)}
    torch.manual_seed(4)
    tensors = {}
    modules = [f"{stem}.block_sparse_moe.experts.{e}.{w}" for e in range(3) for w in sizes] + [
        f"{stem}.self_attn.q_proj"
    ]
    for module in modules:
        rows, columns = sizes.get(module.rpartition(".")[2], (16, 16))
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, columns)
        tensors[f"{module}.lora_B.weight"] = torch.randn(rows, 2)
    old = tmp_path / "old"
    config.base_model_name_or_path = "tiny"
    config.save_pretrained(old)
    save_file(tensors, old / "adapter_model.safetensors", {"format": "pt"})
    base, changes = opened(folder, old)
    for expert in range(3):
        own = {w: tensors[f"{stem}.block_sparse_moe.experts.{expert}.{w}.lora_B.weight"] @ tensors[
            f"{stem}.block_sparse_moe.experts.{expert}.{w}.lora_A.weight"] * 2.5 for w in sizes}  # fmt: skip
        fused = dense(changes.change(f"model.layers.0.mlp.experts.gate_up_proj[{expert}]"), base)
        torch.testing.assert_close(fused, torch.cat([own["w1"], own["w3"]]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            dense(changes.change(f"model.layers.0.mlp.experts.down_proj[{expert}]"), base),
            own["w2"],
            atol=1e-5,
            rtol=1e-4,
        )
    models_agree(base, changes, before, attached(before, old), "mixtral")
    prove(changes.subject, base, changes, lambda done, total: None)


NO_DELTA = {
    "prompt": (lambda a: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "adds tokens"),
    "prefix": (lambda a: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "adds tokens"),
    "p-tuning": (lambda a: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "adds tokens"),
    "poly": (lambda a: peft.PolyConfig(r=4, n_tasks=2, n_skills=2, target_modules=a.targets), "has no merge"),
    "lily": (lambda a: peft.LilyConfig(target_modules=a.targets), "has no merge"),
    "alora": (lambda a: lora(a, alora_invocation_tokens=[3], task_type="CAUSAL_LM"), "has no merge"),
    "replicated": (lambda a: lora(a, layer_replication=[[0, 2], [1, 2]]), "repeats the base's layers"),
    "norms": (METHODS["norms"], "changes no linear module"),
}


@pytest.mark.parametrize("method", list(NO_DELTA))
def test_methods_without_a_weight_delta_say_why_and_the_rest_goes_on(base_of, tmp_path, method):
    before, folder = base_of("llama")
    make, reason = NO_DELTA[method]
    adapter = write_adapter(before, make(ARCHITECTURES["llama"]), tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    assert isinstance(changes, AdapterChanges)
    assert changes.modules() == []
    assert reason in str(changes.why_none)
    assert [change.kind for change in changes.others()] == (["norm"] * 2 if method == "norms" else [])
    prove(changes.subject, base, changes, lambda done, total: None)


def test_a_method_that_gives_biases_to_layers_without(base_of, tmp_path):
    before, folder = base_of("llama")
    adapter = write_adapter(before, METHODS["beft"](ARCHITECTURES["llama"]), tmp_path / "adapter")
    base, changes = opened(folder, adapter)
    layers_agree(base, changes, before, attached(before, adapter).get_base_model())
    assert [(change.kind, change.relative_change, change.note) for change in changes.others()] == [
        ("bias", None, "the base has none")
    ] * 4
    assert not any(dense(changes.change(module), base).any() for module in changes.modules())


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_files_tensors_become_what_transformers_loads(base_of, architecture):
    _, folder = base_of(architecture)
    cls = getattr(transformers, ARCHITECTURES[architecture].cls)
    loaded = cls.from_pretrained(folder).state_dict()
    source = ConvertedSource(open_checkpoint(str(folder), name="base").tensors, meta_model(folder, None))
    assert set(source.specs) <= set(loaded)
    tied = set(loaded) - set(source.specs)
    assert all(name.endswith(("lm_head.weight", "decoder.weight", "decoder.bias", "vocab_projector.weight",
                              "embed_tokens.weight")) for name in tied), tied  # fmt: skip
    for name, spec in source.specs.items():
        assert spec.shape == tuple(loaded[name].shape)
        torch.testing.assert_close(source.get(name), loaded[name], atol=0, rtol=0)
        if loaded[name].ndim == 3:
            torch.testing.assert_close(source.part(name, -1), loaded[name][-1], atol=0, rtol=0)
