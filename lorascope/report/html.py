"""A comparison as one HTML file that works offline: no request leaves it, and no text from a model can run in it.

Model output, names and prompts reach the page in two ways only: escaped by the template, or as JSON that scripts write
with ``textContent``. The content security policy allows the page's own scripts by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lorascope.report import charts
from lorascope.report.page import OUTCOME_SYMBOLS, page_context, subject_glyphs
from lorascope.report.samples import Samples, embed_samples
from lorascope.report.texts import TEMPLATES, Language, Texts, load_texts
from lorascope.report.weight_section import weight_data
from lorascope.schema.comparison import Comparison

if TYPE_CHECKING:
    import pyarrow

_STYLES = ("style.css", "human_gates.css")
_SCRIPTS = ("charts.js", "theme.js", "answers.js", "weights.js")


def render_html(comparison: Comparison, samples: pyarrow.Table | None, *, language: Language = "en") -> str:
    """Return the whole report as one HTML page, ready to be written as UTF-8.

    ``samples`` has the columns of ``samples.parquet``; without it the page has no section on changed answers.
    """
    words = load_texts(language)
    environment = _environment()
    embedded = embed_samples(samples, comparison) if samples is not None and samples.num_rows else None
    specs: dict[str, charts.Spec] = {}
    context = page_context(comparison, embedded, specs, language)
    scripts = [_bundle(), *(_script(environment, name) for name in _SCRIPTS)]
    return environment.get_template("report.html.j2").render(
        **context,
        policy=_policy(scripts),
        style=Markup("".join(environment.get_template(name).render() for name in _STYLES)),
        scripts=[Markup(script) for script in scripts],
        data=_data(comparison, embedded, specs, words),
    )


def _environment() -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    return f"\n{bundle}\n"


def _script(environment: Environment, name: str) -> str:
    source, _, _ = FileSystemLoader(TEMPLATES).get_source(environment, name)
    return f"\n{source}\n"


def _policy(scripts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_for_html(value: object) -> Markup:
    """Return JSON that is safe inside a script element: no character in it can end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _data(
    comparison: Comparison, embedded: Samples | None, specs: dict[str, charts.Spec], words: Texts
) -> dict[str, Markup]:
    data: dict[str, object] = {"charts": specs, "texts": words.group("ui")}
    if embedded is not None:
        marks = subject_glyphs(comparison)
        data["answers"] = {**embedded.data, "base": comparison.base.name, "marks": marks, "symbols": OUTCOME_SYMBOLS}
    if comparison.weights:
        data["weights"] = weight_data(comparison, words)
    return {name: json_for_html(value) for name, value in data.items()}
