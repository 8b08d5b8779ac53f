"""Names and evidence as one harmless line: they come from files, and terminals and logs obey some text."""

from __future__ import annotations

import re

from lorascope.data.logs.names import printable


def one_line(text: str) -> str:
    """The text on one line, with control and direction characters as escapes and without workflow commands.

    GitHub reads ``::name::`` at the start of a line of a log as a command, and ``##[name]`` anywhere in it. A table may
    break a line at any place, so both are broken wherever they stand.
    """
    told = printable(re.sub(r"\s+", " ", text))
    return re.sub(r":(?=:)", ": ", told).replace("##[", "## [")
