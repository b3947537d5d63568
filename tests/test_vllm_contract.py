"""What evolpo touches of vLLM is what the GPU wheel has, and the CPU wheel that runs here has the same."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FILE = "rollout/vllm_engine.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """`scripts/vllm_contract.py` as a module."""
    spec = importlib.util.spec_from_file_location("vllm_contract", ROOT / "scripts" / "vllm_contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made() -> Any:
    return json.loads((ROOT / "requirements" / "vllm_contract.json").read_text())


def test_the_contract_is_that_of_the_pinned_wheel(script: Any, made: Any) -> None:
    assert made["vllm"] == script.pinned()


def test_evolpo_touches_nothing_that_the_gpu_wheel_lacks(script: Any, made: Any) -> None:
    used = script.touched()
    assert len(used.calls) > 15
    assert script.broken(made, used) == [], "scripts/vllm_contract.py writes the contract anew"


def test_the_installed_wheel_has_the_same_signatures(script: Any, made: Any) -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    here = script.contract(script.Package(Path(spec.origin).parents[1]), script.touched())
    assert here["names"] == {name: made["names"][name] for name in here["names"]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from vllm import LLM\nLLM(model='a', dtypes='b')", "vllm.LLM: no argument dtypes"),
        ("from vllm import LLM\nextra = {'a': 1}\nextra |= {'mode': 2}\nLLM('m', **extra)", "vllm.LLM: no argument a"),
        ("from vllm import LLM\nLLM(kv_cache_memory_bytes=1)", "vllm.LLM: argument model is missing"),
        ("from vllm import SamplingParams\nSamplingParams(best=1)", "vllm.SamplingParams: no argument best"),
        ("from vllm.sampling_params import RequestOutputKind as K\nK.LAST", "RequestOutputKind.LAST: not in"),
        ("import x\ndef f(self):\n self.llm.dream()", "vllm.LLM.dream: not in the contract"),
        ("import x\ndef f(self):\n self.llm.sleep(1, 'keep', 2)", "vllm.LLM.sleep: 3 positional arguments, not 2"),
        ("def f(self):\n self.llm.collective_rpc('reload_weights', kwargs={'weights': 1})", "no argument weights"),
        ("def f(self):\n self.llm.collective_rpc('load_weights')", "GPUModelRunner.load_weights: not in"),
        ("def f(self):\n self.llm.renderer.tokenizer.name", "self.llm.renderer: say its class in OBJECTS"),
        ("from vllm import LLM\nimport os\nos.environ['VLLM_SPEED'] = '9'", "VLLM_SPEED: no environment variable"),
    ],
)
def test_what_vllm_does_not_have_is_found(script: Any, made: Any, source: str, message: str) -> None:
    found = script.broken(made, script.touched_by(FILE, source))
    assert any(message in line for line in found), found


def test_what_vllm_has_passes(script: Any, made: Any) -> None:
    source = "from vllm import LLM\ndef f(self):\n self.llm.sleep(level=2)\n LLM('m', gpu_memory_utilization=0.5)"
    assert script.broken(made, script.touched_by(FILE, source)) == []


def test_a_package_that_lacks_something_is_found(script: Any, tmp_path: Path) -> None:
    folder = tmp_path / "vllm"
    (folder / "entrypoints").mkdir(parents=True)
    (folder / "__init__.py").write_text('NAMES = {"LLM": ".entrypoints.llm:LLM"}\n')
    (folder / "envs.py").write_text("variables = {}\n")
    (folder / "entrypoints" / "__init__.py").write_text("")
    (folder / "entrypoints" / "llm.py").write_text("class LLM:\n    def sleep(self, level: int = 1): ...\n")
    package = script.Package(tmp_path)
    assert package.described("vllm.LLM.sleep") == "level=1"
    with pytest.raises(LookupError, match="wake_up"):
        package.described("vllm.LLM.wake_up")
