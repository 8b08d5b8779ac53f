"""Blind human comparison: sheets from which no rater can tell the checkpoints, a key kept apart, and the scores."""

from __future__ import annotations

from lorascope.blind.key import StudyKey, read_key, write_key
from lorascope.blind.request import StudyRequest
from lorascope.blind.study import Study, make_study

__all__ = ["Study", "StudyKey", "StudyRequest", "make_study", "read_key", "write_key"]
