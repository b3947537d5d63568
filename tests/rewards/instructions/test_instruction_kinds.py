"""Each of the 25 instructions on responses that follow it, that do not, and that are odd."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rewards.instructions.kinds import KINDS, checked_parameters
from evolpo.rewards.instructions.rows import Instruction

RIVERS = "The river runs past the old mill. It never stops. Nobody knows why!"
GERMAN = "Heute ist das Wetter sehr schön, und wir gehen am Fluss spazieren."
CHINESE = "今天天气很好。我们去河边散步，然后回家。"
HINDI = "आज मौसम अच्छा है। हम नदी के किनारे टहलने जाते हैं।"
JSON = '{"rivers": ["Oder", "Po"], "long": null}'
LOWER = "the river runs past the old mill and nobody knows why."
# Name, parameters, responses that follow it, responses that do not.
TABLE = [
    ("keywords:existence", {"keywords": ["river", "old mill"]}, [RIVERS, "RIVERS by the OLD\nMILL"], ["river", "mill"]),
    ("keywords:existence", {"keywords": ["河边"]}, [CHINESE], ["河"]),
    ("keywords:existence", {"keywords": ["C++ (new)"]}, ["I like c++ (new)."], ["I like C+++ new"]),
    (
        "keywords:frequency",
        {"keyword": "the", "frequency": 2, "relation": "at least"},
        [RIVERS, "other other"],
        ["the river", GERMAN],
    ),
    (
        "keywords:frequency",
        {"keyword": "the", "frequency": 2, "relation": "less than"},
        ["the river", GERMAN],
        [RIVERS, "other other"],
    ),
    (
        "keywords:frequency",
        {"keyword": "the", "frequency": 1, "relation": "exactly", "whole_words": True},
        ["The other"],
        ["other", "the the"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["art", "C++"]},
        ["start", "arts", "C+"],
        ["Art!", "the *art*", "c++."],
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["天气"]}, ["晴天"], [CHINESE]),
    (
        "keywords:letter_frequency",
        {"letter": "R", "let_frequency": 3, "let_relation": "at least"},
        [RIVERS, "rrr", "RrR"],
        ["rr", CHINESE],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "less than"},
        ["# a", "none"],
        ["## a", "#a #b"],
    ),
    ("language:response_language", {"language": "de"}, [GERMAN, f"**{GERMAN}**"], [RIVERS, CHINESE, HINDI]),
    ("language:response_language", {"language": "zh"}, [CHINESE], [RIVERS, "今日は天気がいいので散歩に行きます。"]),
    ("language:response_language", {"language": "zh-cn"}, [CHINESE], [GERMAN]),
    ("language:response_language", {"language": "hi"}, [HINDI], [GERMAN, "আজ আবহাওয়া খুব সুন্দর।"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        [RIVERS, "One. Two? Three!", "一。二！三？", "Wait... It is 5 p.m. We go."],
        ["One, two, three", "Dr. Smith paid $3.50 to Mr. Jones.", "a\nb\nc", CHINESE],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["One. Two.", "At 5 p.m. Dr. Lee left, e.g. for the U.S. He returned.", CHINESE, HINDI],
        [RIVERS],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 5, "relation": "at least"},
        [RIVERS, "a b-c d'e", "**a** b c d e", "今天天气很好"],
        ["a b c d", "!!! ???", "हिन्दी में लिखो"],
    ),
    ("length_constraints:number_words", {"num_words": 20, "relation": "around"}, ["a " * 18, "a " * 22], ["a " * 23]),
    ("length_constraints:number_words", {"num_words": 2, "relation": "at most"}, ["a b"], ["a b c"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n\n***\nb\n***", "a *** b"],
        ["a\n\nb", "a\n***\n***\nb", "a\n***\nb\n***\nc", "a\n* * *\nb"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, ["a\n\nb"], ["a\n***\nb", "***"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Jasper"},
        ["a\n\njasper lives\n\nc", "a\n\n\n\n'Jasper's house'\n\nc", "a\n\n**Jasper:** b\n\nc"],
        ["jasper\n\nb\n\nc", "a\n\njasper", "a\n\njaspers\n\nc", "a\n\njasper-like\n\nc", "a\njasper\nc"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "今天"},
        [CHINESE],
        ["他今天来"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] in [city]", "[名字]、[城市]"],
        ["[name]", "[] [ ]", "[name\ncity]", "(name) (city)"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\n\nP.S. Write!", "p. s. write", "**P.S.** write"],
        ["PS write", "a stop.S.", RIVERS],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. a", "p.p. s a"], ["P.S. a"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "- a\n\n---\n* b\n* * *", "*In short* this:\n* a\n- **b**"],
        ["* a", "* a\n* b\n- c", "• a\n• b", "1. a\n2. b", "**a**\n**b**"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is no."],
        ["yes", "my answer is yes.", "My answer is yes. My answer is no.", "My answer is yes!"],
    ),
    (
        "detectable_format:constrained_response",
        {"options": "'Yes', 'Yes and no'"},
        ["Yes", "Yes and no, then."],
        ["yes", "Yesterday", "No"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and *b c*", "***a*** then **b**", "*河* *山*"],
        ["*a*", "**a**", "***a***", "* a\n* b", "** ** * *", "_a_ _b_"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "**SECTION 1:** a **SECTION 2:** b", "SECTION1 SECTION2 SECTION3"],
        [
            "SECTION 1",
            "Section 1 Section 2",
            "SECTION one SECTION two",
            "SECTION 1 SECTION 1",
            "SUBSECTION 1 SECTION 2",
        ],
    ),
    (
        "detectable_format:json_format",
        {},
        [JSON, f"```json\n{JSON}\n```", f"```JSON\n{JSON}```", f"```\n{JSON}\n```", "[]", '{"河": "山"}'],
        ["yes", f"Here: {JSON}", '{"a": 1', "{'a': 1}", '"quoted"', "12", '{"a": NaN}', "[" * 100_000, f"{JSON}\n```"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<poem of joy>>\nO joy!", "**<<Ode>>**", "<<诗>>"],
        ["# poem", "<poem>", "<<>>", "<< >>", "<<a\nb>>"],
    ),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b******"],
        ["a******a", "a", "a******b******c", "a***b", "******", "a******"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Name a river. "},
        ["Name a river. The Po.", "\nname a river.\n\nPo"],
        ["The Po.", "Sure! Name a river.", "Name the river."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Any questions?"},
        ["A. Any questions?", '"A. ANY QUESTIONS?" \n'],
        ["Any questions? No.", "Any questions", "**Any questions?**"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a "b" c"\n'], ['"a', "'a'", "“a”", '"', 'a "b"']),
    (
        "change_case:english_capital",
        {},
        ["THE RIVER RUNS PAST THE OLD MILL. NOBODY KNOWS WHY!", "YES", "**MY ANSWER IS YES.** 12"],
        [RIVERS, LOWER, "DAS WETTER IST HEUTE SEHR SCHÖN UND WIR GEHEN SPAZIEREN.", CHINESE, "12", "THE END is NEAR"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [LOWER, "yes", f"*{LOWER}*\n\n1. [name]"],
        [RIVERS, "THE END", "das wetter ist heute sehr schön und wir gehen spazieren.", CHINESE, "12"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and ESA", "I saw a UFO!", "*STOP* it NOW", "A WELL-KNOWN man"],
        ["NASA", "Nasa and Esa", "WELL-KNOWN", CHINESE],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["no"], ["NO"]),
    ("punctuation:no_comma", {}, [LOWER, "a; b", "1'000"], ["a, b", "1,000", CHINESE, "a، b", "a、b"]),
]
SAMPLE = {name: parameters for name, parameters, _, _ in TABLE}


def follows(name, parameters, text):
    return Instruction(name, checked_parameters(name, parameters)).followed_by(text)


def test_all_kinds_are_in_the_table():
    assert len(KINDS) == 25
    assert set(SAMPLE) == set(KINDS)


@pytest.mark.parametrize(
    ("name", "parameters", "text"), [(name, parameters, text) for name, parameters, right, _ in TABLE for text in right]
)
def test_what_follows_the_instruction(name, parameters, text):
    assert follows(name, parameters, text) is True


@pytest.mark.parametrize(
    ("name", "parameters", "text"), [(name, parameters, text) for name, parameters, _, wrong in TABLE for text in wrong]
)
def test_what_does_not_follow_the_instruction(name, parameters, text):
    assert follows(name, parameters, text) is False


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u3000"])
def test_nothing_follows_no_instruction(name, text):
    assert follows(name, SAMPLE[name], text) is False


@pytest.mark.parametrize("name", KINDS)
@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from('*-"#[]<>{}.,\n ')))
def test_every_text_has_an_answer_and_always_the_same(name, text):
    found = follows(name, SAMPLE[name], text)
    assert found in (True, False)
    assert follows(name, SAMPLE[name], text) is found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("piece", ["*", "-", " ", "\n", "[", "<<", '"', "a.", "```", "Section 1 ", "******", "{"])
@pytest.mark.timeout(30)
def test_long_texts_take_no_more_than_their_share(name, piece):
    assert follows(name, SAMPLE[name], piece * 20_000) in (True, False)


@pytest.mark.parametrize("relation", ["less than", "at least", "at most", "around", "exactly"])
@given(count=st.integers(0, 60), wanted=st.integers(0, 60))
def test_relations_of_counts(relation, count, wanted):
    expected = {
        "less than": count < wanted,
        "at least": count >= wanted,
        "at most": count <= wanted,
        "around": abs(count - wanted) <= max(1, round(wanted / 10)),
        "exactly": count == wanted,
    }
    given_ = {"num_words": wanted, "relation": relation}
    if count:
        assert follows("length_constraints:number_words", given_, "w " * count) is expected[relation]


@pytest.mark.parametrize("name", KINDS)
def test_nulls_are_not_there_and_what_is_missing_is_told(name):
    every = dict.fromkeys(key for check in KINDS.values() for key in list(inspect.signature(check).parameters)[1:])
    assert checked_parameters(name, {**every, **SAMPLE[name]}) == checked_parameters(name, SAMPLE[name])
    for key in SAMPLE[name]:
        if inspect.signature(KINDS[name]).parameters[key].default is inspect.Parameter.empty:
            with pytest.raises(ValueError, match=f"^'{key}' is missing; it takes "):
                checked_parameters(name, {**every, **SAMPLE[name], key: None})
    with pytest.raises(ValueError, match=r"^'num_word' is no parameter of it; it takes "):
        checked_parameters(name, {**SAMPLE[name], "num_word": 3})


def test_a_table_with_nulls_makes_floats_of_counts():
    assert checked_parameters("detectable_format:number_bullet_lists", {"num_bullets": 3.0}) == {"num_bullets": 3}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("detectable_format:number_bullet_lists", {"num_bullets": 2.5}, r"^'num_bullets' is 2\.5: "),
        ("detectable_format:number_bullet_lists", {"num_bullets": -1}, "^'num_bullets' is -1: .* greater than"),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}, "^'num_bullets' is True: a number is needed"),
        ("detectable_format:number_bullet_lists", {"num_bullets": "many"}, "^'num_bullets' is 'many': "),
        ("length_constraints:number_words", {"num_words": 3, "relation": "more than"}, "^'relation' is 'more than': "),
        ("keywords:existence", {"keywords": "river"}, "^'keywords' is 'river': "),
        ("keywords:existence", {"keywords": []}, r"^'keywords' is \[\]: "),
        ("keywords:existence", {"keywords": [" "]}, r"^'keywords' is \[' '\]: "),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "^'letter' is 'ab': ",
        ),
        ("language:response_language", {"language": "Klingon"}, "^'language' is 'Klingon': none of af, ar"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "^'nth_paragraph' is 3, of 2 paragraphs$",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"},
            "^'nth_paragraph' is 0: ",
        ),
    ],
)
def test_wrong_parameters_are_one_line(name, parameters, message):
    with pytest.raises(ValueError, match=message) as error:
        checked_parameters(name, parameters)
    assert "\n" not in str(error.value)
