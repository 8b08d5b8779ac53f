"""The certificate on a CUDA device: the same verdicts as on the CPU, TF32 or not."""

from __future__ import annotations

import pytest
import torch

from lorascope.weights.bases import BaseMatrix
from lorascope.weights.deltas import FactoredDelta
from lorascope.weights.intruders import Question, judge_matrix
from lorascope.weights.matrices import adapted_matrix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def pair(rows: int, columns: int) -> tuple[torch.Tensor, FactoredDelta]:
    generator = torch.Generator().manual_seed(rows)

    def frame(size: int, count: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(size, count, generator=generator)).Q

    spikes = 20.0 * torch.arange(1, 65).float() ** -0.7
    base = torch.randn(rows, columns, generator=generator) / max(rows, columns) ** 0.5
    base += (frame(rows, 64) * spikes) @ frame(columns, 64).T
    up = frame(rows, 16) * torch.linspace(12.0, 1.0, 16)
    return base, FactoredDelta(up, frame(columns, 16).T.contiguous(), 1.0)


@pytest.mark.parametrize("shape", [(1024, 1024), (1024, 2752), (2752, 1024)])
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_verdicts_on_the_gpu_are_those_of_the_cpu(shape, precision):
    base, delta = pair(*shape)
    truth = judge_matrix(BaseMatrix(base), adapted_matrix(base, delta), Question(engine="svd")).report
    on_gpu = base.cuda()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = judge_matrix(BaseMatrix(on_gpu), adapted_matrix(on_gpu, delta), Question(engine="certificate")).report
    finally:
        torch.set_float32_matmul_precision(before)
    for ours, theirs in ((found, truth), (found.right, truth.right)):
        assert [v.verdict for v in ours.vectors] == [v.verdict for v in theirs.vectors]
    assert torch.get_float32_matmul_precision() == before


def test_what_the_gpu_found_of_a_base_is_kept_for_the_cpu():
    base, delta = pair(1024, 1024)
    first = BaseMatrix(base.cuda())
    judge_matrix(first, adapted_matrix(first.weight, delta), Question(engine="certificate"))
    kept = first.knowledge()
    assert all(tensor.device.type == "cpu" for tensor in kept.values())
    report = judge_matrix(BaseMatrix(base, kept), adapted_matrix(base, delta), Question(engine="certificate")).report
    assert report.undecided == 0
