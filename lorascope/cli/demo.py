"""``lorascope demo``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from lorascope.cli.options import Place, common, watcher


@click.command()
@click.option(
    "--out",
    type=Place(),
    default=Path("reports/demo"),
    show_default=True,
    help="Where models, data and the report go. The same command resumes there.",
)
@click.option("--overwrite", is_flag=True, help="Start anew in that folder.")
@common
def demo(out: Path, overwrite: bool, seed: int, quiet: bool, as_json: bool, debug: bool) -> int:
    """The whole story on a tiny model: train it, fine-tune it twice, compare. Offline, on a CPU, in minutes.

    A small language model learns the English half of the built-in probe; then it is tuned on the manual of an invented
    kiln, once with LoRA and once fully, and both are compared with where they came from.
    """
    from lorascope.cli.show import show_result
    from lorascope.workflows.story import run_demo

    result = run_demo(out, seed=seed, overwrite=overwrite, watch=watcher(quiet))
    show_result(result, quiet=quiet, as_json=as_json)
    return 0
