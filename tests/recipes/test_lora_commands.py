"""Adapters from the command line: trained, saved, resumed, folded in; what cannot be is one line."""

import json
from pathlib import Path

import pytest
import torch
from command_line import run

from evolpo.model import load_model
from evolpo.rl.checkpoint import list_checkpoints

LORA = ("model.lora.rank=2", "model.lora.alpha=4", "trainer.learning_rate=1e-2", "trainer.precision=fp32")
SFT = (
    "steps=2",
    "examples_per_step=2",
    "trainer.save_every=1",
    "data.heldout_size=4",
    "trainer.tokens_per_micro_batch=512",
)


@pytest.fixture(scope="module")
def sft_run(tiny_model_path: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a run of two steps, and of its model."""
    from hydra import initialize_config_module

    from evolpo.recipes.commands import composed
    from evolpo.recipes.sft import sft

    out = tmp_path_factory.mktemp("runs")
    with initialize_config_module("evolpo.recipes.conf", version_base="1.3"):
        config = composed("sft", [f"model.path={tiny_model_path}", f"output_dir={out}", *LORA, *SFT])
    model = sft(config)
    return model.parent, model


def test_checkpoints_are_adapters_and_the_model_is_whole(sft_run: tuple[Path, Path], tiny_model_path: str) -> None:
    folder, model = sft_run
    for _, checkpoint in list_checkpoints(folder):
        assert {file.name for file in checkpoint.glob("*.safetensors")} == {"adapter_model.safetensors"}
        files = json.loads((checkpoint / "state.json").read_text())["files"]
        assert "adapter_model.safetensors" in files
    trained, base = (load_model(str(one), torch.float32).state_dict() for one in (model, tiny_model_path))
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    assert changed == {name for name in base if name.endswith("_proj.weight")}


def test_a_resumed_run_is_the_same(
    capsys: pytest.CaptureFixture[str], sft_run: tuple[Path, Path], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(sft_run[0], copy)
    last = copy / "checkpoints" / "step_2" / "adapter_model.safetensors"
    before = last.read_bytes()
    code, _, err = run(capsys, "sft", f"resume={copy / 'checkpoints' / 'step_1'}")
    assert code == 0, err
    assert last.read_bytes() == before


def test_merge_writes_the_model_that_the_run_wrote(
    capsys: pytest.CaptureFixture[str], sft_run: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, model = sft_run
    adapter = list_checkpoints(folder)[-1][1]
    code, out, err = run(capsys, "merge", f"adapter={adapter}", f"output={tmp_path / 'whole'}")
    assert (code, out.strip()) == (0, str(tmp_path / "whole")), err
    theirs, ours = (load_model(str(one), torch.float32).state_dict() for one in (model, tmp_path / "whole"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --dry-run model.lora.rank=0", ["model.lora.rank", "0"]),
        ("train --dry-run model.lora.rank=2 model.lora.targets=[q_porj]", ["model.lora.targets", "q_porj", "q_proj"]),
        ("train --dry-run model.lora.rank=2 model.lora.dropout=0.1", ["model.lora.dropout", "0.1"]),
        ("train --dry-run model.lora.rank=2 trainer.fp8=true", ["model.lora", "trainer.fp8"]),
        ("train --dry-run model.lora.rank=2 trainer.expert_parallel=2", ["model.lora", "trainer.expert_parallel"]),
        ("sft model.lora.rank=2 model.lora.targets=[lm_head]", ["model.lora.targets", "output layer"]),
        ("sft model.lora.alpha=3", ["model.lora.rank", "empty"]),
        ("evaluate model.path={adapter}", ["model.path", "evolpo merge adapter={adapter} output="]),
        ("evaluate model.lora.rank=2", ["model.lora", "evolpo merge"]),
        ("train model.path={adapter}", ["model.path", "evolpo merge adapter={adapter} output="]),
        ("merge run={run} output={tmp}/o", ["run: ", "adapters", "evolpo merge adapter="]),
        ("merge adapter={model} output={tmp}/o", ["adapter: ", "adapter_config.json"]),
        ("merge adapter={adapter} base={tmp}/nowhere output={tmp}/o", ["base: ", "does not exist"]),
        ("sft resume={run} model.lora.rank=4", ["model.lora", "keeps its own"]),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str],
    sft_run: tuple[Path, Path],
    tiny_model_path: str,
    tmp_path: Path,
    words: str,
    says: list[str],
) -> None:
    places = {
        "adapter": list_checkpoints(sft_run[0])[-1][1],
        "run": sft_run[0],
        "model": sft_run[1],
        "tmp": tmp_path,
    }
    given = words.format(**places).split()
    if given[0] != "merge" and not any(word.startswith(("model.path", "resume")) for word in given):
        given += [f"model.path={tiny_model_path}", f"output_dir={tmp_path / 'out'}"]
    code, _, err = run(capsys, *given)
    assert code == 2, err
    [line] = [line for line in err.splitlines() if line.startswith("evolpo: ")]
    assert all(part.format(**places) in line for part in says), line
