"""ΔW of any PEFT method: the method's own merge, in float32, on a copy of one layer at a time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.adapters import method_module, plain_name
from lorascope.checkpoints.modules import Skeleton, model_class, quiet_transformers
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.errors import EvaluationError, InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor


class MergedLayers:
    """The adapted layers of one adapter on its base; ``weight`` merges one of them and gives its matrix.

    ``names`` is empty for a method that changes no weight (Poly's routing): it has no merge.

    The base model is loaded once, in its stored dtype, or in float32 for methods that subtract their start from it
    (PiSSA). What a merge changes is read against the base's own file, so such methods are measured rightly too.
    """

    def __init__(self, subject: OpenCheckpoint, base: OpenCheckpoint, built: Skeleton) -> None:
        """Attach the adapter; raises :class:`InvalidComparison` when its tensors do not fit or are not all there."""
        assert subject.adapter is not None
        self.subject = subject
        self._method = subject.adapter.method
        self._layers = _adapted_layers(subject, base, built)
        self.names = set(self._layers)
        if self._layers and not self._mergeable(min(self._layers)):
            self.names = set()

    def weight(self, module: str) -> Tensor:
        """The merged weight in the file's orientation, float32."""
        layer = copy.deepcopy(self._layers[module]).float()
        try:
            layer.merge(safe_merge=True)
        except (ValueError, RuntimeError) as error:
            raise EvaluationError(
                f"{self._method} cannot be merged into {module}: {error}",
                where=str(self.subject.path),
                remedy="compare the behaviour alone, or merge the adapter where it was trained",
            ) from error
        merged: Tensor = layer.get_base_layer().weight.detach().float()
        return merged

    def _mergeable(self, module: str) -> bool:
        try:
            self.weight(module)
        except EvaluationError as error:
            return not isinstance(error.__cause__, NotImplementedError)
        return True


def label_count(subject: OpenCheckpoint, built: Skeleton) -> int | None:
    """The number of labels of the head that the adapter brings, where it is not that of the base's configuration.

    Read from the tensor of the head's last layer: a bare base's configuration does not know it, and the adapter's does
    not say it. None where the adapter brings no head of another size.
    """
    assert subject.adapter is not None
    for key, spec in subject.tensors.specs.items():
        head = built.linear.get(plain_name(key).removesuffix(".weight"))
        if head is None or head.name not in built.heads or method_module(key, subject.adapter.peft_type) is not None:
            continue
        if len(spec.shape) == 2 and spec.shape[1] == head.in_features and spec.shape[0] != head.out_features:
            return spec.shape[0]
    return None


def _adapted_layers(subject: OpenCheckpoint, base: OpenCheckpoint, built: Skeleton) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    with quiet_transformers():
        wrapped = _attached(subject, base, built)
    return {
        name: module
        for name, module in wrapped.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer) and hasattr(module, "merge") and hasattr(module, "get_base_layer")
    }


def _attached(subject: OpenCheckpoint, base: OpenCheckpoint, built: Skeleton) -> Any:
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    assert subject.adapter is not None
    cls, config = model_class(base.path, subject.adapter.task_type)
    labels = label_count(subject, built)
    if labels is not None:
        config.num_labels = labels
    dtype: Any = torch.float32 if subject.adapter.rewrites_base else "auto"
    remedy = f"give the base it was trained on ({subject.adapter.base_name or 'the adapter names none'})"
    try:
        model = cls.from_pretrained(base.path, config=config, dtype=dtype, trust_remote_code=False)
        wrapped = PeftModel.from_pretrained(model, subject.path, torch_device="cpu")
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InvalidComparison(
            f"PEFT cannot attach this {subject.adapter.method} adapter to the base: {str(error)[:400]}",
            where=str(subject.path),
            remedy=remedy,
        ) from error
    # Asking for embeddings too would make PEFT look up the named base on the hub.
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    absent = sorted(set(wanted) - set(subject.tensors.specs))
    if absent:
        raise InvalidComparison(
            f"the adapter file lacks {len(absent)} tensors that its configuration asks for, the first is {absent[0]}",
            where=str(subject.path),
            remedy="save the adapter again; PEFT would go on with untrained values in their place",
        )
    return wrapped
