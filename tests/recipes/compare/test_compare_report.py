import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from compared_runs import a_comparison, compared_run, failed_run, pending_run
from matplotlib.image import imread

from evolpo.recipes.compare import statistics
from evolpo.recipes.compare.charts import looks
from evolpo.recipes.compare.costs import minutes, sampled_tokens
from evolpo.recipes.compare.report import caveats, differences, headline, rows, write_comparison
from evolpo.recipes.compare.results import results

VERSIONS = [("python", "3.11.7"), ("torch", "2.13.0")]


class Page(HTMLParser):
    """Collects what is on a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.hidden = [], [], False
        self.feed(text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden = tag == "style"

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "REPETITIONS", 20)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs") / "comparison"
    path = write_comparison(a_comparison(), output, "Losses <on> sums", "evolpo compare seeds=[0,1]", VERSIONS)
    assert path == output / "comparison.html"
    return output


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "comparison.html").read_text())


def finished(name, gain, seeds=5, **changes):
    return [compared_run(name, seed, gain, **changes) for seed in range(seeds)]


def test_the_page_says_what_was_found(page):
    for text in (
        "Losses <on> sums",
        "57 runs finished · 2 failed · 1 pending",
        "Published clip ranges",
        "Tuned clip ranges",
        "lpo ends with",
        "gspo collapsed in 1 of 5 runs: seed 3",
        "grpo: 1 of 5 runs failed; its accuracy is that of the others alone.",
        "The training reward is reward/math/mean",
        "RuntimeError: out of memory",
        "evolpo compare seeds=[0,1]",
        "python 3.11.7 · torch 2.13.0",
    ):
        assert text in page.text


def test_every_chart_is_drawn_in_both_sections(page):
    titles = [a["aria-label"] for tag, a in page.tags if tag == "div" and a.get("role") == "img"]
    section = ["Held-out accuracy", "Training reward", "Final accuracy", "Performance profile"]
    assert titles == 2 * [*section, "Drawdown", "Clipped tokens", "Response length"]


def test_the_page_needs_no_network(page, folder):
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "script")
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith("#")
    text = (folder / "comparison.html").read_text()
    assert "@import" not in text
    assert all(one.startswith("#") for one in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_references_find_theirs(page, folder):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (folder / "comparison.html").read_text()
    assert set(re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', text)) <= set(ids)


def test_rows_hold_every_run(folder):
    found = json.loads((folder / "comparison.json").read_text())
    assert len(found) == 60
    by_run = {(row["setting"], row["algorithm"], row["seed"]): row for row in found}
    lpo, broken = by_run["published", "lpo", 0], by_run["published", "grpo", 4]
    assert lpo["accuracy_start"] < lpo["accuracy_final"]
    assert (lpo["steps"], lpo["status"], lpo["collapsed"]) == (40, "ok", False)
    assert by_run["published", "gspo", 3]["collapsed"]
    assert by_run["published", "gspo", 3]["max_drawdown"] > 0.3
    assert (broken["status"], broken["accuracy_final"], broken["steps"]) == ("failed", None, 8)
    assert broken["max_drawdown"] is not None
    pending = by_run["tuned", "gspo_token_mean", 4]
    assert (pending["status"], pending["accuracy_final"], pending["minutes"]) == ("pending", None, None)


def test_the_pictures_are_for_print(folder):
    for name in ("comparison.png", "comparison_tuned.png"):
        height, width, _ = imread(folder / name).shape
        assert (width, height) == (2160, 1680)


def test_nothing_is_left_beside_the_files(folder):
    names = {"comparison.html", "comparison.json", "comparison.png", "comparison_tuned.png"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_difference_is_claimed_only_beyond_the_intervals():
    apart = headline(results("published", finished("lpo", 0.6) + finished("grpo", 0.1)))
    assert re.fullmatch(
        r"lpo ends with [\d.]+% of held-out problems right \(95% interval [\d.]+ to [\d.]+\), "
        r"beyond the interval of grpo\.",
        apart,
    )
    alike = headline(results("published", finished("lpo", 0.4) + finished("grpo", 0.4)))
    assert alike.startswith("No difference to the best beyond the intervals: ")
    three = finished("lpo", 0.6) + finished("grpo", 0.6) + finished("gspo", 0.1)
    assert re.search(
        r"beyond the intervals of gspo; (lpo|grpo) cannot be told from it", headline(results("tuned", three))
    )


def test_one_seed_claims_nothing():
    table = results("published", finished("lpo", 0.6, seeds=1) + finished("grpo", 0.1, seeds=1))
    assert headline(table).startswith("No difference to the best beyond the intervals: lpo ends with")
    assert "One run says nothing about chance: no interval for lpo and grpo." in caveats(table)
    assert table.improvement["lpo", "grpo"].interval is None


def test_a_failed_run_is_left_out_of_accuracy_and_counted():
    table = results("published", [*finished("lpo", 0.4, seeds=3), failed_run("lpo", 3), pending_run("lpo", 4)])
    (lpo,) = table.algorithms
    assert lpo.accuracy.runs == 3
    assert sorted(lpo.final) == [0, 1, 2]
    assert sorted(lpo.stability) == [0, 1, 2, 3]
    assert lpo.heldout.runs.shape == (3, 5)
    assert "no other algorithm" in headline(table)


def test_levels_have_the_order_of_the_data_however_hard_they_turn_out_to_be():
    runs = [
        replace(run, config=run.config | {"data": {"train": [{"difficulty": "medium"}, {"difficulty": "easy"}]}})
        for run in finished("lpo", 0.4)
    ]
    table = results("published", runs)
    assert table.levels == ("medium", "easy", "hard", "all levels")
    (lpo,) = table.algorithms
    assert lpo.levels["easy"].value > lpo.levels["medium"].value > lpo.levels["hard"].value


def test_accuracy_is_over_problems_and_levels_run_from_easy_to_hard():
    table = results("published", finished("lpo", 0.4))
    (lpo,) = table.algorithms
    run = lpo.finished[0]
    assert lpo.final[0] == sum(one.correct for one in run.evaluations[40]) / 150
    assert table.levels == ("easy", "medium", "hard", "all levels")
    assert lpo.levels["easy"].value > lpo.levels["medium"].value > lpo.levels["hard"].value


def test_costs_are_read_at_the_share_of_the_best_gain():
    table = results("published", finished("lpo", 0.5) + finished("grpo", 0.1))
    lpo, grpo = table.algorithms
    before = sum([*lpo.start.values(), *grpo.start.values()]) / 10
    assert table.goal == pytest.approx(before + 0.9 * (lpo.accuracy.value - before))
    assert lpo.cost.reached > 0
    assert lpo.cost.minutes == pytest.approx(lpo.cost.steps * 3 / 60)
    assert (grpo.cost.reached, grpo.cost.tokens) == (0, None)
    assert lpo.minutes == pytest.approx(2)


def test_tokens_are_those_sampled():
    records = [
        {"step": 0},
        {"step": 1, "response/tokens_mean": 10.0, "groups/total": 8.0, "groups/refilled": 0.0},
        {"step": 2, "groups/total": 16.0, "groups/refilled": 8.0},
        {"step": 3, "response/tokens_mean": 20.0, "groups/total": 12.0, "groups/refilled": 4.0},
    ]
    run = compared_run("dapo", 0, records=tuple(records))
    # 8 prompts x 4 responses; step 2 kept no group and takes the length between; half as many again in step 3.
    assert sampled_tokens(run) == pytest.approx(32 * (10 + 2 * 15 + 1.5 * 20))
    assert sampled_tokens(run, 1) == 320
    assert minutes(run) is None


def test_settings_that_differ_name_the_published_clip_range():
    table = results("published", finished("lpo", 0.4, 2) + finished("dapo", 0.4, 2, refills=3))
    assert dict(differences(table)) == {
        "algorithm.name": ["lpo", "dapo"],
        "algorithm.clip_low": ["0.03 (published)", "0.2 (published)"],
        "algorithm.clip_high": ["0.03 (published)", "0.28 (published)"],
        "algorithm.max_refills": ["0", "3"],
    }
    assert differences(results("published", finished("lpo", 0.4, 2))) == []


def test_no_run_has_finished(tmp_path):
    runs = [pending_run("lpo", 0), pending_run("grpo", 0)]
    page = Page(write_comparison(runs, tmp_path, "Soon", "evolpo compare", VERSIONS).read_text())
    assert "No run has finished with a held-out accuracy yet." in page.text
    assert [row["status"] for row in rows(results("published", runs))] == ["pending", "pending"]
    assert (tmp_path / "comparison.png").exists()


def test_runs_of_two_steps(tmp_path):
    runs = []
    for name in ("lpo", "grpo"):
        for seed in range(2):
            full = compared_run(name, seed)
            few = {0: full.evaluations[0], 2: full.evaluations[20]}
            runs.append(compared_run(name, seed, records=full.records[:3], evaluations=few))
    page = Page(write_comparison(runs, tmp_path, "Short", "evolpo compare", VERSIONS).read_text())
    assert "Held-out accuracy" in page.text


def test_what_users_write_is_escaped(tmp_path):
    evil = "</style><script>alert('x')</script>$_{"
    runs = [compared_run(evil, 0), failed_run(evil, 1, error=evil)]
    page = Page(write_comparison(runs, tmp_path, evil, evil, [(evil, evil)]).read_text())
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(evil) > 8


def test_an_algorithm_looks_the_same_everywhere_and_like_no_other():
    found = looks([f"algorithm {number}" for number in range(9)])
    assert len(set(found.values())) == 9
    assert looks(["algorithm 0", "other", "algorithm 0"])["algorithm 0"] == found["algorithm 0"]
