from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lorascope.errors import OutputError
from lorascope.workflows.output import OutputFolder, prove_writable, write_whole


def test_the_same_command_resumes_and_another_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert not OutputFolder.claim(out, {"seed": 1}).resumed
    assert OutputFolder.claim(out, {"seed": 1}).resumed
    with pytest.raises(OutputError, match="another command") as caught:
        OutputFolder.claim(out, {"seed": 2})
    assert "different: seed" in str(caught.value)


def test_overwrite_removes_our_files_and_no_others(tmp_path: Path) -> None:
    folder = OutputFolder.claim(tmp_path, {"seed": 1})
    folder.write_text("result.json", "{}")
    (tmp_path / "notes.txt").write_text("mine")
    again = OutputFolder.claim(tmp_path, {"seed": 2}, overwrite=True)
    assert not again.resumed
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_claim_is_not_resumed(tmp_path: Path) -> None:
    OutputFolder.claim(tmp_path, {"seed": 1})
    (tmp_path / "run.json").write_text("{half")
    with pytest.raises(OutputError, match="claim is damaged"):
        OutputFolder.claim(tmp_path, {"seed": 1})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def half(part: Path) -> None:
        part.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="disk is full") as caught:
        write_whole(target, half)
    assert "resumes" in str(caught.value)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_error_of_another_kind_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def broken(part: Path) -> None:
        part.write_text("ha")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write_whole(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_may_not_be_written_to(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OutputError) as caught:
        OutputFolder.claim(tmp_path / "x", {})
    assert "--out" in str(caught.value)
    assert "free some space" not in str(caught.value)


def test_a_place_is_proved_and_left_as_it_was(tmp_path: Path) -> None:
    prove_writable(tmp_path / "a" / "b")
    prove_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "said"), [("file", "this path is a file"), ("file/below", "a part of this path")])
def test_a_file_is_no_place(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=said):
        prove_writable(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_immutable_folder_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(OutputError, match="may not be written to"):
        prove_writable(tmp_path / "x")
