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

**Floating point.** Lanczos with full reorthogonalisation is exact for a matrix within E, a few ε‖A‖², of A·Aᵀ (Paige
1980; Simon 1984). That moves mass only between nearly equal singular values: of the mass at a point, all but (E/δ)²
stays within δ of it (Davis & Kahan 1970). So the bound is taken not over points but over windows of width 2δ,

    μ([t − δ, t + δ])  ≤  Σ_{j=i..l} w_j ,   θ_i the last node at or below t − δ, θ_l the first at or above t + δ,

which is w_i + w_{i+1} again where the nodes stand farther apart than 2δ. With δ = 100 E the remainder is 1e-4, added as
``_SLACK``. Without the windows, nodes that resolve a cluster of equal singular values to rounding would split its mass
by chance. What is *not* claimed: inside such a cluster single x_i are arbitrary, an exact decomposition may name either
verdict, and the bound, covering the whole cluster, stays undecided. The residuals of the deflated u_j turn the x_i
towards the u_j, to which what is left of y is orthogonal: they enter the masses only in second order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorascope.weights.matrices import full_precision

_SLACK = 1e-4
_TRUSTED = 2e-2
_FIRST_CHECK = 8
_CHECK_EVERY = 4
_BREAKDOWN = 1e-5
_WINDOW = 100.0


@dataclass(frozen=True)
class Axes:
    """The singular vectors to be judged against, as the left ones of ``core`` (s, t) with s ≤ t.

    ``leading`` (s, p) are the first of them, each within ``errors`` (p,). Without a core only these are used. ``scale``
    is the largest singular value, which rounding is relative to.
    """

    core: Tensor | None
    leading: Tensor
    errors: Tensor
    scale: float


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
        trusted = axes.errors <= _TRUSTED
        known, errors = along[trusted].abs(), axes.errors[trusted][:, None]
        axis = axes.leading[:, trusted]
        rest = vectors - axis @ along[trusted]
        rest = rest - axis @ (axis.T @ rest)
        length = rest.norm(dim=0)
        low = _largest(known - errors) - uncertainty
        ceiling = _largest(known + errors)
        leaked = (known * errors).sum(dim=0) + uncertainty
        high = torch.maximum(ceiling + uncertainty, length + leaked)
        state = _Split(axis, rest, length, low, ceiling + uncertainty, leaked)
        steps = 0
        if axes.core is not None:
            high, steps = _lanczos(axes.core, axes.scale, state, high, epsilons)
    share = along.square().sum(dim=0).clamp(max=1.0)
    return Enclosure(low.clamp(0.0, 1.0), high.clamp(max=1.0), share, steps)


def refuse_impossible(cosines: Tensor) -> None:
    """Raise ``ArithmeticError`` for cosines above 1 + 1e-4 or not finite: something is not orthonormal."""
    if cosines.numel() and not bool((cosines.abs() <= 1.0 + 1e-4).all()):
        raise ArithmeticError(f"a cosine of {float(cosines.abs().max()):.6f}: the singular vectors are not orthonormal")


def largest_mass(alphas: Tensor, betas: Tensor, width: Tensor) -> Tensor:
    """Largest mass that any window of ``width`` (b,) can hold, per row of a batch: sums over the nodes around it.

    ``alphas`` (b, m) is the diagonal of the tridiagonal matrices, ``betas`` (b, m − 1) the off-diagonal, float64.
    """
    tridiagonal = torch.diag_embed(alphas) + torch.diag_embed(betas, 1) + torch.diag_embed(betas, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    reached = vectors[:, 0, :].square().cumsum(dim=1)
    last = torch.arange(nodes.shape[1])
    beyond = (nodes[:, None, :] - nodes[:, :, None] >= width[:, None, None]) & (last[None, :] > last[:, None])
    closing = torch.where(beyond.any(dim=2), beyond.int().argmax(dim=2), last[-1])
    before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
    held: Tensor = (reached.gather(1, closing) - before).max(dim=1).values
    return held


def _largest(values: Tensor) -> Tensor:
    return values.max(dim=0).values if values.shape[0] else values.new_zeros(values.shape[1])


def undecided(low: Tensor, high: Tensor, epsilons: Sequence[float]) -> Tensor:
    """Which intervals hold one of ``epsilons``: neither low ≥ ε (kept) nor high < ε (intruder)."""
    levels = torch.tensor(list(epsilons), dtype=low.dtype, device=low.device)[:, None]
    return ((low < levels) & (high >= levels)).any(dim=0)


@dataclass(frozen=True)
class _Split:
    """Vectors split into what lies along the trusted ``axis`` (s, q) and the ``rest`` (s, k) of the given ``length``.

    ``ceiling`` bounds the cosines with the trusted axes, ``leaked`` what those and y's uncertainty add to the others.
    """

    axis: Tensor
    rest: Tensor
    length: Tensor
    low: Tensor
    ceiling: Tensor
    leaked: Tensor


def _lanczos(core: Tensor, scale: float, split: _Split, high: Tensor, epsilons: Sequence[float]) -> tuple[Tensor, int]:
    """Tighten ``high`` for the vectors that are undecided; all of them advance in one product."""
    axis, low, length = split.axis, split.low, split.length
    # A vector that lies along the trusted axes, or is itself too uncertain, has nothing that steps could decide.
    useful = (length > _SLACK) & (split.leaked < max(epsilons))
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
        alpha, beta, fresh = _step(core, axis, basis)
        alphas.append(alpha)
        ended = beta <= _BREAKDOWN * torch.stack([*alphas, *betas]).abs().max(dim=0).values
        checked = steps == most or (steps >= _FIRST_CHECK and steps % _CHECK_EVERY == 0)
        if checked or bool(ended.any()):
            mass = _mass(alphas, betas, scale).to(high)
            bound = length[live] * (mass + _SLACK).clamp(max=1.0).sqrt() + split.leaked[live]
            high[live] = torch.minimum(high[live], torch.maximum(split.ceiling[live], bound))
            going = undecided(low[live], high[live], epsilons) & ~ended
            live, basis, fresh, beta = live[going], basis[going], fresh[going], beta[going]
            alphas, betas = [part[going] for part in alphas], [part[going] for part in betas]
        if live.numel() == 0:
            break
        betas.append(beta)
        basis = torch.cat([basis, (fresh / beta[:, None])[:, None]], dim=1)
    return high, steps


def _mass(alphas: Sequence[Tensor], betas: Sequence[Tensor], scale: float) -> Tensor:
    """The bound for each vector; rounding E is ``scale``·ε·√(largest node), σ₁ times the largest σ that is left."""
    diagonal = torch.stack(list(alphas), dim=1).double().cpu()
    beside = torch.stack(list(betas), dim=1).double().cpu() if betas else diagonal.new_zeros(len(diagonal), 0)
    rounding = torch.finfo(alphas[0].dtype).eps * scale * diagonal.max(dim=1).values.clamp(min=0.0).sqrt()
    return largest_mass(diagonal, beside, 2.0 * _WINDOW * 4.0 * rounding)


def _step(core: Tensor, axis: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step for all vectors: ``basis`` (b, m, s) → α (b,), β (b,) and the next direction (b, s), not normalised."""
    current = basis[:, -1]
    image = (current @ core) @ core.T
    image = image - (image @ axis) @ axis.T
    alpha = (image * current).sum(dim=1)
    # Against every earlier vector, twice: without it converged nodes come back as copies and split their weight.
    for _ in range(2):
        image = image - torch.bmm(torch.bmm(image[:, None], basis.mT), basis)[:, 0]
    return alpha, image.norm(dim=1), image
