from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file

from lorascope.checkpoints.tensors import MemorySource, open_tensors, weight_files
from lorascope.errors import CheckpointError, UnsupportedFormat


def test_a_single_file_is_read_by_key(base_of):
    source = open_tensors(base_of("llama"), "model", allow_pickle=False)
    truth = load_file(base_of("llama") / "model.safetensors")
    assert set(source.specs) == set(truth)
    for key, tensor in truth.items():
        assert source.specs[key].shape == tuple(tensor.shape)
        assert source.specs[key].dtype == "F32"
        torch.testing.assert_close(source.get(key), tensor)


@pytest.fixture
def sharded(build, tmp_path):
    folder = tmp_path / "sharded"
    build("llama").to(torch.bfloat16).save_pretrained(folder, max_shard_size="5KB")
    assert len(weight_files(folder)) > 2
    return folder


def test_shards_are_one_source(build, sharded):
    source = open_tensors(sharded, "model", allow_pickle=False)
    state = build("llama").to(torch.bfloat16).state_dict()
    assert set(source.specs) == set(state)
    for key, tensor in state.items():
        assert source.specs[key].dtype == "BF16"
        torch.testing.assert_close(source.get(key), tensor)


def test_a_missing_shard_is_named(sharded):
    gone = weight_files(sharded)[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match="a weight file is missing") as error:
        open_tensors(sharded, "model", allow_pickle=False)
    assert gone.name in str(error.value.where)


@pytest.mark.parametrize("target", ["../elsewhere.safetensors", "/etc/passwd", "..", "sub/x.safetensors"])
def test_an_index_that_points_outside_is_refused(sharded, target):
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"][next(iter(raw["weight_map"]))] = target
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="points outside its folder"):
        open_tensors(sharded, "model", allow_pickle=False)


def test_a_tensor_of_the_index_that_no_shard_has(sharded):
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["model.invented.weight"] = weight_files(sharded)[0].name
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"model.invented.weight is in the index but in no shard"):
        open_tensors(sharded, "model", allow_pickle=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": ["a"]}', '{"other": {}}', "\xff"])
def test_a_broken_index(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="index cannot be read"):
        open_tensors(sharded, "model", allow_pickle=False)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_truncated_file_says_so_before_anything_is_read(copied, base_of, left):
    file = copied(base_of("llama")) / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, left if left >= 0 else size + left)
    with pytest.raises(CheckpointError, match="not a whole safetensors file") as error:
        open_tensors(file.parent, "model", allow_pickle=False)
    assert error.value.where == str(file)


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2]}}', b"\xff\xfe{}", b"not json", b'{"a": {"shape": 3}}'],
)
def test_a_wrong_header(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_tensors(tmp_path, "model", allow_pickle=False)


def test_a_header_that_does_not_fit_its_own_data_fails_at_the_tensor(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="tensor a cannot be read"):
        open_tensors(tmp_path, "model", allow_pickle=False).get("a")


def test_pickles_are_refused_without_leave_and_read_as_plain_tensors_with_it(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat, match="loading a pickle can run code") as error:
        open_tensors(tmp_path, "model", allow_pickle=False)
    assert "--allow-pickle" in str(error.value.remedy)
    source = open_tensors(tmp_path, "model", allow_pickle=True)
    assert {key: (spec.shape, spec.dtype) for key, spec in source.specs.items()} == {
        "a": ((2, 3), "F32"),
        "b": ((2,), "BF16"),
    }
    torch.testing.assert_close(source.get("a"), tensors["a"])


def test_an_old_pickle_that_is_no_archive_is_read_too(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "adapter_model.bin", _use_new_zipfile_serialization=False)
    source = open_tensors(tmp_path, "adapter_model", allow_pickle=True)
    assert source.get("a").tolist() == [1.0, 1.0, 1.0]


def test_sharded_pickles(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model-1.bin")
    names = {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="a weight file is missing"):
        open_tensors(tmp_path, "model", allow_pickle=True)
    torch.save({"b": torch.zeros(1)}, tmp_path / "pytorch_model-2.bin")
    assert set(open_tensors(tmp_path, "model", allow_pickle=True).specs) == {"a", "b"}


class _Malicious:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("old", [True, False])
def test_a_malicious_pickle_is_never_run(tmp_path, old):
    mark = tmp_path / "it ran"
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": _Malicious(str(mark))}, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match="more than named tensors"):
        open_tensors(tmp_path, "model", allow_pickle=True)
    assert not mark.exists()


@pytest.mark.parametrize("value", [[torch.ones(1)], {"epoch": 3}, {"model": {"a": torch.ones(1)}}])
def test_a_pickle_of_something_else_than_named_tensors(tmp_path, value):
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than named tensors"):
        open_tensors(tmp_path, "model", allow_pickle=True)


def test_a_damaged_pickle(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(CheckpointError, match="damaged"):
        open_tensors(tmp_path, "model", allow_pickle=True)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no weights in the folder"):
        open_tensors(tmp_path, "model", allow_pickle=True)


def test_tensors_in_memory_carry_the_names_of_their_types(tmp_path):
    source = MemorySource({"a": torch.zeros(2, dtype=torch.float16), "b": torch.zeros(1, dtype=torch.bool)}, tmp_path)
    assert [spec.dtype for spec in source.specs.values()] == ["F16", "BOOL"]
