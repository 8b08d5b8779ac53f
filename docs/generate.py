"""Write what is generated in ``docs/``: the JSON Schema, the metric glossary, the command reference.

``python docs/generate.py`` writes; with ``--check`` nothing is written and the exit code is 1 where a file is old.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 100


def schema() -> str:
    """The JSON Schema of ``result.json``, from the models that write it."""
    from lorascope.schema.comparison import Comparison

    return json.dumps(Comparison.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def glossary() -> str:
    """Every metric with unit, scale, direction and default margin, from the table that the code itself uses."""
    from lorascope.measures.registry import MEASURES

    lines = [
        "# Metrics",
        "",
        "Generated from `lorascope/measures/registry.py`. The margin is the default; a suite may set its own.",
        "",
        "| metric | for | unit | scale | better | margin | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in MEASURES.values():
        margin = "" if spec.margin is None else f"{spec.margin:g}"
        kinds = ", ".join(spec.kinds)
        cells = (f"`{spec.name}`", kinds, spec.unit, spec.scale, spec.direction, margin, spec.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The ``--help`` text of every command."""
    import click
    from click.testing import CliRunner

    from lorascope.cli.main import main

    lines = ["# Commands", "", "Generated from the `--help` texts.", ""]
    paths: list[list[str]] = [[]]
    for name, command in sorted(main.commands.items()):
        paths.append([name])
        if isinstance(command, click.Group):
            paths += [[name, inner] for inner in sorted(command.commands)]
    for path in paths:
        shown = CliRunner(env={"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERMINAL_WIDTH": str(WIDTH)}).invoke(
            main, [*path, "--help"], prog_name="lorascope"
        )
        text = "\n".join(line.rstrip() for line in shown.output.strip("\n").split("\n"))
        lines += [f"## lorascope {' '.join(path)}".rstrip(), "", "```text", text, "```", ""]
    return "\n".join(lines)


FILES: dict[str, Callable[[], str]] = {
    "schema/result-v1.json": schema,
    "metrics.md": glossary,
    "commands.md": commands,
}


def main(arguments: list[str]) -> int:
    """Write or check all generated files."""
    old = []
    for name, make in FILES.items():
        path = HERE / name
        text = make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if old and "--check" in arguments:
        print(f"out of date, run 'make docs': {', '.join(old)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
