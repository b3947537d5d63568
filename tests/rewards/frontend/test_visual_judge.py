"""The visual judge against a real server on 127.0.0.1 that looks at the pictures it is sent."""

import asyncio
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from test_aesthetics import page, png

from evolpo.rewards.frontend.aesthetics import aesthetics_from_image
from evolpo.rewards.frontend.checklist import CHECKLIST, item_weights
from evolpo.rewards.frontend.visual_judge import compare, judged_aesthetics
from evolpo.rewards.judges.judge import JudgeError, unfenced
from evolpo.rewards.judges.openai import OpenAIJudge

ALL = dict.fromkeys(CHECKLIST, True)


class Server(ThreadingHTTPServer):
    """A chat completion is `answer(images, text)`, with images as arrays; all requests are kept."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests = answer, []

    @property
    def judge(self):
        return OpenAIJudge(f"http://127.0.0.1:{self.server_address[1]}/v1", "eyes", retries=0, timeout_s=20.0)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        user = next(message for message in request["messages"] if message["role"] == "user")
        images = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
        arrays = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in images]
        text = user["content"][0]["text"]
        message = {"role": "assistant", "content": self.server.answer(arrays, text)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "eyes", "choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Server(answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


SHOTS = [png(page())] * 3
LIGHT = [png(Image.new("RGB", (64, 64), "white"))] * 3
DARK = [png(Image.new("RGB", (64, 64), "#333333"))] * 3


def judged(server, shots=SHOTS, task="A page about honest things."):
    return asyncio.run(judged_aesthetics(shots, task, server.judge))


def test_the_judge_leads_and_computed_measures_part_equals(serve):
    half = {name: i % 2 == 0 for i, name in enumerate(CHECKLIST)}
    score = judged(serve(lambda images, text: json.dumps(half)))
    computed = aesthetics_from_image(SHOTS[1]).value
    assert score.value == pytest.approx((6 + computed) / 13)
    assert score.metrics["judge"] == 1
    assert score.metrics["computed"] == computed
    assert score.metrics["checklist"] == 0.5
    assert [score.metrics[f"item/{name}"] for name in CHECKLIST] == [1, 0] * 6


def test_three_screenshots_are_sent_in_order_and_nothing_of_the_source(serve):
    shots = [png(page(gap=gap)) for gap in (28, 30, 32)]
    server = serve(lambda images, text: json.dumps(ALL))
    score = judged(server, shots)
    assert score.metrics["computed"] == aesthetics_from_image(shots[1]).value
    [request] = server.requests
    content = request["messages"][1]["content"]
    sent = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in content[1:]]
    assert sent == shots
    assert "honest page" not in json.dumps(content[0])  # The headline is only in the pictures.
    assert unfenced(content[0]["text"]) == {"TASK": "A page about honest things."}
    assert "never obeyed" in request["messages"][0]["content"]


def test_one_more_item_outweighs_all_that_is_computed(serve):
    crowded = [png(page("#bbbbbb", gap=2))] * 3
    more = judged(serve(lambda images, text: json.dumps(ALL)), crowded)
    less = judged(serve(lambda images, text: json.dumps(ALL | {"crafted": False})))
    assert more.metrics["computed"] < less.metrics["computed"]
    assert more.value > less.value


def test_items_count_by_their_weights(serve):
    server = serve(lambda images, text: json.dumps(ALL | {"colour": False}))
    weights = {"colour": 3.0, "spacing": 1.0}
    score = asyncio.run(judged_aesthetics(SHOTS, "A page.", server.judge, weights=weights))
    assert score.metrics["checklist"] == 0.25
    assert score.value == pytest.approx((1 + score.metrics["computed"]) / 5)


def test_one_screenshot_is_not_asked_what_changes(serve):
    server = serve(lambda images, text: json.dumps({name: True for name in CHECKLIST if name != "stable"}))
    score = judged(server, SHOTS[:1])
    assert score.metrics["checklist"] == 1
    assert "item/stable" not in score.metrics
    [request] = server.requests
    assert "stable" not in request["messages"][1]["content"][0]["text"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"beauty": 1}, "there is no item beauty"),
        ({"colour": -1}, "-1 of colour"),
        ({"colour": float("nan")}, "nan of colour"),
        ({"colour": True}, "True of colour"),
        ({"stable": 1}, "no item weighs more than 0"),
        ({}, "no item weighs more than 0"),
    ],
)
def test_wrong_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        item_weights(weights)


INCOMPLETE = dict.fromkeys(list(CHECKLIST)[1:], True)


@pytest.mark.parametrize(
    "bad",
    [
        json.dumps(INCOMPLETE),
        json.dumps(ALL | {"fits_task": "yes"}),
        json.dumps(ALL | {"fits_task": 1}),
        json.dumps(ALL | {"fits_task": None}),
        json.dumps(ALL | {"score": 10}),
        json.dumps(ALL)[:-20],
        json.dumps(ALL) + json.dumps(dict.fromkeys(CHECKLIST, False)),
        "10/10",
        "",
    ],
)
def test_an_incomplete_verdict_is_asked_again_and_never_a_partial_score(serve, bad):
    server = serve(lambda images, text: bad)
    score = judged(server)
    assert score.status == "infra_error"
    assert score.value is None
    assert len(server.requests) == 3
    answers = iter([bad, json.dumps(ALL)])
    again = judged(serve(lambda images, text: next(answers)))
    assert again.metrics["checklist"] == 1
    assert again.metrics["judge_calls"] == 2


def test_a_judge_that_is_away_is_our_fault():
    judge = OpenAIJudge("http://127.0.0.1:9/v1", "eyes", retries=0)
    score = asyncio.run(judged_aesthetics(SHOTS, "A page.", judge))
    assert score.status == "infra_error"
    assert score.value is None


def test_nobody_is_asked_about_a_blank_page_or_a_broken_file(serve):
    server = serve(lambda images, text: json.dumps(ALL))
    assert judged(server, LIGHT).status == "model_fail"
    assert judged(server, [b"no png"] * 3).status == "infra_error"
    with pytest.raises(ValueError, match="screenshots: 2 given"):
        judged(server, SHOTS[:2])
    assert server.requests == []


def brighter(images, text):
    first, second = (np.mean(half) for half in (images[: len(images) // 2], images[len(images) // 2 :]))
    return json.dumps({"better": "equal" if first == second else "first" if first > second else "second"})


def compared(server, first, second):
    return asyncio.run(compare(first, second, "A page.", server.judge))


def test_pairs_are_judged_in_both_orders(serve):
    server = serve(brighter)
    assert compared(server, LIGHT, DARK).value == 1
    assert compared(server, DARK, LIGHT).value == 0
    draw = compared(server, DARK, DARK)
    assert (draw.value, draw.consistent) == (0.5, True)
    assert len(server.requests) == 6


@pytest.mark.parametrize("always", ["first", "second"])
def test_a_preference_for_a_position_cancels(serve, always):
    result = compared(serve(lambda images, text: json.dumps({"better": always})), LIGHT, DARK)
    assert (result.value, result.consistent) == (0.5, False)


def test_a_pair_without_a_verdict_in_both_orders_has_no_result(serve):
    half_deaf = serve(lambda images, text: brighter(images, text) if images[0].mean() > 200 else "the first, I think")
    with pytest.raises(JudgeError, match="no valid verdict in 3 answers"):
        compared(half_deaf, LIGHT, DARK)
    with pytest.raises(ValueError, match="as many of both"):
        compared(half_deaf, LIGHT, DARK[:1])
