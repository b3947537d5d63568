"""Segmentation: which linguistic unit every token of a response belongs to.

LPO takes its importance ratio over sentences, "segmented by common pause punctuation marks after detokenization"
(Ling 2.0 technical report, arXiv 2510.22115, section 4.2.2). So the response is detokenised, sentence ends are found in
the *text*, and each token goes to the sentence in which its first character lies [ours]. Unit ids start at 0, never
decrease, have no gaps and leave no token out: `[0, 0, 0, 1, 1, 2]`. Whole-response units (GSPO) and single-token units
(GRPO, DAPO) stand behind the same interface.

Special tokens have no text and belong to the unit before them: an end-of-sequence token is part of the last sentence.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np

from evolpo import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]


class Segmenter(Protocol):
    """Cuts one response into units."""

    def __call__(self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
        """Give the unit of each of the T response tokens: T ids that start at 0 and rise by 0 or 1."""
        ...


def text_segmenter(split: Callable[[str], Sequence[Span]]) -> Segmenter:
    """Turn a function that splits a text into a segmenter of tokens.

    Args:
        split: gives the (start, end) character spans of the sentences, in order. Text between two spans belongs to the
            one before it. It sees U+FFFD for each byte that is no part of valid UTF-8.
    """

    def segment(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
        if len(token_ids) == 0:
            return []
        pieces = _pieces(token_ids, tokenizer)
        # Every stray byte stays one character, so that character offsets map back to byte offsets.
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        spans = split(_STRAY_BYTE.sub("\ufffd", text))
        return _units(pieces, _byte_offsets(text, [start for start, _ in spans[1:]]))

    return segment


_STRAY_BYTE = re.compile("[\udc80-\udcff]")


def _byte_offsets(text: str, chars: list[int]) -> list[int]:
    """Byte offset of each of the rising character offsets `chars`."""
    if text.isascii():
        return chars
    widths = (len(text[a:b].encode("utf-8", "surrogateescape")) for a, b in pairwise([0, *chars]))
    return list(accumulate(widths))


def _units(pieces: list[bytes], starts: list[int]) -> list[int]:
    """Number the tokens by sentence; `starts` are the first bytes of all sentences but the first."""
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    # A token without bytes looks at the byte before it, so that it stays with the text it follows.
    first_bytes = np.cumsum(lengths) - np.maximum(lengths, 1)
    sentences = np.searchsorted(starts, first_bytes, side="right")
    # A sentence in which no token starts would leave a gap in the ids: count the changes instead.
    units: list[int] = np.cumsum(np.diff(sentences, prepend=sentences[0]) > 0).tolist()
    return units


def unit_texts(token_ids: Sequence[int], units: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Give the text of each unit, for display; joined they are the whole response without special tokens.

    A character whose bytes lie in two units is shown in the later one.

    Raises:
        ValueError: if there are not as many units as tokens.
    """
    grouped: list[list[bytes]] = [[] for _ in range(max(units, default=-1) + 1)]
    for piece, unit in zip(_pieces(token_ids, tokenizer), units, strict=True):
        grouped[unit].append(piece)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(grouped) - 1
    return [decoder.decode(b"".join(pieces), final=unit == last) for unit, pieces in enumerate(grouped)]


# --- the bytes of a token ---------------------------------------------------------------------------------------------


def _pieces(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """Give the bytes of every token; empty for special tokens and for ids outside the vocabulary."""
    table = _TABLES.get(tokenizer)
    if table is None:
        table = _TABLES[tokenizer] = _TokenBytes(tokenizer.backend_tokenizer)
    return list(map(table.__getitem__, token_ids))


class _TokenBytes(dict[int, bytes]):
    """Token id -> the bytes it adds to the text, filled as tokens are met."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend
        self.byte_level = "ByteLevel(" in repr(backend.decoder)
        added = backend.get_added_tokens_decoder().items()
        self.update({id_: b"" if token.special else token.content.encode() for id_, token in added})

    def __missing__(self, token_id: int) -> bytes:
        token: str | None = self.backend.id_to_token(token_id)
        if token is None:  # not stored: the tokenizer may still grow
            return b""
        self[token_id] = piece = self._compute(token, token_id)
        return piece

    def _compute(self, token: str, token_id: int) -> bytes:
        if self.byte_level:
            table = _byte_of_character()
            return bytes(map(table.__getitem__, token)) if table.keys() >= set(token) else token.encode()
        if byte := _FALLBACK_BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        # Spaces between words show only in context (SentencePiece, WordPiece), and the token itself is context enough.
        alone, twice = self.backend.decode([token_id], False), self.backend.decode([token_id, token_id], False)
        return cast(str, twice.removeprefix(alone)).encode()


_TABLES: WeakKeyDictionary[PreTrainedTokenizerFast, _TokenBytes] = WeakKeyDictionary()
_FALLBACK_BYTE = re.compile("<0x([0-9A-F]{2})>")


@cache
def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): printable Latin-1 is itself, the other bytes follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


# --- the punctuation rule ---------------------------------------------------------------------------------------------

_WIDE_MARKS = frozenset("。！？；")
# White space up to the next word, less the one space that tokenizers write as a part of that word.
_SPACE = r"(?:\s*(?=[ ]\S)|\s*)"
_CLOSERS = r""" "'”’»)\]}）】」』》〉 """.strip()
_TRIGGER = re.compile(r"[.!?;…。！？；\n:$\\]")
_MARK = re.compile(
    rf"""
    (?P<run> [.!?;…。！？；]* (?:[ ]\.(?=\s|\Z))* )                        # `?!`, `...` and `. . .` are one mark
    (?P<close> [{_CLOSERS}]*+ (?:[{_CLOSERS}*_`]++(?=\s|\Z))? )           # emphasis closes only before white space
    (?P<space> {_SPACE} )
    """,
    re.VERBOSE,
)
# Mathematics ends at a blank line at the latest, as in TeX, and `\(` and `\[` do not nest: an opener that is never
# closed hides nothing, and no text is looked at more than twice.
_SKIP = re.compile(
    r"""
      :(?://[^\s<>"，。！？；…]*[\w/=&%\#~+-])?
    | \$\$             (?: [^$\\\n]++ | \\.?             | \$(?!\$) | \n(?![ \t]*\n) )++ \$\$
    | \$(?![\s$])      (?: [^$\\\n]++ | \\.?                        | \n(?![ \t]*\n) )++ (?<!\s)\$(?!\d)
    | \\\(             (?: [^\\\n]++  | \\(?![()]).?                | \n(?![ \t]*\n) )*+ \\\)
    | \\\[             (?: [^\\\n]++  | \\(?![\[\]]).?              | \n(?![ \t]*\n) )*+ \\\]
    | \\[\\$]?
    | \$\$?
    """,
    re.VERBOSE,
)
_FENCE = re.compile(rf"[ ]?(?P<fence>`{{3,}}(?=[^`\n]*(?:\n|\Z))|~{{3,}})[^\n]*(?:\n{_SPACE})?")
_CODE_LINE = re.compile(rf"[^\n]+(?:\n{_SPACE})?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LAST_WORD = re.compile(r"[A-Za-z][A-Za-z.]*\Z")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
_LIST_MARKER = re.compile(r"[-+*_#>\s]{0,8}(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})")
_LONGEST_WORD = 16

_TITLES = _words("Capt Col Dr Gen Gov Hon Lt Mme Mr Mrs Ms Mt Prof Rep Rev Sen Sgt St")
_NEVER_LAST = _words("approx cf e.g eq eqn eqs fig figs i.e resp vs viz ph.d")
_BEFORE_NUMBER = _words("app art ch col cor def ex lem no nos p pp prop ref refs sec thm vol")
_MAYBE_LAST = _words("a.m p.m al co corp dept est etc inc jr ltd sr jan feb mar apr jun jul aug sep sept oct nov dec")


def sentence_spans(text: str) -> list[Span]:
    """Split a text at its pause marks: `. ! ? ; …`, their full-width forms, and the newline.

    A run of marks is one mark. Quotes and brackets that close right after it and the white space that follows belong to
    the sentence it ends. The choices below are [ours]:

    * One space directly before the next word goes with that word, because byte-level BPE makes one token of both.
    * A narrow mark counts before white space, the end, or East Asian text, and `! ? … ...` also between a word and a
      capital. That leaves decimals, versions, domain and file names whole. Full-width marks and newlines always count.
    * Nothing is cut inside a URL or LaTeX mathematics (`$ $$ \\( \\[`, if closed before a blank line). In a fenced code
      block, which lasts to the end of the text if it is not closed, only newlines count.
    * The dot of an abbreviation or of a list marker (`1. `) is no end. Abbreviations that may close a sentence (`etc.`)
      do so before a capital.

    Returns:
        (start, end) character offsets of the sentences; they cover the text without gaps.
    """
    ends: list[int] = []
    position = len(text) - len(text.lstrip())
    at_line_start = True
    while position < len(text):
        if at_line_start and (fence := _FENCE.match(text, position)):
            ends += _code_ends(text, fence)
        else:
            end, at_line_start = _next_end(text, position, at_line_start)
            ends.append(end)
        position = ends[-1]
    if text and not ends:
        ends = [len(text)]
    return list(pairwise([0, *ends]))


def _code_ends(text: str, fence: re.Match[str]) -> list[int]:
    """Ends of the lines of the code block that opens with `fence`, both fences included."""
    ends = [fence.end()]
    fence_character, fence_length = fence["fence"][0], len(fence["fence"])
    for line in _CODE_LINE.finditer(text, fence.end()):
        ends.append(line.end())
        content = line.group().strip()
        if len(content) >= fence_length and not content.strip(fence_character):
            break
    return ends


def _next_end(text: str, start: int, at_line_start: bool) -> tuple[int, bool]:
    """Where the sentence that begins at `start` ends, and whether the next one begins a line."""
    position = start
    while trigger := _TRIGGER.search(text, position):
        if trigger.group() in ":$\\":
            skipped = _SKIP.match(text, trigger.start())
            assert skipped
            position = skipped.end()
            continue
        mark = _MARK.match(text, trigger.start())
        assert mark
        if _ends_sentence(text, start, mark, at_line_start):
            return mark.end(), "\n" in mark["space"]
        position = mark.end("run")
    return len(text), True


def _ends_sentence(text: str, start: int, mark: re.Match[str], at_line_start: bool) -> bool:
    """Whether `mark` ends the sentence that begins at `start`."""
    run, space = mark["run"], mark["space"]
    if "\n" in space or not _WIDE_MARKS.isdisjoint(run):
        return True
    following = text[mark.end() : mark.end() + 2]
    after = following.lstrip()[:1]
    starts_anew = bool(space) or following[:1] in ("", " ") or _starts_without_space(after)
    if run == ".":
        is_marker = at_line_start and _LIST_MARKER.fullmatch(text, start, mark.start())
        return starts_anew and not is_marker and not _is_abbreviation(text, start, mark.start(), after)
    between_words = after.isupper() and text[max(start, mark.start() - 1)].isalnum()
    return starts_anew or (run != ";" and between_words)


def _starts_without_space(character: str) -> bool:
    """Whether a sentence may start with the character right after a mark: East Asian text, emoji, opening quotes."""
    return character in ("“", "‘") or (character >= "\u2e80" and character not in "，、：")


def _is_abbreviation(text: str, start: int, dot: int, after: str) -> bool:
    """Whether the dot belongs to an abbreviation inside a sentence that goes on with the character `after`."""
    found = _LAST_WORD.search(text, max(start, dot - _LONGEST_WORD), dot)
    if found is None:
        return False
    word = found.group()
    lower = word.lower()
    if lower in _MAYBE_LAST:
        return not after.isupper()
    if lower in _BEFORE_NUMBER:
        return after.isdigit()
    return lower in _NEVER_LAST or word in _TITLES or _INITIALS.fullmatch(word) is not None


# --- Punkt ------------------------------------------------------------------------------------------------------------

_PUNKT_STARTERS = _words(
    "a also and as because but first for hence however if in it let next now she he so since the then there therefore "
    "they this thus to we what when you"
)


def punkt_from_text(text: str) -> Segmenter:
    """Train Punkt (Kiss and Strunk 2006, as in NLTK) on a text, and give its segmenter.

    Args:
        text: a few hundred sentences or more of the kind that will be cut. Abbreviations are learnt from it.
    """
    from nltk.tokenize.punkt import PunktTrainer

    return _punkt_segmenter(PunktTrainer(text).get_params())


def _punkt_segmenter(parameters: Any) -> Segmenter:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    splitter = PunktSentenceTokenizer()
    splitter._params = parameters  # the constructor takes nothing else than a text to train on

    def split(text: str) -> list[Span]:
        spans = splitter.span_tokenize(text)
        # As in `sentence_spans`, the space before a word goes with it.
        return [(start - text.startswith(" ", start - 1, start), end) for start, end in spans]

    return text_segmenter(split)


@cache
def _built_in_punkt() -> Segmenter:
    from nltk.tokenize.punkt import PunktParameters

    parameters = PunktParameters()
    parameters.abbrev_types = {word.lower() for word in _TITLES | _NEVER_LAST | _MAYBE_LAST | _PUNKT_ABBREVIATIONS}
    parameters.sent_starters = set(_PUNKT_STARTERS)
    return _punkt_segmenter(parameters)


_PUNKT_ABBREVIATIONS = _words("i.i.d s.t u.k u.s u.s.a vol w.r.t")


def _punkt(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
    """Sentences by Punkt with built-in English parameters; it knows `. ! ?`, and a newline is plain space to it."""
    return _built_in_punkt()(token_ids, tokenizer)


# --- the table --------------------------------------------------------------------------------------------------------


def _token(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
    """Every token is a unit of its own."""
    return list(range(len(token_ids)))


def _sequence(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
    """The whole response is one unit."""
    return [0] * len(token_ids)


_sentences = text_segmenter(sentence_spans)


def _two_sentences(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, /) -> list[int]:
    """Sentences in pairs: 2k and 2k + 1 of the punctuation rule are one unit."""
    return [unit // 2 for unit in _sentences(token_ids, tokenizer)]


SEGMENTERS: Mapping[str, Segmenter] = {
    "punctuation": _sentences,
    "two_sentences": _two_sentences,
    "punkt": _punkt,
    "token": _token,
    "sequence": _sequence,
}
"""The segmenters by name. `SEGMENTERS[name](token_ids, tokenizer)` gives one unit id a token."""


def get_segmenter(name: str) -> Segmenter:
    """Give the segmenter called `name`: a key of `SEGMENTERS`, or `module:attribute` for one of your own.

    Raises:
        InputError: if there is no such segmenter.
    """
    if name in SEGMENTERS:
        return SEGMENTERS[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        names = ", ".join(SEGMENTERS)
        raise InputError(f"algorithm.units: no segmenter is called {name!r}; use {names}, or module:attribute")
    try:
        segmenter = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"algorithm.units: cannot load {name!r} ({error}); check the module and the name") from error
    if not callable(segmenter):
        raise InputError(f"algorithm.units: {name!r} is not callable; name a function of (token_ids, tokenizer)")
    return cast(Segmenter, segmenter)
