"""Everything that needs an engine: answers, the noise floor, divergence, drift and cost, with the cache around them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Engine
from lorascope.engines.base import Subject as Asker
from lorascope.engines.cache import AnswerCache
from lorascope.engines.choosing import open_engine
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.comparison import Finding, Measurement, Missing
from lorascope.schema.items import ChoiceItem, GenerateItem
from lorascope.workflows.answer_cache import open_answer_cache
from lorascope.workflows.behaviour import Behaviour, ask_all
from lorascope.workflows.cost import measure_costs
from lorascope.workflows.divergence import measure_divergence
from lorascope.workflows.drift import measure_drift
from lorascope.workflows.label_diagnosis import find_in_heads
from lorascope.workflows.merge_findings import find_merges
from lorascope.workflows.noise import Noise, other_batch_size, repeat_all
from lorascope.workflows.output import OutputFolder
from lorascope.workflows.served_check import check_served
from lorascope.workflows.tasks import Questions, load_probes
from lorascope.workflows.watch import Watch

NOTHING_ASKED = "every answer was kept from an earlier run, so no model ran whose cost could be measured"
_NOT_ASKED_FOR = "latency and memory of answering were not asked for"
_NOT_LOCAL = "a server's or plug-in's latency and memory are not those of the checkpoint"


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """Who answers, and how. ``cache_dir`` is where the shared cache lies; without ``shared_cache`` none is used.

    ``noise_floor`` asks everything once more, computed another way; see :mod:`lorascope.workflows.noise`.
    ``measure_cost``: latency and memory of every subject, which takes a while for many.
    """

    engine: str = "transformers"
    url: str | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    merge: Literal["auto", "never"] = "auto"
    noise_floor: bool = False
    measure_cost: bool = True
    shared_cache: bool = True
    cache_dir: Path | None = None


@dataclass
class Heard:
    """What the engine gave. ``device`` is what it computed on, ``how_again`` how noise was made.

    ``asked_nothing``: every answer was kept from an earlier run, and cost was not measured.
    """

    behaviour: Behaviour = field(default_factory=Behaviour)
    noise: Noise | None = None
    how_again: str = ""
    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    device: str = "none"
    asked_nothing: bool = False


def ask_everything(
    options: AskingOptions,
    known: Sequence[Asker],
    tasks: Sequence[LoadedTask],
    questions: Questions,
    folder: OutputFolder,
    watch: Watch,
    *,
    headless: str | None = None,
) -> Heard:
    """Ask all checkpoints (``known``, the base first) all tasks and measure what only an engine can.

    ``headless`` is the architecture of a base without a language-model head, whose drift is measured instead of what it
    cannot answer. A server is checked first: each model against its local folder.
    """
    heard = Heard()
    started = time.perf_counter()
    # Whether a server or a plug-in still serves the same weights is not ours to know: its answers stay with the run.
    shared = options.shared_cache and options.engine == "transformers"
    with open_answer_cache(folder, shared=shared, cache_dir=options.cache_dir, say=watch.say) as cache:
        kept = len(cache)
        with _engine(options, cache) as engine:
            if isinstance(engine, OpenAIEngine):
                heard.findings += check_served(
                    engine, known, tasks, device=options.device, dtype=options.dtype, watch=watch
                )
            _ask(heard, engine, known, tasks, questions.seed, watch)
            if isinstance(engine, TransformersEngine):
                if headless is not None:
                    _drift(heard, engine, known, questions, headless, watch)
                _diverge(heard, engine, known, questions.seed, watch)
                heard.asked_nothing = len(cache) == kept and any(each.asked for each in heard.behaviour.tasks.values())
                if options.measure_cost:
                    _costs(heard, engine, known, watch)
                else:
                    heard.missing.append(Missing(area="cost", reason=_NOT_ASKED_FOR))
                heard.findings += find_merges(engine.proofs)
            else:
                heard.missing.append(Missing(area="cost", reason=_NOT_LOCAL))
            heard.device = str(getattr(engine, "device", options.url or options.engine))
            heard.notes += engine.notes
        if options.noise_floor:
            _ask_again(heard, options, cache, known, watch)
    heard.timings["behaviour"] = time.perf_counter() - started
    return heard


def prove_engine(options: AskingOptions) -> None:
    """Raise a UsageError for an engine, a device, a data type or an address that cannot be; nothing is loaded."""
    with _engine(options, None):
        pass


@contextmanager
def _engine(
    options: AskingOptions,
    cache: AnswerCache | None,
    *,
    batch_size: int | None = None,
    merge: Literal["auto", "never"] | None = None,
) -> Iterator[Engine]:
    engine = open_engine(
        options.engine,
        url=options.url,
        api_key_env=options.api_key_env,
        concurrency=options.concurrency,
        device=options.device,
        dtype=options.dtype,
        batch_size=batch_size or options.batch_size,
        merge=merge or options.merge,
        cache=cache,
    )
    with closing(engine):
        yield engine


def _ask(
    heard: Heard, engine: Engine, known: Sequence[Asker], tasks: Sequence[LoadedTask], seed: int, watch: Watch
) -> None:
    heard.behaviour = ask_all(engine, tasks, known, seed=seed, watch=watch)
    for answers in heard.behaviour.tasks.values():
        heard.findings += find_in_heads(answers, known)
    heard.timings |= {f"answers:{name}": seconds for name, seconds in heard.behaviour.seconds.items()}


def _diverge(heard: Heard, engine: TransformersEngine, known: Sequence[Asker], seed: int, watch: Watch) -> None:
    diverged, absent = measure_divergence(engine, known, heard.behaviour, seed=seed, watch=watch)
    heard.measurements += diverged
    heard.missing += absent


def _costs(heard: Heard, engine: TransformersEngine, known: Sequence[Asker], watch: Watch) -> None:
    """Latency and memory, where a model ran anyway: scoring kept answers anew loads none."""
    if heard.asked_nothing:
        watch.say("Every answer was kept from an earlier run: no model is asked")
        heard.missing.append(Missing(area="cost", reason=NOTHING_ASKED))
        return
    with watch.stage("Latency and memory") as report:
        costs, unmeasured = measure_costs(engine, known, heard.behaviour, report)
    heard.measurements += costs
    heard.missing += unmeasured


def _drift(
    heard: Heard, engine: TransformersEngine, known: Sequence[Asker], questions: Questions, headless: str, watch: Watch
) -> None:
    """Encoders cannot answer the probe; their representations of its texts are compared instead."""
    texts = _probe_texts(questions)
    instead = "representation drift is measured instead" if texts else "and --probe none leaves drift out"
    reason = f"{headless} has no language-model head: no general-knowledge probe, {instead}"
    heard.missing.append(Missing(area="forgetting", reason=reason))
    if texts:
        measured, missing = measure_drift(engine, known, texts, watch=watch)
        heard.measurements += measured
        heard.missing += missing


def _probe_texts(questions: Questions) -> list[str]:
    items = [item for task in load_probes(questions) for item in task.items]
    asked = [item.question for item in items if isinstance(item, ChoiceItem)]
    return asked + [str(item.prompt) for item in items if isinstance(item, GenerateItem)]


def _ask_again(heard: Heard, options: AskingOptions, cache: AnswerCache, known: Sequence[Asker], watch: Watch) -> None:
    """The noise floor. Where the models run here, in batches of another size and unmerged; a server is asked again."""
    size = other_batch_size(options.batch_size)
    local = options.engine == "transformers"
    heard.how_again = f"batches of {size}, adapters unmerged" if local else "the same requests again"
    with _engine(options, cache, batch_size=size, merge="never") as engine:
        heard.noise = repeat_all(engine, known, heard.behaviour, heard.how_again, watch=watch)
    heard.missing += heard.noise.missing
