import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_tokenizers import CHATML, make_tokenizer

from evolpo import InputError
from evolpo.rollout.prompts import (
    DataConfig,
    PromptStream,
    chat_tokens,
    check_disjoint,
    encode_prompt,
    load_heldout,
    split_heldout,
)
from evolpo.rollout.sources import Problem, SourceConfig, load_problems

TOKENIZER = make_tokenizer(CHATML)


def chain_sum(**changes) -> SourceConfig:
    params = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    return SourceConfig(**{"family": "chain_sum", "params": params, "size": 60, **changes})


def write_lines(path: Path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def jsonl(path: str, **changes) -> SourceConfig:
    return SourceConfig(kind="jsonl", path=path, **changes)


def plain_problems(sizes: list[int]) -> tuple[list[Problem], DataConfig]:
    problems = [Problem(f"{s}-{i}", f"problem {s} {i}", source=s) for s, n in enumerate(sizes) for i in range(n)]
    return problems, DataConfig(train=[chain_sum() for _ in sizes])


# Sources


def test_reasoning_gym_problems_carry_what_their_verifier_needs():
    import reasoning_gym

    problems = load_problems([chain_sum(difficulty="easy")], seed=3)
    verifier = reasoning_gym.create_dataset("chain_sum")
    assert len(problems) == 60
    for problem in problems:
        assert problem.difficulty == "easy"
        assert problem.metadata["family"] == "chain_sum"
        assert verifier.score_answer(problem.answer, problem.metadata["entry"]) == 1.0
        assert problem.metadata["entry"]["metadata"]["num_terms"] == 2


def test_generated_problems_follow_the_seed_the_field_and_the_pinned_seed():
    def texts(source, **where):
        return [p.text for p in load_problems([source], **where)]

    assert texts(chain_sum(), seed=1) == texts(chain_sum(), seed=1)
    assert texts(chain_sum(), seed=1) != texts(chain_sum(), seed=2)
    assert texts(chain_sum(), seed=1) != texts(chain_sum(), seed=1, field="data.heldout")
    pinned = chain_sum(params={"seed": 7})
    assert texts(pinned, seed=1) == texts(pinned, seed=2, field="data.heldout")


def test_same_problem_has_the_same_id_wherever_it_stands(tmp_path):
    (tmp_path / "moved").mkdir()
    here = write_lines(tmp_path / "a.jsonl", {"prompt": "one", "answer": 1}, {"prompt": "two", "answer": 2})
    there = write_lines(tmp_path / "moved" / "a.jsonl", {"prompt": "two", "answer": 2}, {"prompt": " one", "answer": 1})
    first, second = load_problems([jsonl(here)]), load_problems([jsonl(there)])
    assert [p.id for p in first] == [p.id for p in reversed(second)]
    assert all(len(p.id) == 16 and int(p.id, 16) >= 0 for p in first)


def test_jsonl_parquet_and_local_hugging_face_data_give_the_same_problems(tmp_path, monkeypatch):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {"q": f"Is {i} even?", "a": i % 2, "level": "hard" if i > 1 else "easy", "topic": "parity"} for i in range(3)
    ]
    text = write_lines(tmp_path / "p.jsonl", *rows)
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "p.parquet")
    columns = {"prompt_column": "q", "answer_column": "a", "difficulty_column": "level"}
    sources = [
        SourceConfig(kind="jsonl", path=text, **columns),
        SourceConfig(kind="parquet", path=str(tmp_path / "hub" / "p.parquet"), **columns),
        SourceConfig(kind="huggingface", path=str(tmp_path / "hub"), **columns),
    ]
    for source in sources:
        problems = load_problems([source])
        assert [(p.text, p.answer, p.difficulty, p.metadata) for p in problems] == [
            ("Is 0 even?", 0, "easy", {"topic": "parity"}),
            ("Is 1 even?", 1, "easy", {"topic": "parity"}),
            ("Is 2 even?", 0, "hard", {"topic": "parity"}),
        ]


def test_duplicates_are_dropped_within_and_across_sources_and_counted(tmp_path, caplog):
    one = write_lines(tmp_path / "a.jsonl", {"prompt": "a b"}, {"prompt": "a  b\n"}, "", {"prompt": "c"})
    two = write_lines(tmp_path / "b.jsonl", {"prompt": "c"}, {"prompt": "d"})
    with caplog.at_level("INFO"):
        problems = load_problems([jsonl(one, answer_column=""), jsonl(two, answer_column="")])
    assert [(p.text, p.source) for p in problems] == [("a b", 0), ("c", 0), ("d", 1)]
    assert "data.train[0]: 2 problems, 1 duplicates dropped" in caplog.text
    assert "data.train[1]: 1 problems, 1 duplicates dropped" in caplog.text


GOOD = {"prompt": "p", "answer": "a"}


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([GOOD, '{"prompt": '], {}, r"^data\.train\[0\]\.path: .*x\.jsonl line 2: not valid JSON \(.*column 11\)"),
        ([GOOD, "[1]"], {}, r"^data\.train\[0\]\.path: .*line 2: a list, not an object"),
        (
            [{"riddle": "p", "answer": "a"}],
            {},
            r"prompt_column: .*line 1 has none of the columns prompt, problem, .*; it has: riddle, answer; name one$",
        ),
        (
            [{"question": "p", "answer": "a"}],
            {"prompt_column": "prompt"},
            r"prompt_column: .*line 1 has no column 'prompt'; it has: question, answer$",
        ),
        (
            [{"prompt": "p", "gold": "a"}],
            {"answer_column": "answer"},
            r"answer_column: .*no column 'answer'; it has: prompt, gold; use \"\" if",
        ),
        ([GOOD], {"difficulty_column": "level"}, r"difficulty_column: .*no column 'level'; it has: prompt, answer"),
        ([{"prompt": ["p"], "answer": "a"}], {}, r"prompt_column: .*line 1: column 'prompt' holds a list"),
        ([{"prompt": "  ", "answer": "a"}], {}, r"prompt_column: .*line 1: column 'prompt' holds empty text"),
        ([], {}, r"^data\.train\[0\]: has no problem"),
    ],
)
def test_a_malformed_file_gets_one_line_with_field_and_place(tmp_path, rows, changes, message):
    path = write_lines(tmp_path / "x.jsonl", *rows)
    with pytest.raises(InputError, match=message) as caught:
        load_problems([jsonl(path, **changes)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (jsonl("nowhere.jsonl"), r"^data\.train\[0\]\.path: cannot read nowhere\.jsonl \(No such file"),
        (SourceConfig(kind="parquet", path="nowhere.parquet"), r"path: cannot read nowhere\.parquet"),
        (SourceConfig(kind="parquet", path=__file__), r"path: cannot read .*test_prompts\.py"),
        (SourceConfig(kind="huggingface", path="/nowhere/at/all"), r"path: cannot load '/nowhere/at/all'"),
        (SourceConfig(family="chain_sums"), r"family: reasoning-gym has no 'chain_sums'; did you mean chain_sum"),
        (chain_sum(params={"terms": 2}), r"params: .*'terms'; chain_sum takes: min_terms, max_terms, min_digits, "),
        (chain_sum(params={"min_terms": 9}), r"params: max_terms must be >= min_terms"),
        (chain_sum(params={"size": 9}), r"params: `size` does not belong here; set data\.train\[0\]\.size"),
        (chain_sum(size=0), r"size: 0 problems"),
        (chain_sum(weight=0.0), r"weight: 0\.0 is no share"),
        (SourceConfig(), r"family: is empty"),
        (SourceConfig(kind="jsonl"), r"path: is empty"),
        (SourceConfig(kind="csv"), r"kind: 'csv' is unknown; use one of reasoning_gym, file, jsonl"),
    ],
)
def test_a_wrong_source_gets_one_line_with_its_field(source, message):
    with pytest.raises(InputError, match=message) as caught:
        load_problems([source])
    assert str(caught.value).startswith("data.train[0].")
    assert "\n" not in str(caught.value)


# Configuration


def test_config_survives_omegaconf():
    given = {"train": [{"family": "chain_sum", "params": {"max_terms": 3}, "weight": 2}], "heldout_size": 5}
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), given))
    assert isinstance(config, DataConfig)
    assert config.train == [SourceConfig(family="chain_sum", params={"max_terms": 3}, weight=2.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heldout": [SourceConfig(kind="csv")]}, r"^data\.heldout\[0\]\.kind: 'csv'"),
        ({"heldout_size": -1}, r"^data\.heldout_size: -1"),
        ({"max_prompt_tokens": 0}, r"^data\.max_prompt_tokens: 0"),
    ],
)
def test_config_names_the_wrong_field(changes, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**{"train": [chain_sum()], **changes})


def test_no_training_source_is_an_error():
    with pytest.raises(InputError, match=r"^data\.train: has no source"):
        split_heldout(DataConfig(), seed=0)


# Held-out set


def test_heldout_is_stratified_disjoint_and_loses_nothing():
    config = DataConfig(train=[chain_sum(size=90), chain_sum(size=30, params={"min_terms": 5})], heldout_size=22)
    everything = load_problems(config.train, seed=1)
    train, heldout = split_heldout(config, seed=1)
    assert not {p.text for p in train} & {p.text for p in heldout}
    assert sorted(p.id for p in train + heldout) == sorted(p.id for p in everything)
    total = Counter(p.source for p in everything)
    held = Counter(p.source for p in heldout)
    assert len(heldout) == 22
    assert all(abs(held[s] - 22 * total[s] / len(everything)) < 1 for s in total)
    assert split_heldout(config, seed=1) == (train, heldout)
    assert split_heldout(config, seed=2)[1] != heldout


def test_a_seed_of_the_data_keeps_problems_and_split_whatever_the_seed_of_the_run():
    sums = [SourceConfig(family="chain_sum", size=40)]
    config = DataConfig(train=sums, heldout_size=10, seed=3)
    assert split_heldout(config, 0) == split_heldout(config, 1) == split_heldout(DataConfig(sums, heldout_size=10), 3)
    with pytest.raises(InputError, match=r"data\.seed: -1"):
        DataConfig(sums, seed=-1)


def test_problems_of_heldout_sources_leave_training(tmp_path):
    train_file = write_lines(tmp_path / "t.jsonl", *({"prompt": f"problem\t{i}"} for i in range(6)))
    test_file = write_lines(tmp_path / "h.jsonl", {"prompt": "problem  4 "}, {"prompt": "new"})
    config = DataConfig(train=[jsonl(train_file, answer_column="")], heldout=[jsonl(test_file, answer_column="")])
    train, heldout = split_heldout(config, seed=0)
    assert [p.text for p in train] == [f"problem\t{i}" for i in (0, 1, 2, 3, 5)]
    assert [p.text for p in heldout] == ["problem  4 ", "new"]


def test_generated_twins_leave_training_too():
    # One-digit sums of two terms: 200 distinct problems, so 400 generated ones must overlap with 50 held out.
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    config = DataConfig(train=[chain_sum(params=tiny, size=400)], heldout=[chain_sum(params=tiny, size=50)])
    train, heldout = split_heldout(config, seed=0)
    assert len(train) < len(load_problems(config.train, seed=0))
    check_disjoint(train, heldout)


def test_check_disjoint_counts_what_is_shared():
    train = [Problem("1", "a b"), Problem("2", "c"), Problem("3", "d")]
    with pytest.raises(InputError, match=r"^data\.heldout: shares 2 problems with data\.train, e\.g\. 'a b'"):
        check_disjoint(train, [Problem("9", " a\nb"), Problem("8", "d"), Problem("7", "e")])


def test_a_single_text_cannot_be_split(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"prompt": "a", "x": 1}, {"prompt": "a", "x": 2}, {"prompt": "a ", "x": 3})
    source = jsonl(path, answer_column="")
    with pytest.raises(InputError, match=r"all 3 training .* because they have only 1 different text; set 0, or add"):
        split_heldout(DataConfig(train=[source], heldout_size=1), seed=0)
    alone = jsonl(write_lines(tmp_path / "one.jsonl", {"prompt": "a"}), answer_column="")
    with pytest.raises(InputError, match=r"^data\.heldout_size: holding out the only problem leaves none to train on"):
        split_heldout(DataConfig(train=[alone], heldout_size=1), seed=0)


def test_a_split_that_leaves_nothing_is_an_error(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"prompt": "a"}, {"prompt": "b"})
    source = jsonl(path, answer_column="")
    with pytest.raises(
        InputError, match=r"^data\.heldout_size: holding out 2 of 2 problems leaves none to train on; set"
    ):
        split_heldout(DataConfig(train=[source], heldout_size=2), seed=0)
    with pytest.raises(InputError, match=r"^data\.heldout: holds the text of all 2 training problems"):
        split_heldout(DataConfig(train=[source], heldout=[source]), seed=0)


def test_heldout_sources_need_no_training_ones(tmp_path):
    path = write_lines(tmp_path / "both.jsonl", *({"prompt": f"p{i}"} for i in range(4)))
    alone = DataConfig(heldout=[jsonl(path)])
    both = DataConfig(train=[jsonl(path)], heldout=[jsonl(path)])
    assert load_heldout(alone, 0) == load_heldout(both, 0) == load_problems([jsonl(path)], "data.heldout")
    drawn = DataConfig(train=[chain_sum()], heldout_size=7)
    assert load_heldout(drawn, 5) == split_heldout(drawn, 5)[1]
    with pytest.raises(InputError, match=r"^data\.heldout: has no source, nor has data\.train"):
        load_heldout(DataConfig(), 0)


def test_what_a_user_should_know_is_said_once(tmp_path):
    path = write_lines(
        tmp_path / "t.jsonl", *({"prompt": f"p{i}", "n": i % 3} for i in range(5)), {"prompt": "p1", "n": 1}
    )
    test = write_lines(tmp_path / "h.jsonl", {"prompt": "p3"}, {"prompt": "new"})
    notes = []
    split_heldout(DataConfig(train=[jsonl(path)], heldout=[jsonl(test)]), 0, notes.append)
    assert notes == [
        "data.train[0]: 5 problems, 1 duplicates dropped, read as columns (prompt=prompt)",
        "data.heldout[0]: 2 problems, 0 duplicates dropped, read as columns (prompt=prompt)",
        "4 problems to train on, 2 held out, 1 removed from training: their text is held out",
    ]


# Encoding


def test_prompt_is_the_problem_inside_the_chat_template():
    problem = Problem("x", "1 + 1 =", "2", "easy", {"k": 1})
    prompt = encode_prompt(problem, TOKENIZER, DataConfig(train=[chain_sum()]))
    assert TOKENIZER.decode(prompt.token_ids) == (
        "<|im_start|>system\ndetailed think off<|im_end|>\n"
        "<|im_start|>user\n1 + 1 =\nPut the final answer in \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )
    own = TOKENIZER.apply_chat_template(
        [
            {"role": "system", "content": "detailed think off"},
            {"role": "user", "content": "1 + 1 =\nPut the final answer in \\boxed{}."},
        ],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(prompt.token_ids) == own
    assert (prompt.id, prompt.text, prompt.answer) == ("x", "1 + 1 =", "2")
    assert (prompt.difficulty, prompt.metadata) == ("easy", {"k": 1})


def test_tokenizer_without_a_template_gets_the_plain_format():
    plain = make_tokenizer(None)
    assert plain.decode(chat_tokens(plain, "be kind", "hello")) == "<s>be kind\n\nUser: hello\n\nAssistant:"
    assert plain.decode(chat_tokens(plain, "", "hello")) == "<s>User: hello\n\nAssistant:"


def test_template_that_refuses_a_system_message_is_an_input_error():
    strict = make_tokenizer("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}hi")
    with pytest.raises(InputError, match=r"^data\.system_prompt: .*no system"):
        chat_tokens(strict, "be kind", "hello")
    assert strict.decode(chat_tokens(strict, "", "hello")) == "hi"


def test_long_prompts_are_dropped_and_counted(caplog):
    problems = [Problem(str(i), "x" * (10 * i)) for i in range(10)]
    config = DataConfig(train=[chain_sum()], system_prompt="", instruction="", max_prompt_tokens=80)
    stream = PromptStream(problems, TOKENIZER, config, seed=0)
    lengths = [len(encode_prompt(p, TOKENIZER, config).token_ids) for p in problems]
    assert stream.dropped == sum(n > 80 for n in lengths) > 0
    assert all(len(p.token_ids) <= 80 for p in stream.take(50))
    assert f"{stream.dropped} of 10 prompts dropped: over 80 tokens" in caplog.text
    config.max_prompt_tokens = 1
    with pytest.raises(InputError, match=rf"^data\.max_prompt_tokens: all 10 .* set at least {min(lengths)}$"):
        PromptStream(problems, TOKENIZER, config, seed=0)


# Stream


def test_stream_matches_a_plain_shuffle():
    problems, config = plain_problems([7])
    stream = PromptStream(problems, TOKENIZER, config, seed=5)
    expected = [f"0-{i}" for epoch in range(3) for i in np.random.default_rng([5, 0, epoch]).permutation(7)]
    assert [p.id for p in stream.take(21)] == expected
    assert expected[:7] != expected[7:14] != expected[14:]
    assert stream.epochs == {0: 3.0}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 12), max_size=6),
    seed=st.integers(0, 2**32),
)
def test_interrupting_anywhere_changes_nothing(sizes, cuts, seed):
    problems, config = plain_problems(sizes)
    whole = [p.id for p in PromptStream(problems, TOKENIZER, config, seed).take(sum(cuts) + 20)]
    pieces, state = [], None
    for n in [*cuts, 20]:
        stream = PromptStream(problems, TOKENIZER, config, seed)
        if state is not None:
            stream.load_state_dict(json.loads(json.dumps(state)))
        pieces += [p.id for p in stream.take(n)]
        state = stream.state_dict()
    assert pieces == whole
    for source, size in enumerate(sizes):
        own = [i for i in whole if i.startswith(f"{source}-")]
        for start in range(0, len(own), size):
            epoch = own[start : start + size]
            assert len(set(epoch)) == len(epoch)


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=4), n=st.integers(1, 120))
def test_sources_are_mixed_by_weight(weights, n):
    problems, config = plain_problems([3] * len(weights))
    for source, weight in zip(config.train, weights, strict=True):
        source.weight = weight
    drawn = Counter(int(p.id[0]) for p in PromptStream(problems, TOKENIZER, config, seed=0).take(n))
    for source, weight in enumerate(weights):
        assert abs(drawn[source] - n * weight / sum(weights)) < len(weights)


def test_a_selection_of_problems_keeps_the_weights_of_its_sources():
    problems, config = plain_problems([4, 4, 4])
    config.train[2].weight = 3.0
    selection = [p for p in problems if p.source != 1]
    drawn = Counter(p.id[0] for p in PromptStream(selection, TOKENIZER, config, seed=0).take(40))
    assert drawn == {"0": 10, "2": 30}


def leveled_problems():
    """Two easy sources, of weights 1 and 3, and a hard one of weight 4."""
    problems, config = plain_problems([3, 3, 3])
    for source, weight in zip(config.train, (1.0, 3.0, 4.0), strict=True):
        source.weight = weight
    return [replace(p, difficulty="hard" if p.source == 2 else "easy") for p in problems], config


def test_a_mix_by_difficulty_begins_where_it_is_set_and_keeps_the_proportions_inside():
    problems, config = leveled_problems()
    stream = PromptStream(problems, TOKENIZER, config, seed=0)
    stream.take(17)
    stream.mix({"easy": 0.25, "hard": 0.75})
    assert Counter(p.id[0] for p in stream.take(16)) == {"0": 1, "1": 3, "2": 12}
    stream.mix({"hard": 1.0})
    assert {p.difficulty for p in stream.take(9)} == {"hard"}
    stream.mix({})
    assert Counter(p.id[0] for p in stream.take(16)) == {"0": 2, "1": 6, "2": 8}
    with pytest.raises(ValueError, match="no prompt is of a difficulty in"):
        stream.mix({"odd": 1.0})


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_a_resumed_stream_keeps_its_mix(cuts):
    problems, config = leveled_problems()
    mixes = [{}, {"easy": 1.0}, {"easy": 0.3, "hard": 0.7}]

    def drawn(resumed):
        stream, found = PromptStream(problems, TOKENIZER, config, 1), []
        for number, n in enumerate(cuts):
            stream.mix(mixes[number // 2 % 3])
            found += [p.id for p in stream.take(n)]
            if resumed:
                state = json.loads(json.dumps(stream.state_dict()))
                stream = PromptStream(problems, TOKENIZER, config, 1)
                stream.load_state_dict(state)
        return found

    assert drawn(resumed=True) == drawn(resumed=False)


def test_ranks_share_one_global_draw():
    problems, config = plain_problems([5, 8])
    alone = PromptStream(problems, TOKENIZER, config, seed=1)
    ranks = [PromptStream(problems, TOKENIZER, config, seed=1) for _ in range(3)]
    for _ in range(4):
        parts = [stream.take(6, rank, 3) for rank, stream in enumerate(ranks)]
        assert [p for part in parts for p in part] == alone.take(6)
    assert all(stream.state_dict() == alone.state_dict() for stream in ranks)
    with pytest.raises(ValueError, match="7 prompts cannot be divided among 3 ranks"):
        alone.take(7, 0, 3)


def test_levels_in_a_column_are_mixed_as_stages_ask():
    problems, config = plain_problems([12, 4])
    problems = [replace(p, difficulty="hard" if p.source or i % 4 == 0 else "easy") for i, p in enumerate(problems)]
    stream = PromptStream(problems, TOKENIZER, config, seed=0)
    drawn = Counter((p.id[0], p.difficulty) for p in stream.take(16))
    assert drawn == {("0", "easy"): 6, ("0", "hard"): 2, ("1", "hard"): 8}  # sources by weight, levels by size
    assert stream.epochs == {0: 8 / 12, 1: 2.0}
    stream.mix({"easy": 1.0})
    assert {p.difficulty for p in stream.take(9)} == {"easy"}
    stream.mix({"easy": 0.5, "hard": 0.5})
    assert Counter(p.difficulty for p in stream.take(20)) == {"easy": 10, "hard": 10}
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = PromptStream(problems, TOKENIZER, config, seed=0)
    resumed.load_state_dict(state)
    assert resumed.take(20) == stream.take(20)


def test_a_level_in_a_column_changes_nothing_where_all_rows_have_one():
    problems, config = plain_problems([7, 5])
    same = [replace(p, difficulty="easy") for p in problems]
    first, second = (PromptStream(some, TOKENIZER, config, seed=3).take(30) for some in (problems, same))
    assert [p.id for p in first] == [p.id for p in second]


def test_state_of_other_data_is_refused():
    problems, config = plain_problems([5])
    state = PromptStream(problems, TOKENIZER, config, seed=1).state_dict()
    for other, seed in [(problems, 2), (problems[:-1], 1)]:
        with pytest.raises(InputError, match=r"^data\.train: the checkpoint was made with other problems"):
            PromptStream(other, TOKENIZER, config, seed).load_state_dict(state)


@pytest.mark.parametrize(
    ("recipe", "expected"), [("arithmetic", "f1851b6cb519fe1d"), ("chain_sum_levels", "dea6981f40da0ebc")]
)
def test_problems_split_and_order_of_the_recipes_are_those_of_the_published_figures(recipe, expected):
    file = Path(__file__).parents[2] / "recipes" / "conf" / "data" / f"{recipe}.yaml"
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(file)))
    config.max_prompt_tokens = 10_000
    train, heldout = split_heldout(config, 0)
    drawn = PromptStream(train, TOKENIZER, config, 0).take(500)
    ids = "".join(one.id for one in [*train, *heldout, *drawn])
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == expected


def test_stream_without_problems_is_an_error():
    with pytest.raises(InputError, match=r"^data\.train: no problem is left"):
        PromptStream([], TOKENIZER, DataConfig(train=[chain_sum()]), seed=0)
