"""Hit and false-alarm rates of the findings on training curves, on synthetic runs whose fault is known.

    python benchmarks/curve_doctor.py [--runs 200] [--write]

A run is drawn from a healthy design (how long, how often logged and evaluated, schedule, epochs, noise with neighbours
alike and, in half of the runs, heavy tails), then one fault is put in. The seed of a run follows from its kind, noise
level and number, so that the table is the same everywhere. ``--write`` puts the tables into ``docs/curves.md``.
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from lorascope.data.logs import Curve, TrainingLog
from lorascope.workflows.curves import read

Array = npt.NDArray[np.float64]
NOISE = {"low": 0.02, "medium": 0.05, "high": 0.12}  # standard deviation of one logged row, as a share of the loss
_EVAL_NOISE = 0.1  # of the rows' noise: a validation set is the same at every evaluation
DOCUMENT = Path(__file__).parent.parent / "docs" / "curves.md"
SEED = 7
BEGIN, END = "<!-- rates: begin -->", "<!-- rates: end -->"


@dataclass
class Run:
    """One synthetic run. ``spent``: share of the learning rate's sum that is used up at each row; losses are trends
    until :func:`log_of` adds the noise. ``metric`` is a task metric, higher better, or None."""

    random: np.random.Generator
    noise: float
    steps: Array
    at: Array  # rows with an evaluation
    rates: Array
    spent: Array
    epochs: Array
    train: Array
    validation: Array  # trend at every row
    metric: Array | None
    plateau: float | None = None
    loudness: Array | None = None  # factor of the noise at each row
    logs_norms: bool = True
    norms: Array = field(default_factory=lambda: np.empty(0))
    calm: bool = False  # no heavy tails

    @property
    def position(self) -> Array:
        """Share of the steps done at each row."""
        return self.steps / self.steps[-1]


def healthy(random: np.random.Generator, noise: float) -> Run:
    """A power law in the learning rate spent, a small gap that grows, a metric that follows validation."""
    rows = int(random.choice([60, 120, 250, 600]))
    steps = np.arange(1, rows + 1) * float(random.choice([1, 10, 50]))
    position = steps / steps[-1]
    warm, schedule = random.uniform(0.03, 0.1), random.choice(["cosine", "linear", "constant"])
    rates = _rates(position, warm, str(schedule))
    spent = np.cumsum(rates) / rates.sum()
    fall, early, power = random.uniform(0.5, 3.0), random.uniform(0.03, 0.15), random.uniform(0.5, 1.0)
    course = (1 + fall * (1 + spent / early) ** -power) * random.uniform(0.1, 2.0)
    epochs = position * int(random.integers(1, 11))
    memory = 1 - random.uniform(0.0, 0.12) * position
    evaluations = min(int(random.choice([5, 20, 100])), rows)
    at = np.unique(np.linspace(rows / evaluations, rows, evaluations).round().astype(int) - 1)
    validation = course * random.uniform(0.95, 1.15)
    metric = 0.9 - 0.5 * (validation - validation.min()) / np.ptp(validation) if random.random() < 0.5 else None
    return Run(
        random, noise, steps, at, rates, spent, epochs, course * memory, validation, metric,
        logs_norms=random.random() < 0.7, norms=np.ones(rows),
    )  # fmt: skip


def _rates(position: Array, warm: float, schedule: str) -> Array:
    after = np.clip((position - warm) / (1 - warm), 0, 1)
    decay = {"cosine": (1 + np.cos(np.pi * after)) / 2, "linear": 1 - after, "constant": np.ones_like(after)}[schedule]
    return np.asarray(2e-4 * np.where(position < warm, position / warm, decay))


def _coloured(run: Run, size: int, scale: float) -> Array:
    """Noise of the given robust deviation; a share is common with the row before; heavy tails in half of the runs."""
    heavy, alike = run.random.random() < 0.5 and not run.calm, float(run.random.choice([0.0, 0.3, 0.6]))
    raw = run.random.standard_t(3, size) / 1.134 if heavy else run.random.normal(size=size)
    return np.asarray(scale * lfilter([np.sqrt(1 - alike**2)], [1, -alike], raw))


def log_of(run: Run) -> TrainingLog:
    """The run as its log: rows with noise; one in seven was resumed and repeats some steps."""
    loud = 1.0 if run.loudness is None else run.loudness
    losses = run.train * np.exp(loud * _coloured(run, len(run.steps), run.noise))
    judged = run.validation[run.at] * np.exp(_coloured(run, len(run.at), _EVAL_NOISE * run.noise))
    norms = run.norms * np.exp(run.random.normal(0, 0.15, len(run.steps)))
    empty = Curve((), ())
    train = _curve(run.steps, losses)
    if run.random.random() < 1 / 7:
        back = int(run.random.integers(5, 20))
        train = Curve(train.steps[:-back] + train.steps[-2 * back :], train.values[:-back] + train.values[-2 * back :])
    metrics = {}
    if run.metric is not None:
        wobble = run.random.normal(0, 0.05 * run.noise, len(run.at))
        metrics = {"eval": {"accuracy": _curve(run.steps[run.at], run.metric[run.at] + wobble)}}
    return TrainingLog(
        source=Path("synthetic"),
        train=train,
        eval={"eval": _curve(run.steps[run.at], judged)},
        grad_norm=_curve(run.steps, norms) if run.logs_norms else empty,
        learning_rate=_curve(run.steps, run.rates),
        epochs=_curve(run.steps, run.epochs),
        metrics=metrics,
    )


def _curve(steps: Array, values: Array) -> Curve:
    known = (float(value) if np.isfinite(value) else None for value in values)
    return Curve(tuple(int(step) for step in steps), tuple(known))


def overfitting(run: Run) -> None:
    """Validation rises by 8 to 60 % after a fifth to three fifths of the way; no metric is logged."""
    start = run.random.uniform(0.2, 0.6)
    beyond = np.clip((run.spent - start) / (1 - start), 0, None)
    lowest = run.validation[int(np.searchsorted(run.spent, start))]
    run.validation = np.where(beyond > 0, lowest, run.validation) * (1 + run.random.uniform(0.08, 0.6) * beyond)
    run.train = run.train * (1 - 0.4 * beyond)
    run.metric = None


def surer(run: Run) -> None:
    """Validation loss rises, and the task metric improves to the end."""
    overfitting(run)
    run.metric = 0.5 + 0.3 * run.spent


def spikes(run: Run) -> None:
    """One to four jumps to 1.8 to 4 times the loss that fade within a few rows."""
    for row in run.random.choice(np.arange(12, len(run.steps) - 8), size=int(run.random.integers(1, 5)), replace=False):
        height, fade = run.random.uniform(1.8, 4.0), run.random.uniform(0.3, 0.7)
        decay = height ** (fade ** np.arange(6))
        run.train[row : row + 6] *= decay[: len(run.train[row : row + 6])]
        run.norms[row] = 6.0


def divergence(run: Run) -> None:
    """The loss of training and validation rises to 1.6 to 5 times and stays."""
    start = run.random.uniform(0.15, 0.85)
    rise = np.clip((run.position - start) / 0.05, 0, 1)
    factor = run.random.uniform(1.6, 5.0)
    level = run.train[int(np.searchsorted(run.position, start))] * factor
    run.train = run.train * (1 - rise) + level * rise
    run.validation = run.validation * (1 - rise) + level * rise
    run.norms = run.norms * (1 + 4 * rise)
    run.metric = None


def broken(run: Run) -> None:
    """The loss is NaN from some step on."""
    start = int(len(run.steps) * run.random.uniform(0.2, 0.95))
    run.train[start:] = np.nan
    run.validation[start:] = np.nan
    run.metric = None


def stairs(run: Run) -> None:
    """The training loss falls by 10 to 40 % at each of two to nine epoch borders, twelve rows an epoch at least."""
    epochs = int(run.random.integers(3, min(11, len(run.steps) // 12 + 1)))
    run.epochs = run.position * epochs
    run.train = run.train * (1 - run.random.uniform(0.1, 0.4)) ** np.floor(run.epochs - 1e-9)


def base_rate(run: Run) -> None:
    """A label head leaves its start and stands on the entropy of the label frequencies, which is given."""
    run.plateau = run.random.uniform(0.1, 0.5)
    early = run.random.uniform(0.005, 0.03)
    run.train = run.plateau + (0.69 - run.plateau) * np.exp(-run.position / early)
    run.validation, run.metric = run.train * 1.01, None


def standstill(run: Run) -> None:
    """The loss falls by 20 to 60 % within a few per cent of the run, and then not at all."""
    early, low = run.random.uniform(0.005, 0.03), run.random.uniform(0.4, 0.8)
    run.train = low + (1 - low) * np.exp(-run.position / early)
    run.validation, run.metric = run.train * 1.02, None


def high_rate(run: Run) -> None:
    """A high level with more noise while the rate is near its peak; 20 to 70 % lower as the rate decays."""
    run.rates = _rates(run.position, run.random.uniform(0.03, 0.1), str(run.random.choice(["cosine", "linear"])))
    share = run.rates / run.rates.max()
    drop = run.random.uniform(0.2, 0.7)
    start = 1 + 0.5 * np.exp(-run.position / 0.03)
    run.train = start * (1 - drop * (1 - np.clip(share / 0.6, 0, 1) ** 1.5) * (run.position > 0.3))
    run.loudness = 1 + share
    run.validation, run.metric = run.train * 1.05, None


def short_warm_up(run: Run) -> None:
    """A hump of 30 to 150 % as the rate arrives at its peak, over three to eight per cent of the run."""
    warm = run.random.uniform(0.02, 0.08)
    run.rates = _rates(run.position, warm, str(run.random.choice(["cosine", "linear", "constant"])))
    width = max(run.random.uniform(0.03, 0.08), 3 / len(run.steps))
    beyond = np.clip(run.position - warm, 0, None) / width
    hump = 1 + run.random.uniform(0.3, 1.5) * beyond * np.exp(1 - beyond)
    arrived = int(np.searchsorted(run.position, warm))
    rises = (beyond > 0) & (hump > 1.02)
    run.train = np.where(rises, np.maximum(run.train, run.train[arrived] * hump), run.train)
    run.validation = np.where(rises, np.maximum(run.validation, run.validation[arrived] * hump), run.validation)
    run.norms = run.norms * (1 + 3 * beyond * np.exp(1 - beyond))


def no_fall(run: Run) -> None:
    """Training learns, validation stays where it was."""
    run.validation, run.metric = np.full_like(run.train, float(run.train[0])), None


def fluctuation(run: Run) -> None:
    """Noise between rows of 0.5 to 0.9 (logarithmic) over a fall of 20 to 40 %, in at most 120 rows."""
    fall = run.random.uniform(0.2, 0.4)
    run.train = 1 - fall * run.spent**0.5
    run.validation, run.calm = run.train * 1.1, True
    run.loudness = np.full(
        len(run.steps), run.random.uniform(0.5, 0.9) / run.noise * np.sqrt(max(1, len(run.steps) / 100))
    )


def low_rate(run: Run) -> None:
    """A straight fall of 25 to 60 % per unit of learning rate, still going on at the end."""
    run.train = 1 - run.random.uniform(0.25, 0.6) * run.spent
    run.validation, run.metric = run.train * 1.02, None


def gap(run: Run) -> None:
    """The training loss falls to less than half of a validation loss that does not rise."""
    run.train = run.train * (1 - run.random.uniform(0.5, 0.8) * run.spent)


@dataclass(frozen=True)
class Kind:
    """A fault, the finding that is its own, and warnings that may go with it."""

    fault: Callable[[Run], None] | None
    own: str
    companions: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset({"critical", "warning"})


_TOLD = frozenset({"info", "warning"})
KINDS: dict[str, Kind] = {
    "healthy": Kind(None, "checkpoint", severities=frozenset({"info", "good"})),
    "over-fitting": Kind(overfitting, "overfit"),
    "over-fitting, metric improves": Kind(surer, "overfit", severities=frozenset({"info"})),
    "spikes": Kind(spikes, "spikes", severities=_TOLD),
    "divergence": Kind(divergence, "divergence"),
    "NaN": Kind(broken, "divergence"),
    "staircase": Kind(stairs, "staircase", severities=frozenset({"info"})),
    "base-rate plateau": Kind(base_rate, "base_rate", frozenset({"no_fall"})),
    "standstill": Kind(standstill, "standstill", frozenset({"no_fall"})),
    "learning rate too high": Kind(high_rate, "learning_rate_high"),
    "warm-up too short": Kind(short_warm_up, "warm_up"),
    "validation does not fall": Kind(no_fall, "no_fall"),
    "fluctuation": Kind(fluctuation, "fluctuation"),
    "learning rate too low": Kind(low_rate, "learning_rate_low"),
    "gap": Kind(gap, "gap", severities=frozenset({"info"})),
}


@dataclass
class Rates:
    """Counts over runs of one kind and noise level: hits, runs with another warning, findings by name."""

    runs: int = 0
    hits: int = 0
    crossed: int = 0
    warnings: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def measure(name: str, noise: str, runs: int, seed: int = SEED) -> Rates:
    """Read ``runs`` runs of a kind at a noise level."""
    kind, rates = KINDS[name], Rates()
    for number in range(runs):
        random = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(noise.encode()), number, seed])
        run = healthy(random, NOISE[noise])
        if kind.fault is not None:
            kind.fault(run)
        found = {
            (finding.id.split(":")[0], finding.severity)
            for finding in read("run", "run", log_of(run), plateau_loss=run.plateau).findings
        }
        loud = {label for label, severity in found if severity in ("critical", "warning")}
        rates.runs += 1
        rates.hits += any(label == kind.own and severity in kind.severities for label, severity in found)
        rates.crossed += bool(loud - {kind.own} - kind.companions)
        rates.warnings.update(loud)
        rates.others.update({label for label, _ in found} - loud)
    return rates


def tables(measured: Mapping[tuple[str, str], Rates]) -> str:
    """Both tables as Markdown."""
    lines = ["| kind of curve | its finding | " + " | ".join(f"hits, {noise}" for noise in NOISE) + " | "]
    lines[0] += " | ".join(f"other warnings, {noise}" for noise in NOISE) + " |"
    lines.append("|---|---|" + "---|" * (2 * len(NOISE)))
    for name, kind in KINDS.items():
        cells = [measured[name, noise] for noise in NOISE]
        hits = ["–"] * len(cells) if kind.fault is None else [_percent(rates.hits, rates.runs) for rates in cells]
        crossed = [_percent(rates.crossed, rates.runs) for rates in cells]
        own = "none" if kind.fault is None else f"`{kind.own}`"
        lines.append("| " + " | ".join([name, own, *hits, *crossed]) + " |")
    lines += ["", "On healthy runs, by finding (as warning / as information):", ""]
    lines += ["| finding | " + " | ".join(NOISE) + " |", "|---|" + "---|" * len(NOISE)]
    plain = [measured["healthy", noise] for noise in NOISE]
    for label in sorted({kind.own for kind in KINDS.values()} | {"plateau", "still_falling"}):
        cells_of = [f"{_percent(r.warnings[label], r.runs)} / {_percent(r.others[label], r.runs)}" for r in plain]
        lines.append(f"| `{label}` | " + " | ".join(cells_of) + " |")
    return "\n".join(lines)


def _percent(count: int, runs: int) -> str:
    return f"{100 * count / runs:.1f} %"


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    measured = {}
    for name in arguments.only:
        for noise in NOISE:
            rates = measured[name, noise] = measure(name, noise, arguments.runs, arguments.seed)
            said = f"{dict(rates.warnings)} {dict(rates.others)}"
            print(
                f"{name:30} {noise:7} hits {rates.hits / rates.runs:.3f} others {rates.crossed / rates.runs:.3f} {said}"
            )
    if set(arguments.only) == set(KINDS):
        text = f"{arguments.runs} runs in each cell.\n\n{tables(measured)}"
        print(text)
        if arguments.write:
            before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
            after = rest.split(END)[1]
            DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
