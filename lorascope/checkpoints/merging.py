"""ΔW of any PEFT method: the method's own merge, in float32, on a copy of one layer at a time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.adapters import ParameterTarget, method_module, plain_name
from lorascope.checkpoints.modules import Skeleton, meta_model, model_class, quiet_transformers
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import MemorySource, TensorSource
from lorascope.errors import EvaluationError, InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor


class MergedLayers:
    """The adapted layers of one adapter on its base; ``parameters`` merges one of them and gives what it then holds.

    ``names`` are the layers' names in the model; empty for a method that changes no weight (Poly's routing): it has no
    merge. ``adds_bias`` is True where the method gives a bias to layers that have none.

    The base model is loaded once, in its stored dtype, or in float32 for methods that subtract their start from it
    (PiSSA) or put parameters of the base's own type in its place. What a merge changes is read against the base's own
    file, so such methods are measured rightly too. Starts that PEFT draws at random when it attaches an adapter
    (``pissa_niter_4``: a randomised decomposition) are drawn from one seed.
    """

    def __init__(self, subject: OpenCheckpoint, base: OpenCheckpoint, built: Skeleton) -> None:
        """Attach the adapter; raises :class:`InvalidComparison` when its tensors do not fit or are not all there."""
        assert subject.adapter is not None
        self.subject = subject
        self._method = subject.adapter.method
        self._layers = _adapted_layers(subject, base, built)
        self.names = set(self._layers)
        self.adds_bias = False
        bare = {name: "bias" in self.parts(name) for name in self._layers}
        if bare and not self._mergeable(min(bare, key=lambda name: (bare[name], name))):
            self.names = set()

    def weight(self, module: str) -> Tensor:
        """The merged weight in the file's orientation, float32."""
        return self.parameters(module)["weight"]

    def parts(self, module: str) -> list[str]:
        """Names of the parameters that the layer has, as its own class calls them."""
        return [name for name, _ in self._layers[module].get_base_layer().named_parameters()]

    def parameters(self, module: str) -> dict[str, Tensor]:
        """The layer's parameters after the merge, in the file's orientation, float32."""
        try:
            return self._merge(module, with_bias=False)
        except (ValueError, RuntimeError) as error:
            problem = error
        try:
            merged = self._merge(module, with_bias=True)
            self.adds_bias = True
            return merged
        except (ValueError, RuntimeError):
            raise EvaluationError(
                f"{self._method} cannot be merged into {module}: {problem}",
                where=str(self.subject.path),
                remedy="compare the behaviour alone, or merge the adapter where it was trained",
            ) from problem

    def _merge(self, module: str, *, with_bias: bool) -> dict[str, Tensor]:
        """Merge a copy; ``with_bias`` gives a layer without a bias one of zeros first, for methods that add theirs."""
        import torch

        layer = copy.deepcopy(self._layers[module]).float()
        start = layer.get_base_layer()
        if with_bias and getattr(start, "bias", 0) is None:
            start.bias = torch.nn.Parameter(torch.zeros(start.out_features))
        with quiet_transformers():
            layer.merge(safe_merge=True)
        return {name: value.detach().float() for name, value in layer.get_base_layer().named_parameters()}

    def _mergeable(self, module: str) -> bool:
        try:
            self.parameters(module)
        except EvaluationError as error:
            return not isinstance(error.__cause__, NotImplementedError)
        return True


def parameter_targets(subject: OpenCheckpoint, base: OpenCheckpoint) -> tuple[dict[str, ParameterTarget], TensorSource]:
    """Parameters that LoRA adapts directly, by the name of PEFT's wrapper, and the adapter's tensors in that layout.

    PEFT says what is wrapped, in which nesting, with which rank and scaling: it wraps the model class without weights.
    Adapters that were trained on separate experts, before transformers stacked them, are brought into the layout of
    the stack by PEFT's own conversion.
    """
    import torch
    from peft import PeftConfig, get_peft_model

    assert subject.adapter is not None
    with quiet_transformers(), torch.device("meta"):
        model = meta_model(base.path, subject.adapter.task_type)
        try:
            config = PeftConfig.from_pretrained(subject.path)
            wrapped: Any = get_peft_model(model, config, low_cpu_mem_usage=True)
        except (ValueError, TypeError, AttributeError) as error:
            raise _not_attached(subject, error) from error
    layers = dict(wrapped.get_base_model().named_modules())
    targets = {name: _target(name, layer) for name, layer in layers.items() if hasattr(layer, "parameter_name")}
    modules = [method_module(key, subject.adapter.peft_type) for key in subject.tensors.specs]
    if all(name is None or name in layers or f"{name}.base_layer" in layers for name in modules):
        return targets, subject.tensors
    return targets, _converted(subject, wrapped, config)


def _converted(subject: OpenCheckpoint, wrapped: Any, config: Any) -> TensorSource:
    stored = {key: subject.tensors.get(key) for key in subject.tensors.specs}
    try:
        # Releases of PEFT that have no such module cannot load these adapters either.
        from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

        converted = convert_peft_adapter_state_dict_for_transformers(wrapped, config, stored)
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        raise _not_attached(subject, error) from error
    return MemorySource(converted, subject.path)


def _target(name: str, layer: Any) -> ParameterTarget:
    owner = name
    while owner.endswith(".base_layer"):
        owner = owner.removesuffix(".base_layer")
    stacked = layer.get_param().ndim == 3
    return ParameterTarget(
        wrapper=name,
        parameter=f"{owner}.{layer.parameter_name}",
        count=layer.num_experts,
        rank=layer.r["default"],
        scaling=layer.scaling["default"],
        # Layers that take their matrices as (in, out) are wrapped as they lie, the others with the two sizes swapped.
        turned=stacked and not getattr(layer, "_did_swap_in_out_features", False),
        stacked=stacked,
    )


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
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped = _attached(subject, base, built)
    # Trained token rows are kept by a wrapper around the layer, which is named after the layer itself.
    return {
        name.removesuffix(".token_adapter"): module
        for name, module in wrapped.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer) and _can_merge(module)
    }


def _can_merge(layer: Any) -> bool:
    return hasattr(layer, "merge") and hasattr(layer, "get_base_layer") and not hasattr(layer, "parameter_name")


def _attached(subject: OpenCheckpoint, base: OpenCheckpoint, built: Skeleton) -> Any:
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    assert subject.adapter is not None
    cls, config = model_class(base.path, subject.adapter.task_type)
    labels = label_count(subject, built)
    if labels is not None:
        config.num_labels = labels
    dtype: Any = torch.float32 if subject.adapter.needs_wide_base else "auto"
    try:
        model = cls.from_pretrained(base.path, config=config, dtype=dtype, trust_remote_code=False)
        wrapped = PeftModel.from_pretrained(model, subject.path, torch_device="cpu")
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _not_attached(subject, error) from error
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


def _not_attached(subject: OpenCheckpoint, error: Exception) -> InvalidComparison:
    assert subject.adapter is not None
    return InvalidComparison(
        f"PEFT cannot attach this {subject.adapter.method} adapter to the base: {str(error)[:400]}",
        where=str(subject.path),
        remedy=f"give the base it was trained on ({subject.adapter.base_name or 'the adapter names none'})",
    )
