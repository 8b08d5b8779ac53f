from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorascope.checkpoints import saving
from lorascope.checkpoints.changes import BaseModules, Factors, changes_of
from lorascope.checkpoints.new_folder import RECORD, free_place, new_checkpoint, write_record
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.checkpoints.saving import (
    copy_small_files,
    rescaled_config,
    save_adapter,
    save_merged,
    save_model,
    save_rescaled_adapter,
)
from lorascope.errors import EvaluationError, OutputError

LORA = {"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}


def opened(base: Path, adapted: Path) -> Any:
    task = json.loads((adapted / "adapter_config.json").read_text())["task_type"] if _is_adapter(adapted) else None
    return changes_of(
        open_checkpoint(str(adapted), name="adapted", allow_pickle=True),
        BaseModules(open_checkpoint(str(base), name="base"), task_type=task),
    )


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def factors(rank: int, scaling: float = 0.7, size: int = 16) -> Factors:
    draw = torch.Generator().manual_seed(rank)
    return Factors(torch.randn(size, rank, generator=draw), torch.randn(rank, size, generator=draw), scaling)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def write_repaired(out: Path, *names: str, overwrite: bool = False) -> None:
    with new_checkpoint(out, sources=[], overwrite=overwrite) as part:
        fill(part, *names)
        write_record(part, {"option": "strength"}, "Scaled.")


class TestFolder:
    def test_appears_whole(self, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        with new_checkpoint(out, sources=[], overwrite=False) as part:
            fill(part, "config.json")
            assert not out.exists()
        assert [path.name for path in out.iterdir()] == ["config.json"]
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        assert out.stat().st_mode & 0o777 == 0o755
        assert (out / "config.json").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_leaves_nothing_when_filling_it_fails(self, error: type[BaseException], tmp_path: Path) -> None:
        def failing() -> None:
            with new_checkpoint(tmp_path / "out", sources=[], overwrite=False) as part:
                fill(part, "config.json")
                raise error

        with pytest.raises(error):
            failing()
        assert list(tmp_path.iterdir()) == []

    def test_names_a_full_disk(self, tmp_path: Path) -> None:
        def failing() -> None:
            with new_checkpoint(tmp_path / "out", sources=[], overwrite=False):
                raise OSError(28, "No space left on device")

        with pytest.raises(OutputError, match="disk is full"):
            failing()

    def test_lies_in_no_source(self, tmp_path: Path) -> None:
        source = tmp_path / "base"
        source.mkdir()
        (tmp_path / "link").symlink_to(source)
        for out in (source, source / "inner" / "out", tmp_path / "link" / "out"):
            with pytest.raises(OutputError, match="would lie in"):
                free_place(out, sources=[source], overwrite=True)
        free_place(tmp_path / "base2", sources=[source], overwrite=False)

    def test_replaces_only_an_earlier_repaired_checkpoint_and_only_when_told_to(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with new_checkpoint(out, sources=[], overwrite=False) as part:
            fill(part, "old.json", "1_Pooling/config.json")
            write_record(part, {"option": "strength"}, "Scaled.")
        with pytest.raises(OutputError, match="already"):
            free_place(out, sources=[], overwrite=False)
        with new_checkpoint(out, sources=[], overwrite=True) as part:
            fill(part, "new.json")
        assert [path.name for path in out.iterdir()] == ["new.json"]
        with pytest.raises(OutputError, match=r"more than a repaired checkpoint: new\.json"):
            free_place(out, sources=[], overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("foreign", ["mine.txt", "link to a folder", "link to a file", "empty", "deep/empty"])
    def test_what_is_not_its_own_is_never_removed(self, foreign: str, tmp_path: Path) -> None:
        out, kept = tmp_path / "out", tmp_path / "kept"
        fill(kept, "weights")
        write_repaired(out, "1_Pooling/config.json")
        free_place(out, sources=[], overwrite=True)
        if foreign.startswith("link"):
            (out / foreign).symlink_to(kept if foreign.endswith("folder") else kept / "weights")
        elif foreign.endswith("empty"):
            (out / foreign).mkdir(parents=True)
        else:
            (out / foreign).write_text("")
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        with pytest.raises(OutputError, match="more than a repaired checkpoint"):
            write_repaired(out, "new.json", overwrite=True)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before

    def test_a_recorded_name_that_became_a_link_is_foreign(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        write_repaired(out, "1_Pooling/config.json")
        (out / "1_Pooling").rename(tmp_path / "moved")
        (out / "1_Pooling").symlink_to(tmp_path / "moved")
        with pytest.raises(OutputError, match="1_Pooling"):
            free_place(out, sources=[], overwrite=True)

    def test_the_place_is_looked_at_again_before_the_swap(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        write_repaired(out)

        def disturbed() -> None:
            with new_checkpoint(out, sources=[], overwrite=True) as part:
                fill(part, "new.json")
                (out / "mine.txt").write_text("written meanwhile")

        with pytest.raises(OutputError, match=r"mine\.txt"):
            disturbed()
        assert (out / "mine.txt").read_text() == "written meanwhile"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
    def test_a_signal_leaves_nothing_and_the_handlers_as_they_were(self, name: str, tmp_path: Path) -> None:
        number = getattr(signal, name)
        before = signal.getsignal(number)

        def stopped() -> None:
            with new_checkpoint(tmp_path / "out", sources=[], overwrite=False) as part:
                fill(part, "config.json")
                signal.raise_signal(number)

        signal.signal(number, signal.SIG_DFL)
        try:
            with pytest.raises(KeyboardInterrupt):
                stopped()
            assert signal.getsignal(number) is signal.SIG_DFL
        finally:
            signal.signal(number, before)
        assert list(tmp_path.iterdir()) == []

    def test_signals_that_are_ignored_stay_ignored(self, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with new_checkpoint(tmp_path / "out", sources=[], overwrite=False) as part:
                fill(part, "config.json")
                signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_other_threads_may_write_too(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write_repaired, tmp_path / "out").result()
        assert (tmp_path / "out").is_dir()

    def test_an_interruption_between_the_two_renames_brings_the_earlier_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, rename = tmp_path / "out", Path.rename
        write_repaired(out, "old.json")

        def interrupted(self: Path, target: Path) -> Path:
            if Path(target) == out and self.name != "old":
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_repaired(out, "new.json", overwrite=True)
        assert (out / "old.json").is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_refuses_files_and_takes_empty_folders(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        with new_checkpoint(tmp_path / "empty", sources=[], overwrite=False) as part:
            fill(part, "config.json")
        assert (tmp_path / "empty" / "config.json").is_file()
        with pytest.raises(OutputError, match="is a file"):
            free_place(tmp_path / "file", sources=[], overwrite=True)


def test_small_files_are_copied_and_neither_weights_nor_training_state(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    small = [
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
        "README.md",
        "spiece.model",
        "1_Pooling/config.json",
    ]
    others = ["model.safetensors", "model.safetensors.index.json", "optimizer.pt", "trainer_state.json", "config.json",
              "pytorch_model.bin", "training_args.bin", "events/log.json", RECORD]  # fmt: skip
    fill(source, *small, *others)
    (source / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../source"}]))
    copy_small_files(source, target, but=["README.md"])
    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == {*small, "modules.json"} - {"README.md"}


def test_ranks_and_alphas_that_differ_stand_under_names_that_match_one_module_alone(base_of, adapt) -> None:
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 3}, "alpha_pattern": {".*v_proj": 6}}
    changes = opened(base_of("llama"), adapt("llama", LoraConfig(**LORA, **patterns)))
    name = "model.layers.0.self_attn.q_proj"
    config = rescaled_config(changes.config, changes.subject.tensors, {name: (5, 2.0)})
    assert (config["r"], config["lora_alpha"]) == (2, 6)
    assert config["rank_pattern"] == {
        r"^model\.layers\.0\.self_attn\.q_proj": 5,
        r"^model\.layers\.1\.self_attn\.q_proj": 3,
    }
    assert config["alpha_pattern"] == {
        r"^model\.layers\.0\.self_attn\.q_proj": 10,
        r"^model\.layers\.1\.self_attn\.q_proj": 4,
    }
    unchanged = {"r", "lora_alpha", "rank_pattern", "alpha_pattern"}
    assert all(config[key] == value for key, value in changes.config.raw.items() if key not in unchanged)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("ranks", [(5, 2), (5, 5), (1, 3)])
def test_factors_of_any_rank_come_back_as_they_were(rslora: bool, ranks, base_of, adapt, tmp_path: Path) -> None:
    changes = opened(base_of("llama"), adapt("llama", LoraConfig(**LORA, use_rslora=rslora)))
    names = changes.modules()[:2]
    given = {name: factors(rank) for name, rank in zip(names, ranks, strict=True)}
    (tmp_path / "out").mkdir()
    save_adapter(changes, given, tmp_path / "out")
    read = opened(base_of("llama"), tmp_path / "out")
    for name in changes.modules():
        wanted, found = given.get(name) or changes.change(name).factors, read.change(name).factors
        assert found.up.equal(wanted.up)
        assert found.down.equal(wanted.down)
        assert found.scaling == pytest.approx(wanted.scaling, rel=1e-12)


def test_peft_applies_the_ranks_and_scalings_that_were_written(base_of, adapt, attach, build, tmp_path: Path) -> None:
    changes = opened(base_of("llama"), adapt("llama", LoraConfig(**LORA, init_lora_weights="orthogonal")))
    name = changes.modules()[0]
    save_adapter(changes, {name: factors(3, -0.25)}, tmp_path)
    layers = dict(attach(build("llama"), tmp_path).get_base_model().named_modules())
    assert (layers[name].r["default"], layers[name].scaling["default"]) == (3, -0.25)
    other = changes.modules()[1]
    assert (layers[other].r["default"], layers[other].scaling["default"]) == (2, 2.0)


def test_factors_are_stored_in_the_type_of_the_file(base_of, adapt, rewrite, tmp_path: Path) -> None:
    folder = adapt("llama", LoraConfig(**LORA))
    rewrite(folder / "adapter_model.safetensors", lambda t: t.update({key: value.half() for key, value in t.items()}))
    changes = opened(base_of("llama"), folder)
    name = changes.modules()[0]
    (tmp_path / "out").mkdir()
    save_adapter(changes, {name: factors(3)}, tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()} == {torch.float16}
    huge = factors(3)
    with pytest.raises(EvaluationError, match="float16"):
        save_adapter(changes, {name: Factors(1e6 * huge.up, huge.down, 1.0)}, tmp_path)


def test_a_pickled_adapter_becomes_safetensors(base_of, adapt, tmp_path: Path) -> None:
    folder = adapt("llama", LoraConfig(**LORA))
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    (tmp_path / "out").mkdir()
    save_rescaled_adapter(opened(base_of("llama"), folder), 0.5, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_model.bin").exists()
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(written[key].equal(tensors[key]) for key in tensors)


def test_rescaling_multiplies_alphas_where_they_stand(base_of, adapt, tmp_path: Path) -> None:
    folder = adapt("llama", LoraConfig(**LORA, alpha_pattern={"v_proj": 3}))
    save_rescaled_adapter(opened(base_of("llama"), folder), 0.5, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["alpha_pattern"]) == (2, {"v_proj": 1.5})


def test_a_model_is_written_in_shards_with_every_other_tensor_as_it_was(
    base_of, disturbed, tmp_path: Path, monkeypatch
) -> None:
    disturbed("llama").to(torch.bfloat16).save_pretrained(tmp_path / "tuned")
    changes = opened(base_of("llama"), tmp_path / "tuned")
    name = changes.modules()[3]
    new = torch.randn(changes.change(name).adapted.shape)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(saving, "_SHARD", 4000)
    save_model(changes, [name], lambda module: new, out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    written = {key: value for file in out.glob("*.safetensors") for key, value in load_file(file).items()}
    before = load_file(tmp_path / "tuned" / "model.safetensors")
    assert written.keys() == before.keys() == index["weight_map"].keys()
    differing = [key for key in before if not written[key].equal(before[key])]
    assert differing == [f"{name}.weight"]
    assert written[differing[0]].equal(new.bfloat16())
    assert {t.dtype for t in written.values()} == {torch.bfloat16}
    AutoModelForCausalLM.from_pretrained(out)


def test_a_pickled_model_with_a_shared_matrix_is_written_once(base_of, disturbed, tmp_path: Path) -> None:
    model = disturbed("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    tuned = tmp_path / "tuned"
    model.config.save_pretrained(tuned)
    torch.save(model.state_dict(), tuned / "pytorch_model.bin")
    changes = opened(tmp_path / "base", tuned)
    out = tmp_path / "out"
    out.mkdir()
    save_model(changes, changes.modules(), lambda module: changes.change(module).adapted, out)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(again[key].equal(value) for key, value in model.state_dict().items())


def test_quantised_models_are_not_written(base_of, copied, reconfigure, adapt, tmp_path: Path, monkeypatch) -> None:
    base = copied(base_of("llama"), "base")
    changes = opened(base, adapt("llama", LoraConfig(**LORA, use_dora=True)))
    monkeypatch.setitem(changes.base.checkpoint.config, "quantization_config", {"load_in_4bit": True})
    with pytest.raises(EvaluationError, match="quantised"):
        save_merged(changes, changes.modules(), lambda module: changes.base.weight(module), tmp_path)


def test_a_merged_model_brings_the_adapters_tokenizer_and_the_bases_other_files(
    base_of, copied, adapt, tmp_path: Path
) -> None:
    base, folder = copied(base_of("llama"), "base"), adapt("llama", LoraConfig(**LORA, use_dora=True))
    (base / "tokenizer.json").write_text('{"of": "base"}')
    (base / "special.txt").write_text("base")
    (base / "README.md").write_text("the base's card")
    (folder / "tokenizer.json").write_text('{"of": "adapter"}')
    (folder / "README.md").write_text("library_name: peft")
    changes = opened(base, folder)
    out = tmp_path / "out"
    out.mkdir()
    save_merged(changes, changes.modules(), lambda module: changes.change(module).adapted, out)
    assert json.loads((out / "tokenizer.json").read_text()) == {"of": "adapter"}
    assert (out / "special.txt").read_text() == "base"
    assert not (out / "README.md").exists()
    assert not (out / "adapter_config.json").exists()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_record_lists_every_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    fill(tmp_path, "1_Pooling/config.json")
    write_record(tmp_path, {"option": "strength"}, "Scaled.")
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["files"] == ["1_Pooling/config.json", "README.md", RECORD, "model.safetensors"]
    assert record["option"] == "strength"
    assert (tmp_path / "README.md").read_text() == "Scaled.\n"
