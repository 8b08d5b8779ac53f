"""``lorascope report``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import rich_click as click

from lorascope.cli.options import Place


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Language of the page.")
@click.option("--out", type=Place(), help="The page to write. Default: report.html beside RESULT.")
@click.option("--quiet", is_flag=True, help="No table; errors are still shown.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def report(result: Path, lang: Literal["en", "zh"], out: Path | None, quiet: bool, debug: bool) -> int:
    """Render the report of a RESULT.json again, without any model.

    \b
    lorascope report reports/lora-vs-base/result.json --lang zh --out report-zh.html
    """
    from lorascope.cli.show import show_result
    from lorascope.workflows.publish import render

    page = render(result, language=lang, out=out)
    show_result(result, quiet=quiet)
    if out is not None and not quiet:
        click.echo(f"Written: {page}")
    return 0
