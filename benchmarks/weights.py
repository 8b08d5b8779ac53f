"""Intruder dimensions side by side with the published algorithm, in one run on the same weights.

    python benchmarks/weights.py speed peers memory >> benchmarks/results/weights.tsv

``speed``: two full ``torch.linalg.svd`` a matrix (arXiv 2410.21228, Algorithm 1) against the certificate with a cold
and with a cached base, and against a cached full SVD of the base; k = 10, ε = 0.5, left side unless the case says
otherwise. ``peers``: a whole adapter through PEFT's ``reduce_intruder_dimension`` and, where it is installed, through
WeightWatcher. ``memory``: the peak of anonymous memory of ``lorascope weights`` on a sharded checkpoint of 4 GB.

The weights are random with 64 stronger directions whose singular values fall as i^-0.7, the update has rank 16. The
decompositions of the published algorithm are timed once (they take up to minutes), everything else is a minimum of
three. ``verdicts`` counts the vectors on which both agree.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import importlib.util
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lorascope.weights.bases import BaseMatrix
from lorascope.weights.deltas import FactoredDelta
from lorascope.weights.intruders import Question, judge_matrix
from lorascope.weights.matrices import Matrix, adapted_matrix

K, EPSILON, RANK = 10, 0.5, 16
_COPIED = 2
SQUARE, LONG = (1024, 2048, 4096, 8192), ((4096, 11008), (11008, 4096))
COLUMNS = ("date", "case", "ours_s", "peer", "peer_s", "ratio", "verdicts", "note", "machine")


def print_row(
    case: str, ours: float | None, peer: str, theirs: float | None, verdicts: str = "", note: str = ""
) -> None:
    """One line of the results, at once: later cases take minutes."""
    ratio = f"{theirs / ours:.1f}" if ours and theirs else ""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    cells = [
        datetime.date.today().isoformat(),
        case,
        _shown(ours),
        peer,
        _shown(theirs),
        ratio,
        verdicts,
        note,
        machine,
    ]
    print("\t".join(cells), flush=True)


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The shortest wall time of a few rounds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def weights(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, FactoredDelta]:
    """A base matrix and a LoRA update with singular values from 12 down to 1."""
    generator = torch.Generator().manual_seed(seed)

    def frame(length: int, count: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(length, count, generator=generator)).Q

    spikes = 20.0 * torch.arange(1, 65).float() ** -0.7
    base = torch.randn(rows, columns, generator=generator) / math.sqrt(max(rows, columns))
    base += (frame(rows, 64) * spikes) @ frame(columns, 64).T
    up = frame(rows, RANK) * torch.linspace(12.0, 1.0, RANK)
    return base.to(device()), FactoredDelta(up.to(device()), frame(columns, RANK).T.contiguous().to(device()), 1.0)


def published(base: torch.Tensor, delta: FactoredDelta) -> list[bool]:
    """Algorithm 1: two full decompositions, the largest of all cosines of each leading left vector."""
    left0 = torch.linalg.svd(base, full_matrices=False)[0]
    left1 = torch.linalg.svd(base + delta.dense(), full_matrices=False)[0]
    return ((left0.T @ left1[:, :K]).abs().max(dim=0).values < EPSILON).tolist()


def speed() -> None:
    """Every shape: cold, cached, both sides, and the cached full SVD; then the growth with the size."""
    cold = {(rows, columns): _one_shape(rows, columns) for rows, columns in [*((n, n) for n in SQUARE), *LONG]}
    first, last = SQUARE[0], SQUARE[-1]
    exponent = math.log(cold[last, last] / cold[first, first]) / math.log(last / first)
    print_row(f"growth exponent {first} to {last}, cold base", None, "", None, note=f"{exponent:.2f}")


def _one_shape(rows: int, columns: int) -> float:
    base, delta = weights(rows, columns)
    adapted = adapted_matrix(base, delta)
    started = time.perf_counter()
    truth = published(base, delta)
    theirs = time.perf_counter() - started
    case = f"{rows}x{columns}"
    cold = _one_question(case, base, adapted, Question(K, (EPSILON,), ("left",), "certificate"), truth, theirs)
    both = Question(K, (EPSILON,), ("left", "right"), "certificate")
    _one_question(f"{case}, both sides", base, adapted, both, truth, theirs)
    _full_base(case, base, adapted, theirs)
    return cold


def _one_question(
    case: str, base: torch.Tensor, adapted: Matrix, question: Question, truth: list[bool], theirs: float
) -> float:
    found = judge_matrix(BaseMatrix(base), adapted, question).report
    agreed = sum(mine == (vector.verdict == "intruder") for mine, vector in zip(truth, found.vectors, strict=True))
    verdicts = f"{agreed}/{len(truth)} ({sum(truth)} intruders)"
    cold = seconds(lambda: judge_matrix(BaseMatrix(base), adapted, question))
    known = BaseMatrix(base)
    judge_matrix(known, adapted, question)
    kept = known.knowledge()
    cached = seconds(lambda: judge_matrix(BaseMatrix(base, kept), adapted, question))
    size = sum(tensor.nbytes for tensor in kept.values()) / 1e6
    print_row(f"{case}, cold base", cold, "two full SVDs", theirs, verdicts)
    print_row(f"{case}, cached base", cached, "two full SVDs", theirs, verdicts, f"cache {size:.1f} MB")
    return cold


def _full_base(case: str, base: torch.Tensor, adapted: Matrix, theirs: float) -> None:
    """The honest peer for many adapters on one base: one full SVD kept, then a product an adapter."""
    question = Question(K, (EPSILON,), ("left",), "base_svd")
    known = BaseMatrix(base)
    first = seconds(lambda: known.exact, rounds=1)
    each = seconds(lambda: judge_matrix(known, adapted, question))
    size = sum(tensor.nbytes for tensor in known.knowledge(exact=True).values()) / 1e6
    note = f"after {first:.1f} s once and {size:.0f} MB of disk"
    print_row(f"{case}, cached full SVD of the base", each, "two full SVDs", theirs, note=note)


def peers(hidden: int = 2048, layers: int = 4) -> None:
    """One adapter on a stack of square layers through other tools, and through lorascope on the same tensors."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    pairs = [weights(hidden, hidden, seed) for seed in range(layers)]
    stack = torch.nn.Sequential(*(torch.nn.Linear(hidden, hidden, bias=False) for _ in pairs))
    model = get_peft_model(stack, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[str(i) for i in range(layers)]))
    tuned = [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "get_base_layer")]
    for layer, (base, delta) in zip(tuned, pairs, strict=True):
        layer.get_base_layer().weight.data = base.cpu().clone()
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = delta.down.cpu(), delta.up.cpu()
    question = Question(K, (EPSILON,), ("left",), "certificate")

    def ours() -> list[int]:
        return [judge_matrix(BaseMatrix(b), adapted_matrix(b, d), question).report.count for b, d in pairs]

    case = f"{layers} layers of {hidden}x{hidden}, LoRA r = {RANK}"
    mine, counts = seconds(ours), ours()
    said: list[str] = []
    theirs = seconds(lambda: reduce_intruder_dimension(model, logging_sink=said.append), rounds=1)
    note = (
        f"ours counts {counts}; PEFT also writes the repaired adapter and says: {said[0][:80] if said else 'nothing'}"
    )
    print_row(case, mine, "peft reduce_intruder_dimension", theirs, note=note)
    if importlib.util.find_spec("weightwatcher") is None:
        print_row(case, mine, "WeightWatcher", None, note="not installed; it has no measure of intruder dimensions")
        return
    import weightwatcher

    merged = model.merge_and_unload()
    with contextlib.redirect_stdout(io.StringIO()):
        watched = seconds(lambda: weightwatcher.WeightWatcher(model=merged).analyze(), rounds=1)
    print_row(case, mine, "WeightWatcher analyze", watched, note="spectra of the adapted layers only: no intruders")


def memory() -> None:
    """``lorascope weights`` in a process of its own, its anonymous memory read every 20 ms."""
    imports = _peak([sys.executable, "-c", "import torch, transformers, peft, safetensors.torch"])[0]
    quick = ["--side", "left", "--no-null"]
    cases = (("LoRA, left side, no null levels", 10, "lora", quick), ("LoRA, defaults", 2, "lora", []),
             ("full fine-tune, defaults", 2, "full", []))  # fmt: skip
    for case, layers, adapted, more in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = write_checkpoint(folder, 4096, 11008, layers)
            peak, took = weights_command(folder, folder / "out", more, device="cpu", adapted=adapted)
            note = f"peak {peak / 1e9:.2f} GB anonymous, {(peak - imports) / 1e9:.2f} GB beyond the imports"
            print_row(f"{size / 1e9:.1f} GB bf16 base, {case}", took, "", None, note=note)


def write_checkpoint(folder: Path, hidden: int, inner: int, layers: int) -> int:
    """A random Llama in bf16, sharded, an r = 16 adapter on every linear layer, and a copy with every weight moved.

    The copy (``full``) is written for small models alone. Returns the base's bytes.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=32, vocab_size=1000
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base", max_shard_size="1GB")
    if layers <= _COPIED:
        moved = copy.deepcopy(model)
        for parameter in moved.parameters():
            parameter.data += 0.02 * parameter.data.abs().mean() * torch.randn_like(parameter.data)
        moved.save_pretrained(folder / "full")
    tuned = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    for key, parameter in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(folder / "lora")
    return sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))


def weights_command(
    folder: Path, out: Path, more: list[str], *, device: str, adapted: str = "lora"
) -> tuple[float, float]:
    """Run ``lorascope weights`` on what :func:`write_checkpoint` wrote; peak anonymous memory in bytes, and seconds."""
    program = str(Path(sys.executable).with_name("lorascope"))
    given = [str(folder / "base"), str(folder / adapted), *more, "--out", str(out), "--device", device, "--quiet"]
    return _peak([program, "weights", *given])


def _peak(command: list[str]) -> tuple[float, float]:
    """Largest anonymous resident memory in bytes of a command, and its seconds; raises where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    largest = 0.0

    def watch() -> None:
        nonlocal largest
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                kilobytes = int(status.read_text().split("RssAnon:")[1].split()[0])
                largest = max(largest, kilobytes * 1024.0)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"exit code {code}: {json.dumps(command)}")
    return largest, time.perf_counter() - started


def main() -> None:
    """The parts that are named, all of them by default."""
    parts = {"speed": speed, "peers": peers, "memory": memory}
    chosen = sys.argv[1:] or list(parts)
    if set(chosen) - set(parts):
        raise SystemExit(f"there is no part {', '.join(set(chosen) - set(parts))}; choose of {', '.join(parts)}")
    print("\t".join(COLUMNS))
    for name in chosen:
        parts[name]()


if __name__ == "__main__":
    main()
