"""What the doctor says of this machine, of one that lacks something, and of kernels that compute something else."""

import json
from importlib.metadata import version

import pytest
import torch
from command_line import run

from evolpo.recipes.doctor import doctor, kernels, machine, packages, programs, ranks, tiny
from evolpo.recipes.doctor.finding import BAD, CARE, GOOD, Finding, run_checks, without_places
from evolpo.recipes.doctor.gpu import GPU_CHECKS


def good():
    return Finding(GOOD, "2 of 2", "fine", figures={"count": 2})


def breaks():
    raise RuntimeError("no /home/somebody/secret/libcuda.so\nhere")


def test_a_check_that_raises_is_a_finding_without_places():
    found = {name: finding for name, finding, _ in run_checks({"one": good, "two": breaks})}
    assert found["one"].verdict == GOOD
    assert found["two"].verdict == BAD
    assert found["two"].found == "RuntimeError: no .../libcuda.so here"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("in /home/a/b.py, line 3", "in .../b.py, line 3"),
        ("1/2 of https://a.b/c", "1/2 of https://a.b/c"),
        ("/opt: no", "/opt: no"),
    ],
)
def test_places_are_left_out(text, left):
    assert without_places(text) == left


@pytest.mark.parametrize(("checks", "code"), [({"one": good}, 0), ({"one": good, "two": breaks}, 1)])
def test_exit_code_page_and_file(capsys, monkeypatch, tmp_path, checks, code):
    monkeypatch.setattr(doctor, "CHECKS", checks)
    file = tmp_path / "doctor.json"
    ended, out, _ = run(capsys, "doctor", f"output={file}")
    assert ended == code
    assert "one  good       2 of 2" in out
    assert "\x1b" not in out
    written = json.loads(file.read_text())
    assert written["checks"]["one"]["figures"] == {"count": 2}
    assert set(written["checks"]) == set(checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_gpu_is_one_line(capsys):
    code, out, err = run(capsys, "doctor", "--gpu")
    assert (code, out) == (2, "")
    assert err == "evolpo: gpu: this machine has no card that torch sees; `evolpo doctor` checks the rest\n"


def test_all_that_needs_a_card_is_in_the_table():
    assert list(GPU_CHECKS) == [
        "bf16 products", "attention", "experts", "FP8", "memory of a pass", "ZeRO 0 to 3", "sampling"
    ]  # fmt: skip


# -- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check", [machine.processor, machine.memory, machine.disk, machine.shared_memory, machine.card, machine.compilers]
)
def test_the_machine_is_described(check):
    finding = check()
    assert finding.verdict in (GOOD, CARE)
    assert finding.found
    json.dumps(finding.figures)


def test_what_is_too_small_is_bad(monkeypatch):
    monkeypatch.setattr(machine, "LEAST_MEMORY", 1e6)
    monkeypatch.setattr(machine, "LEAST_DISK", 1e9)
    monkeypatch.setattr(machine, "LEAST_SHARED", 1e9)
    assert machine.memory().verdict == BAD
    assert machine.disk().verdict == BAD
    assert machine.shared_memory().verdict == CARE


def with_card(monkeypatch, driver, cuda, seen=True):
    monkeypatch.setattr(machine, "_nvidia_smi", lambda _: [f"{driver}, NVIDIA H100 80GB HBM3, 81559 MiB"] * 8)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    return machine.card()


def test_an_old_driver_is_told(monkeypatch):
    old = with_card(monkeypatch, "570.86.10", "13.0")
    assert (old.verdict, old.means) == (BAD, "CUDA 13.0 needs driver 580 or newer")
    assert old.found.startswith("8 x NVIDIA H100 80GB HBM3, driver 570.86.10")
    assert with_card(monkeypatch, "580.65.06", "13.0").verdict == GOOD
    assert with_card(monkeypatch, "570.86.10", "12.8").verdict == GOOD
    assert with_card(monkeypatch, "580.65.06", "13.0", seen=False).verdict == BAD
    assert with_card(monkeypatch, "580.65.06", None).todo == "make setup-gpu"


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    finding = machine.compilers()
    assert finding.verdict == BAD
    assert "gcc g++" in finding.todo


# -- packages -----------------------------------------------------------------------------------------------------


def lock(tmp_path, *lines):
    file = tmp_path / "cpu.lock"
    file.write_text("\n".join(["# a lock", *lines]))
    return packages.compared(file)


def test_versions_are_held_against_the_lock(tmp_path):
    torch_pin, rich_pin = (f"{name}=={version(name).split('+')[0]}" for name in ("torch", "rich"))
    assert lock(tmp_path, torch_pin, rich_pin, "other==1 ; python_version < '3'").verdict == GOOD
    assert lock(tmp_path, torch_pin, "rich==0.1").verdict == CARE
    finding = lock(tmp_path, "torch==1.0", "not-there==3")
    assert finding.verdict == BAD
    assert finding.found.startswith("2 of 2 packages differ from cpu.lock: torch")
    assert finding.figures["lacking"] == ["not-there"]


def test_this_environment_has_a_lock():
    finding = packages.locked()
    assert finding.figures["lock"] in ("cpu", "gpu")
    assert packages.python().verdict == GOOD


# -- programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [programs.sandbox, programs.node, programs.browser, programs.fonts])
def test_programs_run(check):
    finding = check()
    assert finding.verdict == GOOD, finding


@pytest.mark.parametrize(
    ("check", "package"),
    [
        (programs.sandbox, "bubblewrap"),
        (programs.node, "nodejs"),
        (programs.browser, "chromium"),
        (programs.fonts, "fontconfig"),
    ],
)
def test_missing_programs_are_told(monkeypatch, check, package):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("EVOLPO_CHROMIUM", raising=False)
    finding = check()
    assert finding.verdict == CARE
    assert f"apt-get install {package}" in finding.todo


# -- the loop and the ranks ---------------------------------------------------------------------------------------


def made(**changes):
    figures = {"precision": "bf16", "start_s": 9.0, "tokens_per_s": 99.0, "gap_before": 0.02, "gap_after": 0.02}
    return tiny.Loop(**figures | {"moved": 0.1, "peak_gb": 1.0} | changes)


@pytest.mark.parametrize(
    ("changes", "verdict", "means"),
    [
        ({}, GOOD, "work together"),
        ({"gap_before": 0.3}, BAD, "different models"),
        ({"gap_after": float("nan")}, BAD, "does not take new weights"),
        ({"precision": "fp32"}, BAD, "different models"),
        ({"moved": 0.0}, CARE, "moved nothing"),
    ],
)
def test_the_loop_is_judged(changes, verdict, means):
    finding = tiny.judged(made(**changes))
    assert finding.verdict == verdict
    assert means in finding.means


@pytest.mark.slow
def test_the_loop_runs():
    finding = tiny.loop(groups=2, tokens=24)
    assert finding.verdict == GOOD, finding
    assert finding.figures["gap_after"] < finding.figures["moved"]  # the update reached the engine


def test_a_loop_that_fails_says_why():
    finding = tiny.loop("no_such_model")
    assert finding.verdict == BAD
    assert "no_such_model" in finding.found


@pytest.mark.slow
def test_a_stage_runs_on_a_rank():
    finding = ranks.zero((2,), ranks=1)
    assert finding.verdict == GOOD, finding
    assert len(finding.figures["stage 2"]["losses"]) == 2 * ranks.UPDATES


def test_stages_that_part_or_fail_are_told(monkeypatch):
    losses = {0: [1.0, 2.0], 1: [1.0, 2.0], 2: [1.0, 2.2], 3: [1.0, 2.0]}
    monkeypatch.setattr(ranks, "_stage", lambda stage, _: {"losses": losses[stage], "peak_gb": 1.0})
    assert ranks.zero((0, 1, 3), 8).verdict == GOOD
    assert ranks.zero(ranks=8).means == "stages train different models"
    monkeypatch.setattr(ranks, "_stage", lambda stage, _: {"error": "no memory"} if stage < 2 else {"losses": [1.0]})
    assert ranks.zero(ranks=8).todo == "trainer.zero_stage=2"


# -- kernels, on the processor ------------------------------------------------------------------------------------


def test_kernels_agree_with_plain_maths():
    assert kernels.attention("cpu", length=70).verdict == GOOD
    assert kernels.experts("cpu", hidden=64).verdict == GOOD
    assert kernels.products("cpu", size=128).figures["tflops"] > 0
    emulated = kernels.fp8("cpu", tokens=128, features=256, out=256)
    assert emulated.verdict == CARE
    assert 0.005 < emulated.figures["error"] < kernels.CLOSE_FP8


def test_wrong_kernels_are_found(monkeypatch):
    from evolpo.model import kernels as real
    from evolpo.model.fp8 import product

    right = real.causal_attention
    monkeypatch.setattr(real, "causal_attention", lambda q, k, v, scale: right(q, k, v, 0.2))
    assert kernels.attention("cpu", length=70).verdict == BAD
    monkeypatch.setattr(product, "_times", lambda x, weight, ends: 1.1 * (x @ weight.T))
    assert kernels.fp8("cpu", tokens=128, features=256, out=256).verdict == BAD
