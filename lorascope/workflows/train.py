"""``lorascope train``: a recipe to a finished run folder, ready for ``compare``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.hashing import content_hash
from lorascope.checkpoints.locate import locate
from lorascope.data.readers import is_dataset_name
from lorascope.data.recipes import (
    LOCK_NAME,
    LoadedRecipe,
    Lock,
    data_path,
    data_sources,
    library_versions,
    prove_base,
    resolved_recipe,
    write_lock,
)
from lorascope.errors import CheckpointError, OutputError
from lorascope.schema.recipe import Recipe
from lorascope.version import __version__
from lorascope.workflows.training_data import LoadedData, load_training_data
from lorascope.workflows.training_scores import score_of
from lorascope.workflows.training_summary import SUITE, evaluation_suite
from lorascope.workflows.training_watch import live_measures
from lorascope.workflows.watch import Silent, Watch

if TYPE_CHECKING:
    from lorascope.training.loading import LoadedBase
    from lorascope.training.progress import Progress
    from lorascope.training.running import TrainingOutcome


def train_recipe(
    recipe: Recipe,
    *,
    root: Path,
    overwrite: bool = False,
    watch: Watch | None = None,
    loaded: LoadedData | None = None,
    source: LoadedRecipe | None = None,
) -> TrainingOutcome:
    """Train as the recipe says; paths in it are relative to ``root``.

    The run's folder is ``recipe.out``, whole or absent: a killed run resumes from its last checkpoint when this is
    called again, a finished one is read. ``loaded`` is the recipe's data where the caller has read it already;
    ``source`` is the file that the recipe came from: where it is a lock, the base has to be that of the lock.

    Raises:
        ConfigError, DataError, CheckpointError: recipe, data or base cannot be used, or are not those of the lock.
        EvaluationError: the loss became no number, or memory ran out.
        OutputError: the folder is another run's (``overwrite`` replaces it), holds what the run reads, or cannot be
            written.
    """
    watch = watch or Silent()
    prove_place(recipe, root)
    loaded = loaded or load_training_data(recipe, root)
    data = loaded.data
    folder = base_folder(recipe, root)
    base, start = str(folder), content_hash(folder)
    if source is not None:
        prove_base(source, start)
    from lorascope.engines.loading import context_length, decoder_positions
    from lorascope.training.arguments import chosen_precision, device_of
    from lorascope.training.loading import load_for_training
    from lorascope.training.record import run_record
    from lorascope.training.run_folder import RunFolder
    from lorascope.training.running import Run, read_outcome, run_training

    known: dict[str, Any] = {"optim.precision": chosen_precision(recipe)}
    if data.labels:
        known |= {"task.labels": list(data.labels), "task.multi_label": data.multi_label}
    recipe = resolved_recipe(recipe, root, chosen=known)
    lock = Lock(lorascope=__version__, libraries=library_versions(), base=start, files=dict(loaded.files))
    out = Path(recipe.out)

    def load(current: Recipe) -> LoadedBase:
        device = device_of(current.hardware.device)
        return load_for_training(base, current, labels=data.labels, multi_label=data.multi_label, device=device)

    record = run_record(recipe, data, start=start)
    if RunFolder(out, record).is_finished():
        watch.say(f"{out} is trained already.")
        return read_outcome(out, reused=True)
    prove_apart(recipe, root)
    with threads(recipe.hardware.threads), watch.stage(f"Train {out.name}") as report:

        def told(progress: Progress) -> None:
            report(progress.step, progress.total_steps)

        run = Run(
            recipe=recipe,
            data=data,
            out=out,
            record=record,
            load=load,
            room=lambda model, tokenizer: (context_length(model, tokenizer), decoder_positions(model)),
            score=score_of(recipe, data),
            live=live_measures(recipe),
            extra_files=_extra_files(recipe, root, lock),
            notes=loaded.notes,
            on_progress=told,
            say=watch.say,
        )
        return run_training(run, overwrite=overwrite)


def _extra_files(recipe: Recipe, root: Path, lock: Lock) -> dict[str, str]:
    """The lock, and the validation sets as a suite with the labels of the head, for a comparison."""
    files = {LOCK_NAME: write_lock(recipe, lock)}
    return {**files, SUITE: evaluation_suite(recipe, root)} if recipe.validation_sets else files


def prove_place(recipe: Recipe, root: Path) -> None:
    """Raise :class:`OutputError` for an ``out`` that is everything's folder: the root, home, or the recipe's own, but
    for a run's folder, which holds its lock.
    """
    out = Path(data_path(recipe.out, root)).resolve()
    name = {Path(out.anchor): "the root of the file system", Path.home().resolve(): "the home folder"}.get(out)
    if name is None and any(place.is_relative_to(out) for place in (Path.home().resolve(), root.resolve())):
        name = None if (out / "training.json").is_file() else "a folder around the recipe or the home folder"
    if name is not None:
        raise OutputError(
            f"'out' is {name}, and a run needs a folder of its own",
            where=str(out),
            remedy="name a new folder in it, such as runs/first",
        )


def prove_apart(recipe: Recipe, root: Path) -> None:
    """Raise :class:`OutputError` where the base or a data file lies in the run's folder, finished or not: it would go
    when the run takes its place.
    """
    out = Path(data_path(recipe.out, root)).resolve()
    folders = (out, out.with_name(f"{out.name}.partial"))
    read = [source for source in data_sources(recipe) if not is_dataset_name(source)]
    for source in (recipe.base, *read):
        path = Path(data_path(source, root)).resolve()
        if path.exists() and any(path.is_relative_to(folder) for folder in folders):
            raise OutputError(
                f"'out' is the folder that {'the base' if source == recipe.base else 'data'} lies in, and would be "
                "replaced with it",
                where=str(path),
                remedy="name another output folder",
            )


def base_folder(recipe: Recipe, root: Path) -> Path:
    """The folder of the recipe's base.

    Raises:
        CheckpointError: there is no such base, or it is an adapter.
    """
    near = root / Path(recipe.base).expanduser()
    located = locate(str(near) if near.exists() else recipe.base)
    if located.kind == "adapter":
        raise CheckpointError(
            "the base is an adapter, which holds no weights to train another one on",
            where=str(located.path),
            remedy="write the merged model with 'lorascope repair BASE ADAPTER --strength 1 --out DIR' and name that",
        )
    return located.path


def is_hub_name(base: str, root: Path) -> bool:
    """Whether a base that is no folder here may be a name on the hub, ``owner/name``."""
    parts = base.split("/")
    return not (root / Path(base).expanduser()).exists() and len(parts) == 2 and all(parts) and parts[0] not in ".."


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch computes with this many threads in here; None leaves its own choice."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
