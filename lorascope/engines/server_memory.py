"""A run that goes on: are a server's models still those that gave the answers that are kept?

Served weights have no hash. A name may mean a retrained adapter after a restart of the server, and the kept answers of
an unfinished run would be mixed with those of other weights. So what the models said to the prompts of the check is
kept beside their answers, and held against what they say when the run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.engines.base import Outcome, Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.keys import answer_keys, context_of
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.server_check import CHECK_TASK, Askings, ServerCheck, check_task, same_model
from lorascope.schema.items import GenerateAnswer, GenerateItem

_OTHER = "the server says other things under this name now"
_UNCHECKED = "no prompt can show whether the server still serves the same weights"


def forget_changed(
    engine: OpenAIEngine, subjects: Sequence[Subject], items: Sequence[GenerateItem], check: ServerCheck | None
) -> list[str]:
    """Drop the kept answers of models that the check does not know again, and keep the check for the next time.

    ``items`` are those that were checked with. Without a ``check`` (there is no prompt for one) no kept answer can be
    trusted. Returns a note for each model that lost answers; without a cache nothing happens.
    """
    if engine.cache is None:
        return []
    notes = []
    for subject in subjects:
        if check is None:
            lost, reason = _drop(engine, engine.cache, subject), _UNCHECKED
        else:
            lost, reason = _compare(engine, engine.cache, subject, items, check.askings[subject.name]), _OTHER
        if lost:
            notes.append(f"{subject.name}: {lost:,} kept answers were dropped and asked for again, because {reason}")
    return notes


def _compare(
    engine: OpenAIEngine, cache: AnswerCache, subject: Subject, items: Sequence[GenerateItem], now: Askings
) -> int:
    """How many answers were dropped, because what the model says ``now`` is not what it said before them."""
    task, setting = check_task(items), engine.setting(subject)
    keys = [
        answer_keys(subject, task, items[: len(said)], setting, beside={"asking": number})
        for number, said in enumerate(now)
    ]
    earlier = _earlier(cache, keys[0]), _earlier(cache, keys[1])
    if earlier[0] and earlier[1] and same_model((earlier[0], earlier[1]), now):
        return 0
    lost = _drop(engine, cache, subject)
    told = [
        (key, Outcome(answer))
        for own, said in zip(keys, now, strict=True)
        for key, answer in zip(own, said, strict=True)
    ]
    cache.put_many(told, context_of(subject, task, setting))
    return lost


def _earlier(cache: AnswerCache, keys: Sequence[str]) -> list[GenerateAnswer]:
    """What was said to the same prompts before; empty where that was not kept whole."""
    stored = cache.get_many(keys)
    answers = [stored[key].answer for key in keys if key in stored]
    said = [answer for answer in answers if isinstance(answer, GenerateAnswer)]
    return said if len(said) == len(keys) else []


def _drop(engine: OpenAIEngine, cache: AnswerCache, subject: Subject) -> int:
    """Remove all that is kept of a model, repeated answers included; how many answers to tasks there were."""
    name = engine.setting(subject).engine
    held = [(one.context, one.answers) for one in cache.holdings() if one.context is not None]
    own = [(context, answers) for context, answers in held if (context.engine, context.subject) == (name, subject.name)]
    if own:
        cache.prune(contents=sorted({context.content_hash for context, _ in own}))
    return sum(answers for context, answers in own if context.task != CHECK_TASK)
