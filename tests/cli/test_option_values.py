"""Values of options that are refused before any work."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from lorascope.cli.main import run
from lorascope.cli.options import label_names


@pytest.mark.parametrize("seed", ["-1", "1.5", str(2**32)])
def test_seeds_that_no_generator_takes(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "base", "lora", "--seed", seed]) == 2
    assert "--seed" in capsys.readouterr().err


def test_a_span_of_time_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", "--older-than", "9" * 400 + "w", "--cache-dir", str(tmp_path)]) == 2
    assert "--older-than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a", 3, "b"]', "entry 2"), ('["a", null]', "entry 2"), ('["a", "b", ""]', "entry 3"),
        ("a\n\nb\n", "entry 2"), ("\na\n", "entry 1"), ("", "entry 1"), ("[]", "at least one"),
        ('["a", "a "]', "once"), ("[a]", "neither"), ("[" * 100_000, "neither"),
    ],
)  # fmt: skip
def test_an_entry_that_names_no_label_moves_no_other(tmp_path: Path, text: str, said: str) -> None:
    """The places of labels are the outputs of a head."""
    path = tmp_path / "labels"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(click.UsageError, match=said):
        label_names(path)


def test_labels_as_list_and_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    for text in ('["a", " b"]\n', "a\r\nb\r\n\r\n", "\ufeffa\nb"):
        path.write_text(text, encoding="utf-8")
        assert label_names(path) == ("a", "b")
