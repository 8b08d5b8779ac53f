"""Tensors that transformers renames, fuses and stacks at loading: read one at a time, experts one by one."""

from __future__ import annotations

import pytest
import torch
import transformers

from lorascope.checkpoints.base_modules import BaseModules, named_tensors
from lorascope.checkpoints.changes import changes_of
from lorascope.checkpoints.conversion import ConvertedSource
from lorascope.checkpoints.modules import meta_model, skeleton
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.errors import CheckpointError

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def mixtral(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "mixtral")
    return model, tmp_path / "mixtral"


class Watched:
    """A source that remembers what was read of it."""

    def __init__(self, source):
        self.source, self.read = source, []

    @property
    def specs(self):
        return self.source.specs

    def get(self, key):
        self.read.append(key)
        return self.source.get(key)


def test_a_file_that_has_every_parameter_is_taken_as_it_is(base_of):
    opened = open_checkpoint(str(base_of("llama")), name="base")
    assert named_tensors(opened, skeleton(opened.path), None) is opened.tensors


def test_experts_are_stacked_and_fused_in_the_files_type(mixtral):
    model, folder = mixtral
    source = ConvertedSource(open_checkpoint(str(folder), name="base").tensors, meta_model(folder, None))
    assert set(source.specs) == set(model.state_dict())
    assert source.specs[GATE_UP].shape == (3, 16, 16)
    assert source.get(GATE_UP).equal(model.state_dict()[GATE_UP])


def test_one_expert_is_read_from_its_own_tensors_alone(mixtral):
    model, folder = mixtral
    watched = Watched(open_checkpoint(str(folder), name="base").tensors)
    source = ConvertedSource(watched, meta_model(folder, None))
    assert watched.read == []
    assert source.part(GATE_UP, 2).equal(model.state_dict()[GATE_UP][2])
    stem = "model.layers.0.block_sparse_moe.experts.2"
    assert sorted(watched.read) == [f"{stem}.w1.weight", f"{stem}.w3.weight"]


def test_experts_of_base_and_subject_are_compared_one_by_one(mixtral, tmp_path):
    model, folder = mixtral
    model.get_parameter(GATE_UP).data[1, 4, 5] += 1.0
    model.save_pretrained(tmp_path / "full")
    base = BaseModules(open_checkpoint(str(folder), name="base"))
    changes = changes_of(open_checkpoint(str(tmp_path / "full"), name="full"), base)
    moved = {}
    for module in changes.modules():
        delta = changes.change(module).adapted - base.weight(module)
        if delta.any():
            moved[module] = delta.nonzero().tolist()
    assert moved == {f"{GATE_UP}[1]": [[4, 5]]}
    assert base.label(f"{GATE_UP}[1]") == f"{GATE_UP}[1]"
    assert base.label("model.layers.0.self_attn.q_proj") == "model.layers.0.self_attn.q_proj"


def test_a_missing_expert_is_refused(mixtral, rewrite):
    _, folder = mixtral
    gone = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
    rewrite(folder / "model.safetensors", lambda tensors: tensors.pop(gone))
    with pytest.raises(CheckpointError, match="gate_up_proj is made of") as error:
        BaseModules(open_checkpoint(str(folder), name="base"))
    assert "no shard is missing" in error.value.remedy


def old_vit(folder):
    """A file whose names transformers changes at loading."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("name", "task"), [("bert", "SEQ_CLS"), ("bert", "TOKEN_CLS"), ("gpt2", "SEQ_CLS")])
def test_labels_are_equal_under_different_head_classes(base_of, name, task):
    opened = open_checkpoint(str(base_of(name)), name="base")
    own, headed = BaseModules(opened), BaseModules(opened, task_type=task)
    ours, theirs = [own.label(name) for name in own.names], [headed.label(name) for name in headed.names]
    assert len(set(ours)) == len(ours)
    assert set(theirs) <= set(ours)
    assert set(ours) - set(theirs) <= {"pooler.dense"}


def test_labels_of_renamed_tensors_are_equal_under_different_head_classes(tmp_path, reconfigure):
    opened = open_checkpoint(str(old_vit(tmp_path / "vit")), name="base")
    own = BaseModules(opened)
    assert "layers.0.attention.q_proj" in own.names
    assert not any(key.startswith("layers.") for key in opened.tensors.specs), "the file's own names should differ"
    reconfigure(tmp_path / "vit" / "config.json", architectures=["ViTForImageClassification"])
    headed = BaseModules(open_checkpoint(str(tmp_path / "vit"), name="base"))
    assert {headed.label(name) for name in headed.names} == {
        own.label(name) for name in own.names if "pooler" not in name
    }
    assert all(name.startswith("vit.") for name in headed.names)
