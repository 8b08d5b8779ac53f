"""Which encoding a file's first bytes announce."""

from __future__ import annotations


def marked_encoding(content: bytes) -> str:
    """UTF-16 where its byte-order mark stands there, and otherwise UTF-8, with or without its own."""
    return "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
