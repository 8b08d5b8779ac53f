r"""Bounds on the largest cosine between a vector y and the singular vectors x_i of a matrix, from a few products.

**What is bounded.** Let A be square or wide with left singular vectors x_i. The numbers ⟨y, x_i⟩² are the masses that
the spectral measure μ of y under A·Aᵀ puts on the points σ_i². Nothing else about A is needed than products with it.

**Bound.** m steps of Lanczos from y give a tridiagonal matrix whose eigenvalues θ_1 < … < θ_m and squared first
components w_i of its eigenvectors are the nodes and weights of the m-point Gauss rule of μ (Golub & Meurant,
*Matrices, Moments and Quadrature*, 2010, chapter 6). The separation theorem of Chebyshev, Markov and Stieltjes (Szegő,
*Orthogonal Polynomials*, Theorem 3.41.1) states

    Σ_{j<i} w_j  ≤  μ((−∞, θ_i))   and   μ((−∞, θ_i])  ≤  Σ_{j≤i} w_j .

Proof in one line each: a polynomial of degree 2m − 2 that is 1 on θ_1 … θ_i, 0 on the other nodes, and touches there,
lies above the step function that falls at θ_i; the rule integrates it exactly, to Σ_{j≤i} w_j. The mirror image lies
below. Subtracting the first at θ_i from the second at θ_{i+1} bounds what lies between neighbours,

    μ([θ_i, θ_{i+1}])  ≤  w_i + w_{i+1},   μ((−∞, θ_1])  ≤  w_1,   μ([θ_m, ∞))  ≤  w_m .

Every point lies in one of these, so no single mass exceeds max_i (w_i + w_{i+1}): for any spectrum, with nothing to
estimate and nothing to maximise. (The Christoffel function 1/Σ p_j(x)² is tighter at each x, but its maximum over x
needs a proof of its own, and its recurrence is unstable at converged nodes.)

**Deflation.** Known leading vectors u_j of A are judged one by one, and Lanczos starts from what is left of y outside
them. With ‖u_j − x_j‖ ≤ e_j, |⟨y, x_j⟩| lies within e_j of |⟨y, u_j⟩|, and every other x_i meets the part of y along
the u_j by at most Σ_j |⟨y, u_j⟩| e_j. Vectors whose e_j is not small are not deflated.

**Long sides.** For the left vectors of a tall A (the right ones of a wide A), y has a part outside the range of A: one
big mass at zero that no bound on single masses can pass. There A = Q·R, whose left vectors are Q times those of the
square R, so Qᵀy is judged against R. (Judging Aᵀy under AᵀA and dividing by σ is not sound: near σ = 0 it divides the
bound by zero.)

**Floating point.** Lanczos with full reorthogonalisation is exact for a matrix within E, about ε‖A‖², of A·Aᵀ (Paige
1980; Simon 1984), and deflating vectors u_j of residuals r_j perturbs the rest by Σ (σ₁r_j)²/(σ_j² − σ_i²) more. An
eigenvector of A·Aᵀ lies, but for a part of length E/δ, within those of the perturbed matrix at most δ away (Davis &
Kahan 1970). So what is bounded are not points but windows of width 2δ. One between two nodes holds at most
w_i + w_{i+1}. For one around a node, the Lagrange polynomial ℓ_i of that node has ∫ℓ_i² dμ = w_i, so

    μ(window)  ≤  w_i / min ℓ_i²,   ℓ_i(t)  ≥  Π_{j≠i} (1 − 2δ/|θ_i − θ_j|)  on it,

which is hardly more than w_i where nodes stand farther apart than δ; where they do not, the sum of the weights from
the last node at least 2δ below θ_i to the first one 2δ above it holds in any case. δ = 200 E, and E/δ is added to the
cosine.
Without the windows, nodes that resolve a cluster of equal singular values to rounding would split its mass by chance.
What is *not* claimed: inside such a cluster single x_i are arbitrary, an exact decomposition may name either verdict,
and the bound, covering the whole cluster, stays undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorascope.weights.matrices import full_precision

_NEGLIGIBLE = 1e-4
# A leading vector is left out of the iteration where that widens windows by at most a thousandth of what remains.
_TRUSTED = 2e-2
_COUPLED = 5e-6
_FIRST_CHECK = 8
_CHECK_EVERY = 2
_BREAKDOWN = 1e-5
_WINDOW = 200.0
_ROUNDINGS = 2.0


@dataclass(frozen=True)
class Axes:
    """The singular vectors to be judged against, as the left ones of ``core`` (s, t) with s ≤ t.

    ``leading`` (s, p) are the first of them, each within ``errors`` (p,); deflating one perturbs the rest of
    core·coreᵀ by ``coupling`` (p,) in units of ``scale``². ``scale`` is the largest singular value, ``tail`` the p-th
    over it. Without a core only the leading ones are used.
    """

    core: Tensor | None
    leading: Tensor
    errors: Tensor
    coupling: Tensor
    scale: float
    tail: float


@dataclass(frozen=True)
class Enclosure:
    """For each vector: max_i |⟨y, x_i⟩| lies in [``low``, ``high``]; ``steps`` of Lanczos were made for the hardest."""

    low: Tensor
    high: Tensor
    leading_share: Tensor
    steps: int


def enclose(axes: Axes, vectors: Tensor, uncertainty: Tensor, epsilons: Sequence[float]) -> Enclosure:
    """Bound the largest cosine of each column of ``vectors`` (s, k), ‖y‖ ≤ 1, with the axes' singular vectors.

    ``uncertainty`` (k,) is how far each column may be from the vector that is meant; the interval is widened by it.
    Stops as soon as every ε lies outside every interval, or when more steps would not pay: what is left undecided
    needs an exact decomposition. ``leading_share`` is ‖Uᵀy‖², 0–1, over all leading vectors given.

    Raises ``ArithmeticError`` when a cosine exceeds 1 + 1e-4: the leading vectors or y were not of unit length.
    """
    with full_precision():
        along = axes.leading.T @ vectors
        refuse_impossible(along)
        trusted = (axes.errors <= _TRUSTED) & (axes.coupling <= _COUPLED * axes.tail**2)
        known, errors = along[trusted].abs(), axes.errors[trusted][:, None]
        axis = axes.leading[:, trusted]
        rest = vectors - axis @ along[trusted]
        rest = rest - axis @ (axis.T @ rest)
        length = rest.norm(dim=0)
        low = _largest(known - errors) - uncertainty
        ceiling = _largest(known + errors)
        leaked = (known * errors).sum(dim=0) + uncertainty
        high = torch.maximum(ceiling + uncertainty, length + leaked)
        steps = 0
        if axes.core is not None and axes.scale > 0.0:
            coupled = float(axes.coupling[trusted].sum())
            split = _Split(axis, rest, length, low, ceiling + uncertainty, leaked, coupled)
            high, steps = _lanczos(axes.core, axes.scale, split, high, epsilons)
    share = along.square().sum(dim=0).clamp(max=1.0)
    return Enclosure(low.clamp(0.0, 1.0), high.clamp(max=1.0), share, steps)


def refuse_impossible(cosines: Tensor) -> None:
    """Raise ``ArithmeticError`` for cosines above 1 + 1e-4 or not finite: something is not orthonormal."""
    if cosines.numel() and not bool((cosines.abs() <= 1.0 + 1e-4).all()):
        raise ArithmeticError(f"a cosine of {float(cosines.abs().max()):.6f}: the singular vectors are not orthonormal")


def largest_mass(alphas: Tensor, betas: Tensor, radius: Tensor) -> Tensor:
    """Largest mass that any window of half-width ``radius`` (b,) can hold, per row of a batch, 0–1.

    ``alphas`` (b, m) is the diagonal of the tridiagonal matrices, ``betas`` (b, m − 1) the off-diagonal, float64.
    """
    tridiagonal = torch.diag_embed(alphas) + torch.diag_embed(betas, 1) + torch.diag_embed(betas, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    weights = vectors[:, 0, :].square()
    between = weights if weights.shape[1] == 1 else weights[:, :-1] + weights[:, 1:]
    around = torch.minimum(_by_lagrange(nodes, weights, radius), _by_neighbours(nodes, weights, radius))
    return torch.maximum(between.max(dim=1).values, around.max(dim=1).values).clamp(max=1.0)


def _by_lagrange(nodes: Tensor, weights: Tensor, radius: Tensor) -> Tensor:
    """w_i / min ℓ_i² over windows around each node; infinite where another node is too near."""
    distances = (nodes[:, None, :] - nodes[:, :, None]).abs()
    factors = torch.where(distances > 0, 1.0 - 2.0 * radius[:, None, None] / distances, 0.0).clamp(min=0.0)
    factors.diagonal(dim1=1, dim2=2).fill_(1.0)
    smallest = factors.prod(dim=2).square()
    return torch.where(smallest > 0, weights / smallest, math.inf)


def _by_neighbours(nodes: Tensor, weights: Tensor, radius: Tensor) -> Tensor:
    """The weights from the last node 2δ below each node to the first one 2δ above it, both included."""
    reach = nodes[:, None, :] - nodes[:, :, None]
    place = torch.arange(nodes.shape[1])
    above, below = reach >= 2.0 * radius[:, None, None], reach <= -2.0 * radius[:, None, None]
    above, below = above & (place[None, :] > place[:, None]), below & (place[None, :] < place[:, None])
    last = torch.where(above.any(dim=2), above.int().argmax(dim=2), place[-1])
    first = torch.where(below.any(dim=2), place[-1] - below.int().flip(2).argmax(dim=2), place[0])
    held = (place[None, None, :] >= first[:, :, None]) & (place[None, None, :] <= last[:, :, None])
    total: Tensor = (held * weights[:, None, :]).sum(dim=2)
    return total


def _largest(values: Tensor) -> Tensor:
    return values.max(dim=0).values if values.shape[0] else values.new_zeros(values.shape[1])


def undecided(low: Tensor, high: Tensor, epsilons: Sequence[float]) -> Tensor:
    """Which intervals hold one of ``epsilons``: neither low ≥ ε (kept) nor high < ε (intruder)."""
    levels = torch.tensor(list(epsilons), dtype=low.dtype, device=low.device)[:, None]
    return ((low < levels) & (high >= levels)).any(dim=0)


@dataclass(frozen=True)
class _Split:
    """Vectors split into what lies along the trusted ``axis`` (s, q) and the ``rest`` (s, k) of the given ``length``.

    ``ceiling`` bounds the cosines with the trusted axes, ``leaked`` what those and y's uncertainty add to the others,
    ``coupled`` how far leaving the axis out perturbs the rest.
    """

    axis: Tensor
    rest: Tensor
    length: Tensor
    low: Tensor
    ceiling: Tensor
    leaked: Tensor
    coupled: float


def _lanczos(core: Tensor, scale: float, split: _Split, high: Tensor, epsilons: Sequence[float]) -> tuple[Tensor, int]:
    """Tighten ``high`` for the vectors that are undecided; all of them advance in one product."""
    axis, low, length = split.axis, split.low, split.length
    # A vector that lies along the trusted axes, or is itself too uncertain, has nothing that steps could decide.
    useful = (length > _NEGLIGIBLE) & (split.leaked < max(epsilons))
    live = (undecided(low, high, epsilons) & useful).nonzero()[:, 0]
    most = min(256, (core.shape[0] - axis.shape[1]) // 2, max(64, math.ceil(8 / min(epsilons) ** 2)))
    high = high.clone()
    steps = 0
    if live.numel() == 0 or most < 2:
        return high, steps
    basis = (split.rest[:, live] / length[live]).T[:, None]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    for steps in range(1, most + 1):
        alpha, beta, fresh = _step(core, scale, axis, basis)
        alphas.append(alpha)
        ended = beta <= _BREAKDOWN * torch.stack([*alphas, *betas]).abs().max(dim=0).values
        checked = steps == most or (steps >= _FIRST_CHECK and steps % _CHECK_EVERY == 0)
        if checked or bool(ended.any()):
            mass = _mass(alphas, betas, split.coupled).to(high)
            bound = length[live] * (mass.sqrt() + 1.0 / _WINDOW) + split.leaked[live]
            high[live] = torch.minimum(high[live], torch.maximum(split.ceiling[live], bound))
            going = undecided(low[live], high[live], epsilons) & ~ended
            live, basis, fresh, beta = live[going], basis[going], fresh[going], beta[going]
            alphas, betas = [part[going] for part in alphas], [part[going] for part in betas]
        if live.numel() == 0:
            break
        betas.append(beta)
        basis = torch.cat([basis, (fresh / beta[:, None])[:, None]], dim=1)
    return high, steps


def _mass(alphas: Sequence[Tensor], betas: Sequence[Tensor], coupled: float) -> Tensor:
    """The bound for each vector. Rounding is relative to σ₁ = 1 times the largest σ that is left."""
    diagonal = torch.stack(list(alphas), dim=1).double().cpu()
    beside = torch.stack(list(betas), dim=1).double().cpu() if betas else diagonal.new_zeros(len(diagonal), 0)
    unit = torch.finfo(alphas[0].dtype).eps
    rounding = unit * (diagonal.max(dim=1).values.clamp(min=0.0).sqrt() + unit)
    return largest_mass(diagonal, beside, _WINDOW * (_ROUNDINGS * rounding + coupled))


def _step(core: Tensor, scale: float, axis: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step for all vectors: ``basis`` (b, m, s) → α (b,), β (b,) and the next direction (b, s), not normalised.

    In units of ``scale``²: fourth powers of weights would leave the range of float32.
    """
    current = basis[:, -1]
    count = len(current)
    # BLAS takes a third less time for 8, 12 or 16 rows than for the odd numbers between.
    padded = torch.nn.functional.pad(current, (0, 0, 0, max(8, -4 * (-count // 4)) - count if count > 2 else 0))
    image = (((padded @ core / scale) @ core.T) / scale)[:count]
    image = image - (image @ axis) @ axis.T
    alpha = (image * current).sum(dim=1)
    # Against every earlier vector, twice: without it converged nodes come back as copies and split their weight.
    for _ in range(2):
        image = image - torch.bmm(torch.bmm(image[:, None], basis.mT), basis)[:, 0]
    return alpha, image.norm(dim=1), image
