from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from lorascope.checkpoints.hashing import content_hash
from lorascope.checkpoints.opening import open_checkpoint, unique_names
from lorascope.checkpoints.tokenizers import chat_template, has_tokenizer, tokenizer_findings
from lorascope.errors import CheckpointError, UnsupportedFormat


def test_a_model_and_an_adapter(base_of, adapt):
    base = open_checkpoint(str(base_of("llama")), name="base")
    assert (base.kind, base.dtype, base.adapter) == ("model", "F32", None)
    assert base.config is not None
    assert base.config["hidden_size"] == 16
    folder = adapt("llama", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = open_checkpoint(str(folder), name="x")
    assert (adapter.kind, adapter.config) == ("adapter", None)
    assert adapter.adapter is not None
    assert (adapter.adapter.task_type, adapter.adapter.base_name) == ("CAUSAL_LM", str(base_of("llama")))


def test_the_entry_in_the_result(base_of, build, adapt):
    base = open_checkpoint(str(base_of("llama")), name="base")
    entry = base.info(role="base", architecture="LlamaForCausalLM", trainable=None, changed=None)
    assert (entry.role, entry.kind, entry.method, entry.generation_ready) == ("base", "model", None, True)
    assert entry.parameters.total == sum(p.numel() for p in build("llama").parameters())
    adapter = open_checkpoint(str(adapt("llama", LoraConfig(target_modules=["q_proj"], use_rslora=True))), name="x")
    entry = adapter.info(role="adapted", architecture="BertModel", trainable=5, changed=7)
    assert (entry.role, entry.method, entry.generation_ready) == ("adapted", "rslora", False)
    assert (entry.parameters.trainable, entry.parameters.delta) == (5, 7)


def test_the_stored_type_is_that_of_most_elements(base_of, copied, rewrite):
    folder = copied(base_of("llama"))

    def change(tensors):
        for key in tensors:
            if "norm" not in key:
                tensors[key] = tensors[key].half()

    rewrite(folder / "model.safetensors", change)
    assert open_checkpoint(str(folder), name="x").dtype == "F16"


def test_a_file_without_tensors(copied, base_of, rewrite):
    folder = copied(base_of("llama"))
    rewrite(folder / "model.safetensors", lambda tensors: tensors.clear())
    with pytest.raises(CheckpointError, match="holds no tensor"):
        open_checkpoint(str(folder), name="x")


def test_pickled_models_need_leave(base_of, build, copied):
    folder = copied(base_of("llama"))
    (folder / "model.safetensors").unlink()
    torch.save(build("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat, match="pickle"):
        open_checkpoint(str(folder), name="x")
    assert "lm_head.weight" in open_checkpoint(str(folder), name="x", allow_pickle=True).tensors.specs


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "hqq"}, "weights quantised by hqq are not dequantised"),
        ({"quant_method": "gptq"}, "quantised by gptq, and gptqmodel is not installed"),
        ({"load_in_4bit": True}, "quantised by bitsandbytes, and bitsandbytes is not installed"),
    ],
)
def test_quantised_weights_without_their_library(base_of, copied, reconfigure, monkeypatch, settings, said):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    folder = copied(base_of("llama"))
    reconfigure(folder / "config.json", quantization_config=settings)
    with pytest.raises(UnsupportedFormat, match=said) as error:
        open_checkpoint(str(folder), name="x")
    assert "unquantised checkpoint" in str(error.value.remedy)


def test_the_content_hash_follows_every_byte_of_weights_and_configuration(base_of, copied, rewrite, reconfigure):
    folder = copied(base_of("llama"))
    seen = [content_hash(base_of("llama"))]
    assert content_hash(folder) == seen[0]
    assert len(seen[0]) == 64

    def change(tensors):
        tensors["model.norm.weight"][0] += 1e-3

    rewrite(folder / "model.safetensors", change)
    seen.append(content_hash(folder))
    reconfigure(folder / "config.json", rope_scaling_note=1)
    seen.append(content_hash(folder))
    (folder / "README.md").write_text("no weight")
    assert len(set(seen)) == 3
    assert content_hash(folder) == seen[-1]


def test_the_hash_covers_the_index_and_every_shard_it_names(base_of, copied):
    folder = copied(base_of("llama"))
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    before = content_hash(folder)
    assert len(shards) > 1
    renamed = json.loads(index.read_text())
    renamed["metadata"]["note"] = 1
    index.write_text(json.dumps(renamed))
    with_note = content_hash(folder)
    with (folder / shards[-1]).open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    assert len({before, with_note, content_hash(folder)}) == 3


def test_the_hash_of_an_adapter_covers_its_scaling(adapt, reconfigure):
    folder = adapt("llama", LoraConfig(r=2, target_modules=["q_proj"]))
    before = content_hash(folder)
    reconfigure(folder / "adapter_config.json", lora_alpha=99)
    assert content_hash(folder) != before


def test_names_are_folders_made_unique_by_their_parents(tmp_path):
    paths = [tmp_path / "run1" / "adapter", tmp_path / "run2" / "adapter", tmp_path / "base"]
    for path in paths:
        path.mkdir(parents=True)
    given = [str(path) for path in paths]
    assert [name for name, _ in unique_names(given)] == ["run1/adapter", "run2/adapter", "base"]
    assert unique_names([f"mine={given[0]}", given[1] + "/"]) == [("mine", given[0]), ("adapter", given[1] + "/")]
    assert [name for name, _ in unique_names([f"adapter={given[2]}", given[0]])] == ["adapter", "run1/adapter"]


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    (tmp_path / "lr=3").mkdir()
    assert unique_names([str(tmp_path / "lr=3")]) == [("lr=3", str(tmp_path / "lr=3"))]


def test_two_folders_of_one_name_need_names_of_their_own():
    with pytest.raises(CheckpointError, match="two checkpoints have the name a") as error:
        unique_names(["a=x", "a=y"])
    assert "NAME=PATH" in str(error.value.remedy)
    assert "x and y" in str(error.value.where)


@pytest.mark.parametrize("second", ["run", "./run/", "x/../run"])
def test_one_folder_given_twice_is_said_to_be_one(second, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="the same checkpoint was given twice") as error:
        unique_names(["run", second])
    assert "NAME=PATH" not in str(error.value)


def test_a_folder_near_the_root_gets_a_name_without_slashes_in_front():
    assert [name for name, _ in unique_names(["/one/x", "/two/one/x"])] == ["one/x", "two/one/x"]


def test_the_architecture_is_what_the_configuration_names(base_of, copied, adapt, reconfigure):
    folder = copied(base_of("llama"))
    assert open_checkpoint(str(folder), name="x").architecture == "LlamaForCausalLM"
    reconfigure(folder / "config.json", architectures=None)
    assert open_checkpoint(str(folder), name="x").architecture is None
    assert open_checkpoint(str(adapt("llama", LoraConfig(target_modules=["q_proj"]))), name="x").architecture is None


# Tokenizers


def tokenizer(folder, vocabulary=("a", "b"), template=None, **entries):
    model = {"type": "WordLevel", "vocab": {token: index for index, token in enumerate(vocabulary)}}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    config = entries | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def pair(base_of, copied):
    """Base and adapted folder, each with the same tokenizer, and a function that compares them."""
    base, adapted = copied(base_of("llama"), "one"), copied(base_of("llama"), "two")

    def findings():
        first, second = open_checkpoint(str(base), name="base"), open_checkpoint(str(adapted), name="x")
        return [(finding.id, " ".join(finding.evidence)) for finding in tokenizer_findings(second, first)]

    return tokenizer(base, template="{{ m }}"), tokenizer(adapted, template="{{ m }}"), findings


def test_equal_tokenizers_say_nothing(pair):
    _, adapted, findings = pair
    assert findings() == []
    (adapted / "tokenizer.json").unlink()
    assert not has_tokenizer(adapted)
    assert findings() == []


def test_another_vocabulary_of_another_and_of_the_same_size(pair):
    _, adapted, findings = pair
    tokenizer(adapted, ("a", "b", "c"), template="{{ m }}")
    assert [(name, text[:31]) for name, text in findings()] == [("tokenizer:x", "3 entries against 2 in the base")]
    tokenizer(adapted, ("b", "a"), template="{{ m }}")
    assert [name for name, _ in findings()] == ["tokenizer:x"]


def test_older_vocabulary_files_are_compared_by_their_bytes(pair):
    base, adapted, findings = pair
    for folder in (base, adapted):
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("a\nb\n")
    assert findings() == []
    (adapted / "vocab.txt").write_text("a\nc\n")
    [(name, evidence)] = findings()
    assert name == "tokenizer:x"
    assert "vocab.txt" in evidence


@pytest.mark.parametrize(
    ("ours", "theirs", "evidence"),
    [
        ("{{ n }}", "{{ m }}", "the two templates differ"),
        ("{{ m }}", None, "the base has none"),
        (None, "{{ m }}", "the adapted checkpoint has none"),
    ],
)
def test_another_chat_template(pair, ours, theirs, evidence):
    base, adapted, findings = pair
    tokenizer(base, template=theirs)
    tokenizer(adapted, template=ours)
    assert findings() == [("chat-template:x", evidence)]


def test_where_a_chat_template_is_written(tmp_path):
    assert chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    tokenizer(tmp_path, chat_template=named)
    assert chat_template(tmp_path) == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert chat_template(tmp_path) == "J"
    assert not has_tokenizer(tmp_path / "nowhere")
