"""``lorascope``: the group of commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import signal
import sys
import tempfile
import traceback

import rich_click as click
from click.exceptions import Abort, ClickException, Exit, NoSuchOption
from rich.console import Console

from lorascope.cli.blind import blind
from lorascope.cli.cache import cache
from lorascope.cli.compare import compare
from lorascope.cli.curves import curves
from lorascope.cli.demo import demo
from lorascope.cli.gate import gate
from lorascope.cli.import_runs import import_runs
from lorascope.cli.repair import repair
from lorascope.cli.report import report
from lorascope.cli.sweep import sweep
from lorascope.cli.train import train
from lorascope.cli.weights import weights
from lorascope.errors import LorascopeError
from lorascope.version import __version__

BUG, INTERRUPTED = 70, 130
_RESUMING = frozenset({"compare", "weights", "demo", "import", "train", "sweep"})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="lorascope")
def main() -> None:
    """What did this fine-tune change?

    lorascope compares a base checkpoint with adapted ones (LoRA or any PEFT adapter, full fine-tune, merged model):
    what was learned, what was forgotten, whether it over-fitted, and what happened inside the weights.

    Exit codes: 0 done · 1 a gate failed · 2 usage or unreadable input · 3 cannot evaluate or invalid comparison ·
    70 a bug in lorascope · 130 interrupted.
    """


for _command in (compare, weights, curves, repair, report, gate, blind, demo, cache, import_runs, train, sweep):
    main.add_command(_command)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    console = Console(stderr=True, emoji=False)
    debug = "--debug" in arguments
    try:
        return int(main.main(args=arguments, prog_name="lorascope", standalone_mode=False) or 0)
    except Exit as request:
        return request.exit_code
    except NoSuchOption as error:
        _told_where(error).show()
        return error.exit_code
    except ClickException as error:
        error.show()
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        console.print(_interrupted(arguments), style="yellow", highlight=False, soft_wrap=True)
        return INTERRUPTED
    except LorascopeError as error:
        _show(error, console, debug)
        return error.exit_code
    except Exception:  # the outermost edge: anything else is our own fault, and is said so
        return _bug(console, debug)


def entry() -> None:
    """The console script. A reader that goes away (``| head``) ends it like any other filter, by SIGPIPE."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:]))


def _interrupted(arguments: list[str]) -> str:
    """What a person who stopped a command may expect of giving it again."""
    command = arguments[0] if arguments else ""
    if command not in _RESUMING and not (command == "repair" and "--scan" in arguments):
        return "Interrupted."
    anew = " without --overwrite" if command == "demo" and "--overwrite" in arguments else ""
    return f"Interrupted. Run the same command again{anew}: it resumes where it stopped."


def _told_where(error: NoSuchOption) -> NoSuchOption:
    """The same error; where other commands have the option, it names them instead of options that look alike."""
    owners = [
        name
        for name, command in main.commands.items()
        if any(error.option_name in (*option.opts, *option.secondary_opts) for option in command.params)
    ]
    if not owners:
        return error
    listed = " and ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
    return NoSuchOption(error.option_name, f"{error.message} It belongs to {listed}.", ctx=error.ctx)


def _show(error: LorascopeError, console: Console, debug: bool) -> None:
    if debug:
        console.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
    console.print("Error: ", style="bold red", end="")
    console.print(_legible(error.problem), markup=False, highlight=False, soft_wrap=True)
    for label, text in (("where", error.where), ("what to do", error.remedy)):
        if text:
            console.print(f"  {label}: ", style="bold", end="")
            console.print(_legible(text), markup=False, highlight=False, soft_wrap=True)


def _legible(text: str) -> str:
    """Names in a message come from files: what would command the terminal is written as an escape."""
    from lorascope.data.logs import printable

    return "\n".join(printable(line) for line in text.split("\n"))


def _bug(console: Console, debug: bool) -> int:
    text = traceback.format_exc()
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lorascope-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"lorascope {__version__}, Python {sys.version}\n{sys.argv!r}\n\n{text}")
        place = f"the traceback is in {file.name}"
    except OSError as error:
        place, debug = f"the traceback could not be written to a file ({error}); it stands above", True
    if debug:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print("Error: this is a bug in lorascope, not in your input.", style="bold red")
    console.print(f"  {place}", markup=False, highlight=False, soft_wrap=True)
    console.print("  please report it with that file", markup=False, highlight=False, soft_wrap=True)
    return BUG
