"""What was found out of base matrices, kept on disk by content: a second adapter on a base costs only its own part."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from lorascope.errors import OutputError
from lorascope.weights.bases import BaseMatrix
from lorascope.workflows.output import write_whole

# Part of every key: what an older version kept is not what this one would have found.
_VERSION = 2
_WORTHWHILE = 768


class BaseCache:
    """One safetensors file a matrix in ``folder``, named by the SHA-256 of its type, shape and values; None keeps none.

    Matrices below 768 dimensions are decomposed anew: that is as fast as reading.
    """

    def __init__(self, folder: Path | None) -> None:
        """The folder is made when something is first kept; ``failures`` says why something could not be kept."""
        self.folder = folder
        self.failures: list[str] = []

    def recall(self, weight: Tensor) -> BaseMatrix:
        """The matrix with what is known of it. A file that cannot be read counts as not there."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(weight)
        if path is None or not path.is_file():
            return BaseMatrix(weight)
        try:
            return BaseMatrix(weight, load_file(path))
        except (SafetensorError, OSError, ValueError):
            return BaseMatrix(weight)

    def keep(self, base: BaseMatrix, *, exact: bool) -> None:
        """Write what was found out since, whole; ``exact`` keeps the exact decomposition too.

        A cache that cannot be written stops nothing: nothing more is kept, and ``failures`` says so.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self.folder is None or min(base.weight.shape) < _WORTHWHILE:
            return
        found = base.knowledge(exact=exact)
        path = None if set(found) <= set(base.known) else self._path(base.weight)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda part: save_file(base.known | found, part))
        except (OSError, OutputError, SafetensorError) as error:
            self.failures.append(f"what was found of base matrices was not kept in {self.folder}: {error}")
            self.folder = None

    def _path(self, weight: Tensor) -> Path | None:
        if self.folder is None or min(weight.shape) < _WORTHWHILE:
            return None
        digest = hashlib.sha256(f"{_VERSION}|{weight.dtype}|{tuple(weight.shape)}|".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data.cast("B"))
        return self.folder / f"{digest.hexdigest()}.safetensors"
