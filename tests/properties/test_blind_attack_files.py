"""Nobody who holds every file of the sheets' folder and the source, but not the key, tells which answer is whose.

Studies are exported from results whose systems' texts come from one distribution. The attackers read the files by
themselves, byte for byte, and turn whatever can be counted there (ids, order, lengths, white space, markup, archives,
the file system's data, replays of seeds) into numbers for each row. Simple rules on each number, and models learnt on
other studies, guess whether A is the answer of the pair's first system. Exchanging the systems turns every guess
round and leaves the chance of a study as it is, so without a leak the studies in which more guesses are right than
wrong are tosses of a coin. The bound holds for all attackers together with 99.9 %; leaks planted in the files' bytes
have to be found by the same test.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import html
import io
import itertools
import json
import os
import random
import re
import stat
import statistics
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console
from scipy.stats import binomtest

from lorascope.blind import StudyRequest, make_study
from lorascope.blind.key import StudyKey
from lorascope.schema.comparison import CheckpointInfo, Comparison, ParameterCounts, Provenance, TaskInfo
from lorascope.workflows.blind import ExportOptions, export_study
from lorascope.workflows.publish import document

STUDIES, WITH_XLSX, LEAKY = 36, 22, 22
BASE, TUNED, MERGED = "tinybase-q7", "tuned-k9", "merged-m4"
TASK, FINGERPRINT = "helpdesk-task", "fp-0b5d4c"
SUFFIXES = (".html", ".xlsx", ".csv", ".label-studio.json")
WORDS = (
    "the",
    "kiln",
    "is",
    "off",
    "when",
    "its",
    "red",
    "light",
    "fades",
    "<b>",
    "&",
    "窑",
    "炉火",
    "\n",
    '"so"',
    "_x",
)
STARTS = ("", "", "", "", "=", "- ", "+1 ", "'", "@")
Numbers = dict[str, float]
Contents = Mapping[str, bytes]


# --- results in which nothing tells the systems apart ----------------------------------------------------------------


def comparison(*adapted: str) -> Comparison:
    def checkpoint(name: str) -> CheckpointInfo:
        return CheckpointInfo(
            name=name, path=f"/models-of-us/{name}/weights", role="base" if name == BASE else "adapted", kind="model",
            architecture="x", dtype="x", content_hash=hashlib.sha256(name.encode()).hexdigest(),
            parameters=ParameterCounts(total=1), generation_ready=True,
        )  # fmt: skip

    return Comparison(
        created="", command=["lorascope"], seed=0, lorascope_version="0",
        checkpoints=[checkpoint(name) for name in (BASE, *adapted)],
        provenance=Provenance(libraries={}, device="cpu", dtype="x", timings={}),
        tasks=[TaskInfo(name=TASK, kind="generate", role="target", items=1, fingerprint=FINGERPRINT, metrics=[])],
    )  # fmt: skip


@cache
def samples_of(number: int, adapted: tuple[str, ...], items: int = 11) -> pyarrow.Table:
    """All answers are of one kind, some of them formulas, markup or long; one in eleven items has but one answer."""
    chance = random.Random(f"texts of {number}")

    def text() -> str:
        return chance.choice(STARTS) + " ".join(chance.choices(WORDS, k=chance.choice((1, 4, 9, 30)))) + "."

    rows = []
    for place in range(items):
        base = text()
        rows += [
            {"subject": name, "task": TASK, "item_id": f"case-{place:03}-id", "prompt": f"question {place}?",
             "base_output": base, "adapted_output": base if place == 0 else text(),
             "flip": chance.choice(["fixed", "broken", "both_right", None])}
            for name in adapted
        ]  # fmt: skip
    return pyarrow.Table.from_pylist(rows)


def adapted_of(number: int) -> tuple[str, ...]:
    return (TUNED, MERGED) if number % 3 == 0 else (TUNED,)


def request_of(number: int) -> StudyRequest:
    raters, shared = (2 if number < WITH_XLSX else 3), (4 if number % 4 == 0 else None)
    return StudyRequest(items=8, raters=raters, shared=shared, repeats=2, checks=1, identical=1, seed=number)


@dataclass(frozen=True)
class Exported:
    """A study's files. ``twin``: the CSV sheets of a second export of the same result with the same seed."""

    number: int
    folder: Path
    key_path: Path
    contents: Contents
    twin: Contents
    key: StudyKey

    @property
    def truth(self) -> dict[str, bool]:
        """By row id, for rows with both of an item's own answers: whether A is the first system's."""
        rows = (row for row in self.key.rows if row.kind in ("rated", "repeat"))
        return {row.id: row.a == self.key.items[row.item].first for row in rows}


def export(number: int, place: Path) -> Exported:
    run = place / "run-of-ours"
    run.mkdir(parents=True)
    (run / "result.json").write_text(document(comparison(*adapted_of(number))), encoding="utf-8")
    pyarrow.parquet.write_table(samples_of(number, adapted_of(number)), run / "samples.parquet")
    formats = ("html", "xlsx", "csv", "label-studio") if number < WITH_XLSX else ("html", "csv", "label-studio")
    asked = request_of(number)
    options = ExportOptions(
        result=run / "result.json", formats=formats, items=asked.items, raters=asked.raters, repeats=asked.repeats,
        checks=asked.checks, identical=asked.identical, shared=asked.shared, seed=asked.seed,
        folder=place / "sheets", key=place / "secret" / "key.json",
    )  # fmt: skip
    console = Console(file=io.StringIO())
    made = export_study(options, console)
    again = replace(options, formats=("csv",), folder=place / "sheets-2", key=place / "secret" / "key-2.json")
    export_study(again, console)
    return Exported(number, place / "sheets", made.key, files(made.sheets[0].parent), files(place / "sheets-2"),
                    made.study.key)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    return [export(number, tmp_path_factory.mktemp("study") / "work") for number in range(STUDIES)]


# --- the attackers' own reading of the files -------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One row in one file: all of it as written there, its texts as written and as meant."""

    id: str
    raw: str
    offset: int
    written: tuple[str, str, str]
    meant: tuple[str, str, str]


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_CELL = re.compile(r"<c r=\"([A-Z]+)\d+\"([^>]*?)(?:/>|>(.*?)</c>)", re.DOTALL)
_INSIDE = re.compile(r"<(?:t|v)(?: [^>]*)?>(.*?)</(?:t|v)>", re.DOTALL)


def html_records(content: bytes) -> Iterator[Record]:
    page = content.decode()
    start = page.index('"rows":[') + len('"rows":[')
    while page[start] == "{":
        _, end = json.JSONDecoder().raw_decode(page, start)
        tokens = [found.group() for found in _STRING.finditer(page, start, end)]
        question, a, b = tokens[-3:]
        yield Record(
            json.loads(tokens[1]), page[start:end], start, (question, a, b), tuple(map(json.loads, tokens[-3:]))
        )
        start = end + 1


def label_studio_records(content: bytes) -> Iterator[Record]:
    text = content.decode()
    start = text.index("{")
    while start >= 0:
        _, end = json.JSONDecoder().raw_decode(text, start)
        tokens = [found.group() for found in _STRING.finditer(text, start, end)]
        after = {json.loads(one): other for one, other in itertools.pairwise(tokens)}
        written = (after["question"], after["answer_a"], after["answer_b"])
        meant = tuple(map(json.loads, written))
        yield Record(json.loads(after["row"]), text[start:end], start, written, meant)
        start = text.find("{", end)


def csv_records(content: bytes) -> Iterator[Record]:
    text = content.decode("utf-8")
    for found in re.finditer(r'(?<=\r\n)"q[0-9a-f]{16}".*?\r\n(?="q[0-9a-f]{16}"|\Z)', text, re.DOTALL):
        cells = next(csv.reader(io.StringIO(found.group(), newline="")))
        meant = (cells[1], cells[2], cells[3])
        question, a, b = (cell.replace('"', '""') for cell in meant)
        yield Record(cells[0], found.group(), found.start(), (question, a, b), meant)


def xlsx_records(content: bytes) -> Iterator[Record]:
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        text = book.read("xl/worksheets/sheet1.xml").decode()
    for found in re.finditer(r"<row .*?</row>", text, re.DOTALL):
        cells = {name: _INSIDE.findall(inner) for name, _, inner in _CELL.findall(found.group())}
        name, question, a, b = ("".join(cells[column]) for column in "NABC")
        if re.fullmatch("q[0-9a-f]{16}", name):
            meant = (html.unescape(question), html.unescape(a), html.unescape(b))
            yield Record(name, found.group(), found.start(), (question, a, b), meant)


READERS: dict[str, Callable[[bytes], Iterator[Record]]] = dict(
    zip(SUFFIXES, (html_records, xlsx_records, csv_records, label_studio_records), strict=True)
)


def records(content: bytes, suffix: str) -> list[Record]:
    return list(READERS[suffix](content))


# --- numbers of every row --------------------------------------------------------------------------------------------


def number_of(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def skeleton(record: Record) -> str:
    """What is left of a record without its id, texts, row number and head: markup, styles, keys, spaces."""
    left = record.raw.replace(record.id, "")
    for text in record.written:
        left = left.replace(text, "", 1)
    return re.sub(r'r="[A-Z]*\d+"|hmac-[0-9a-f]{64}|rater-\d+', "", left)


def written_numbers(record: Record) -> Numbers:
    """How one row stands in one file."""
    _, a, b = record.written
    _, said_a, said_b = record.meant
    left = skeleton(record)
    return {
        "length": len(record.raw),
        "bytes": len(record.raw.encode("utf-8", "surrogatepass")),
        "checksum": number_of(record.raw),
        "offset": record.offset,
        "frame": len(left),
        "frame's checksum": number_of(left),
        "frame's numbers": sum(map(int, re.findall(r"(?<!\w)\d+", left))),
        "spaces": sum(map(str.isspace, record.raw)),
        "texts' lengths": len(a) - len(b),
        "texts' escapes": (len(a) - len(said_a)) - (len(b) - len(said_b)),
        "texts' outer space": (len(a) - len(a.strip())) - (len(b) - len(b.strip())),
        "texts' lines": a.count("\n") - b.count("\n"),
    }


def workbook_numbers(record: Record, rest: str) -> Numbers:
    """Styles and height of a workbook's row, and the order in which its texts stand in the other parts, ``rest``."""
    cells = {name: attributes for name, attributes, _ in _CELL.findall(record.raw)}
    style_a, style_b = (re.search(r's="(\d+)"', cells[column]) for column in "BC")
    height = re.search(r'ht="([\d.]+)"', record.raw)
    found = {
        "height": float(height[1]) if height else 0.0,
        "styles": float(style_a[1] if style_a else 0) - float(style_b[1] if style_b else 0),
    }
    places = [rest.find(f">{text}<") for text in record.written[1:]]
    return found | {"order in other parts": float(np.sign(places[0] - places[1]))}


def other_parts(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        return "".join(book.read(name).decode() for name in book.namelist() if not name.endswith("sheet1.xml"))


def file_numbers(study: Exported, name: str, content: bytes) -> dict[str, int]:
    """The file's own numbers, whose bits, one for each row, could carry the key."""
    data = (study.folder / name).stat()
    known = {"size": len(content), "mode": data.st_mode, "time": data.st_mtime_ns, "inode": data.st_ino}
    known |= {"checksum": zlib.crc32(content), "digest": int(hashlib.sha256(content).hexdigest(), 16)}
    if name.endswith(".xlsx"):
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            for at, entry in enumerate(book.infolist()):
                known |= {f"packed {at}": entry.compress_size, f"attributes {at}": entry.external_attr}
                known[f"time {at}"] = int("".join(f"{part:02}" for part in entry.date_time))
    return known


def format_numbers(study: Exported, contents: Contents, suffix: str) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {}
    for name, content in contents.items():
        if name.endswith(suffix) and name.startswith("rater-"):
            whole, rest = file_numbers(study, name, content), other_parts(content) if suffix == ".xlsx" else ""
            for place, record in enumerate(records(content, suffix)):
                numbers = written_numbers(record) | {"file's size": len(content)}
                numbers |= {f"bit of {what}": value >> place & 1 for what, value in whole.items()}
                if suffix == ".xlsx":
                    numbers |= workbook_numbers(record, rest)
                found[record.id] = {f"{suffix} {what}": value for what, value in numbers.items()}
    return found


def coins(seed: int) -> dict[str, Callable[[], float]]:
    legacy = np.random.RandomState(seed % 2**32)
    return {
        "random": random.Random(seed).random,
        "random of text": random.Random(str(seed)).random,
        "numpy": np.random.default_rng(seed).random,
        "numpy's older": legacy.random_sample,
    }


def sheets_of(contents: Contents) -> dict[str, list[Record]]:
    return {name: records(content, ".csv") for name, content in contents.items() if name.endswith(".csv")}


def sheet_numbers(study: Exported, contents: Contents) -> dict[str, Numbers]:
    """What ids, orders, and the comparison of all sheets and of both exports give."""
    sheets, twin = sheets_of(contents), sheets_of(study.twin)
    everything = [record for rows in sheets.values() for record in rows]
    left, shown = (Counter[tuple[str, str]](), Counter[tuple[str, str]]())
    twice = {record.meant[:2] for record in everything if record.meant[1] == record.meant[2]}
    for record in everything:
        question, a, b = record.meant
        left[question, a] += 1
        shown.update({(question, a), (question, b)})
    left_again = Counter(record.meant[:2] for rows in twin.values() for record in rows)
    head = re.search(r"hmac-([0-9a-f]{64})", everything[0].raw)
    assert head is not None
    commitment = int(head[1], 16)
    first = {record.meant[:2] for record in next(iter(sheets.values()))}
    found: dict[str, Numbers] = {}
    for sheet, (name, rows) in enumerate(sheets.items()):
        same_rater = {record.meant[:2] for record in twin[name]}
        tosses = {
            f"coin of {what}, {generator}": toss
            for what, seed in (("seed", study.number), ("seed and rater", study.number + sheet),
                               ("rater", sheet + 1), ("nothing", 0), ("commitment", commitment),
                               ("time", int((study.folder / name).stat().st_mtime)))
            for generator, toss in coins(seed).items()
        }  # fmt: skip
        for place, record in enumerate(rows):
            question, a, b = record.meant
            one, other = (question, a), (question, b)
            gaps = [at - place for at, each in enumerate(rows) if each.meant[0] == question and at != place]
            guessed = {
                f"hmac under {under!r}": hmac.new(str(under).encode(), record.id.encode(), "sha256").digest()[0]
                for under in ("", study.number, head[1], "0" * 64)
            }
            found[record.id] = {
                "id": int(record.id[1:], 16) >> 12,
                "id's last digit": int(record.id[-1], 16),
                "id's checksum": number_of(record.id),
                "id's bit of the commitment": commitment >> int(record.id[1:3], 16) & 1,
                "place": place,
                "place from the end": len(rows) - place,
                "rater": sheet,
                "question": number_of(question),
                "texts' order": float(np.sign((a > b) - (a < b))),
                "texts' checksums": number_of(a) - number_of(b),
                "left on all sheets": left[one] - left[other],
                "left in the other export": left_again[one] - left_again[other],
                "left for the rater in the other export": (one in same_rater) - (other in same_rater),
                "left for the first rater": one in first,
                "shown": shown[one] - shown[other],
                "twice in one row": (one in twice) - (other in twice),
                "distance of the same question": gaps[0] if gaps else 0,
                "bit of the commitment": commitment >> place & 1,
            }
            found[record.id] |= guessed | {what: toss() < 0.5 for what, toss in tosses.items()}
    return found


def numbers_of(study: Exported, contents: Contents, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Numbers]:
    found = sheet_numbers(study, contents) if ".csv" in suffixes else {}
    for suffix in suffixes:
        for name, numbers in format_numbers(study, contents, suffix).items():
            found.setdefault(name, {}).update(numbers)
    return found


# --- guessing --------------------------------------------------------------------------------------------------------

Guesses = dict[str, bool]
Seen = Mapping[str, Numbers]


def rater_of(study: Exported) -> dict[str, str]:
    return {row.id: row.rater for row in study.key.rows}


def high(what: str, seen: Seen, groups: Mapping[str, str]) -> Guesses:
    """A is guessed where the number is over its median in the row's group; rows at the median are passed over."""
    by_group: dict[str, dict[str, float]] = {}
    for name, numbers in seen.items():
        if what in numbers:
            by_group.setdefault(groups[name], {})[name] = numbers[what]
    guesses: Guesses = {}
    for found in by_group.values():
        middle = statistics.median(found.values())
        guesses |= {name: value > middle for name, value in found.items() if value != middle}
    return guesses


def odd(what: str, seen: Seen) -> Guesses:
    return {name: int(numbers[what]) % 2 == 1 for name, numbers in seen.items() if what in numbers}


def positive(what: str, seen: Seen) -> Guesses:
    return {name: numbers[what] > 0 for name, numbers in seen.items() if numbers.get(what, 0) != 0}


def rules(what: str, study: Exported, seen: Seen) -> dict[str, Guesses]:
    return {
        f"{what}: odd": odd(what, seen),
        f"{what}: positive": positive(what, seen),
        f"{what}: high in the sheet": high(what, seen, rater_of(study)),
        f"{what}: high in the study": high(what, seen, dict.fromkeys(seen, "")),
    }


def score(study: Exported, guesses: Guesses) -> int:
    truth = study.truth
    return sum(1 if guess == truth[name] else -1 for name, guess in guesses.items() if name in truth)


def table(seen: Seen, names: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Numbers, scaled within the study, and whether they are odd: what models learn from."""
    raw = np.array([[seen[name].get(what, 0.0) for what in columns] for name in names], dtype=float)
    spread = raw.std(axis=0)
    scaled = (raw - raw.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.hstack([scaled, np.sign(raw), np.abs(raw) % 2])


def learnt(studies: Sequence[Exported], seen: Sequence[Seen], columns: Sequence[str]) -> dict[str, list[int]]:
    """Scores of models that learnt from every third study, in the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    known = [sorted(name for name in study.truth if name in found) for study, found in zip(studies, seen, strict=True)]
    tables = [table(found, names, columns) for found, names in zip(seen, known, strict=True)]
    answers = [[study.truth[name] for name in names] for study, names in zip(studies, known, strict=True)]
    models = {
        "logistic regression": LogisticRegression(C=0.05, max_iter=5000),
        "decision tree": DecisionTreeClassifier(max_depth=4, min_samples_leaf=10, random_state=0),
    }
    taught = range(0, len(studies), 3)
    found = {}
    for title, model in models.items():
        model.fit(np.vstack([tables[at] for at in taught]), [side for at in taught for side in answers[at]])
        found[title] = [
            score(study, dict(zip(known[at], map(bool, model.predict(tables[at])), strict=True)))
            for at, study in enumerate(studies)
            if at not in taught
        ]
    return found


@dataclass(frozen=True)
class Scores:
    """Of every attacker, his score in every study: right guesses less wrong ones."""

    rules: Mapping[str, Sequence[int]]
    models: Mapping[str, Sequence[int]]

    def leaking(self) -> dict[str, tuple[int, int]]:
        """Attackers outside of chance, with the studies won and those decided; rules and models share the 0.1 %."""
        found = {}
        for group in (self.rules, self.models):
            for name, each in group.items():
                won, decided = sum(value > 0 for value in each), sum(value != 0 for value in each)
                if decided and binomtest(won, decided).pvalue < 0.0005 / len(group):
                    found[name] = won, decided
        return found


def attack(studies: Sequence[Exported], contents: Sequence[Contents], suffixes: Sequence[str] = SUFFIXES) -> Scores:
    seen = [numbers_of(study, content, suffixes) for study, content in zip(studies, contents, strict=True)]
    columns = sorted({what for found in seen for numbers in found.values() for what in numbers})
    scores: dict[str, list[int]] = {}
    for study, found in zip(studies, seen, strict=True):
        for what in columns:
            for name, guesses in rules(what, study, found).items():
                scores.setdefault(name, []).append(score(study, guesses))
    return Scores(scores, learnt(studies, seen, columns))


def test_no_attacker_reads_the_sides_from_the_files(exported: list[Exported]) -> None:
    scores = attack(exported, [study.contents for study in exported])
    able = [name for name, each in scores.rules.items() if sum(value != 0 for value in each) >= 20]
    assert len(able) > 250, "too few attackers decide enough studies to find anything"
    assert scores.leaking() == {}


class NumpyChance(random.Random):
    """Python's drawing code on numpy's numbers."""

    def __init__(self, generator: np.random.Generator | np.random.RandomState) -> None:
        super().__init__(0)
        self._draw = generator

    def random(self) -> float:
        return float(self._draw.random())

    def getrandbits(self, count: int, /) -> int:
        return int.from_bytes(self._draw.bytes(count // 8 + 1), "little") >> (8 - count % 8)


def test_the_programs_own_drawing_replayed_with_guessed_seeds_finds_nothing(exported: list[Exported]) -> None:
    scores: dict[str, list[int]] = {}
    for study in exported[:28]:
        known = study.contents
        commitment = re.search(rb"hmac-([0-9a-f]{64})", known["rater-1.csv"])
        title = re.search(rb'"study":"study-([0-9a-f]+)"', known["rater-1.html"])
        assert commitment is not None
        assert title is not None
        time = int(study.folder.stat().st_mtime)
        seeds = {
            "seed": study.number,
            "study's name": int(title[1], 16),
            "commitment": int(commitment[1], 16),
            "time": time,
        }
        chances: dict[str, random.Random] = {what: random.Random(value) for what, value in seeds.items()}
        chances |= {
            "seed as text": random.Random(str(study.number)),
            "numpy with the seed": NumpyChance(np.random.default_rng(study.number)),
            "numpy's older with the seed": NumpyChance(np.random.RandomState(study.number)),
        }
        for name, chance in chances.items():
            scores.setdefault(name, []).append(score(study, replayed(study, chance)))
    assert Scores(scores, {}).leaking() == {}
    assert all(sum(value != 0 for value in each) >= 18 for each in scores.values())


def replayed(study: Exported, chance: random.Random) -> Guesses:
    """The sides of a study made once more, with the samples in hand and a guess at the secret chance."""
    number, adapted = study.number, adapted_of(study.number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorascope.blind.study.secrets.SystemRandom", lambda: chance)
        made = make_study(samples_of(number, adapted), comparison(*adapted), request_of(number))
    rows = {row.id: row for sheet in made.sheets.values() for row in sheet.rows}
    left = {
        (row.rater, rows[row.id].question): row.a == made.key.items[row.item].first
        for row in made.key.rows
        if row.kind == "rated"
    }
    guesses: dict[tuple[str, str], tuple[str, bool]] = {}
    for name, sheet in sheets_of(study.contents).items():
        for record in sheet:
            place = name.removesuffix(".csv"), record.meant[0]
            if place in left:
                guesses.setdefault(place, (record.id, left[place]))
    return dict(guesses.values())


# --- planted leaks ---------------------------------------------------------------------------------------------------

Leak = Callable[[bytes, Mapping[str, bool]], bytes]


def each_record(suffix: str, change: Callable[[Record, bool], str]) -> Leak:
    """Change the records of rated rows in a file's bytes."""

    def leak(content: bytes, truth: Mapping[str, bool]) -> bytes:
        if suffix == ".xlsx":
            return with_part(content, "xl/worksheets/sheet1.xml", lambda text: changed(text, content, truth))
        return changed(content.decode(), content, truth).encode()

    def changed(text: str, content: bytes, truth: Mapping[str, bool]) -> str:
        for record in records(content, suffix):
            if record.id in truth:
                text = text.replace(record.raw, change(record, truth[record.id]), 1)
        return text

    return leak


def with_part(content: bytes, part: str, change: Callable[[str], str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            text = source.read(entry.filename)
            target.writestr(entry, change(text.decode()).encode() if entry.filename == part else text)
    return out.getvalue()


def shared_strings_of_the_first_system_first(content: bytes, truth: Mapping[str, bool]) -> bytes:
    """A part such as other programs write, in which all texts stand in an order of their own."""
    listed: list[str] = []
    for record in records(content, ".xlsx"):
        question, a, b = record.written
        listed += [question, *((a, b) if truth.get(record.id, True) else (b, a))]
    items = "".join(f"<si><t>{text}</t></si>" for text in dict.fromkeys(listed))
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as book:
        book.writestr(zipfile.ZipInfo("xl/sharedStrings.xml"), f"<sst>{items}</sst>")
    return out.getvalue()


def wider_space(record: Record, first: bool) -> str:
    text = record.written[1 if first else 2]
    return record.raw.replace(f'"{text}"', f'"{text} "', 1)


def sides_in_the_files_time(study: Exported) -> None:
    """The study's own sides as bits of the times of its files, put there before the attackers look."""
    truth = study.truth
    for name, sheet in sheets_of(study.contents).items():
        bits = sum(1 << place for place, record in enumerate(sheet) if truth.get(record.id))
        os.utime(study.folder / name, ns=(bits, bits))


PLANTED: dict[str, tuple[str, Leak, str]] = {
    "trailing space": (".csv", each_record(".csv", wider_space), ".csv texts' outer space: positive"),
    "quoted otherwise": (
        ".csv",
        each_record(".csv", lambda record, first: record.raw.replace(',""', ",", 1) if first else record.raw),
        ".csv frame: high in the sheet",
    ),
    "one key more": (
        ".label-studio.json",
        each_record(".label-studio.json", lambda record, first: f'{{"id": {1 + first}, {record.raw[1:]}'),
        ".label-studio.json frame's numbers: odd",
    ),
    "space between keys": (
        ".html",
        each_record(".html", lambda record, first: record.raw.replace('{"id', '{ "id', 1) if first else record.raw),
        ".html frame: high in the sheet",
    ),
    "row's height": (
        ".xlsx",
        each_record(".xlsx", lambda record, first: re.sub(r'ht="[^"]*"', f'ht="{15 + first}"', record.raw, count=1)),
        ".xlsx height: high in the sheet",
    ),
    "cell's style": (
        ".xlsx",
        each_record(
            ".xlsx",
            lambda record, first: re.sub(r'(r="B\d+" )s="\d+"', rf'\1s="{1 + 50 * first}"', record.raw, count=1),
        ),
        ".xlsx styles: positive",
    ),
    "order of shared strings": (
        ".xlsx",
        shared_strings_of_the_first_system_first,
        ".xlsx order in other parts: positive",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_leaks_planted_in_the_files_are_found(planted: str, exported: list[Exported]) -> None:
    suffix, leak, finder = PLANTED[planted]
    studies = exported[:LEAKY]
    contents = [
        {name: leak(text, study.truth) if name.endswith(suffix) else text for name, text in study.contents.items()}
        for study in studies
    ]
    found = attack(studies, contents, (suffix,)).leaking()
    # A number that is lower where A is the first system's gives the sides away as well, turned round.
    assert finder in found, found
    assert {"logistic regression", "decision tree"} & set(found), found


def test_an_id_whose_parity_tells_is_found(exported: list[Exported]) -> None:
    studies, contents = [], []
    for study in exported[:LEAKY]:
        renamed = {name: f"{name[:-1]}{'1' if first else '0'}" for name, first in study.truth.items()}
        rows = [row.model_copy(update={"id": renamed.get(row.id, row.id)}) for row in study.key.rows]
        key = study.key.model_copy(update={"rows": rows})
        sheets = {name: text for name, text in study.contents.items() if name.endswith(".csv")}
        for old, new in renamed.items():
            sheets = {name: text.replace(old.encode(), new.encode()) for name, text in sheets.items()}
        studies.append(replace(study, key=key))
        contents.append(sheets)
    found = attack(studies, contents, (".csv",)).leaking()
    assert "id's last digit: odd" in found
    assert {"logistic regression", "decision tree"} & set(found), found


def test_sides_in_the_times_of_files_are_found(exported: list[Exported], tmp_path: Path) -> None:
    studies = []
    for study in exported[:LEAKY]:
        folder = tmp_path / str(study.number)
        folder.mkdir()
        for name, content in study.contents.items():
            (folder / name).write_bytes(content)
        studies.append(replace(study, folder=folder))
        sides_in_the_files_time(studies[-1])
    assert ".csv bit of time: odd" in attack(studies, [study.contents for study in studies], (".csv",)).leaking()


# --- what no statistics are needed for -------------------------------------------------------------------------------


def parts(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if name.endswith(".xlsx"):
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            yield from ((f"{name}/{part}", book.read(part)) for part in book.namelist())


def test_no_file_holds_anything_of_the_key_or_the_result(exported: list[Exported]) -> None:
    for study in exported:
        assert stat.S_IMODE(study.key_path.stat().st_mode) == 0o600
        assert study.folder not in study.key_path.parents
        salt = study.key.salt
        told = [salt, TASK, FINGERPRINT, "models-of-us", "run-of-ours", "-id", "case-0", "stratum", "mismatched"]
        told += [name for each in comparison(TUNED, MERGED).checkpoints for name in (each.name, each.content_hash)]
        told += [row.digest for row in study.key.rows]
        told += [str(study.folder.parent), study.key_path.name]
        for name, content in study.contents.items():
            for part, text in parts(name, content):
                assert not [word for word in told if word.encode() in text or word in part], part


def test_the_folder_holds_the_sheets_alone_with_one_mode_and_time(exported: list[Exported]) -> None:
    for study in exported:
        suffixes = SUFFIXES if study.number < WITH_XLSX else tuple(each for each in SUFFIXES if each != ".xlsx")
        wanted = {f"{rater}{suffix}" for rater in study.key.raters for suffix in suffixes}
        assert set(study.contents) == wanted | {"sheets.instructions.txt", "sheets.label-studio.xml"}
        assert {path.name for path in study.folder.parent.iterdir()} == {"run-of-ours", "sheets", "sheets-2", "secret"}
    fresh = [path.stat() for path in exported[-1].folder.iterdir()]
    assert {stat.S_IMODE(each.st_mode) for each in fresh} == {0o644}
    assert len({each.st_mtime_ns for each in fresh}) == 1


def test_files_differ_in_their_rows_and_heads_alone(exported: list[Exported]) -> None:
    """Rater, number of rows, study and commitment given, all of a page but its rows is the same in every study."""
    pages: dict[tuple[str, int], set[str]] = {}
    others: dict[str, set[bytes]] = {}
    for study in exported:
        for name, content in study.contents.items():
            if name.endswith(".html"):
                rows = records(content, ".html")
                page = content.decode()
                start, end = rows[0].offset, rows[-1].offset + len(rows[-1].raw)
                page = re.sub(r"study-[0-9a-f]{8}|hmac-[0-9a-f]{64}", "", page[:start] + page[end:])
                pages.setdefault((name, len(rows)), set()).add(page)
            elif name.startswith("sheets."):
                others.setdefault(name, set()).add(content)
    assert all(len(found) == 1 for found in pages.values())
    assert all(len(found) == 1 for found in others.values())
    assert sum(map(len, pages.values())) < STUDIES


def test_all_formats_of_a_rater_say_the_same(exported: list[Exported]) -> None:
    for study in exported[:WITH_XLSX]:
        for rater in study.key.raters:
            read = [records(study.contents[f"{rater}{suffix}"], suffix) for suffix in SUFFIXES]
            assert len({tuple(record.id for record in rows) for rows in read}) == 1
            page, book, sheet, tasks = read
            assert [row.meant for row in page] == [row.meant for row in tasks]
            plain = [tuple(text.replace("_x005F_", "_") for text in row.meant) for row in book]
            assert plain == [row.meant for row in page]
            for one, other in zip(sheet, page, strict=True):
                assert all(a in (b, f"'{b}") for a, b in zip(one.meant, other.meant, strict=True))


def test_workbooks_carry_no_author_and_no_time(exported: list[Exported]) -> None:
    frames = set()
    for study in exported[:WITH_XLSX]:
        for name, content in study.contents.items():
            if not name.endswith(".xlsx"):
                continue
            with zipfile.ZipFile(io.BytesIO(content)) as book:
                entries = book.infolist()
                core, app = book.read("docProps/core.xml").decode(), book.read("docProps/app.xml").decode()
                frames.add(tuple((entry.filename, entry.external_attr, entry.create_system) for entry in entries))
            assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
            assert not any(entry.extra or entry.comment for entry in entries)
            assert not book.comment
            assert not re.search("creator|lastModifiedBy|created|modified", core)
            assert not re.search("Company|Manager|Template|TotalTime|HyperlinkBase", app)
    assert len(frames) == 1


def test_two_exports_with_one_seed_share_the_items_alone(exported: list[Exported]) -> None:
    for study in exported:
        one, other = sheets_of(study.contents), sheets_of(study.twin)
        drawn, again = ({each.meant[0] for rows in both.values() for each in rows} for both in (one, other))
        assert drawn == again
        ids, others = ({each.id for rows in both.values() for each in rows} for both in (one, other))
        assert not ids & others
        heads = [re.findall(rb"hmac-[0-9a-f]{64}", both["rater-1.csv"])[0] for both in (study.contents, study.twin)]
        assert heads[0] != heads[1]


# --- three systems: what is equal for two need not be for three ------------------------------------------------------

THREE = (BASE, TUNED, MERGED)


@cache
def of_three(number: int, items: int, raters: int, shared: int | None, identical: int) -> StudyKey:
    request = StudyRequest(items=items, raters=raters, shared=shared, repeats=0, checks=0, identical=identical,
                           seed=number)  # fmt: skip
    return make_study(samples_of(number, (TUNED, MERGED), items + 4), comparison(TUNED, MERGED), request).key


def names_alone_tell(found: Sequence[Mapping[str, int]], name: str) -> bool:
    """Whether one system comes out first too often or too rarely: of three of which nothing is known, a third each."""
    first = [[each for each in THREE if counts[each] == max(counts.values())] for counts in found]
    clear = [each[0] for each in first if len(each) == 1]
    return bool(clear) and binomtest(clear.count(name), len(clear), 1 / 3).pvalue < 0.001 / 12


@pytest.mark.parametrize(("items", "raters", "extreme"), [(3, 2, min), (3, 2, max), (5, 3, min), (7, 3, max)])
def test_the_length_of_a_sheet_does_not_tell_which_systems_are_in_it(
    items: int, raters: int, extreme: Callable[[Sequence[int]], int]
) -> None:
    """With items divided among raters and three systems, by which system is missing in the longest, shortest sheet."""
    found = []
    for number in range(60):
        key = of_three(number, items, raters, 0, 0)
        rows = Counter(row.rater for row in key.rows)
        chosen = [rater for rater in rows if rows[rater] == extreme(list(rows.values()))]
        if len(chosen) == 1:
            missing = Counter(name for row in key.rows if row.rater == chosen[0] for name in THREE
                              if name not in (row.a, row.b))  # fmt: skip
            found.append(missing)
    assert found
    assert not names_alone_tell(found, BASE)
    assert not names_alone_tell([Counter({name: -each[name] for name in THREE}) for each in found], BASE)


def test_checks_do_not_tell_which_of_three_systems_is_the_base_or_the_best() -> None:
    """By the system with the most checks: that both answers are right is known of more pairs with the base."""
    found = []
    for number in range(60):
        samples = samples_of(number, (TUNED, MERGED), 31)
        flips = [random.Random(f"{number} {row}").choice(["both_right", "broken"]) for row in range(samples.num_rows)]
        samples = samples.set_column(samples.schema.get_field_index("flip"), "flip", pyarrow.array(flips))
        request = StudyRequest(items=30, raters=3, repeats=0, checks=4, identical=0, seed=number)
        key = make_study(samples, comparison(TUNED, MERGED), request).key
        items = [key.items[row.item] for row in key.rows if row.kind == "mismatched"]
        found.append(Counter(name for item in items for name in (item.first, item.second)))
        found[-1] = Counter({name: found[-1][name] for name in THREE})
    for name in THREE:
        assert not names_alone_tell(found, name), name


def unevenness(signs: Sequence[int]) -> int:
    return max(0, abs(sum(signs)) - 1)


def sides_if(order: Sequence[str], key: StudyKey) -> int:
    """How far the raters' sheets are from showing the later system as often left as right, were this the order."""
    rank = order.index
    signs: dict[str, list[int]] = {}
    for row in key.rows:
        if row.kind == "rated":
            signs.setdefault(row.rater, []).append(1 if rank(row.a) > rank(row.b) else -1)
    return sum(map(unevenness, signs.values()))


def identical_rows_if(order: Sequence[str], key: StudyKey) -> int:
    """How far the identical rows are from showing the later system's answer in half of them, were this the order."""
    rank = order.index
    signs = []
    for row in key.rows:
        item = key.items[row.item]
        if row.kind == "identical" and row.a == row.b:
            other = item.second if row.a == item.first else item.first
            signs.append(1 if rank(row.a) > rank(other) else -1)
    return unevenness(signs)


@pytest.mark.parametrize("uneven", [sides_if, identical_rows_if])
def test_balance_does_not_tell_a_reader_of_styles_which_of_three_systems_is_which(
    uneven: Callable[[Sequence[str], StudyKey], int],
) -> None:
    """An attacker who sorts texts by author, without a name for any, tries which of the three lies between the others.

    In the result's order a pair's later system is its first, and what is balanced by that order fits it alone.
    """
    found = []
    for number in range(80):
        key = of_three(number, 21, 3, None, 3)
        counts = {}
        for middle in THREE:
            low, high_ = (name for name in THREE if name != middle)
            counts[middle] = -uneven((low, middle, high_), key)
        found.append(counts)
    for name in THREE:
        assert not names_alone_tell(found, name), name
