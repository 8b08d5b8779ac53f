"""The files that a gate writes: never over what it reads, all of them attempted, and none left of an earlier run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from lorascope.errors import LorascopeError, OutputError, UsageError
from lorascope.gates.outputs import markdown_error
from lorascope.workflows.output import SAMPLES, naming, write_whole

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_OWN_BEGINNINGS = {
    "json": b'{\n "exit_code":',
    "summary": b"### ",
    "junit": b"<?xml ",
    "openmetrics": b"# HELP lorascope_",
}


@dataclass(frozen=True, slots=True)
class GateFiles:
    """Where the outcome is written besides the terminal; None: not at all."""

    json: Path | None = None
    summary: Path | None = None
    junit: Path | None = None
    openmetrics: Path | None = None

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        """(name of the option without its dashes, path) of those that are asked for."""
        paths = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, path) for name, path in paths if path is not None)


def inputs_of(result: Path, policy: Path | None = None, baseline: Path | None = None) -> dict[str, Path]:
    """The files that a command reads, by what they are."""
    found = {"the result": result, "the result's samples": result.parent / SAMPLES}
    if policy is not None:
        found["the policy"] = policy
    if baseline is not None:
        found |= {"the baseline": baseline, "the baseline's samples": baseline.parent / SAMPLES}
    return found


def refuse_inputs(outputs: Iterable[tuple[str, Path]], inputs: Mapping[str, Path]) -> None:
    """UsageError for an output that is an input, or that is another output; nothing has been written by then."""
    taken = dict(inputs)
    for option, path in outputs:
        what = next((what for what, known in taken.items() if _same(path, known)), None)
        if what is not None:
            problem = f"--{option} would replace {what}"
            raise UsageError(problem, where=str(path), remedy=f"give --{option} a path of its own")
        taken[f"what --{option} writes"] = path


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        if one.samefile(other):
            return True
    return os.path.realpath(one) == os.path.realpath(other)


def forget_earlier(files: GateFiles, inputs: Mapping[str, Path]) -> None:
    """Remove outputs that an earlier gate wrote at these paths: none may stand for a run that ends by an error.

    What does not begin as such an output does, an input, and GitHub's own summary stay.
    """
    for name, path in files:
        ours = path.is_file() and not path.is_symlink() and not _appended_to(name, path)
        if ours and not any(_same(path, known) for known in inputs.values()):
            with suppress(OSError), path.open("rb") as file:
                if file.read(len(_OWN_BEGINNINGS[name])) == _OWN_BEGINNINGS[name]:
                    path.unlink()


@contextmanager
def telling_errors(files: GateFiles) -> Iterator[None]:
    """Say in the summary, in a line, what kept the gate from being judged; the error goes on.

    A file that is there is not replaced, for it may be the very baseline that could not be learned of: only GitHub's
    own summary is, by appending.
    """
    try:
        yield
    except LorascopeError as error:
        path = files.summary
        if path is not None and (_appended_to("summary", path) or not path.exists()):
            with suppress(OutputError):  # the error that is told matters more than that it cannot be told twice
                _write("summary", path, markdown_error(error))
        raise


def write_all(outputs: Iterable[tuple[str, Path, str]], outcome: str) -> None:
    """Write (option, path, text) each, also after one could not be; then raise OutputError that names them all.

    ``outcome`` is what the gates came to, which the error says too: its exit code is not theirs.
    """
    failed: list[tuple[str, Path, OutputError]] = []
    for option, path, text in outputs:
        try:
            _write(option, path, text)
        except OutputError as error:
            failed.append((option, path, error))
    if failed:
        told = "; ".join(f"--{option} {path}: {error.problem}" for option, path, error in failed)
        options = " and ".join(f"--{option}" for option, _, _ in failed)
        raise OutputError(
            f"an outcome cannot be written: {told}. The outcome itself: {outcome}",
            remedy=f"make room there, or give {options} another path",
        ) from failed[0][2]


def write_one(option: str, path: Path, text: str) -> None:
    """Write a single output, with the folder it lies in."""
    try:
        _write(option, path, text)
    except OutputError as error:
        raise OutputError(error.problem, where=str(path), remedy=f"give --{option} another path") from error


def _write(option: str, path: Path, text: str) -> None:
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not _appended_to(option, path):
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8", errors="replace"))
        return
    with naming(path), path.open("a", encoding="utf-8", errors="replace") as file:
        file.write(text)


def _appended_to(option: str, path: Path) -> bool:
    return option == "summary" and os.environ.get(_STEP_SUMMARY) == str(path)
