"""Comparing models that a server serves and of which not every checkpoint is at hand: behaviour alone, no weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorascope.checkpoints.hashing import content_hash
from lorascope.checkpoints.locate import Located, locate
from lorascope.checkpoints.tokenizers import has_tokenizer
from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject as Asker
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.openai_requests import server_url
from lorascope.errors import UsageError
from lorascope.schema.comparison import CheckpointInfo, Missing, ParameterCounts
from lorascope.version import __version__
from lorascope.workflows.asking import AskingOptions, ask_everything
from lorascope.workflows.assembling import assemble, write_assembled
from lorascope.workflows.gate import prove_policy
from lorascope.workflows.output import OutputFolder, short_name
from lorascope.workflows.tasks import Questions, load_tasks
from lorascope.workflows.watch import Silent, Watch

_NOT_RECORDED = "not recorded"
_NO_FOLDER = "known by its name on the server alone; give NAME=PATH with its local folder to see its weights"
_OTHERS_NO_FOLDER = "not looked at: another checkpoint of this run is known by its name on the server alone"
# Of what /v1/models says, what stays the same from one request to the next; times and permissions do not.
_LASTING = ("id", "root", "parent", "owned_by", "max_model_len")


@dataclass(frozen=True, slots=True)
class ServedArgument:
    """A checkpoint of the command line: the model's name on the server, and its local folder where there is one."""

    name: str
    folder: str | None


def served_argument(text: str) -> ServedArgument:
    """``NAME=PATH`` names the model on the server and its local folder; anything else is a name on the server alone.

    A name may hold slashes, as served names do.

    Raises:
        UsageError: ``PATH`` is no folder, or a folder was given without the name that it is served under.
    """
    name, equals, path = text.rpartition("=")
    if not equals:
        if Path(text).is_dir():
            remedy = f"write NAME={text}, or only the name that /v1/models lists"
            raise UsageError(f"under which name does the server serve the folder {text}?", remedy=remedy)
        return ServedArgument(text, None)
    if not name or not path or not Path(path).is_dir():
        remedy = "NAME=PATH names the model on the server and its local folder; leave =PATH out where there is none"
        raise UsageError(f"{text!r} names no local folder", remedy=remedy)
    return ServedArgument(name, path)


def served_only(base: str, adapted: Sequence[str]) -> bool:
    """Whether some checkpoint of a comparison by a server has no local folder, so that :func:`compare_served` is meant.

    Where all have one, the ordinary comparison asks the server and looks into the weights as always.
    """
    return any(served_argument(text).folder is None for text in (base, *adapted))


@dataclass(frozen=True)
class ServedSubjects:
    """The base and its subjects, as the engine asks them and as the result names them; the base first in both."""

    askers: list[Asker]
    infos: list[CheckpointInfo]
    missing: list[Missing] = field(default_factory=list)


def served_subjects(
    base: str, adapted: Sequence[str], *, url: str, listed: Mapping[str, Mapping[str, Any]]
) -> ServedSubjects:
    """Records of checkpoints behind a server; ``listed`` is what its ``/v1/models`` says, by name.

    The ``content_hash`` of a model without a folder is of the address, the name and what the server says about it. It
    does not see weights: a server that serves other weights under the same name later cannot be told apart. So answers
    of served models belong into a cache that ends with the run, never into one that runs share. ``total`` parameters,
    architecture and data type are not recorded.

    Raises:
        UsageError: no adapted model, two of one name, a folder that does not exist.
        CheckpointError: a folder holds no checkpoint, or several.
    """
    if not adapted:
        raise UsageError("no adapted checkpoint was given", remedy="lorascope compare BASE ADAPTED [ADAPTED ...]")
    arguments = [served_argument(text) for text in (base, *adapted)]
    names = [argument.name for argument in arguments]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UsageError(f"the model {doubled[0]} was given twice", remedy="give each model once, the base first")
    places = [locate(argument.folder) if argument.folder else None for argument in arguments]
    askers: list[Asker] = []
    for argument, place in zip(arguments, places, strict=True):
        described = listed.get(argument.name, {})
        asker = _served(url, argument.name, described) if place is None else _local(argument.name, place, places[0])
        askers.append(asker)
    infos = [_info(asker, argument, url) for asker, argument in zip(askers, arguments, strict=True)]
    infos[1:] = [info.model_copy(update={"role": "adapted"}) for info in infos[1:]]
    return ServedSubjects(askers, infos, _missing(arguments))


def _served(url: str, name: str, described: Mapping[str, Any]) -> Asker:
    """A model without a folder; its path is its name, and no folder is there."""
    lasting = {key: described[key] for key in _LASTING if key in described}
    known = json.dumps([server_url(url), name, lasting], sort_keys=True, ensure_ascii=False)
    return Asker(
        name=name,
        path=Path(name),
        kind="model",
        tokenizer_path=Path(name),
        content_hash=hashlib.sha256(known.encode("utf-8")).hexdigest(),
    )


def _local(name: str, place: Located, base: Located | None) -> Asker:
    """A served model whose folder is at hand; an adapter is asked locally only where its base's folder is, too."""
    adapter = place.kind == "adapter"
    attached = base.path if adapter and base is not None else None
    own_tokenizer = not adapter or has_tokenizer(place.path) or attached is None
    return Asker(
        name=name,
        path=place.path,
        kind=place.kind,
        tokenizer_path=place.path if own_tokenizer or attached is None else attached,
        content_hash=content_hash(place.path),
        base_path=attached,
        base_hash=content_hash(attached) if attached is not None else None,
    )


def _info(asker: Asker, argument: ServedArgument, url: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=asker.name,
        path=argument.folder or f"{server_url(url)}#{asker.name}",
        role="base",
        kind=asker.kind,
        architecture=_NOT_RECORDED,
        dtype=_NOT_RECORDED,
        content_hash=asker.content_hash,
        parameters=ParameterCounts(total=None),
        generation_ready=True,
    )


def _missing(arguments: Sequence[ServedArgument]) -> list[Missing]:
    reasons = {one.name: _OTHERS_NO_FOLDER if one.folder else _NO_FOLDER for one in arguments[1:]}
    return [Missing(area="weights", subject=name, reason=reason) for name, reason in reasons.items()]


@dataclass(frozen=True, kw_only=True)
class ServedOptions:
    """Everything that decides a comparison of served models; the names mean what they mean for ``compare``."""

    base: str
    adapted: tuple[str, ...]
    asking: AskingOptions
    questions: Questions = field(default_factory=Questions)
    reference: str | None = None
    out: Path | None = None
    keep_samples: bool = True
    overwrite: bool = False
    gates: Path | None = None
    command: tuple[str, ...] = ()


def compare_served(options: ServedOptions, watch: Watch | None = None) -> Path:
    """Compare what served models answer, and return the path of ``result.json``.

    The server is checked first (:mod:`lorascope.workflows.served_check`). There are no weights, no curves and no costs:
    the result says so. Answers are kept in the output folder alone and until the result is written: a run that was
    interrupted resumes from them, as far as the check finds the same models, and a finished one asks anew.
    """
    watch = watch or Silent()
    policy = prove_policy(options.gates)
    asking = options.asking
    if asking.url is None:
        raise UsageError("the openai engine needs the server's address", remedy="add --url http://localhost:8000/v1")
    tasks = load_tasks(options.questions, generation_ready=True)
    policy.check_tasks(task.spec.name for task in tasks.tasks)
    with closing(OpenAIEngine(asking.url, api_key_env=asking.api_key_env, concurrency=asking.concurrency)) as server:
        subjects = served_subjects(options.base, options.adapted, url=asking.url, listed=server.models())
    _known_reference(options, subjects)
    place = options.out or served_folder(subjects)
    policy.check_folder(place)
    folder = OutputFolder.claim(
        place,
        _fingerprint(options, subjects, tasks.tasks),
        overwrite=options.overwrite,
    )
    if folder.resumed:
        watch.say(f"Resuming in {folder.path}: what is finished is kept")
    heard = ask_everything(asking, subjects.askers, tasks.tasks, options.questions, folder, watch)
    answers = list(heard.behaviour.tasks.values())
    comparison = assemble(
        subjects.infos[0],
        subjects.infos[1:],
        answers,
        seed=options.questions.seed,
        command=options.command,
        device=server_url(asking.url),
        dtype="as served",
        engine="server",
        timings=heard.timings,
        findings=heard.findings,
        missing=[*subjects.missing, *heard.missing],
        notes=heard.notes,
        reference=options.reference,
        suite_hash=tasks.suite_hash,
        noise=heard.noise,
        how_again=heard.how_again,
        watch=watch,
    )
    return write_assembled(comparison, answers, folder, keep_samples=options.keep_samples, gates=options.gates)


def _known_reference(options: ServedOptions, subjects: ServedSubjects) -> None:
    names = [asker.name for asker in subjects.askers]
    if options.reference is not None and options.reference not in names:
        raise UsageError(
            f"--reference names {options.reference}, which is none of the checkpoints",
            remedy=f"use one of {', '.join(names)}",
        )


def served_folder(subjects: ServedSubjects) -> Path:
    """``reports/SUBJECT[-SUBJECT ...]-vs-BASE-served`` below the current folder."""
    base, *adapted = (asker.name for asker in subjects.askers)
    shown = "-".join(adapted[:3]) + (f"-and-{len(adapted) - 3}-more" if len(adapted) > 3 else "")
    return Path("reports") / short_name(f"{shown}-vs-{base}-served").strip("-.")


def _fingerprint(options: ServedOptions, subjects: ServedSubjects, tasks: Sequence[LoadedTask]) -> dict[str, Any]:
    """What makes two commands the same: the server's models and the questions; nothing about speed."""
    return {
        "lorascope": __version__,
        "server": server_url(str(options.asking.url)),
        "noise_floor": options.asking.noise_floor,
        "checkpoints": [[asker.name, asker.content_hash] for asker in subjects.askers],
        "tasks": [
            [task.fingerprint, task.spec.model_dump(mode="json", exclude={"data", "train_data"})] for task in tasks
        ],
        "reference": options.reference,
        "seed": options.questions.seed,
        "samples": options.keep_samples,
    }
