"""The training benchmark for GPUs, with a small model on the CPU: its rows, its batches, its FLOPs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lorascope.errors import EvaluationError

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu" / "training.py"
SMALL = {
    "vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FILE.parent))
        spec = importlib.util.spec_from_file_location("gpu_training_benchmark", FILE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_each_kind_of_case_gives_a_row(benchmark: ModuleType) -> None:
    work = benchmark.Work(SMALL, length=16, largest_batch=2, steps=2, device="cpu")
    chosen = ("LoRA", "HiddenKey- over LoRA", "full, activation checkpointing")
    cases = tuple(case for case in benchmark.CASES if case.name in chosen)
    assert len(cases) == len(chosen)
    rows = [dict(zip(benchmark.COLUMNS, line.split("\t"), strict=True)) for line in benchmark.measured(work, cases)]
    assert [row["case"] for row in rows] == [benchmark.PEER, *(case.name for case in cases)]
    assert all(float(row["tokens_per_s"]) > 0 and row["batch"] == "2" for row in rows)
    assert {row["peer"] for row in rows if row["ratio"] != "null"} == {benchmark.PEER, "LoRA"}
    assert {row["share_of_peak"] for row in rows} == {"null"}


def test_the_batch_is_halved_until_it_fits(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def ours(case: object, work: object, base: object, batch: int) -> object:
        tried.append(batch)
        if batch > 2:
            raise EvaluationError("memory ran out in training", where="here")
        return benchmark.Speed(batch, 1.0, None)

    monkeypatch.setattr(benchmark, "ours", ours)
    work = benchmark.Work(SMALL, device="cpu")
    assert benchmark.fitted(benchmark.CASES[0], work, Path("base"), 16).batch == 2
    assert tried == [16, 8, 4, 2]


def test_a_ratio_needs_the_same_batch(benchmark: ModuleType) -> None:
    fast, slow, other = (benchmark.Speed(batch, speed, 10**9) for batch, speed in ((4, 30.0), (4, 20.0), (8, 20.0)))
    column = benchmark.COLUMNS.index("ratio")
    assert benchmark.row("a", fast, 0.5, ("b", slow)).split("\t")[column] == "1.500"
    assert benchmark.row("a", fast, 0.5, ("b", other)).split("\t")[column] == "null"
    assert benchmark.row("a", None, None, ("b", other)).split("\t")[column] == "null"


def test_flops_count_what_is_multiplied(benchmark: ModuleType) -> None:
    """Against torch's own counter of a forward pass over one token, which has attention's products too."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([[1]]), use_cache=False)
    full = next(case for case in benchmark.CASES if case.method["name"] == "full")
    forward = benchmark.flops_a_token(full, SMALL) / 3
    assert forward == pytest.approx(counter.get_total_flops(), rel=0.02)
    lora = benchmark.flops_a_token(benchmark.CASES[0], SMALL)
    shapes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert lora - 2 * forward == 6 * 2 * 16 * sum(wide + high for wide, high in shapes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which would be measured")
def test_without_a_gpu_it_says_so(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no CUDA device" in said.err
