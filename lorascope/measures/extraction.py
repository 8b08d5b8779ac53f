"""The part of a generated text that is scored."""

from __future__ import annotations

import re
from collections import deque

from lorascope.schema.suite import Extract


def extract_answer(text: str, rule: Extract) -> str | None:
    """What ``rule`` finds in ``text``, without surrounding white space; None where nothing matches.

    The first group of the pattern that took part in the match, or the whole match where the pattern has no groups or
    none of them took part. ``match="last"`` takes the last of the matches that do not overlap. ``^`` and ``$`` stand
    for the ends of the text unless the pattern says ``(?m)``; the dot leaves out line ends unless it says ``(?s)``.
    """
    matches = re.finditer(rule.pattern, text, re.IGNORECASE if rule.ignore_case else 0)
    found = next(matches, None) if rule.match == "first" else next(iter(deque(matches, maxlen=1)), None)
    if found is None:
        return None
    return next((group for group in found.groups() if group is not None), found.group()).strip()
