"""Each check of the lint: an adapter or a report that has the fault, and one without it that passes in silence."""

from __future__ import annotations

import dataclasses
import math

import peft
import pytest
import torch
from safetensors.torch import load_file

from lorascope.checkpoints.changes import BaseModules, changes_of
from lorascope.checkpoints.lint import (
    lint_files,
    lint_weights,
    lost_updates,
    rounding,
    scaling_outliers,
)
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.schema.comparison import ModuleWeights
from lorascope.workflows.subjects import open_all
from lorascope.workflows.watch import Silent

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
Q = "model.layers.{}.self_attn.q_proj"
Q0 = "base_model.model." + Q.format(0)


def lora(**settings):
    return peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], **settings})


def linted(base, adapted):
    """Findings by the first part of their id."""
    subject = open_checkpoint(str(adapted), name="adapted")
    task = subject.adapter.task_type if subject.adapter else None
    modules = BaseModules(open_checkpoint(str(base), name="base"), task_type=task)
    return {f.id.removesuffix(":adapted"): f for f in lint_files(subject, modules, changes_of(subject, modules))}


def said(finding):
    return " ".join([finding.title, *finding.evidence])


# Nothing to find


@pytest.mark.parametrize(
    "config",
    [
        lora(),
        lora(use_rslora=True, lora_alpha=2),
        lora(use_dora=True),
        lora(init_lora_weights="pissa"),
        lora(target_modules="all-linear", exclude_modules=["k_proj"], layers_to_transform=None),
        lora(target_modules=r".*\.(q|v)_proj"),
        lora(layers_to_transform=[1], layers_pattern="layers"),
        lora(rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}),
        lora(modules_to_save=["lm_head", "model.norm"]),
        lora(target_modules=["embed_tokens", "q_proj"]),
        lora(target_modules=[], target_parameters=["o_proj.weight"]),
        lora(task_type="CAUSAL_LM", trainable_token_indices=[1, 5]),
        peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.VeraConfig(r=4, target_modules=["q_proj"]),
        peft.LoHaConfig(r=2, target_modules=["q_proj"]),
        peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
        peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1, target_modules=["q_proj"]),
        peft.LNTuningConfig(target_modules=["input_layernorm"]),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_sound_adapter_passes_in_silence(base_of, adapt, config):
    assert linted(base_of("llama"), adapt("llama", config)) == {}


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_other_architectures_pass_in_silence(base_of, adapt, architecture):
    targets = {"gpt2": ["c_attn"], "bert": ["query", "dense"], "t5": ["q", "wo"]}[architecture]
    fan = architecture == "gpt2"
    folder = adapt(architecture, lora(target_modules=targets, fan_in_fan_out=fan))
    assert linted(base_of(architecture), folder) == {}


def test_a_classifier_with_the_heads_that_peft_adds_passes_in_silence(build, base_of, adapt):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    config = lora(task_type="SEQ_CLS", target_modules=["query"], bias="lora_only")
    assert linted(base_of("bert"), adapt("bert", config, model=model)) == {}


def test_a_full_model_has_no_configuration_to_look_at(base_of, disturbed, tmp_path):
    disturbed("llama").save_pretrained(tmp_path / "full")
    assert linted(base_of("llama"), tmp_path / "full") == {}


# Scaling


def test_rslora_with_the_alpha_of_plain_lora(base_of, adapt):
    folder = adapt("llama", lora(use_rslora=True, r=16, lora_alpha=32))
    finding = linted(base_of("llama"), folder)["rslora-alpha"]
    assert "α/√r = 8, 4 times what α/r would give" in finding.title
    assert finding.evidence == ["4 modules have α ≥ r under use_rslora, at most α = 32, r = 16"]
    assert finding.reference.startswith("arXiv 2312.03732")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"r": 16, "lora_alpha": 16, "use_rslora": True}, True),
        ({"r": 16, "lora_alpha": 15, "use_rslora": True}, False),
        ({"r": 9, "lora_alpha": 32, "use_rslora": True}, False),
        ({"r": 16, "lora_alpha": 64}, False),
        ({"use_rslora": True, "r": 4, "rank_pattern": {"q_proj": 16}, "alpha_pattern": {"q_proj": 16}}, True),
    ],
)
def test_rslora_is_pointed_out_only_where_alpha_reaches_a_large_rank(base_of, adapt, settings, found):
    assert ("rslora-alpha" in linted(base_of("llama"), adapt("llama", lora(**settings)))) is found


def test_ranks_that_vary_without_alpha_give_mixed_scaling(base_of, adapt):
    folder = adapt("llama", lora(rank_pattern={"q_proj": 2}, lora_alpha=8))
    finding = linted(base_of("llama"), folder)["mixed-scaling"]
    assert finding.evidence == [
        "r = 2: scaling 4 in 2 modules, the first is model.layers.0.self_attn.q_proj",
        "r = 4: scaling 2 in 2 modules, the first is model.layers.0.mlp.down_proj",
    ]


def test_the_scaling_stated_is_the_one_that_peft_applies(build, base_of, adapt, attach):
    folder = adapt("llama", lora(rank_pattern={r"layers\.1\..*q_proj": 2}, lora_alpha=8, use_rslora=True))
    layer = attach(build("llama"), folder).get_base_model().model.layers[1].self_attn.q_proj
    finding = linted(base_of("llama"), folder)["mixed-scaling"]
    assert layer.scaling["default"] == pytest.approx(8 / math.sqrt(2))
    assert f"r = 2: scaling {layer.scaling['default']:.4g} in 1 modules" in finding.evidence[0]


def test_a_scaling_of_zero_is_critical(base_of, adapt):
    finding = linted(base_of("llama"), adapt("llama", lora(alpha_pattern={"q_proj": 0})))["zero-scaling"]
    assert finding.severity == "critical"
    assert "2 modules" in finding.title
    assert Q.format(1) in finding.evidence[0]


# Entries that choose nothing


@pytest.mark.parametrize(
    ("settings", "entry"),
    [
        ({"target_modules": ["q_proj", "query_proj"]}, "target_modules: query_proj"),
        ({"target_modules": ["q_proj", "proj"]}, "target_modules: proj"),
        ({"layers_to_transform": [0, 7]}, "layers_to_transform: 7"),
        ({"layers_to_transform": [0], "layers_pattern": ["layers", "blocks"]}, "layers_pattern: blocks"),
        ({"exclude_modules": ["v_proj", "vv_proj"]}, "exclude_modules: vv_proj"),
        ({"exclude_modules": r".*\.h\.0\..*"}, r"exclude_modules: .*\.h\.0\..*"),
        ({"modules_to_save": ["lm_head", "score"]}, "modules_to_save: score"),
    ],
)
def test_an_entry_that_matches_no_module(base_of, adapt, settings, entry):
    found = linted(base_of("llama"), adapt("llama", lora(**settings)))
    assert found["unmatched-entries"].evidence == [entry]
    assert set(found) == {"unmatched-entries"}


def test_a_target_parameter_that_does_not_exist(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, target_parameters=["experts.gate_up_proj"])
    found = linted(base_of("llama"), folder)
    assert found["unmatched-entries"].evidence == ["target_parameters: experts.gate_up_proj"]


def test_a_pattern_of_targets_that_fits_nothing_leaves_every_tensor_out(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, target_modules=r"h\.\d+\.attn")
    found = linted(base_of("llama"), folder)
    assert found["unmatched-entries"].evidence == [r"target_modules: h\.\d+\.attn"]
    assert "for 4 modules" in found["ignored-tensors"].title


def test_a_configuration_that_peft_refuses(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, layers_pattern=["layers"])
    finding = linted(base_of("llama"), folder)["refused-config"]
    assert finding.severity == "critical"
    assert "layers_to_transform" in finding.evidence[0]


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_a_broken_regular_expression(base_of, adapt, reconfigure, field):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, **{field: "layers.(0|1.q_proj"})
    finding = linted(base_of("llama"), folder)["refused-config"]
    assert "'layers.(0|1.q_proj' is no regular expression" in finding.evidence[0]


# Configuration against tensors


def test_tensors_that_loading_leaves_out(build, base_of, adapt, attach, reconfigure):
    folder = adapt("llama", lora())
    tokens = torch.arange(12).reshape(1, 12)
    whole = attach(build("llama"), folder)(tokens).logits
    reconfigure(folder / CONFIG, target_modules=["q_proj"])
    assert not torch.equal(whole, attach(build("llama"), folder)(tokens).logits)
    finding = linted(base_of("llama"), folder)["ignored-tensors"]
    assert finding.severity == "critical"
    assert "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj" in finding.evidence[0]


def test_targets_without_tensors(base_of, adapt, rewrite):
    folder = adapt("llama", lora())

    def drop(tensors):
        for key in [key for key in tensors if Q0 in key]:
            del tensors[key]

    rewrite(folder / TENSORS, drop)
    found = linted(base_of("llama"), folder)
    assert found["absent-tensors"].evidence == [
        f"target_modules names 1 modules without tensors, the first is {Q.format(0)}"
    ]


def test_modules_to_save_without_tensors(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, modules_to_save=["model.norm"])
    found = linted(base_of("llama"), folder)
    assert found["absent-tensors"].evidence == [
        "modules_to_save names 1 modules without tensors, the first is model.norm"
    ]


@pytest.mark.parametrize("setting", ["all", "lora_only"])
def test_bias_tuning_without_biases(build, base_of, adapt, rewrite, setting):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    folder = adapt("bert", lora(task_type="SEQ_CLS", target_modules=["query"], bias=setting), model=model)
    assert "absent-tensors" not in linted(base_of("bert"), folder)

    def drop(tensors):
        for key in [key for key in tensors if key.endswith(".bias") and "classifier" not in key]:
            del tensors[key]

    rewrite(folder / TENSORS, drop)
    found = linted(base_of("bert"), folder)
    assert found["absent-tensors"].evidence == [f"bias is {setting}, but the file holds no bias of the model"]


def test_bias_tuning_of_a_model_without_biases_lacks_nothing(base_of, adapt, reconfigure):
    folder = adapt("llama", lora())
    reconfigure(folder / CONFIG, bias="all")
    assert linted(base_of("llama"), folder) == {}


@pytest.mark.parametrize(
    ("architecture", "target", "said_wrongly"), [("llama", "q_proj", True), ("gpt2", "c_attn", False)]
)
def test_fan_in_fan_out_against_the_layers(base_of, adapt, reconfigure, architecture, target, said_wrongly):
    folder = adapt(architecture, lora(target_modules=[target], fan_in_fan_out=not said_wrongly))
    assert linted(base_of(architecture), folder) == {}
    reconfigure(folder / CONFIG, fan_in_fan_out=said_wrongly)
    finding = linted(base_of(architecture), folder)["fan-in-fan-out"]
    assert finding.severity == "info"
    assert ("Conv1D" in finding.evidence[0]) is (architecture == "gpt2")


# One matrix under two names


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"target_modules": ["lm_head", "c_attn"]}, "lm_head (by the method)"),
        ({"modules_to_save": ["wte"]}, "transformer.wte (as a whole)"),
        ({"modules_to_save": ["lm_head"]}, "lm_head (as a whole)"),
    ],
)
def test_half_of_a_tied_pair(base_of, adapt, settings, changed):
    folder = adapt("gpt2", lora(**{"target_modules": ["c_attn"], "fan_in_fan_out": True, **settings}))
    finding = linted(base_of("gpt2"), folder)["tied"]
    assert finding.title.startswith("lm_head and transformer.wte are one matrix")
    assert changed in finding.evidence[0]


def test_both_of_a_tied_pair_and_untied_layers_pass(base_of, adapt):
    both = lora(target_modules=["c_attn"], modules_to_save=["wte", "lm_head"], fan_in_fan_out=True)
    assert "tied" not in linted(base_of("gpt2"), adapt("gpt2", both))
    assert "tied" not in linted(base_of("llama"), adapt("llama", lora(modules_to_save=["lm_head"]), name="other"))


# Tensors


def test_repeated_and_zero_rows_lower_the_rank(base_of, adapt, rewrite):
    folder = adapt("llama", lora())

    def spoil(tensors):
        tensors[f"{Q0}.lora_A.weight"][1] = tensors[f"{Q0}.lora_A.weight"][0]
        tensors[f"{Q0.replace('layers.0', 'layers.1')}.lora_A.weight"][:2] = 0.0
        tensors[f"{Q0.replace('layers.0', 'layers.1')}.lora_B.weight"][:, 3] = 0.0

    rewrite(folder / TENSORS, spoil)
    finding = linted(base_of("llama"), folder)["deficient"]
    assert finding.title.startswith("4 of 16 adapter directions")
    assert finding.evidence[0] == f"{Q.format(0)} 3 of 4, {Q.format(1)} 1 of 4"
    assert "zero rows of A: 2" in finding.evidence[1]
    assert "zero columns of B: 1" in finding.evidence[1]
    assert "repeated rows of A: 1" in finding.evidence[1]


def test_dependent_rows_are_found_without_being_repeated(base_of, adapt, rewrite):
    folder = adapt("llama", lora())

    def mix(tensors):
        down = tensors[f"{Q0}.lora_A.weight"]
        down[2] = down[0] - down[1]

    rewrite(folder / TENSORS, mix)
    finding = linted(base_of("llama"), folder)["deficient"]
    assert "linearly dependent" in finding.evidence[1]


def test_a_rank_that_the_matrix_cannot_have_is_no_deficiency(build, base_of, adapt):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    config = lora(r=8, task_type="FEATURE_EXTRACTION", target_modules=["query"])
    assert linted(base_of("bert"), adapt("bert", config, model=model.bert)) == {}
    assert "deficient" not in linted(base_of("llama"), adapt("llama", lora(r=20), name="wide"))


@pytest.mark.parametrize(
    ("config", "mark", "value"),
    [
        (lora(use_dora=True), f"{Q0}.lora_B", 0.0),
        (lora(target_modules=["q_proj", "embed_tokens"]), "lora_embedding_A", 0.0),
        (peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]), f"{Q0}.ia3_l", 1.0),
        (peft.VeraConfig(r=4, target_modules=["q_proj"]), f"{Q0}.vera_lambda_b", 0.0),
        (peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]), f"{Q0}.oft_R", 0.0),
    ],
    ids=["dora", "embedding", "ia3", "vera", "oft"],
)
def test_tensors_that_never_left_their_start(base_of, adapt, rewrite, config, mark, value):
    folder = adapt("llama", config)

    def reset(tensors):
        for key in tensors:
            if mark in key:
                tensors[key] = torch.full_like(tensors[key], value)

    rewrite(folder / TENSORS, reset)
    finding = linted(base_of("llama"), folder)["untouched"]
    assert finding.title.startswith("1 adapter tensors")
    assert mark in finding.evidence[0]


def test_a_dead_module_of_plain_lora_is_left_to_the_proof(base_of, adapt, rewrite):
    folder = adapt("llama", lora())
    rewrite(folder / TENSORS, lambda tensors: tensors[f"{Q0}.lora_B.weight"].zero_())
    assert linted(base_of("llama"), folder) == {}


@pytest.mark.parametrize(("dtype", "found"), [(torch.float16, True), (torch.bfloat16, False)])
def test_float16_values_near_overflow(base_of, adapt, rewrite, dtype, found):
    folder = adapt("llama", lora())

    def widen(tensors):
        for key in tensors:
            tensors[key] = tensors[key].to(dtype)
        tensors[f"{Q0}.lora_B.weight"][0, 0] = -61000.0

    rewrite(folder / TENSORS, widen)
    result = linted(base_of("llama"), folder)
    assert ("near-overflow" in result) is found
    if found:
        assert f"{Q.format(0)}.lora_B.weight 60992" in said(result["near-overflow"])


def test_every_tensor_is_read_once_and_the_base_not_at_all(base_of, adapt):
    subject = open_checkpoint(str(adapt("llama", lora(modules_to_save=["norm"]))), name="adapted")
    modules = BaseModules(open_checkpoint(str(base_of("llama")), name="base"))
    changes = changes_of(subject, modules)
    counted = Counting(subject.tensors)
    modules.tensors = Counting(modules.tensors)
    lint_files(dataclasses.replace(subject, tensors=counted), modules, changes)
    assert sorted(counted.read) == sorted(load_file(subject.path / TENSORS))
    assert modules.tensors.read == []


def test_the_lint_stands_beside_the_proof_when_checkpoints_are_opened(base_of, adapt, reconfigure):
    folder = adapt("llama", lora(rank_pattern={"qkv": 2, "q_proj": 2}))
    opened = open_all(str(base_of("llama")), [f"tuned={folder}"], allow_pickle=False, watch=Silent())
    assert [finding.id for finding in opened.findings] == ["pattern:tuned", "mixed-scaling:tuned"]


class Counting:
    """A tensor source that keeps the keys it was asked for."""

    def __init__(self, inner):
        self.inner, self.specs, self.read = inner, inner.specs, []

    def get(self, key):
        self.read.append(key)
        return self.inner.get(key)


# Measured numbers


def measured(name, change, **fields):
    settings = {"shape": (8, 8), "method": "lora", "frobenius": change or 0.0, "relative_change": change}
    return ModuleWeights(name=name, **{**settings, **fields})


@pytest.fixture
def adapter(adapt):
    return open_checkpoint(str(adapt("llama", lora())), name="adapted")


@pytest.fixture
def full(base_of):
    """A full model that says it is stored in a type of the test's choice."""

    class Stored:
        name, kind = "adapted", "model"

        def __init__(self, dtype):
            self.dtype = dtype

    return Stored


def test_a_module_far_from_its_kind(adapter):
    rows = [measured(Q.format(n), change) for n, change in enumerate([0.01, 0.012, 0.009, 0.15, 0.0005])]
    (finding,) = scaling_outliers(adapter, rows)
    assert finding.id == "outliers:adapted"
    assert finding.title.startswith("2 modules")
    assert f"{Q.format(3)} 0.15 (the others' median 0.0095)" in finding.evidence[0]
    assert f"{Q.format(4)} 0.0005 (the others' median 0.011)" in finding.evidence[0]


@pytest.mark.parametrize(
    "rows",
    [
        [measured(Q.format(n), change) for n, change in enumerate([0.01, 0.012, 0.5])],
        [measured(Q.format(n), change) for n, change in enumerate([0.01, 0.012, 0.009, 0.09])],
        [measured(Q.format(n), change) for n, change in enumerate([0.01, 0.012, 0.009, 0.0, None])],
        [measured(f"model.layers.{n}.{'ab'[n % 2]}", [0.01, 0.9][n % 2]) for n in range(8)],
    ],
    ids=["too few", "under ten times", "dead and undefined", "two kinds"],
)
def test_modules_that_do_not_stand_out(adapter, rows):
    assert scaling_outliers(adapter, rows) == []


def test_a_change_larger_than_the_base_is_named_even_alone(adapter):
    rows = [measured("lm_head", 1.5), measured(Q.format(0), 1.0), measured("pooler", 2.0)]
    (finding,) = scaling_outliers(adapter, rows)
    assert finding.id == "overwhelmed:adapted"
    assert finding.evidence == ["‖ΔW‖/‖W0‖: pooler 2, lm_head 1.5"]


def whole(values, floor, **fields):
    frobenius = math.sqrt(sum(value**2 for value in values))
    rank = sum(value > floor for value in values)
    given = {"method": "full", "frobenius": frobenius, "rounding_floor": floor, "numerical_rank": rank}
    return measured(Q.format(0), 0.1, **{**given, "singular_values": values, **fields})


def test_a_change_within_the_rounding_of_its_type(full):
    (finding,) = rounding(full("BF16"), [whole([0.9] * 8, 1.0), whole([2.0] + [0.9] * 7, 1.0), whole([5.0] * 8, 1.0)])
    assert finding.severity == "warning"
    assert finding.evidence[0] == "15 of 24 singular values of ΔW (62%) lie under the rounding floor"
    assert "in 2 of 3 modules" in finding.evidence[1]


def test_a_low_rank_change_merged_into_a_short_type_is_information(full):
    (finding,) = rounding(full("F16"), [whole([5.0] + [0.1] * 7, 1.0)])
    assert finding.severity == "info"
    assert len(finding.evidence) == 1


def test_rounding_is_silent_above_the_floor_in_float32_and_for_adapters(full, adapter):
    low = [whole([0.9] * 8, 1.0)]
    assert rounding(full("BF16"), [whole([3.0] * 5 + [0.5] * 3, 1.0)]) == []
    assert rounding(full("F32"), low) == []
    assert rounding(adapter, low) == []
    assert rounding(full("BF16"), [measured(Q.format(0), 0.1)]) == []
    cut = whole([2.0] * 4, 1.0, numerical_rank=6, frobenius=math.sqrt(64.0))
    assert rounding(full("BF16"), [cut]) == []


def test_updates_that_bfloat16_swallowed(full):
    torch.manual_seed(0)
    base = torch.randn(64, 64).bfloat16()
    stepped = (base + 1e-5 * torch.randn(64, 64)).bfloat16()
    share = float((base == stepped).double().mean())
    assert 0.9 < share < 1.0
    rows = [
        measured(Q.format(0), 0.01, method="full", shape=(64, 64), exact_zero_fraction=share),
        measured(Q.format(1), 0.0, method="full", shape=(64, 64), exact_zero_fraction=1.0),
    ]
    (finding,) = lost_updates(full("BF16"), rows)
    assert finding.title.startswith(f"{share:.1%} of the entries")
    assert finding.evidence[1].startswith("1 modules did not change at all")


def test_updates_that_arrived_or_cannot_be_judged(full, adapter):
    def row(share, size=8):
        return measured(Q.format(0), 0.01, method="full", shape=(size, 8), exact_zero_fraction=share)

    assert lost_updates(full("BF16"), [row(0.95), row(0.5, size=64)]) == []
    assert lost_updates(full("F32"), [row(0.99)]) == []
    assert lost_updates(full("BF16"), [row(1.0), row(None)]) == []
    assert lost_updates(adapter, [row(0.99)]) == []
    assert [f.id for f in lint_weights(full("BF16"), [row(0.95), row(0.5, size=8), row(0.999, size=800)])] == [
        "lost-updates:adapted"
    ]


def test_a_start_that_is_drawn_anew_at_every_load(base_of, adapt):
    folder = adapt("llama", lora(init_lora_weights="pissa_niter_4"))
    finding = linted(base_of("llama"), folder)["redrawn-start"]
    assert finding.evidence[0].startswith("init_lora_weights is pissa_niter_4")
    assert "redrawn-start" not in linted(base_of("llama"), adapt("llama", lora(init_lora_weights="pissa")))
