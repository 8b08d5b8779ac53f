"""Metrics that a suite names: what is loaded, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorascope.errors import ConfigError
from lorascope.workflows.tasks import Questions, load_tasks


@pytest.mark.parametrize("place", ["foo/foo.py", "me/foo/foo.py"])
def test_code_in_the_current_folder_is_not_taken_for_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    suite, script = tmp_path / "suite" / "suite.yaml", tmp_path / "here" / place
    for path in (suite, script):
        path.parent.mkdir(parents=True)
    (suite.parent / "a.jsonl").write_text('{"prompt": "a", "reference": "b"}\n')
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    name = f"evaluate:{place.rsplit('/', 1)[0]}"
    task = {"name": "t", "kind": "generate", "data": "a.jsonl", "metrics": [name]}
    suite.write_text(json.dumps({"version": 1, "tasks": [task]}))
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="current folder"):
        load_tasks(Questions(suite=suite, probe=()), generation_ready=False)
    assert not (tmp_path / "ran").exists()
