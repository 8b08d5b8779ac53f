"""Every block of the page on differing numbers runs and prints what the page says."""

from __future__ import annotations

import doctest
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "why-numbers-differ.md"
LIBRARIES = ("nltk", "rouge_score", "sacrebleu", "evaluate", "lm-evaluation-harness", "LLaMA-Factory")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = logging.root.manager.disable
    yield
    logging.disable(before)


def blocks() -> list[tuple[int, str]]:
    """The page's Python blocks with the line that each one begins on."""
    text = PAGE.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start()) + 1, found.group(1))
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_all_blocks_print_what_they_say() -> None:
    names: dict[str, object] = {}
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for line, block in blocks():
        part = doctest.DocTestParser().get_doctest(block, names, PAGE.name, str(PAGE), line)
        runner.run(part, out=said.append, clear_globs=False)
        names = part.globs
    assert not runner.failures, "".join(said)
    assert runner.tries > 50


def test_every_library_has_a_section_with_a_block() -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    titles = {section.splitlines()[0]: section for section in sections[1:]}
    assert sorted(titles) == sorted(LIBRARIES)
    assert all("```python" in section for section in titles.values())
