"""ΔW of any PEFT method: the method's own merge, in float32, on a copy of one layer at a time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.modules import model_class, quiet_transformers
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.errors import EvaluationError, InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor


class MergedLayers:
    """The adapted layers of one adapter on its base; ``weight`` merges one of them and gives its matrix.

    The base model is loaded once in its stored dtype. What a merge changes is read against the base's own file, so
    methods that rewrite the base when they are attached (PiSSA) are measured rightly too.
    """

    def __init__(self, subject: OpenCheckpoint, base: OpenCheckpoint) -> None:
        """Attach the adapter; raises :class:`InvalidComparison` when its tensors do not fit."""
        assert subject.adapter is not None
        self.subject = subject
        self._layers = _adapted_layers(subject, base)
        self.names = set(self._layers)

    def weight(self, module: str) -> Tensor:
        """The merged weight in the file's orientation, float32."""
        layer = copy.deepcopy(self._layers[module]).float()
        try:
            layer.merge(safe_merge=True)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            raise EvaluationError(
                f"{self.subject.adapter and self.subject.adapter.method} cannot be merged into {module}: {error}",
                where=str(self.subject.path),
                remedy="compare the behaviour alone, or merge the adapter where it was trained",
            ) from error
        merged: Tensor = layer.get_base_layer().weight.detach().float()
        return merged


def _adapted_layers(subject: OpenCheckpoint, base: OpenCheckpoint) -> dict[str, Any]:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    assert subject.adapter is not None
    cls, config = model_class(base.path, subject.adapter.task_type)
    with quiet_transformers():
        try:
            model = cls.from_pretrained(base.path, config=config, trust_remote_code=False)
            wrapped = PeftModel.from_pretrained(model, subject.path)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise InvalidComparison(
                f"PEFT cannot attach this {subject.adapter.method} adapter to the base: {str(error)[:400]}",
                where=str(subject.path),
                remedy=f"give the base it was trained on ({subject.adapter.base_name or 'the adapter names none'})",
            ) from error
    return {
        name: module
        for name, module in wrapped.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer) and hasattr(module, "merge") and hasattr(module, "get_base_layer")
    }
