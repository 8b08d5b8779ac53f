"""Is every model of a server there, does it repeat itself, is the adapter applied, is it the checkpoint on disk?

A server that was started without the adapter answers every name alike or falls back to its base, and every comparison
made of it would say "nothing changed". So a few prompts are asked before the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from lorascope.engines.base import Engine, Progress, Subject
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.errors import CheckpointError, EvaluationError
from lorascope.schema.comparison import Finding
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask

CHECK_ITEMS = 16
CHECK_TOKENS = 24
CHECK_TASK = "server-check"

# An adapter that is applied moves log-probabilities by more than this, or moves nothing that could be measured.
_SMALLEST_EFFECT = 1e-4
# A server computes in bfloat16 or with other kernels: single answers differ, most do not.
_MOST_EQUAL = 0.75
_LARGEST_SHARE = 0.02
_ROUNDING_NATS = 0.1


Askings = tuple[Sequence[GenerateAnswer], Sequence[GenerateAnswer]]
"""What one model said to the prompts of a check, asked twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What the check found about one model.

    ``listed``: ``/v1/models`` names it (None: the server has no list). ``repeated``: share of greedy answers that were
    the same when asked again, 0–1; ``noise``: largest change of a reference's log-probability (nats) between the two
    askings. ``like_base``: share of answers equal to the base's; ``shift``: largest difference from the base's
    log-probabilities; both None for the base. ``like_local``, ``local_shift``: the same against the checkpoint in the
    local folder, ``local_scale`` its largest log-probability; None where no folder was given, or where it could not be
    asked for the reason in ``local_failure``. Log-probabilities are None where the server gives none.

    ``proven_base``: the server repeats itself to the last digit, and what it says to every prompt, log-probabilities
    included, is what the base says.
    """

    name: str
    listed: bool | None
    repeated: float
    noise: float | None
    like_base: float | None = None
    shift: float | None = None
    like_local: float | None = None
    local_shift: float | None = None
    local_scale: float | None = None
    local_failure: str | None = None
    proven_base: bool = False

    @property
    def as_base(self) -> bool:
        """Whether nothing tells this model from the base: equal answers, and log-probabilities equal but for noise.

        Where the server does not repeat itself, an adapter that changes little looks the same.
        """
        if self.like_base is None or self.like_base < 1.0:
            return False
        return self.shift is None or self.shift <= max(_SMALLEST_EFFECT, self.noise or 0.0)

    @property
    def as_local(self) -> bool | None:
        """Whether it answers as the local folder does, up to rounding; None where no folder was given."""
        if self.like_local is None:
            return None
        allowed = max(_ROUNDING_NATS, _LARGEST_SHARE * (self.local_scale or 0.0))
        return self.like_local >= _MOST_EQUAL and (self.local_shift is None or self.local_shift <= allowed)


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """One row a model, the base first; ``prompts`` were asked of each.

    ``askings`` are what each said, by its name.
    """

    url: str
    prompts: int
    models: list[ServedModel] = field(default_factory=list)
    askings: dict[str, Askings] = field(default_factory=dict, repr=False)

    def refuse_unapplied(self) -> None:
        """Stop the run where log-probabilities prove that an adapter is not applied.

        Where the server's noise leaves room for an adapter that changes little, this is a critical finding instead.

        Raises:
            EvaluationError: an adapted model gives the base's answers and exactly its log-probabilities, to every
                prompt, on a server that repeats itself exactly.
        """
        for model in self.models:
            if model.proven_base:
                raise EvaluationError(
                    f"the server answers as the base under the name '{model.name}': is the adapter loaded?",
                    where=f"{self.url}: {self.prompts} equal answers, log-probabilities equal to the last digit",
                    remedy="start the server with the adapter under this name (vLLM: --enable-lora --lora-modules); an "
                    "adapter that really changes nothing can be compared from its folder, with --engine transformers",
                )

    @property
    def findings(self) -> list[Finding]:
        """What a reader of the result has to know, with the numbers."""
        return [finding for model in self.models for finding in _findings(self, model)]


def check_server(
    engine: OpenAIEngine,
    base: Subject,
    adapted: Sequence[Subject],
    items: Sequence[GenerateItem],
    *,
    local: Engine | None = None,
    folders: Mapping[str, Subject] | None = None,
    on_progress: Progress | None = None,
) -> ServerCheck:
    """Ask each model the first 16 items twice, greedily and past the cache, and compare.

    ``folders`` are the subjects, by served name, whose local folder is at hand; ``local`` answers for them.

    Raises:
        EvaluationError: the server cannot be reached, or does not answer for one of the names; its message tells which
            models the server lists.
    """
    task, asked = check_task(items), list(items[:CHECK_ITEMS])
    if not asked:
        raise EvaluationError("there is no prompt to check the server with")
    listed = engine.models()
    rows: list[ServedModel] = []
    askings: dict[str, Askings] = {}
    subjects = [base, *adapted]
    for done, subject in enumerate(subjects, 1):
        first, second = (_answers(engine, subject.name, task, asked, listed) for _ in range(2))
        askings[subject.name] = first, second
        row = _row(subject.name, listed, askings[subject.name], None if subject is base else askings[base.name])
        known = (folders or {}).get(subject.name)
        rows.append(row if local is None or known is None else _with_local(row, local, known, task, asked, first))
        if on_progress is not None:
            on_progress(done, len(subjects))
    return ServerCheck(engine.server.url, len(asked), rows, askings)


def check_task(items: Sequence[GenerateItem]) -> SuiteTask:
    """The task as which the prompts of a check are asked."""
    chat = any(item.messages is not None for item in items[:CHECK_ITEMS])
    return SuiteTask(name=CHECK_TASK, kind="generate", data="", chat=chat, max_new_tokens=CHECK_TOKENS)


def same_model(earlier: Askings, now: Askings) -> bool:
    """Whether two checks of one name, made at two times, may be of the same weights.

    A prompt speaks against it where both checks repeated their answer and the answers differ, and where the
    log-probability (the mean of two askings) moved by more than the two askings of one check ever differ.
    """
    noise = max(_SMALLEST_EFFECT, _shift(*earlier) or 0.0, _shift(*now) or 0.0)
    for before, again, after, later in zip(*earlier, *now, strict=True):
        if before.text == again.text != after.text == later.text:
            return False
        old, new = _mean_logprob(before, again), _mean_logprob(after, later)
        if (old is None) != (new is None) or (old is not None and new is not None and abs(old - new) > noise):
            return False
    return True


def _mean_logprob(one: GenerateAnswer, other: GenerateAnswer) -> float | None:
    known = [answer.gold_logprob for answer in (one, other) if answer.gold_logprob is not None]
    return sum(known) / len(known) if known else None


def _answers(
    engine: OpenAIEngine, name: str, task: SuiteTask, items: Sequence[GenerateItem], listed: Mapping[str, object]
) -> list[GenerateAnswer]:
    try:
        return [answer for answer in engine.ask(name, task, items) if isinstance(answer, GenerateAnswer)]
    except EvaluationError as error:
        names = ", ".join(sorted(listed)) or "none"
        raise error.at(f"{engine.server.url}, which lists the models: {names}") from error.__cause__


def _with_local(
    row: ServedModel,
    local: Engine,
    subject: Subject,
    task: SuiteTask,
    items: Sequence[GenerateItem],
    served: Sequence[GenerateAnswer],
) -> ServedModel:
    """The row with what the local folder says to the same prompts; a folder too large for this machine is no error."""
    try:
        own = [answer for answer in local.answer(subject, task, items) if isinstance(answer, GenerateAnswer)]
    except (EvaluationError, CheckpointError) as error:
        return replace(row, local_failure=error.problem)
    scale = max((abs(answer.gold_logprob) for answer in own if answer.gold_logprob is not None), default=None)
    return replace(row, like_local=_equal(served, own), local_shift=_shift(served, own), local_scale=scale)


def _row(
    name: str,
    listed: Mapping[str, object],
    own: Askings,
    base: Askings | None,
) -> ServedModel:
    first, second = own
    return ServedModel(
        name=name,
        listed=name in listed if listed else None,
        repeated=_equal(first, second),
        noise=_shift(first, second),
        like_base=None if base is None else _equal(first, base[0]),
        shift=None if base is None else _shift(first, base[0]),
        proven_base=base is not None and _exactly_equal([first, second, *base]),
    )


def _exactly_equal(askings: Sequence[Sequence[GenerateAnswer]]) -> bool:
    """Whether all askings gave the same texts and log-probabilities, and a log-probability for every prompt."""
    said = {tuple((answer.text, answer.gold_logprob) for answer in answers) for answers in askings}
    return len(said) == 1 and all(answer.gold_logprob is not None for answer in chain(*askings))


def _equal(one: Sequence[GenerateAnswer], other: Sequence[GenerateAnswer]) -> float:
    """Share of answers with the same text, 0–1."""
    return sum(a.text == b.text for a, b in zip(one, other, strict=True)) / len(one)


def _shift(one: Sequence[GenerateAnswer], other: Sequence[GenerateAnswer]) -> float | None:
    """Largest absolute difference of the references' log-probabilities (nats); None where no item has both."""
    known = [
        abs(a.gold_logprob - b.gold_logprob)
        for a, b in zip(one, other, strict=True)
        if a.gold_logprob is not None and b.gold_logprob is not None
    ]
    return max(known, default=None)


def _findings(check: ServerCheck, model: ServedModel) -> list[Finding]:
    found = []
    if model.as_base:
        found.append(_as_base(check, model))
    if model.listed is False:
        title = f"The server answers for {model.name} and does not list it"
        advice = "Check that the name means the model you think: some servers load any name that they are given."
        found.append(_finding("server_unlisted", "warning", model, title, [f"{check.url}/models"], advice))
    if model.repeated < 1.0:
        title = f"The server does not repeat itself: {model.name} gives other greedy answers when asked again"
        evidence = [f"{model.repeated:.0%} of {check.prompts} answers were the same", *_nats("noise", model.noise)]
        advice = "Part of every flip is this noise; lower the server's concurrency or batch size to see how much."
        found.append(_finding("server_noise", "warning", model, title, evidence, advice))
    if model.as_local is not None:
        found.append(_against_local(check, model))
    if model.local_failure is not None:
        title = f"Whether the server's {model.name} is the checkpoint in the local folder was not tried"
        found.append(_finding("server_parity", "info", model, title, [model.local_failure], None))
    return found


def _as_base(check: ServerCheck, model: ServedModel) -> Finding:
    return _finding(
        "server_as_base",
        "critical",
        model,
        f"The server answers as the base under the name {model.name}: is the adapter loaded?",
        [f"{check.prompts} of {check.prompts} greedy answers equal the base's", *_nats("difference", model.shift)],
        "Start the server with the adapter under this name; an adapter that hardly changes anything looks the same.",
    )


def _against_local(check: ServerCheck, model: ServedModel) -> Finding:
    evidence = [
        f"{model.like_local:.0%} of {check.prompts} greedy answers are the same",
        *_nats("largest difference", model.local_shift),
    ]
    if model.as_local:
        title = f"The server's {model.name} answers as the local folder does"
        return _finding("server_parity", "good", model, title, evidence, None)
    title = f"The server's {model.name} answers differently from the local folder"
    advice = "Check which weights, data type, quantisation and chat template the server was started with."
    return _finding("server_parity", "warning", model, title, evidence, advice)


def _nats(what: str, value: float | None) -> list[str]:
    return [] if value is None else [f"{what} of a reference's log-probability: {value:.3g} nats"]


def _finding(
    kind: str, severity: str, model: ServedModel, title: str, evidence: Sequence[str], advice: str | None
) -> Finding:
    return Finding.model_validate(
        {
            "id": f"{kind}:{model.name}",
            "severity": severity,
            "area": "task",
            "subject": model.name,
            "title": title,
            "evidence": list(evidence),
            "advice": advice,
        }
    )
