"""Overlap of evaluation texts with training texts: what a model may know by heart.

Tokens are lower-case words without punctuation; scripts without spaces count by character, and there two characters
stand for one word in every length below. What all texts of both sides begin and end with is a prompt's template and is
cut off first, where there are at least five different texts to tell it from.
"""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from lorascope.measures.core import BoolArray, FloatArray, IntArray
from lorascope.measures.tokenisation import has_han, has_other_unspaced, words

if TYPE_CHECKING:
    from datasketch import MinHash

OverlapKind = Literal["exact", "near_duplicate", "13-gram", "8-gram"]
Hashes = npt.NDArray[np.uint64]

OVERLAP_KINDS: tuple[OverlapKind, ...] = ("exact", "near_duplicate", "13-gram", "8-gram")
LONG_GRAM, SHORT_GRAM, SHINGLE = 13, 8, 3
CHARACTERS_PER_WORD = 2
SET_PHRASE = 10
SHORT_SHARE = 0.7
NEAR = 0.7
PERMUTATIONS = 128
RULES = (
    f"exact:nfkc+casefold+spaces|13-gram:any|8-gram:share>={SHORT_SHARE:g}|in-over-{SET_PHRASE}-texts:set-phrase"
    f"|near-duplicate:jaccard>={NEAR:g}-of-{SHINGLE}-grams-with-and-without-set-phrases,minhash{PERMUTATIONS}"
    f"|cjk:{CHARACTERS_PER_WORD}-chars-a-word"
)
MOST_COMPARED = 200
_TEMPLATE_TEXTS = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LOW_BITS = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one evaluation text has in common with the training texts.

    ``exact``: equal to a training text up to case, white space and Unicode form. ``long_share`` and ``short_share``:
    shares (0–1) of the text's distinct 13-grams and 8-grams that stand in any training text; None where it has none
    to look for. ``similarity``: Jaccard similarity of the 3-gram sets with the nearest training text, from 0.7 up, the
    lower one of with and without set phrases; None where no near-duplicate was found. ``nearest``: index of the
    training text that it most resembles, None where nothing was found. ``uncompared``: training texts that may be
    near-duplicates and were not compared, since 200 others are more similar by estimate.
    """

    exact: bool
    long_share: float | None
    short_share: float | None
    similarity: float | None
    nearest: int | None
    uncompared: int = 0

    @property
    def kinds(self) -> tuple[OverlapKind, ...]:
        """All kinds of overlap that count as a leak, strictest first; several may hold at once."""
        held = (
            self.exact,
            self.similarity is not None,
            bool(self.long_share),
            self.short_share is not None and self.short_share >= SHORT_SHARE,
        )
        return tuple(kind for kind, holds in zip(OVERLAP_KINDS, held, strict=True) if holds)

    @property
    def leaked(self) -> bool:
        """Whether any kind of overlap holds."""
        return bool(self.kinds)


def find_overlaps(evaluated: Sequence[str], training: Sequence[str], *, seed: int = 0) -> list[Overlap]:
    """The overlap of each evaluation text with all training texts, in the order of the evaluation texts.

    A text counts as leaked (``kinds``) when it equals a training text, when it shares a 13-gram with one (Brown et al.
    2020, appendix C), when at least 70 % of its 8-grams stand in them (Chowdhery et al. 2022, section 8), or when it
    is a near-duplicate: Jaccard similarity of 3-gram sets at least 0.7, candidates by MinHash (Broder 1997), of which
    the 200 most similar by estimate are computed exactly. MinHash may overlook pairs close to the threshold.

    Excluded as set phrases: n-grams in more than 10 different training texts. Of near-duplicates both similarities
    must reach 0.7, that of all 3-grams and that of those which are no set phrases; a text that is nothing but set
    phrases is compared whole. Of a text with fewer than 8 words only copies count: "3 + 4" and "3 - 4" have the same
    words. ``seed`` draws the hash functions.
    """
    if not evaluated or not training:
        return [Overlap(False, None, None, None, None) for _ in evaluated]
    copies = _exact_copies(evaluated, training)
    distinct = list(dict.fromkeys(_first_places(training)))
    texts = _encode([*evaluated, *(training[place] for place in distinct)], seed).without_template()
    questions, known = texts.part(0, len(evaluated)), texts.part(len(evaluated), len(texts))
    long, sharing_long = _containment(questions, known, LONG_GRAM)
    short, sharing_short = _containment(questions, known, SHORT_GRAM)
    sharing = sharing_short | sharing_long
    near = _near_duplicates(questions, known, seed)
    return [
        Overlap(
            exact=copy is not None,
            long_share=_number(long[index]),
            short_share=_number(short[index]),
            similarity=near[index].similarity if index in near else None,
            nearest=_nearest(copy, near.get(index), sharing.get(index), distinct),
            uncompared=near[index].uncompared if index in near else 0,
        )
        for index, copy in enumerate(copies)
    ]


def _number(share: float) -> float | None:
    return None if np.isnan(share) else float(share)


@dataclass(frozen=True, slots=True)
class _Near:
    """The nearest known text (None where none is near enough), and how many candidates were left out."""

    similarity: float | None
    text: int | None
    uncompared: int


def _nearest(copy: int | None, near: _Near | None, sharing: int | None, distinct: Sequence[int]) -> int | None:
    """Index among all training texts; ``distinct`` are the first places of the different ones."""
    if copy is not None:
        return copy
    found = near.text if near is not None and near.text is not None else sharing
    return None if found is None else distinct[found]


def _exact_copies(evaluated: Sequence[str], training: Sequence[str]) -> list[int | None]:
    places: dict[str, int] = {}
    for index, text in enumerate(training):
        places.setdefault(_plain(text), index)
    return [places.get(_plain(text)) for text in evaluated]


def _first_places(texts: Sequence[str]) -> Iterator[int]:
    """For each text the place of the first one that has the same words: a text repeated is no set phrase."""
    places: dict[tuple[str, ...] | str, int] = {}
    for index, text in enumerate(texts):
        yield places.setdefault(tuple(words(text)) or text, index)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class _Texts:
    """Texts as hashes of their tokens: text ``i`` is ``tokens[bounds[i]:bounds[i + 1]]``."""

    tokens: Hashes
    bounds: IntArray
    unspaced: BoolArray

    def __len__(self) -> int:
        return len(self.unspaced)

    def part(self, start: int, end: int) -> _Texts:
        """Some of the texts."""
        inside = self.tokens[self.bounds[start] : self.bounds[end]]
        return _Texts(inside, self.bounds[start : end + 1] - self.bounds[start], self.unspaced[start:end])

    def without_template(self) -> _Texts:
        """The texts without what all of them begin and end with.

        Few different texts that are alike are near-duplicates and no template. Every text that has words keeps some.
        """
        lengths = np.diff(self.bounds)
        filled = lengths > 0
        starts, ends = self.bounds[:-1][filled], self.bounds[1:][filled]
        if len({self.tokens[start:end].tobytes() for start, end in zip(starts, ends, strict=True)}) < _TEMPLATE_TEXTS:
            return self
        most = int(lengths[filled].min()) - 1
        head = _common(lambda place: self.tokens[starts + place], most)
        tail = _common(lambda place: self.tokens[ends - 1 - place], most - head)
        if not head and not tail:
            return self
        place = np.arange(len(self.tokens)) - np.repeat(self.bounds[:-1], lengths)
        kept = (place >= head) & (place < np.repeat(lengths - tail, lengths))
        return _Texts(self.tokens[kept], _bounds(np.where(filled, lengths - head - tail, 0)), self.unspaced)

    def grams(self, length: int) -> tuple[IntArray, Hashes]:
        """(text, hash) of every run of ``length`` tokens; a polynomial hash modulo 2⁶⁴ over random token hashes."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.bounds))
        windows = len(self.tokens) - length + 1
        if windows < 1:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
        hashes = np.zeros(windows, dtype=np.uint64)
        for place in range(length):
            hashes = hashes * _MULTIPLIER + self.tokens[place : place + windows]
        whole = owners[:windows] == owners[length - 1 :]
        return owners[:windows][whole], hashes[whole]


def _bounds(lengths: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _common(column: Callable[[int], Hashes], most: int) -> int:
    """How many leading columns hold one value alone."""
    for place in range(most):
        values = column(place)
        if (values != values[0]).any():
            return place
    return most


def _encode(texts: Sequence[str], seed: int) -> _Texts:
    vocabulary: dict[str, int] = {}
    ids: list[int] = []
    lengths = []
    for text in texts:
        tokens = words(text) or text.split()
        ids += [vocabulary.setdefault(token, len(vocabulary)) for token in tokens]
        lengths.append(len(tokens))
    hashes = np.random.default_rng(seed).integers(0, 2**64, size=max(len(vocabulary), 1), dtype=np.uint64)
    single = np.array([_is_character(token) for token in vocabulary] or [False])
    numbered, counts = np.array(ids, dtype=np.int64), np.array(lengths, dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), counts)
    characters = np.bincount(owners, weights=single[numbered], minlength=len(texts))
    return _Texts(hashes[numbered], _bounds(counts), characters * 2 > counts)


def _is_character(token: str) -> bool:
    return len(token) == 1 and (has_han(token) or has_other_unspaced(token))


def _containment(questions: _Texts, known: _Texts, words_long: int) -> tuple[FloatArray, dict[int, int]]:
    """Share of each question's n-grams in the known texts (NaN without any), and the known text that has most."""
    shares = np.full(len(questions), np.nan)
    sharing: dict[int, int] = {}
    for unspaced in (False, True):
        chosen = questions.unspaced == unspaced
        if not chosen.any():
            continue
        length = words_long * (CHARACTERS_PER_WORD if unspaced else 1)
        owners, hashes = questions.grams(length)
        wanted, owners = np.unique(hashes[chosen[owners]], return_inverse=True), owners[chosen[owners]]
        asked = np.unique(np.stack([owners, wanted[1]], axis=1), axis=0)
        found = _postings(wanted[0], *known.grams(length))
        _share_and_vote(asked, found, len(wanted[0]), shares, sharing)
    return shares, sharing


def _postings(wanted: Hashes, owners: IntArray, hashes: Hashes) -> IntArray:
    """(m, 2): place in ``wanted`` and known text, once for each n-gram and text that holds it, in this order."""
    if not len(wanted) or not len(hashes):
        return np.empty((0, 2), dtype=np.int64)
    place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    hit = wanted[place] == hashes
    return np.unique(np.stack([place[hit], owners[hit]], axis=1), axis=0)


def _share_and_vote(asked: IntArray, found: IntArray, grams: int, shares: FloatArray, sharing: dict[int, int]) -> None:
    """Fill in the shares of the questions (``asked``: question, n-gram) and the text that most n-grams point to."""
    texts = np.bincount(found[:, 0], minlength=grams)
    asked = asked[texts[asked[:, 1]] <= SET_PHRASE]
    counted = np.bincount(asked[:, 0], minlength=len(shares))
    held = np.bincount(asked[:, 0], weights=texts[asked[:, 1]] > 0, minlength=len(shares))
    some = counted > 0
    shares[some] = held[some] / counted[some]
    starts = np.concatenate([[0], np.cumsum(texts)])
    votes = texts[asked[:, 1]]
    first = np.repeat(starts[asked[:, 1]], votes)
    step = np.arange(votes.sum()) - np.repeat(np.cumsum(votes) - votes, votes)
    pairs = np.stack([np.repeat(asked[:, 0], votes), found[first + step, 1]], axis=1)
    (questions, known), counts = _counted(pairs)
    for place in np.lexsort((-known, counts)):  # the most votes come last and stay; of equals the first text
        sharing[int(questions[place])] = int(known[place])


def _counted(pairs: IntArray) -> tuple[IntArray, IntArray]:
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    return distinct.T, counts


def _near_duplicates(questions: _Texts, known: _Texts, seed: int) -> dict[int, _Near]:
    """The nearest text of each question that has near-duplicates, or more candidates than are compared."""
    asked, stored = _shingle_sets(questions), _shingle_sets(known)
    phrases = _set_phrases(stored)
    found: dict[int, _Near] = {}
    told, kept = [_without(each, phrases) for each in asked], [_without(each, phrases) for each in stored]
    whole = [each if not len(rest) else _NOTHING for each, rest in zip(asked, told, strict=True)]
    for queries, texts in ((told, kept), (whole, stored)):
        for place, candidates in _candidates(queries, texts, seed).items():
            best, nearest = 0.0, None
            for _, text in candidates.ranked():
                similarity = min(_jaccard(queries[place], texts[text]), _jaccard(asked[place], stored[text]))
                if similarity >= NEAR and similarity > best:
                    best, nearest = similarity, text
                if best == 1.0:
                    break
            missed = candidates.left_out if best < 1.0 else 0
            if nearest is not None or missed:
                found[place] = _Near(best or None, nearest, missed)
    return found


class _Candidates:
    """The most similar texts by estimate; of equals the first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int]] = []
        self.left_out = 0

    def add(self, estimate: float, text: int) -> None:
        """One more text, which may take the place of a less similar one."""
        if len(self._kept) < MOST_COMPARED:
            heapq.heappush(self._kept, (estimate, -text))
            return
        heapq.heappushpop(self._kept, (estimate, -text))
        self.left_out += 1

    def ranked(self) -> list[tuple[float, int]]:
        """(estimate, text), the most similar first."""
        return [(estimate, -text) for estimate, text in sorted(self._kept, reverse=True)]


def _candidates(queries: Sequence[Hashes], texts: Sequence[Hashes], seed: int) -> dict[int, _Candidates]:
    """For each query the texts that may be its near-duplicates, by locality-sensitive hashing."""
    from datasketch import MinHashLSH

    present = [place for place, shingles in enumerate(queries) if len(shingles)]
    found: dict[int, _Candidates] = {}
    if not present:
        return found
    index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    sketches = dict(zip(present, _sketches([queries[place] for place in present], seed), strict=True))
    for place, sketch in sketches.items():
        index.insert(place, sketch)
    held = [text for text, shingles in enumerate(texts) if len(shingles)]
    for text, sketch in zip(held, _sketches([texts[text] for text in held], seed), strict=True):
        for place in index.query(sketch):
            found.setdefault(place, _Candidates()).add(sketches[place].jaccard(sketch), text)
    return found


_NOTHING: Hashes = np.empty(0, dtype=np.uint64)


def _shingle_sets(texts: _Texts) -> list[Hashes]:
    """Sorted distinct shingles of each text; none of short texts, in which a sign that is no word may be all."""
    sets: list[Hashes] = [_NOTHING] * len(texts)
    lengths = np.diff(texts.bounds)
    for unspaced in (False, True):
        factor = CHARACTERS_PER_WORD if unspaced else 1
        owners, hashes = texts.grams(SHINGLE * factor)
        bounds = np.searchsorted(owners, np.arange(len(texts) + 1))
        for text in np.flatnonzero((texts.unspaced == unspaced) & (lengths >= SHORT_GRAM * factor)):
            sets[text] = np.unique(hashes[bounds[text] : bounds[text + 1]])
    return sets


def _set_phrases(sets: Sequence[Hashes]) -> Hashes:
    """Shingles that stand in more texts than chance or copying brings about: parts of templates and set phrases."""
    shingles, counts = np.unique(np.concatenate([_NOTHING, *sets]), return_counts=True)
    return shingles[counts > SET_PHRASE]


def _without(shingles: Hashes, phrases: Hashes) -> Hashes:
    """Both are sorted."""
    if not len(phrases) or not len(shingles):
        return shingles
    place = np.minimum(np.searchsorted(phrases, shingles), len(phrases) - 1)
    kept: Hashes = shingles[phrases[place] != shingles]
    return kept


def _sketches(sets: Sequence[Hashes], seed: int) -> list[MinHash]:
    from datasketch import MinHash

    return list(
        MinHash.generator(
            ((shingles & _LOW_BITS).tolist() for shingles in sets),
            num_perm=PERMUTATIONS,
            seed=seed % 2**32,
            hashfunc=int,
        )
    )


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
