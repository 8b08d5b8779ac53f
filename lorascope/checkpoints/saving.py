"""Write a changed checkpoint that loads like any other: an adapter with new factors, or a whole model."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.adapters import AdapterConfig, FactorKeys, method_module
from lorascope.checkpoints.changes import AdapterChanges, Factors, ModelChanges
from lorascope.checkpoints.locate import ADAPTER_CONFIG
from lorascope.checkpoints.merging import label_count
from lorascope.checkpoints.modules import LinearModule, model_class, quiet_transformers
from lorascope.checkpoints.new_folder import MODEL_CARD, RECORD
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import MemorySource, TensorSource, TensorSpec
from lorascope.errors import EvaluationError

if TYPE_CHECKING:
    from torch import Tensor

NewWeight = Callable[[str], "Tensor"]
"""The new weight of a module, (out, in) in float32."""

_SHARD = "5GB"
_SMALL_FILES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".tiktoken", ".spm", ".bpe", ".vocab"})
# The first three the writer makes itself; training logs would pass off the old weights' losses as the new ones'.
_NOT_COPIED = frozenset({"config.json", ADAPTER_CONFIG, RECORD, "trainer_state.json", "all_results.json",
                         "train_results.json", "eval_results.json", "training.json", "cost.json"})  # fmt: skip


def save_adapter(changes: AdapterChanges, factors: Mapping[str, Factors], folder: Path) -> None:
    """Write a LoRA adapter with other factors for some of its modules, by the base's names.

    Everything else it holds (modules saved whole, biases, embeddings) is copied. Factors are stored in the type that
    the module's own have. Ranks and alphas that differ from the commonest stand in ``rank_pattern`` and
    ``alpha_pattern`` under anchored full names, so that each matches its module alone. Raises
    :class:`EvaluationError` where a value does not fit the stored type or a factor is no matrix of one module.
    """
    source = changes.subject.tensors
    changed: dict[str, Tensor] = {}
    scales: dict[str, tuple[int, float]] = {}
    for module, new in factors.items():
        pair = _own_pair(changes, module)
        changed[pair.up] = _stored(new.up, source.get(pair.up), pair.up)
        changed[pair.down] = _stored(new.down, source.get(pair.down), pair.down)
        scales[pair.module] = (new.up.shape[1], new.scaling)
    _write_adapter(changes, changed, rescaled_config(changes.config, source, scales), folder)


def save_rescaled_adapter(changes: AdapterChanges, strength: float, folder: Path) -> None:
    """Write a LoRA adapter with the α of its linear modules multiplied by ``strength``; its tensors stay as they are.

    Where all that it adapts are linear modules, ``lora_alpha`` and the numbers in ``alpha_pattern`` are multiplied.
    """
    pairs = changes.factors.values()
    covered = {key for pair in pairs for key in (pair.down, pair.up)}
    others = [key for key in changes.tensors.specs if ".lora_" in key and key not in covered]
    if others:
        # The factors of embeddings and convolutions have an α too, which has to stay.
        scales = {_own_pair(changes, name).module: (pair.rank, strength * pair.scaling)
                  for name, pair in changes.factors.items()}  # fmt: skip
        _write_adapter(changes, {}, rescaled_config(changes.config, changes.subject.tensors, scales), folder)
        return
    config = dict(changes.config.raw)
    config["lora_alpha"] = _plain_number(strength * config["lora_alpha"])
    patterns = config.get("alpha_pattern") or {}
    config["alpha_pattern"] = {name: _plain_number(strength * alpha) for name, alpha in patterns.items()}
    _write_adapter(changes, {}, config, folder)


def rescaled_config(
    config: AdapterConfig, tensors: TensorSource, scales: Mapping[str, tuple[int, float]]
) -> dict[str, Any]:
    """``adapter_config.json`` with another (rank, scaling) for the modules in ``scales``, by the adapter's names.

    The scaling becomes alpha as PEFT will divide it again: by the rank, or by its root with rsLoRA. A named
    initialisation becomes the default: it would only be overwritten, and may refuse the new rank.
    """
    raw = dict(config.raw)
    modules = {method_module(key, config.peft_type) for key in tensors.specs} - {None}
    ranks, alphas = {}, {}
    for module in sorted(str(name) for name in modules):
        rank, scaling = scales.get(module, (config.rank(module), config.scaling(module)))
        ranks[module] = rank
        alphas[module] = _plain_number(scaling * (math.sqrt(rank) if raw.get("use_rslora") else rank))
    for pattern, default, values in (("rank_pattern", "r", ranks), ("alpha_pattern", "lora_alpha", alphas)):
        counts = Counter(values.values())
        raw[default] = max(counts, key=lambda value: (counts[value], value == config.raw[default]))
        raw[pattern] = {_anchored(name): value for name, value in values.items() if value != raw[default]}
    if isinstance(raw.get("init_lora_weights"), str):
        raw["init_lora_weights"] = True
    return raw


def save_model(changes: ModelChanges, modules: Iterable[str], weight: NewWeight, folder: Path) -> None:
    """Write the adapted model with other weights for ``modules``; every tensor keeps its name and stored type.

    One shard of at most 5 GB is in memory at a time. Raises :class:`EvaluationError` for quantised models and values
    that do not fit the stored type.
    """
    _not_quantised(changes.subject)
    keys: dict[str, list[str]] = {}
    for module in modules:
        keys.setdefault(changes.keys[module], []).append(module)

    def new(key: str) -> Tensor:
        tensor = changes.tensors.get(key)
        if key in keys:
            tensor = tensor.clone()
        for module in keys.get(key, ()):
            _put(weight(module), changes.base.linear(module), tensor, key)
        return tensor

    _write_shards(changes.tensors, new, folder)
    copy_small_files(changes.subject.path, folder)
    shutil.copyfile(changes.subject.path / "config.json", folder / "config.json")


def save_merged(changes: AdapterChanges, modules: Iterable[str], weight: NewWeight, folder: Path) -> None:
    """Merge an adapter into its base, with other weights for ``modules``, and write the whole model.

    Written by transformers in the base's stored type. What else the adapter changes is merged as PEFT does it. An
    output layer that shares the embeddings' matrix becomes a matrix of its own when it is among ``modules``. Raises
    :class:`EvaluationError` for a quantised base and values that do not fit the stored type.
    """
    base = changes.base
    _not_quantised(base.checkpoint)
    model = _merged(changes)
    parameters = dict(model.named_parameters())
    for module in modules:
        linear = base.linear(module)
        if module not in base.names:
            _part_from_embeddings(model, changes, module)
            parameters = dict(model.named_parameters())
        name = next(name for name in base.skeleton.spellings(linear.parameter) if name in parameters)
        _put(weight(module), linear, parameters[name].data, name)
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=_SHARD)
    # Neither card describes the merged model: one is the base's, the other an adapter's.
    for source in (base.checkpoint.path, changes.subject.path):
        copy_small_files(source, folder, but=(MODEL_CARD,))


def copy_small_files(source: Path, target: Path, but: Iterable[str] = ()) -> None:
    """Copy tokenizer, templates, model card and the like; no weights, no training state, no configuration.

    Parts that sentence-transformers lists in ``modules.json`` (a pooling) are copied whole.
    """
    for path in sorted(source.iterdir()):
        known = path.suffix.lower() in _SMALL_FILES and not path.name.endswith(".index.json")
        if known and path.is_file() and path.name not in (*_NOT_COPIED, *but):
            shutil.copyfile(path, target / path.name)
    for name in _parts(source):
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)


def _own_pair(changes: AdapterChanges, module: str) -> FactorKeys:
    """The factors of a module, which must be tensors of its own."""
    pair = changes.factors[module]
    if pair.part is not None or pair.down not in changes.subject.tensors.specs:
        raise EvaluationError(
            f"the factors of {module} are part of tensors that several matrices share: they cannot be written alone",
            where=f"{changes.tensors.specs[pair.down].file}, tensor {pair.down}",
            remedy="merge the adapter where it was trained, and repair the merged model",
        )
    return pair


def _write_adapter(
    changes: AdapterChanges, changed: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path
) -> None:
    from safetensors.torch import save_file

    source = changes.subject.tensors
    # Clones: tensors that share memory (a pickle's) cannot be written.
    tensors = {key: (changed[key] if key in changed else source.get(key)).clone().contiguous() for key in source.specs}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy_small_files(changes.subject.path, folder)


def _stored(new: Tensor, old: Tensor, name: str) -> Tensor:
    """``new`` in the type of ``old``."""
    narrow = new.detach().to(dtype=old.dtype)
    if not bool(narrow.float().isfinite().all()):
        raise EvaluationError(
            f"the new values of {name} do not fit its stored type, {str(old.dtype).removeprefix('torch.')}",
            remedy="store the checkpoint in bfloat16 or float32 first",
        )
    return narrow


def _put(weight: Tensor, linear: LinearModule, tensor: Tensor, name: str) -> None:
    """Write (out, in) into a file's tensor as that has it: turned, or one of a stack."""
    place = tensor if linear.index is None else tensor[linear.index]
    place.copy_(_stored(weight.T if linear.transposed else weight, tensor, name))


def _part_from_embeddings(model: Any, changes: AdapterChanges, module: str) -> None:
    """Give an output layer a matrix of its own, and the embeddings theirs again: merging changed both."""
    import torch

    base = changes.base
    layer = model.get_submodule(module)
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    source = str(base.linear(module).tied_to)
    saved = changes.saved.get(source)
    embeddings = base.tensors.get(base.keys[module]) if saved is None else changes.tensors.get(saved)
    model.get_parameter(source).data.copy_(embeddings)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _plain_number(alpha: float) -> float | int:
    nearest = round(alpha)
    return nearest if math.isclose(alpha, nearest, rel_tol=1e-9) else alpha


def _anchored(module: str) -> str:
    # PEFT reads patterns as regular expressions that may begin after any dot.
    return f"^{re.escape(module)}"


def _write_shards(source: TensorSource, new: Callable[[str], Tensor], folder: Path) -> None:
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    plan = split_state_dict_into_shards_factory(
        dict(_separate(source)),
        get_storage_size=_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_SHARD,
    )
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: new(key).contiguous() for key in keys}, folder / name, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _separate(source: TensorSource) -> Iterator[tuple[str, TensorSpec]]:
    """Tensors by key, without those in memory that are the very same as an earlier one: loading ties them again."""
    seen = set()
    for key, spec in source.specs.items():
        if isinstance(source, MemorySource):
            tensor = source.get(key)
            place = (tensor.data_ptr(), spec.shape, tensor.stride())
            if tensor.numel() and place in seen:
                continue
            seen.add(place)
        yield key, spec


def _bytes(spec: TensorSpec) -> int:
    bits = re.search(r"\d+", spec.dtype)
    return math.prod(spec.shape) * (int(bits.group()) // 8 if bits else 1)


def _not_quantised(checkpoint: OpenCheckpoint) -> None:
    if "quantization_config" in (checkpoint.config or {}):
        raise EvaluationError(
            "the weights are quantised: a changed model could only be written in another type, as another model",
            where=str(checkpoint.path / "config.json"),
            remedy="give the unquantised checkpoint that it was made from",
        )


def _merged(changes: AdapterChanges) -> Any:
    from peft import PeftModel

    path = changes.base.checkpoint.path
    cls, config = model_class(path, changes.config.task_type)
    labels = label_count(changes.subject, changes.skeleton)
    if labels is not None:
        config.num_labels = labels
    with quiet_transformers():
        model = cls.from_pretrained(path, config=config, dtype="auto", trust_remote_code=False)
        return PeftModel.from_pretrained(model, changes.subject.path, torch_device="cpu").merge_and_unload()


def _parts(folder: Path) -> list[str]:
    listed = folder / "modules.json"
    try:
        entries = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    except ValueError:
        return []
    names = [str(entry.get("path") or "") for entry in entries if isinstance(entry, dict)]
    return [name for name in names if re.fullmatch(r"[\w-]+", name) and (folder / name).is_dir()]
