"""Segmentation: golden sentences, every token in exactly one unit, half characters, speed."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from evolpo import InputError
from evolpo.rl.segment import (
    SEGMENTERS,
    get_segmenter,
    punkt_from_text,
    sentence_spans,
    text_segmenter,
    unit_texts,
)

REASONING = r"""Let me think about this step by step. We have $x^2 + 3.14x = 7$, so (see Fig. 3) we get \( x = 2 \).
Wait, that's not right... Did I forget the sign? Let me check again!

1. First, note that Dr. Smith's version 1.2.3, i.e. the one at https://example.com/docs?v=1.2, returns 0.25 for each.
2. Then add $$\sum_{i=1}^{n} i = \frac{n(n+1)}{2}.$$ So the total is 45; the remainder is 5.

```python
def f(x):
    return x * 2.5  # e.g. 5.0. Done.
```

So 12 apples plus 7 apples makes 19 apples, and none of them were eaten before they got home.
"""
CHINESE = "设这个数为 x，那么 3x + 5 = 20。解得 x = 5！真的吗？让我再检查一下；没错……“好的。”他说。答案是 5 🎉。\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with every byte, some merges (also inside Chinese characters) and one special token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([REASONING, CHINESE] * 3, trainer)
    backend.add_special_tokens([AddedToken("<|end. Of|>", special=True)])
    backend.add_tokens([AddedToken("<think>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def encode(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


# A bar shows where a sentence ends.
GOLDEN = {
    "English": "We add them.| Is it 5?| Yes!| Done;| next.",
    "one space goes with the word, the rest stays": "One.  | Two.\n\n  | Three.\n\n|Four.   ",
    "newlines": "First line\n|Second line\n\n\n|Third",
    "carriage returns": "First.\r\n|Second\r\n|Third",
    "white space first": "\n\n  Hello.| You.",
    "Chinese": "设为 x。|解得 x = 5！|真的吗？|是；|好",
    "Chinese ellipsis": "嗯……|我想想。|好",
    "curly quotes without a space": "没错……|“好的。”|他说.|‘对’",
    "narrow mark in Chinese": "答案是5.|然后继续!|好",
    "emoji": "Great!| 🎉 Well done 👩‍👩‍👧.| 🎉🎉!|🎉",
    "runs": "What?!| No...| Well. . .| Yes!!!|好？！|对",
    "ellipsis between words": "1, 2, ..., n and wait...what.| Hmm...|So it is…|But 1…9.",
    "no space": "Stop!|Go on?|Yes.",
    "quotes": "\"Why?\"| he said.| 'No.'| (It is so.)| “Yes.”| [End.]| 他说：“好。”|然后「走。」|完",
    "emphasis": "**It is so.**| *Really?*| `Yes.`| 好。|**下一步**",
    "decimals": "It is 3.14 and .5 or 2.| Next 1,000.50.| Done.",
    "versions": "Use 1.2.3 or v2.0.1-rc.1.| Then go.",
    "names with dots": "Run main.py with os.path and example.com.| Then x.shape.| End.",
    "URLs": "See https://a.b/c?Q=1.2&r;s!T#u.| Then (http://x.y/z.html).| ftp://q.中文.中文 ok.| End",
    "Chinese after a URL": "看 https://a.b/c。|然后",
    "operators": "if a != b <!DOCTYPE html> x;y p?q.r",
    "abbreviations": "E.g. this, i.e. that, cf. Fig. 3, Eq. (2), Dr. No vs. Mr. X, approx. 3.| End.",
    "abbreviations in brackets": "Units (e.g. metres, cf. Sec. 2, etc.) are fine.| End.",
    "abbreviations that may end": "Cats, dogs, etc. are here, etc.| At 5 p.m. today or 6 p.m.| Then Smith et al. say.",
    "abbreviations only before a number": "See No. 5 and vol. 2.| He said no.| We left in 10 sec.| Then p. 3.",
    "dotted letters": "The U.S. army has Ph.D. students.| It does.",
    "an abbreviation does not stop a newline": "This is Dr.\n|Smith",
    "single letters end sentences": "The answer is B.| So we take n.| End.",
    "list markers": "1. First this.| And that.\n | 2. Then.\n|- 3. So.\n|**4. Title**\n|A. Yes\n|iv. No",
    "inline maths": r"Let $a. b! c$ be.| And \(x. y; z\) too.| Ok $x$.| End",
    "display maths": "So $$x. y!\nz; w$$ holds.| And \\[a. b\n= c. d\\]\n|End",
    "maths with escapes": r"Let $a\$. b$ and \(\\(x. y)\) and \[\\[2pt] a. b\].| So \$5.| $x. y$ end",
    "currency": "It costs $5.| Then $10.| And $3 or US$4.| Right.",
    "unclosed $": "Let $x be.| Then y.| So z.",
    "unclosed $$": "Let $$x be.| Then y.\n\n|And $$z.| End.",
    "unclosed bracket": r"Let \(x be.| Then \(a. b\) is.| And \[c.| End.",
    "a blank line ends maths": "Let $a.| Then\n\n|b$ be \\[c.| Now\n \n|d\\].| End",
    "code": "Code:\n|```python\n|x = 1. # Done. Yes!\n\n|if x:\n   | y = '。'\n|```\n|Then.| So.",
    "tilde code": "~~~\n|a. b\n|```\n|c. d\n|~~~~\n|End.| So",
    "code inside a list": "- Do:\n  | ```sh\n  | a. b; c\n  | ```\n|- So.| Yes",
    "unclosed code": "```\n|a. b\n|c. d! e",
    "code with no end of line": "Hm.\n|```py",
    "longer fences": "````\n|```\n|a. b\n|```\n|````\n|So.| d",
    "a fence begins a line": "Run.| ```py\n|It is.| So.",
    "inline code is no fence": "Use ```a``` here.| Then\n|```b``` ends.| So.",
}


@pytest.mark.parametrize("marked", GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_sentences(marked: str) -> None:
    expected = marked.split("|")
    assert sentences("".join(expected)) == expected


def test_no_text_has_no_sentences() -> None:
    assert sentence_spans("") == []
    assert sentences(" \n ") == [" \n "]


@given(st.text(alphabet=st.sampled_from("aB1.!?;…。！？；\n $\\()[]`~:/\"'* 好🎉"), max_size=60))
def test_spans_cover_the_text(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


@given(
    st.text(alphabet="ab.!?; ", max_size=40),
    st.sampled_from([("$", "$"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]")]),
)
def test_closed_mathematics_is_never_cut(inside: str, delimiters: tuple[str, str]) -> None:
    formula = f"{delimiters[0]}x{inside}y{delimiters[1]}"
    assert sentences(f"Let {formula} be. Then {formula}") == [f"Let {formula} be.", f" Then {formula}"]


@pytest.mark.parametrize(
    "piece",
    [
        "\\(",
        "\\[a.",
        "$x. ",
        "$$$",
        "$",
        ":",
        "://(",
        ".**",
        "*",
        "-.x",
        "a.b",
        "\n",
        " ",
        "`",
        "\n```\n",
        ". .",
        "!A",
        "\\",
    ],
)
def test_time_grows_linearly_with_hostile_text(piece: str) -> None:
    text = "." + piece * (100_000 // len(piece)) + "?"
    began = time.perf_counter()
    sentence_spans(text)
    assert time.perf_counter() - began < 2.0


# --- tokens ---


def slow_units(token_ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The rule word by word, by decoding every prefix: a token belongs to the sentence of its first character."""
    spans = sentence_spans(tokenizer.decode(token_ids))
    found = []
    for i in range(len(token_ids)):
        first_character = len(tokenizer.decode(token_ids[:i]).rstrip("\ufffd"))
        found.append(next(k for k, (start, end) in enumerate(spans) if start <= first_character < end))
    return [sorted(set(found)).index(unit) for unit in found]


def assert_well_formed(units: list[int], count: int) -> None:
    assert len(units) == count
    assert units[:1] == [0][:count]
    assert all(type(unit) is int for unit in units)
    assert all(after - before in (0, 1) for before, after in pairwise(units))


# fmt: off
PIECES = [
    "Let", "x", "We", "add", "3.14", ".", "!", "?", "…", "...", "。", "！", "；", '"', "”", ")", "好的", "解得", "龘",
    "é", "🎉", "👩\u200d👧", "$", "$x.y$", "\\(", "\\)", "e.g.", "Dr.", "<think>",
]
# fmt: on
sentence_like = st.lists(
    st.sampled_from([*PIECES, *(" " + piece for piece in PIECES), " ", "\n", "\n\n", "\u3000", "```\n"]), max_size=25
).map("".join)


@given(text=sentence_like | st.text(max_size=40).filter(lambda text: "\ufffd" not in text))
@settings(max_examples=200, deadline=None)
def test_units_equal_the_slow_reference(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode(text, tokenizer)
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    assert units == slow_units(token_ids, tokenizer)
    assert "".join(unit_texts(token_ids, units, tokenizer)) == text


@given(token_ids=st.lists(st.integers(0, 700), max_size=60))
@settings(max_examples=100, deadline=None)
def test_random_tokens_never_fail(token_ids: list[int], tokenizer: PreTrainedTokenizerFast) -> None:
    for name, segment in SEGMENTERS.items():
        units = segment(token_ids, tokenizer)
        assert_well_formed(units, len(token_ids))
        assert len(unit_texts(token_ids, units, tokenizer)) == len(set(units)), name


@given(text=sentence_like, cut=st.tuples(st.integers(0, 30), st.integers(0, 30)))
@settings(max_examples=200, deadline=None)
def test_slices_that_cut_characters(text: str, cut: tuple[int, int], tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode(text, tokenizer)[cut[0] :]
    token_ids = token_ids[: max(0, len(token_ids) - cut[1])]
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    assert_well_formed(units, len(token_ids))
    shown = "".join(unit_texts(token_ids, units, tokenizer))
    whole = tokenizer.decode(token_ids)
    assert shown.replace("\ufffd", "") == whole.replace("\ufffd", "")


def single_bytes(data: bytes, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """One token a byte."""
    alphabet = bytes_to_unicode()
    return [tokenizer.convert_tokens_to_ids(alphabet[byte]) for byte in data]


def test_one_token_a_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = single_bytes("好。🎉!\n龘".encode(), tokenizer)
    assert tokenizer.decode(token_ids) == "好。🎉!\n龘"
    assert SEGMENTERS["punctuation"](token_ids, tokenizer) == [0] * 6 + [1] * 6 + [2] * 3


def test_half_characters_at_both_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = single_bytes("好。🎉!\n龘".encode(), tokenizer)[1:-1]
    assert SEGMENTERS["punctuation"](token_ids, tokenizer) == [0] * 5 + [1] * 6 + [2] * 2
    assert unit_texts(token_ids, [0] * 5 + [1] * 6 + [2] * 2, tokenizer) == ["\ufffd\ufffd。", "🎉!\n", "\ufffd"]


def test_invalid_bytes_hide_no_mark(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = single_bytes(b"\xe4\xbd. \xffa. \xf0\x9f\n\x80", tokenizer)
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    assert units == [0] * 3 + [1] * 4 + [2] * 4 + [3]


def test_a_token_over_a_boundary_goes_with_its_first_character(tokenizer: PreTrainedTokenizerFast) -> None:
    backend = Tokenizer(
        models.BPE({"a": 0, "b": 1, ".": 2, "Ġ": 3, ".Ġb": 4, "ãĢ": 5, "Ĥa": 6, "aãĢ": 7, "a.Ċb.Ċa": 8}, [])
    )
    backend.decoder = decoders.ByteLevel()
    hard = PreTrainedTokenizerFast(tokenizer_object=backend)
    segment = SEGMENTERS["punctuation"]
    assert segment([0, 0, 4, 1], hard) == [0, 0, 0, 1]  # "a" "a" ". b" "b"
    assert segment([0, 5, 6, 1], hard) == [0, 0, 0, 1]  # "a" "。" in two halves, the second with "a"
    assert segment([7, 6, 1], hard) == [0, 0, 1]
    assert segment([0, 8, 1, 2, 3, 0], hard) == [0, 0, 1, 1, 2, 2]  # a whole sentence inside one token leaves no gap


def test_special_tokens_stay_with_the_text_before(tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.convert_tokens_to_ids("<|end. Of|>")
    hello, world = encode("Hello.", tokenizer), encode(" World.", tokenizer)
    token_ids = [end, *hello, end, *world, end, 100_000]
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    assert units == [0] * (len(hello) + 2) + [1] * (len(world) + 2)
    assert unit_texts(token_ids, units, tokenizer) == ["Hello.", " World."]
    assert SEGMENTERS["punctuation"]([end, end], tokenizer) == [0, 0]


def test_response_of_several_kinds(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode("<think>" + REASONING + CHINESE, tokenizer)
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    texts = unit_texts(token_ids, units, tokenizer)
    assert "".join(texts) == "<think>" + REASONING + CHINESE
    assert texts[0] == "<think>Let me think about this step by step."
    assert " So the total is 45;" not in texts  # display mathematics that ends in a dot does not end the sentence
    assert texts[-2:] == ["他说。", "答案是 5 🎉。\n"]


def test_token_and_sequence_units(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode("One. Two.", tokenizer)
    assert SEGMENTERS["token"](token_ids, tokenizer) == list(range(len(token_ids)))
    assert SEGMENTERS["sequence"](token_ids, tokenizer) == [0] * len(token_ids)
    assert all(segment([], tokenizer) == [] for segment in SEGMENTERS.values())
    assert unit_texts([], [], tokenizer) == []


@given(text=sentence_like)
@settings(max_examples=100, deadline=None)
def test_two_sentences_are_pairs_of_sentences(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode(text, tokenizer)
    pairs = SEGMENTERS["two_sentences"](token_ids, tokenizer)
    assert_well_formed(pairs, len(token_ids))
    sentences = SEGMENTERS["punctuation"](token_ids, tokenizer)
    together = {unit: {one for one, pair in zip(sentences, pairs, strict=True) if pair == unit} for unit in set(pairs)}
    assert all(found <= {2 * unit, 2 * unit + 1} for unit, found in together.items())


def test_two_sentences(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode("One. Two! Three? Four. Five.", tokenizer)
    units = SEGMENTERS["two_sentences"](token_ids, tokenizer)
    assert unit_texts(token_ids, units, tokenizer) == ["One. Two!", " Three? Four.", " Five."]


def test_unit_texts_needs_a_unit_for_each_token(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="shorter"):
        unit_texts(encode("One. Two.", tokenizer), [0], tokenizer)


# --- other kinds of tokenizers ---


def test_sentencepiece_tokens_with_byte_fallback() -> None:
    vocabulary = ["<unk>", "</s>", "▁Hello", "▁World", ".", "<0xE3>", "<0x80>", "<0x82>", "▁", "<0x0A>"]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    token_ids = [2, 4, 3, 5, 6, 7, 2, 9, 8, 3, 1]
    units = SEGMENTERS["punctuation"](token_ids, tokenizer)
    assert units == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    assert unit_texts(token_ids, units, tokenizer) == [" Hello.", " World。", " Hello\n ", " World"]


def test_wordpiece_tokens() -> None:
    vocabulary = ["[UNK]", "it", "##s", "so", ".", "we", "go"]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    token_ids = encode("Its so. We go.", tokenizer)
    assert SEGMENTERS["punctuation"](token_ids, tokenizer) == [0, 0, 0, 0, 1, 1, 1]


# --- Punkt ---


def test_punkt_knows_common_abbreviations(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Dr. Smith has 3.14 apples, e.g. Bob's. Then he left! Did he?\nYes, etc. The end."
    token_ids = encode(text, tokenizer)
    units = SEGMENTERS["punkt"](token_ids, tokenizer)
    texts = unit_texts(token_ids, units, tokenizer)
    assert texts[:3] == ["Dr. Smith has 3.14 apples, e.g. Bob's.", " Then he left!", " Did he?\n"]
    assert "".join(texts) == text


def test_punkt_learns_abbreviations_from_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "He saw zzb. Brown there. It was good. "
    training = "We met zzb. Brown today. He asked zzb. White about it. Then zzb. Green came along. They saw it. " * 20
    token_ids = encode(text, tokenizer)
    assert max(SEGMENTERS["punkt"](token_ids, tokenizer)) == 2
    assert max(punkt_from_text(training)(token_ids, tokenizer)) == 1


# --- by name ---


def by_comma(text: str) -> list[tuple[int, int]]:
    """Gaps between the spans belong to the span before."""
    starts = [0] + [i + 1 for i, character in enumerate(text) if character == ","]
    return [(start, start + 1) for start in starts]


comma_segmenter = text_segmenter(by_comma)
not_callable = 3


def test_own_segmenters_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    segment = get_segmenter(f"{__name__}:comma_segmenter")
    token_ids = encode("x,y,z", tokenizer)
    assert unit_texts(token_ids, segment(token_ids, tokenizer), tokenizer) == ["x,", "y,", "z"]
    assert get_segmenter("punctuation") is SEGMENTERS["punctuation"]


@pytest.mark.parametrize(
    "name", ["sentences", "", ":", "no_such_module:x", f"{__name__}:no_such_name", f"{__name__}:not_callable"]
)
def test_unknown_segmenter_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match=r"^algorithm\.units: ") as error:
        get_segmenter(name)
    assert "\n" not in str(error.value)


# --- speed ---


@pytest.mark.parametrize(("name", "least"), [("punctuation", 60_000), ("punkt", 8_000)])
def test_speed(name: str, least: int, tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = encode((REASONING + CHINESE) * 40, tokenizer)
    SEGMENTERS[name](token_ids[:100], tokenizer)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        SEGMENTERS[name](token_ids, tokenizer)
        best = min(best, time.perf_counter() - began)
    assert len(token_ids) / best > least
