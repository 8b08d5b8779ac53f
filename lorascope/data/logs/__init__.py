"""Training logs: the loss curves that a training run left behind, in the forms that trainers and loggers write."""

from __future__ import annotations

from lorascope.data.logs.curves import Curve, TrainingLog
from lorascope.data.logs.finding import find_growing_log, find_logs, find_runs
from lorascope.data.logs.names import printable
from lorascope.data.logs.reading import Reader, read_log, read_logs, reader_for, recognise
from lorascope.data.logs.tail import LogTail

__all__ = [
    "Curve",
    "LogTail",
    "Reader",
    "TrainingLog",
    "find_growing_log",
    "find_logs",
    "find_runs",
    "printable",
    "read_log",
    "read_logs",
    "reader_for",
    "recognise",
]
