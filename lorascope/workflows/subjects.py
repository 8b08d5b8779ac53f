"""Open base and adapted checkpoints and prove, before anything is measured, that they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from lorascope.checkpoints.changes import BaseModules, Changes, changes_of
from lorascope.checkpoints.compatibility import Proof, prove, prove_base
from lorascope.checkpoints.lint import lint_files
from lorascope.checkpoints.opening import OpenCheckpoint, open_checkpoint, unique_names
from lorascope.errors import AmbiguousCheckpoint, UsageError
from lorascope.schema.comparison import CheckpointInfo, Finding
from lorascope.workflows.run_steps import saved_steps
from lorascope.workflows.watch import Watch


@dataclass(frozen=True)
class Subject:
    """One adapted checkpoint, proven to belong to the base."""

    checkpoint: OpenCheckpoint
    changes: Changes
    proof: Proof
    info: CheckpointInfo

    @property
    def name(self) -> str:
        """Its name in every output."""
        return self.checkpoint.name


@dataclass(frozen=True)
class Opened:
    """The base and its subjects, in the order of the command line."""

    base: OpenCheckpoint
    base_info: CheckpointInfo
    subjects: list[Subject]

    @property
    def infos(self) -> list[CheckpointInfo]:
        """Entries of ``result.json``, the base first."""
        return [self.base_info, *(subject.info for subject in self.subjects)]

    @property
    def findings(self) -> list[Finding]:
        """What the proofs and the lint of the adapters found doubtful."""
        return [finding for subject in self.subjects for finding in subject.proof.findings]


def open_all(base: str, adapted: Sequence[str], *, allow_pickle: bool, watch: Watch) -> Opened:
    """Open and check everything; raises with exit code 2 for what cannot be read, 3 for what cannot be compared."""
    if not adapted:
        raise UsageError("no adapted checkpoint was given", remedy="lorascope compare BASE ADAPTED [ADAPTED ...]")
    named = unique_names([base, *adapted])
    with watch.stage("Opening checkpoints") as report:
        opened = []
        for done, (name, path) in enumerate(named, 1):
            opened.append(_open(path, name, allow_pickle, is_base=done == 1))
            report(done, len(named))
    for checkpoint in opened:
        for note in checkpoint.notes:
            watch.say(f"{checkpoint.name}: {note}")
    with watch.stage(f"Checking {opened[0].name}") as report:
        prove_base(opened[0], report)
    bases: dict[str | None, BaseModules] = {}
    subjects = [_subject(checkpoint, opened[0], bases, watch) for checkpoint in opened[1:]]
    skeleton = _modules(None, opened[0], bases).skeleton
    info = opened[0].info(role="base", architecture=skeleton.class_name, trainable=None, changed=None)
    return Opened(opened[0], info, subjects)


def _open(path: str, name: str, allow_pickle: bool, *, is_base: bool) -> OpenCheckpoint:
    try:
        return open_checkpoint(path, name=name, allow_pickle=allow_pickle)
    except AmbiguousCheckpoint as error:
        if not is_base and len(saved_steps(path)) > 1:
            error.remedy = f"{error.remedy}; compare and weights take all of them with --checkpoints"
        raise


def _subject(
    checkpoint: OpenCheckpoint, base: OpenCheckpoint, bases: dict[str | None, BaseModules], watch: Watch
) -> Subject:
    task = checkpoint.adapter.task_type if checkpoint.adapter else None
    modules = _modules(task, base, bases)
    changes = changes_of(checkpoint, modules)
    with watch.stage(f"Checking {checkpoint.name}") as report:
        proof = prove(checkpoint, modules, changes, report)
        proof = replace(proof, findings=[*proof.findings, *lint_files(checkpoint, modules, changes)])
    architecture = checkpoint.architecture or modules.skeleton.class_name
    info = checkpoint.info(role="adapted", architecture=architecture, trainable=proof.trainable, changed=proof.changed)
    if checkpoint.kind == "adapter":
        carried = (checkpoint, base)
        running = sum(prod(spec.shape) for each in carried for spec in each.tensors.specs.values())
        info = info.model_copy(update={"parameters": info.parameters.model_copy(update={"total": running})})
    return Subject(checkpoint, changes, proof, info)


def _modules(task: str | None, base: OpenCheckpoint, bases: dict[str | None, BaseModules]) -> BaseModules:
    if task not in bases:
        bases[task] = BaseModules(base, task_type=task)
    return bases[task]
