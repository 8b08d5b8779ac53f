from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lorascope.data.readers import read_rows
from lorascope.errors import DataError

RECORDS = [{"prompt": "a, “b”", "reference": "c\u2028d"}, {"prompt": "法国", "reference": "巴黎\nx"}]


def lines(records: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


def write(folder: Path, name: str) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    elif name.endswith(".csv"):
        cells = [[f'"{value}"' for value in record.values()] for record in RECORDS]
        path.write_text("\n".join(["prompt,reference", *(",".join(row) for row in cells)]), encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(RECORDS), encoding="utf-8")
    else:
        path.write_text(lines(RECORDS) + "\n", encoding="utf-8")
    return name


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    rows = read_rows(write(tmp_path, name), root=tmp_path)
    assert [row.fields for row in rows] == RECORDS
    assert [row.untyped for row in rows] == [name.endswith(".csv")] * 2


def test_absolute_paths_do_not_need_the_root(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    assert len(read_rows(str(tmp_path / "a.jsonl"), root=Path("elsewhere"))) == 2


def test_a_byte_order_mark_and_blank_lines_are_no_records(tmp_path: Path) -> None:
    text = "\ufeff" + lines(RECORDS[:1]) + "\n\n   \r\n" + lines(RECORDS[1:]) + "\r\n\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-8"))
    rows = read_rows("a.jsonl", root=tmp_path)
    assert [row.fields for row in rows] == RECORDS
    assert [row.place.rsplit(", ")[-1] for row in rows] == ["line 1", "line 4"]


def test_places_in_csv_are_the_lines_where_records_begin(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('x,y\n1,"two\nlines"\n3,4\n', encoding="utf-8")
    rows = read_rows("a.csv", root=tmp_path)
    assert [row.place.rsplit(", ")[-1] for row in rows] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("name", "content", "problem", "where"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2,}\n', "broken JSON", "line 3"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "must be a JSON object, not list", "line 2"),
        ("a.jsonl", "\n \n", "no items", "a.jsonl"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xb7\xa8"}\n', "0xb7 is not UTF-8", "line 2"),
        ("a.json", '{"a": 1}', "one dict, not an array", "a.json"),
        ("a.json", '{"a": 1}\n{"a": 2}', "broken JSON", "line 2"),
        ("a.json", "[1]", "must be a JSON object", "element 1"),
        ("a.json", "[]", "no items", "a.json"),
        ("a.csv", "x,y\n1,2\n1,2,3\n", "another number of cells", "line 3"),
        ("a.csv", "x,y\n1\n", "another number of cells", "line 2"),
        ("a.csv", "x,x\n1,2\n", "twice: x", "line 1"),
        ("a.csv", 'x,y\n1,"open\n', "broken CSV", "line"),
        ("a.csv", "x,y\n", "no items", "a.csv"),
        ("a.parquet", b"PAR1 not really", "cannot be read", "a.parquet"),
        ("a.txt", "x", "'.txt' are not read", "a.txt"),
        ("a", "x", "'without extension'", "a"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, problem: str, where: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_rows(name, root=tmp_path)
    assert problem in caught.value.problem
    assert where in (caught.value.where or "")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        read_rows("none.jsonl", root=tmp_path)
    write(tmp_path, "inside.jsonl")
    with pytest.raises(DataError, match="folder") as caught:
        read_rows(".", root=tmp_path)
    assert "inside.jsonl" in (caught.value.remedy or "")


def test_datasets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands for a dataset of the hub; class numbers become the names that the dataset declares."""
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
        }
    )
    made = datasets.Dataset.from_list(
        [{"text": "x", "label": 1, "tags": [0, 1]}, {"text": "y", "label": -1, "tags": []}], features=features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: made)
    rows = read_rows("hf:some/name:config@test[:2]", root=tmp_path)
    assert rows[0].fields == {"text": "x", "label": "good", "tags": ["O", "B"]}
    assert rows[1].fields["label"] is None
    assert rows[1].place == "hf:some/name:config@test[:2], row 2"


def test_a_dataset_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", "train.jsonl")
    rows = read_rows(f"hf:{tmp_path / 'set'}@train", root=tmp_path)
    assert [row.fields for row in rows] == RECORDS
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        read_rows(f"hf:{tmp_path / 'none'}@train", root=tmp_path)
    assert "without a network" in (caught.value.remedy or "")
    with pytest.raises(DataError, match="cannot be loaded"):
        read_rows(f"hf:{tmp_path / 'set'}@nosplit", root=tmp_path)


@pytest.mark.parametrize("source", ["hf:name", "hf:@train", "hf:a:b:c@train"])
def test_dataset_names_are_checked(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match="hf:NAME"):
        read_rows(source, root=tmp_path)


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000], ids=["deep", "long"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_beyond_what_python_reads_is_refused(tmp_path: Path, value: str, name: str) -> None:
    text = f'{{"text": {value}' if name.endswith("l") else f'[{{"text": {value}'
    (tmp_path / name).write_text(text + ("}" if name.endswith("l") else "}]"))
    with pytest.raises(DataError, match="JSON"):
        list(read_rows(name, root=tmp_path))
