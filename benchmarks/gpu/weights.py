"""All 224 linear matrices of a Llama-2-7B shape with an r = 16 adapter on a GPU, reading from disk included.

    python benchmarks/gpu/weights.py >> benchmarks/results/gpu-weights.tsv

Writes a random base of that shape (13 GB in bf16) and an adapter into a temporary folder, runs ``lorascope weights`` on
them in a process of its own, and prints its wall time; then the table of ``benchmarks/weights.py`` on the GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import weights as table


def seven_billion() -> None:
    """One run over 32 layers of seven matrices, left side, no null levels: what the published algorithm answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = table.write_checkpoint(folder, hidden=4096, inner=11008, layers=32)
        for case, more in (("left side, no null levels", ["--side", "left", "--no-null"]), ("defaults", [])):
            out = folder / case.replace(" ", "-")
            started = time.perf_counter()
            table.weights_command(folder, out, more, device="cuda")
            took = time.perf_counter() - started
            table.print_row(f"224 matrices, {size / 1e9:.1f} GB bf16, {case}", took, "", None, note="with reading")


def main() -> None:
    """The whole model, then matrix by matrix."""
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    print("\t".join(table.COLUMNS))
    seven_billion()
    table.speed()


if __name__ == "__main__":
    main()
