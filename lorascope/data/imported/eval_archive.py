"""Members of an ``.eval`` archive, read with limits: the file comes from elsewhere and may be damaged or made to harm.

inspect compresses with Zstandard, which the zip module of Python before 3.14 does not know; pyarrow does.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lorascope.data.imported.places import parse_object
from lorascope.errors import DataError

MEMBER_LIMIT = 256 * 2**20
"""Bytes that one member may have when unpacked."""
TOTAL_LIMIT = 4 * 2**30
RATIO_LIMIT = 500
"""How many times its packed size a member above 1 MiB may have; texts of logs stay below 100."""
MEMBERS_LIMIT = 1_000_000
_ZSTANDARD = 93
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTANDARD}
"""What Inspect writes and wrote; the others that zip knows fail on damage in ways of their own."""
_LOCAL_HEADER = 30


class EvalArchive:
    """An open archive. Nothing is written to disk, and no member is trusted to have the size that it says."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; DataError where it is no archive or is cut off."""
        self.path = path
        self._unpacked = 0
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise DataError(f"the log cannot be read: {error.strerror}", where=str(path)) from error
        try:
            self._archive = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            self._file.close()
            problem = f"the log is no whole .eval archive: {error}"
            raise DataError(
                problem, where=str(path), remedy="the run may have been interrupted; copy or run it again"
            ) from error
        self._members = {info.filename: info for info in self._archive.infolist()}
        if len(self._members) > MEMBERS_LIMIT:
            self.close()
            raise self._harmful(f"holds {len(self._members):,} members")

    def close(self) -> None:
        """Let the file go."""
        self._archive.close()
        self._file.close()

    def names(self, prefix: str) -> Iterator[str]:
        """Names of the members below ``prefix``, in the archive's order."""
        return (name for name in self._members if name.startswith(prefix) and name.endswith(".json"))

    def document(self, name: str) -> dict[str, Any]:
        """One member, parsed; DataError where it is missing, damaged, too large, or no JSON object."""
        if name not in self._members:
            remedy = "give a log of a run that came to its end"
            raise DataError(f"the archive has no {name}", where=str(self.path), remedy=remedy)
        try:
            text = self._read(self._members[name]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(name, error) from error
        return parse_object(text, f"{self.path}, {name}")

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        self._check(info)
        try:
            content = self._zstandard(info) if info.compress_type == _ZSTANDARD else self._plain(info)
        except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise self._damaged(info.filename, error) from error
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise self._damaged(info.filename, "its size or checksum is another than the archive says")
        self._unpacked += len(content)
        return content

    def _check(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 1:
            raise DataError("the archive is encrypted", where=str(self.path), remedy="unlock it first")
        if info.compress_type not in _METHODS:
            raise self._damaged(
                info.filename, f"it is compressed by method {info.compress_type}, which is not Inspect's"
            )
        if not 0 <= info.header_offset <= info.header_offset + info.compress_size <= self.path.stat().st_size:
            raise self._damaged(info.filename, "it is said to be larger than the whole archive")
        large = info.file_size > 2**20 and info.file_size > RATIO_LIMIT * max(info.compress_size, 1)
        if info.file_size > MEMBER_LIMIT or large:
            raise self._harmful(f"unpacks {info.filename} from {info.compress_size:,} to {info.file_size:,} bytes")
        if self._unpacked + info.file_size > TOTAL_LIMIT:
            raise self._harmful(f"unpacks to more than {TOTAL_LIMIT:,} bytes")

    def _plain(self, info: zipfile.ZipInfo) -> bytes:
        with self._archive.open(info) as member:
            return member.read(info.file_size + 1)

    def _zstandard(self, info: zipfile.ZipInfo) -> bytes:
        import pyarrow

        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        self._file.seek(info.header_offset + _LOCAL_HEADER + name + extra)
        packed = pyarrow.BufferReader(self._file.read(info.compress_size))
        with pyarrow.CompressedInputStream(packed, "zstd") as stream:
            content: bytes = stream.read(info.file_size + 1)
        return content

    def _damaged(self, name: str, reason: object) -> DataError:
        return DataError(f"the log is damaged: {reason}", where=f"{self.path}, {name}", remedy="copy the log again")

    def _harmful(self, what: str) -> DataError:
        return DataError(
            f"the archive {what}: it is not read", where=str(self.path), remedy="check where it comes from"
        )
