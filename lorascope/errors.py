"""Every exception that lorascope raises on purpose, in one tree.

    LorascopeError
    ├── InputError                 exit 2: usage, configuration, unreadable input
    │   ├── UsageError               a command line that cannot be carried out
    │   ├── ConfigError              a suite, recipe or policy file that is wrong
    │   ├── DataError                a data file or one of its lines is wrong
    │   ├── CheckpointError          a checkpoint cannot be read
    │   │   ├── AmbiguousCheckpoint    several candidates and no way to choose
    │   │   └── UnsupportedFormat      GGUF, ONNX, pickled or quantised weights we do not read
    │   └── OutputError              the output folder cannot be written, or is another command's
    └── EvaluationError            exit 3: cannot evaluate
        ├── InvalidComparison        base and adapted do not belong together
        └── ServerGone               a server that answered no longer can be reached

A message has three parts: what is wrong with which value, where (file, line, module, tensor, field), and what to do.
Inner code raises the bare fact; the public edge adds the context it alone knows with :meth:`LorascopeError.at`.
"""

from __future__ import annotations

from typing import Self


class LorascopeError(Exception):
    """Root of the tree. ``exit_code`` is what the command line returns for it."""

    exit_code: int = 70

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        """Keep the three parts apart: ``problem`` says what is wrong, ``where`` the place, ``remedy`` what to do."""
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.remedy = remedy

    def at(self, where: str) -> Self:
        """Add an outer place in front of the inner one and return the error, ready to be raised again."""
        self.where = where if self.where is None else f"{where}, {self.where}"
        return self

    def __str__(self) -> str:
        parts = [self.problem]
        if self.where:
            parts.append(f"  where: {self.where}")
        if self.remedy:
            parts.append(f"  what to do: {self.remedy}")
        return "\n".join(parts)


class InputError(LorascopeError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class UsageError(InputError):
    """The command line asks for something that cannot be carried out."""


class ConfigError(InputError):
    """A suite, recipe or policy file is wrong."""


class DataError(InputError):
    """A data file, or one line of it, is wrong."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged or incomplete."""


class AmbiguousCheckpoint(CheckpointError):
    """A folder holds several checkpoints; which one is meant has to be said."""


class UnsupportedFormat(CheckpointError):
    """Weights in a format that is not read: GGUF, ONNX, pickles without leave, quantised without its library."""


class OutputError(InputError):
    """The output cannot be written: read-only, disk full, or a folder that belongs to another command."""


class EvaluationError(LorascopeError):
    """The input is readable, but the evaluation cannot be carried out."""

    exit_code = 3


class InvalidComparison(EvaluationError):
    """Base and adapted checkpoint do not belong together, so nothing measured between them would mean anything."""


class ServerGone(EvaluationError):
    """A server cannot be reached: asking it for the rest is no use, and what was answered is kept."""
