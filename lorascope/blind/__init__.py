"""Blind human comparison: sheets from which no rater can tell the checkpoints, a key kept apart, and the scores."""

from __future__ import annotations

from lorascope.blind.export import ExportedStudy, export_sheets
from lorascope.blind.key import StudyKey, read_key
from lorascope.blind.scoring import StudyScores, score_sheets

__all__ = ["ExportedStudy", "StudyKey", "StudyScores", "export_sheets", "read_key", "score_sheets"]
