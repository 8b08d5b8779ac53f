"""``lorascope repair``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from lorascope.cli.options import PROBES, common, file_sets, label_names, opening, running, watcher, writing

# Options that only one of the two ways to repair looks at; given with the other they would be passed over.
_SCANNING = ("suite", "data", "labels", "probe", "strengths", "lambdas", "device", "dtype", "batch_size", "limit",
             "fraction", "seed")  # fmt: skip
_WRITING = ("which", "truncate")


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("numbers with commas between them, like 0.3,0.5,0.9") from error


@click.command()
@click.argument("base")
@click.argument("adapted")
@click.option("--intruders", type=click.FloatRange(0, 1), help="Write it with its intruder dimensions scaled by this.")
@click.option("--strength", type=click.FloatRange(0), help="Write it with the whole ΔW scaled by this; 0 is the base.")
@click.option("--scan", is_flag=True, help="Write nothing; measure what each λ would gain and lose, with controls.")
@click.option(
    "--which",
    type=click.Choice(["top", "all"]),
    default="top",
    show_default=True,
    help="The highest-ranked intruder of each matrix, or every one.",
)
@click.option("--truncate", is_flag=True, help="Bring ranks that grew by the intruders back, and say what is lost.")
@click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="Singular vectors judged a matrix.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Largest cosine of an intruder dimension.",
)
@click.option("--suite", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Scan: tasks, as YAML.")
@click.option("--data", multiple=True, help="Scan: a data file; NAME=FILE for several sets.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Scan: label names in the order of the head's outputs.",
)
@click.option(
    "--probe",
    type=click.Choice(list(PROBES)),
    default="both",
    show_default=True,
    help="Scan: language of the built-in general-knowledge probe, which shows what was forgotten.",
)
@click.option(
    "--strengths", callback=_numbers, help="Scan: strengths of the whole ΔW, with commas. Default: 0 to 1.25."
)
@click.option(
    "--lambdas", callback=_numbers, help="Scan: strengths of the intruders, with commas. Default: 0.1 to 0.9."
)
@running
@opening
@writing
@common
def repair(intruders: float | None, strength: float | None, scan: bool, **options: Any) -> int:
    """Scale the intruder dimensions or the whole ΔW of an ADAPTED checkpoint, and write it anew or measure it first.

    A LoRA stays an adapter; other adapters and full fine-tunes become whole models. What is written is read back and
    checked. Heads, biases, embeddings and norms stay as the adapted checkpoint has them.

    \b
    lorascope repair models/base runs/lora --scan --data val.jsonl
    lorascope repair models/base runs/lora --intruders 0.5 --out runs/lora-repaired
    lorascope repair models/base runs/lora --strength 0.8 --out runs/lora-weaker
    """
    if [intruders is not None, strength is not None, scan].count(True) != 1:
        raise click.UsageError("give exactly one of --scan, --intruders and --strength")
    for name in _WRITING if scan else _SCANNING:
        if get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            wanted = "--intruders or --strength" if scan else "--scan"
            raise click.UsageError(f"--{name.replace('_', '-')} goes with {wanted}")
    options.pop("debug")
    return _scan(options) if scan else _write(intruders, strength, options)


def _write(intruders: float | None, strength: float | None, options: dict[str, Any]) -> int:
    from lorascope.workflows.repair import RepairOptions
    from lorascope.workflows.repair import repair as run
    from lorascope.workflows.repair_record import load_record

    if options["out"] is None:
        raise click.UsageError("--out names the folder to write the repaired checkpoint to")
    quiet, as_json = options["quiet"], options["as_json"]
    kept = ("base", "adapted", "out", "which", "k", "epsilon", "truncate", "overwrite", "allow_pickle")
    settings = RepairOptions(
        intruders=intruders,
        strength=strength,
        command=("lorascope", *sys.argv[1:]),
        **{name: options[name] for name in kept},
    )
    folder = run(settings, watcher(quiet))
    record, text = load_record(folder)
    if as_json:
        sys.stdout.write(text)
    elif not quiet:
        encoding = sys.stdout.encoding or "utf-8"
        click.echo("\n".join(_summary(folder, record)).encode(encoding, "replace").decode(encoding))
    return 0


def _summary(folder: Path, record: dict[str, Any]) -> list[str]:
    from lorascope.schema.repair import strength_text

    totals, strength = record["totals"], strength_text(record["strength"])
    what = f"ΔW of {totals['modules']} modules × {strength}"
    if record["option"] == "intruders":
        found = f"{totals['scaled_intruders']} intruder dimensions in {totals['scaled_modules']} of {totals['modules']}"
        what = f"{found} modules × {strength}"
    lines = [
        f"{what}; ‖ΔW‖ {totals['frobenius_before']:.4g} → {totals['frobenius_after']:.4g}",
        f"Read back: rounding moves ΔW by {totals['largest_rounding_error'] or 0.0:.2g} of its norm at most, by module",
    ]
    if record["option"] == "intruders" and totals["lengthened_modules"]:
        lines.append(
            f"ΔW grew in {totals['lengthened_modules']} of {totals['scaled_modules']} scaled modules: these intruders "
            "are rotations that hold part of the base, and scaling them takes that away as well"
        )
    if record.get("truncated"):
        worst = max(record["modules"], key=lambda row: row["truncation_error"])
        lines.append(
            f"Truncated to the adapter's ranks: {totals['truncation_error']:.2%} of ‖ΔW'‖ lost, at most "
            f"{worst['truncation_error']:.2%} in a module ({worst['module']})"
        )
    return [*lines, f"Written: {folder} ({record['written_as']})"]


def _scan(options: dict[str, Any]) -> int:
    from lorascope.cli.show import show_result
    from lorascope.workflows.repair_scan import LAMBDAS, STRENGTHS, ScanOptions, scan
    from lorascope.workflows.tasks import Questions

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    labels = options.pop("labels")
    questions = Questions(
        data=file_sets(options.pop("data")),
        labels=label_names(labels) if labels else None,
        probe=PROBES[options.pop("probe")],
        **{name: options.pop(name) for name in ("suite", "limit", "fraction", "seed")},
    )
    settings = ScanOptions(
        questions=questions,
        strengths=options.pop("strengths") or STRENGTHS,
        lambdas=options.pop("lambdas") or LAMBDAS,
        command=("lorascope", *sys.argv[1:]),
        **{name: value for name, value in options.items() if name not in _WRITING},
    )
    result = scan(settings, watcher(quiet))
    show_result(result, quiet=quiet, as_json=as_json)
    return 0
