"""Whatever stands in the place of a value, a reader says what is wrong or reads on; it never fails as a program."""

from __future__ import annotations

import copy
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lorascope.data.imported import lighteval as lighteval_reader
from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.inspect_log import read_inspect
from lorascope.data.imported.lighteval import read_lighteval
from lorascope.data.imported.lm_eval import read_lm_eval
from lorascope.data.readers import Row
from lorascope.errors import LorascopeError

FIXTURES = Path(__file__).parent / "fixtures" / "imported"
STRANGE: list[Any] = [None, 7, -1.5, "odd", [], {}, [None], [[]], {"a": None}, True, ""]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(document: Any, rng: random.Random) -> Any:
    """A copy with one value replaced or one key removed."""
    found = copy.deepcopy(document)
    *way, last = rng.choice(list(places(found)))
    holder = found
    for key in way:
        holder = holder[key]
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[last]
    else:
        holder[last] = rng.choice(STRANGE)
    return found


def survives(read: Callable[[], object]) -> bool:
    try:
        read()
    except LorascopeError:
        return False
    return True


@pytest.mark.parametrize("task", ["tiny_choice", "tiny_generate", "tiny_rolling"])
def test_samples_of_lm_eval(tmp_path: Path, task: str) -> None:
    rng = random.Random(task)
    [samples] = (FIXTURES / "lm-eval" / "base").glob(f"samples_{task}_*")
    [results] = (FIXTURES / "lm-eval" / "base").glob("results_*")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()[:2]]
    header = json.loads(results.read_text("utf-8"))
    outcomes = []
    for turn in range(120):
        document = damaged([*rows, header], rng) if turn % 2 else [*damaged(rows, rng), header]
        (tmp_path / results.name).write_text(json.dumps(document[-1]))
        (tmp_path / samples.name).write_text("".join(json.dumps(row) + "\n" for row in document[:-1]))
        outcomes.append(survives(lambda: read_lm_eval(tmp_path)))
    assert set(outcomes) == {True, False}


def test_logs_of_inspect(tmp_path: Path) -> None:
    rng = random.Random(0)
    archive = EvalArchive(FIXTURES / "inspect" / "base" / "facts.eval")
    documents = {name: archive.document(name) for name in ["header.json", *list(archive.names("samples/"))[:2]]}
    archive.close()
    for name in documents:
        documents[name].pop("events", None)
    outcomes = []
    path = tmp_path / "t.eval"
    for _ in range(250):
        with zipfile.ZipFile(path, "w") as target:
            for name, document in damaged(documents, rng).items():
                target.writestr(name, json.dumps(document))
        outcomes.append(survives(lambda: read_inspect(path)))
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("task", ["tiny_choice", "tiny_generate"])
def test_details_of_lighteval(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet columns have types, so that odd values are put behind the reader of the file."""
    rng = random.Random(task)
    [details] = (FIXTURES / "lighteval" / "base").glob(f"details_{task}*")
    [results] = (FIXTURES / "lighteval" / "base").glob("results_*")
    rows = pyarrow.parquet.read_table(details).to_pylist()[:2]
    header = json.loads(results.read_text("utf-8"))
    (tmp_path / details.name).write_bytes(details.read_bytes())
    outcomes = []
    for turn in range(150):
        document = damaged([*rows, header], rng) if turn % 2 else [*damaged(rows, rng), header]
        (tmp_path / results.name).write_text(json.dumps(document[-1]))
        given = [Row(row, f"{details.name}, row 1") for row in document[:-1] if isinstance(row, dict)]
        monkeypatch.setattr(lighteval_reader, "records", lambda *_, given=given, **__: given or [Row({}, "row 1")])
        outcomes.append(survives(lambda: read_lighteval(tmp_path)))
    assert set(outcomes) == {True, False}
