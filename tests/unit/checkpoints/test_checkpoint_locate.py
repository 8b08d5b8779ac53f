from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from lorascope.checkpoints.locate import checkpoint_kind, locate
from lorascope.errors import AmbiguousCheckpoint, CheckpointError, UnsupportedFormat


@pytest.fixture
def adapter(adapt):
    return adapt("llama", LoraConfig(r=2, target_modules=["q_proj"]))


def test_a_base_folder_and_an_adapter_folder_are_taken_as_they_are(base_of, adapter):
    base = locate(str(base_of("llama")))
    assert (base.path, base.kind, base.note) == (base_of("llama"), "model", None)
    found = locate(f"{adapter}/")
    assert (found.path, found.kind, found.note) == (adapter, "adapter", None)


@pytest.mark.parametrize("depth", ["checkpoint-50", "out/checkpoint-50"])
def test_the_only_checkpoint_of_a_run_folder_is_taken_and_said(adapter, tmp_path, depth):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / depth)
    (run / "trainer_state.json").write_text("{}")
    found = locate(str(run))
    assert found.path == run / depth
    assert found.kind == "adapter"
    assert depth in str(found.note)


def test_several_checkpoints_are_named_and_none_is_chosen(adapter, base_of, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "checkpoint-50")
    shutil.copytree(base_of("bert"), run / "checkpoint-100")
    with pytest.raises(AmbiguousCheckpoint) as error:
        locate(str(run))
    assert error.value.exit_code == 2
    assert "checkpoint-50 (adapter), checkpoint-100 (model)" in str(error.value)


def test_weights_in_the_folder_itself_win_over_those_below_and_this_is_said(adapter, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    shutil.copytree(adapter, run / "checkpoint-50")
    found = locate(str(run))
    assert found.path == run
    assert "checkpoint-50" in str(found.note)


def several(build, tmp_path):
    model = get_peft_model(build("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("second", LoraConfig(r=3, target_modules=["v_proj"]))
    model.save_pretrained(tmp_path / "several")
    return tmp_path / "several"


def test_several_adapters_that_peft_saved_together_have_to_be_named(build, tmp_path):
    folder = several(build, tmp_path)
    with pytest.raises(AmbiguousCheckpoint, match="2 adapters and none was named: default, second") as error:
        locate(str(folder))
    assert str(folder / "default") in str(error.value.remedy)
    assert str(folder / "second") in str(error.value.remedy)
    second, default = locate(str(folder / "second")), locate(str(folder / "default"))
    assert (second.path, second.kind, second.note) == (folder / "second", "adapter", None)
    assert (default.path, default.kind) == (folder, "adapter")
    assert "named default" in str(default.note)


def test_an_adapter_in_a_folder_named_default_is_that_one(build, tmp_path):
    folder = several(build, tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "default").mkdir(exist_ok=True)
        shutil.move(folder / name, folder / "default" / name)
    with pytest.raises(AmbiguousCheckpoint, match="2 checkpoints and none was named") as error:
        locate(str(folder))
    assert "default (adapter), second (adapter)" in str(error.value.remedy)
    assert locate(str(folder / "default")).path == folder / "default"


def test_no_adapter_named_default_is_made_up(adapter, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(str(adapter / "default"))


def test_a_folder_with_an_adapter_and_a_model_is_ambiguous(adapter, base_of):
    for file in base_of("llama").iterdir():
        shutil.copy(file, adapter)
    with pytest.raises(AmbiguousCheckpoint, match="both a PEFT adapter and full model"):
        checkpoint_kind(adapter)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="the folder is empty") as error:
        locate(str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ("config.json", "config.json is there, but no weights"),
        ("adapter_config.json", "but no adapter weights"),
        ("notes.txt", "no checkpoint found"),
    ],
)
def test_what_is_lacking_is_said(tmp_path, kept, problem):
    (tmp_path / kept).write_text("{}")
    with pytest.raises(CheckpointError, match=problem) as error:
        locate(str(tmp_path))
    assert error.value.remedy


@pytest.mark.parametrize("suffix", ["gguf", "onnx"])
@pytest.mark.parametrize("inside", [True, False])
def test_foreign_formats_are_refused_with_the_way_out(tmp_path, suffix, inside):
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(b"GGUF")
    with pytest.raises(UnsupportedFormat, match=f"{suffix.upper()} files are not read") as error:
        locate(str(tmp_path if inside else file))
    assert "give the" in str(error.value.remedy)


def test_a_file_instead_of_a_folder(base_of):
    with pytest.raises(CheckpointError, match="this is a file") as error:
        locate(str(base_of("llama") / "model.safetensors"))
    assert str(base_of("llama")) in str(error.value.remedy)


@pytest.mark.parametrize("given", ["/no/such/folder", "no such/folder", "x" * 5000])
def test_a_path_that_is_not_there(given):
    with pytest.raises(CheckpointError) as error:
        locate(given)
    assert error.value.exit_code == 2


def test_a_hub_name_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="no such folder here, and the hub could not deliver") as error:
        locate("someone/some-model@main")
    assert "someone/some-model@main" in str(error.value.where)


def test_a_hub_name_gives_its_snapshot_and_revision(monkeypatch, copied, base_of):
    import huggingface_hub

    snapshot = copied(base_of("llama"), "0123456789abcdef")
    asked: list[tuple[str, str | None]] = []

    def deliver(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith(".bin") for pattern in allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", deliver)
    found = locate("owner/name@v1")
    assert asked == [("owner/name", "v1")]
    assert (found.path, found.revision) == (Path(snapshot), "0123456789abcdef")
