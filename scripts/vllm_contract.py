"""Write what evolpo touches of vLLM, with the signatures in the GPU wheel, to requirements/vllm_contract.json.

Usage: vllm_contract.py [FOLDER]. Takes the wheel that pyproject.toml pins, reads its Python files without importing
them, and removes it again; FOLDER is a folder that already holds a package `vllm`.

What is touched is found by the syntax trees of the files that import vLLM: imported names, calls with their keywords,
attributes of objects that `OBJECTS` says the class of, methods called by name through `collective_rpc`, and environment
variables.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "requirements" / "vllm_contract.json"
ENGINE = "vllm.v1.engine.llm_engine.LLMEngine"
RUNNER = "vllm.v1.worker.gpu_model_runner.GPUModelRunner"
OBJECTS: Mapping[str, Mapping[str, str]] = {
    "rollout/vllm_engine.py": {
        "self.llm": "vllm.LLM",
        "self.llm.llm_engine": ENGINE,
        "self.llm.llm_engine.vllm_config": "vllm.config.VllmConfig",
        "self.llm.llm_engine.vllm_config.scheduler_config": "vllm.config.SchedulerConfig",
        "engine": ENGINE,
        "model_config": "vllm.config.ModelConfig",
        "output": "vllm.RequestOutput",
        "completion": "vllm.CompletionOutput",
        "position[token]": "vllm.logprobs.Logprob",
        "router": "vllm.model_executor.layers.fused_moe.router.base_router.BaseRouter",
    },
    "rollout/engine_loop.py": {
        "core": ENGINE,
        "self.engine.llm.llm_engine": ENGINE,
        "output": "vllm.RequestOutput",
        "completion": "vllm.CompletionOutput",
    },
    "rollout/vllm_worker.py": {
        "head": "vllm.model_executor.layers.vocab_parallel_embedding.ParallelLMHead",
        "head.quant_method": "vllm.model_executor.layers.vocab_parallel_embedding.UnquantizedEmbeddingMethod",
        "kernel": "vllm.model_executor.layers.fused_moe.modular_kernel.FusedMoEKernel",
        "kernel.fused_experts": "vllm.model_executor.layers.fused_moe.modular_kernel.FusedMoEExperts",
        "runner": "vllm.model_executor.layers.fused_moe.layer.MoERunner",
        "worker": "vllm.v1.worker.gpu_worker.Worker",
        "worker.model_runner": RUNNER,
        "loader": "vllm.lora.worker_manager.LRUCacheWorkerLoRAManager",
        "loader.lora_config": "vllm.config.lora.LoRAConfig",
        "manager": "vllm.lora.model_manager.LRUCacheLoRAModelManager",
        "mapper": "vllm.model_executor.models.utils.WeightsMapper",
        "adapter": "vllm.lora.lora_model.LoRAModel",
    },
    "rewards/judges/batch.py": {
        "llm": "vllm.LLM",
        "output": "vllm.RequestOutput",
        "output.outputs[0]": "vllm.CompletionOutput",
    },
}
"""By file: expressions that stand for an object of vLLM, and its class."""
ATTRIBUTES_BY_NAME = {
    ("rollout/vllm_worker.py", "moe_kernel"): "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method."
    "UnquantizedFusedMoEMethod",
}
"""Attributes that are asked for by `getattr` with a name."""
REST = {"vllm.LLM": "vllm.EngineArgs"}
"""Classes whose `**kwargs` go to another one."""
REMOTE = (RUNNER, "vllm.v1.worker.gpu.model_runner.GPUModelRunner")
"""What `collective_rpc` calls in the end, in either of vLLM's model runners."""
OF_TORCH = {"weight"}
"""Attributes that a module of vLLM has as one of PyTorch."""


@dataclass
class Touched:
    """What one or several files use of vLLM."""

    names: set[str] = field(default_factory=set)
    """Full names of classes, functions and attributes: `vllm.LLM`, `vllm.LLM.sleep`."""
    calls: set[tuple[str, int, tuple[str, ...]]] = field(default_factory=set)
    """Full name, positional arguments and keywords of each call."""
    variables: set[str] = field(default_factory=set)
    """Environment variables."""
    unknown: set[str] = field(default_factory=set)
    """Expressions on an object of vLLM whose class `OBJECTS` does not say."""

    def __ior__(self, other: Touched) -> Touched:
        for name in ("names", "calls", "variables", "unknown"):
            getattr(self, name).update(getattr(other, name))
        return self


# -- what our code touches ----------------------------------------------------------------------------------------


def touched(root: Path = ROOT) -> Touched:
    """What the whole project touches."""
    found = Touched()
    for package in ("model", "rl", "rollout", "rewards", "recipes"):
        for path in sorted((root / package).rglob("*.py")):
            name = str(path.relative_to(root))
            found |= touched_by(name, path.read_text())
    return found


def touched_by(name: str, source: str) -> Touched:
    """What one file touches; `name` is its path in the project."""
    tree = ast.parse(source)
    imported = dict(_imports(tree))
    classes = {**OBJECTS.get(name, {}), **imported}
    found = Touched(names=set(imported.values()))
    if not classes:
        return found
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    found.variables = {text for text in texts if re.fullmatch(r"VLLM_[A-Z0-9_]+", text)}
    for function in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))]:
        for node in ast.walk(function) if function is not tree else _outside_functions(tree):
            if isinstance(node, ast.Attribute):
                _look_at_attribute(node, classes, found)
            elif isinstance(node, ast.Call):
                _look_at_call(node, name, function, classes, found)
    for base in (b for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for b in n.bases):
        if ast.unparse(base) in imported:
            found.names |= {f"{imported[ast.unparse(base)]}.{method}" for method in ("load_weights",)}
    return found


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vllm":
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef)]


def _full_name(node: ast.expr, classes: Mapping[str, str]) -> str | None:
    """Of a name or an attribute on a known object."""
    if isinstance(node, ast.Name):
        return classes.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := classes.get(ast.unparse(node.value))):
        return f"{owner}.{node.attr}"
    return None


def _look_at_attribute(node: ast.Attribute, classes: Mapping[str, str], found: Touched) -> None:
    text = ast.unparse(node.value)
    if text in classes and node.attr not in OF_TORCH:
        found.names.add(f"{classes[text]}.{node.attr}")
    elif text.startswith("self.llm.") and text not in classes:  # an object of vLLM that is reached through another
        found.unknown.add(text)


def _look_at_call(node: ast.Call, file: str, function: ast.AST, classes: Mapping[str, str], found: Touched) -> None:
    if ast.unparse(node.func) == "getattr" and isinstance(node.args[1], ast.Constant):
        owner = ATTRIBUTES_BY_NAME.get((file, str(node.args[1].value)))
        found.names |= {f"{owner}.{node.args[1].value}"} if owner else set()
        return
    full = _full_name(node.func, classes)
    if full is None:
        return
    keywords = [k.arg for k in node.keywords if k.arg]
    for spread in (k.value for k in node.keywords if k.arg is None):
        keywords += _keys_of(spread, function)
    found.calls.add((full, len(node.args), tuple(sorted(keywords))))
    if full.endswith(".collective_rpc") and isinstance(node.args[0], ast.Constant):
        given = next((_keys_of(k.value, function) for k in node.keywords if k.arg == "kwargs"), [])
        for owner in REMOTE:
            remote = f"{owner}.{node.args[0].value}"
            found.names.add(remote)
            found.calls.add((remote, 0, tuple(sorted(given))))


def _keys_of(value: ast.expr, function: ast.AST) -> list[str]:
    """String keys of a dictionary, or of all that a function writes into the dictionary of that name."""
    if isinstance(value, ast.Dict):
        return [key.value for key in value.keys if isinstance(key, ast.Constant)]
    name, keys = ast.unparse(value), []
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                keys += [target.slice.value] if isinstance(target.slice, ast.Constant) else []
            elif isinstance(target, ast.Name) and target.id == name and isinstance(node, ast.stmt):
                inner = ast.walk(node.value) if getattr(node, "value", None) else []  # type: ignore[attr-defined]
                keys += [
                    k.value for d in inner if isinstance(d, ast.Dict) for k in d.keys if isinstance(k, ast.Constant)
                ]
    return keys


# -- what vLLM has ------------------------------------------------------------------------------------------------


class Package:
    """The sources of a package `vllm`, read and never imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019 -- lives as long as the script
    def tree(self, module: str) -> ast.Module | None:
        """Of a module by its full name; None if there is none."""
        base = self.folder.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return ast.parse(path.read_text())
        return None

    def find(self, full: str) -> tuple[str, ast.AST]:
        """Where something stands that can be imported under a full name: its module, and its definition.

        Raises:
            LookupError: nowhere.
        """
        if (itself := self.tree(full)) is not None:
            return full, itself
        module, _, name = full.rpartition(".")
        tree = self.tree(module)
        if tree is None:
            raise LookupError(full)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                original = next(a.name for a in node.names if (a.asname or a.name) == name)
                return self.find(f"{self._absolute(module, node)}.{original}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                with contextlib.suppress(LookupError):
                    return self.find(f"{self._absolute(module, node)}.{name}")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(f":{name}"):
                inner, _, original = node.value.partition(":")  # imported when it is first asked for
                return self.find(f"{module}{inner}.{original}")
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
                    return self.find(f"{module}.{node.value.func.id}")  # an object of a class
                return module, node
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
                return self.find(f"{module}.{ast.unparse(node.annotation)}")
        raise LookupError(full)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = (self.folder.joinpath(*module.split(".")) / "__init__.py").is_file()
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def classes(self, full: str) -> Iterator[tuple[str, ast.ClassDef]]:
        """A class and those of vLLM that it inherits from, nearest first, with their modules."""
        module, node = self.find(full)
        if isinstance(node, ast.ClassDef):
            yield module, node
            for base in node.bases:
                try:
                    yield from self.classes(f"{module}.{ast.unparse(base).split('[')[0]}")
                except LookupError:
                    continue

    def member(self, owner: str, name: str) -> str:
        """Signature of a method, or `attribute`.

        Raises:
            LookupError: the class has nothing of this name.
        """
        for _, node in self.classes(owner):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name:
                    decorators = {ast.unparse(d).split(".")[-1] for d in item.decorator_list}
                    if "overload" in decorators:
                        continue
                    return "attribute" if decorators & {"property", "cached_property"} else signature(item)
            written = (t for n in ast.walk(node) for t in _targets(n))
            if any(ast.unparse(target) in (name, f"self.{name}") for target in written):
                return "attribute"
        raise LookupError(f"{owner}.{name}")

    def described(self, full: str) -> str:
        """Signature of a function or of making an object of a class; `attribute` of anything else.

        Raises:
            LookupError: there is no such thing.
        """
        try:
            _, node = self.find(full)
        except LookupError:
            return self.member(*full.rsplit(".", 1))
        if isinstance(node, ast.FunctionDef):
            return signature(node)
        return self._constructor(full) if isinstance(node, ast.ClassDef) else "attribute"

    def _constructor(self, full: str) -> str:
        chain = [node for _, node in self.classes(full)]
        for node in chain:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    return signature(item)
        fields = [item for node in reversed(chain) for item in node.body if isinstance(item, ast.AnnAssign)]
        return ", ".join(f"{ast.unparse(f.target)}={'...' if f.value else 'REQUIRED'}" for f in fields)

    def variables(self) -> set[str]:
        """Environment variables that vLLM reads."""
        tree = self.tree("vllm.envs")
        assert tree is not None
        return {
            key.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Dict)
            for key in node.keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }


def _targets(node: ast.AST) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Names, kinds and defaults of the arguments, without annotations and without `self`."""
    arguments = node.args
    for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if one is not None:
            one.annotation = None
    text = ast.unparse(arguments)
    return re.sub(r"^(self|cls)(, |$)", "", text)


def contract(package: Package, used: Touched) -> dict[str, Any]:
    """What the project touches, as the package has it.

    Raises:
        LookupError: the package lacks something.
    """
    names = used.names | {name for name, _, _ in used.calls}
    names |= {REST[name] for name in names if name in REST}
    lost = used.variables - package.variables()
    if lost:
        raise LookupError(", ".join(sorted(lost)))
    return {
        "names": {name: package.described(name) for name in sorted(names)},
        "variables": sorted(used.variables),
    }


# -- whether they fit ---------------------------------------------------------------------------------------------


def broken(made: Mapping[str, Any], used: Touched) -> list[str]:
    """What the code does that a contract does not have, a line each."""
    names = made["names"]
    lines = [f"{text}: say its class in OBJECTS" for text in sorted(used.unknown)]
    lines += [f"{name}: not in the contract" for name in sorted(used.names) if name not in names]
    lines += [f"{name}: no environment variable" for name in sorted(used.variables - set(made["variables"]))]
    for name, positional, keywords in sorted(used.calls):
        if name not in names:
            lines.append(f"{name}: not in the contract")
        elif names[name] != "attribute":
            lines += [f"{name}: {why}" for why in _misfits(name, names, positional, keywords)]
    return lines


def _misfits(name: str, names: Mapping[str, str], positional: int, keywords: tuple[str, ...]) -> Iterator[str]:
    arguments = _parsed(names[name])
    places = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    known = {*places, *(a.arg for a in arguments.kwonlyargs)}
    if arguments.kwarg is not None and name in REST:
        known |= {a.arg for a in _parsed(names[REST[name]]).args}
    elif arguments.kwarg is not None:
        return
    yield from (f"no argument {keyword}" for keyword in keywords if keyword not in known)
    if positional > len(places) and arguments.vararg is None:
        yield f"{positional} positional arguments, not {len(places)}"
    needed = places[: len(places) - len(arguments.defaults)][positional:]
    needed += [a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None]
    required = [one for one in needed if one not in keywords and "=REQUIRED" not in names[name]]
    yield from (f"argument {one} is missing" for one in required)


def _parsed(text: str) -> ast.arguments:
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function.args


# -- the wheel ----------------------------------------------------------------------------------------------------


def pinned() -> str:
    """The version of vLLM that pyproject.toml pins for GPUs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return next(wanted.partition("==")[2] for wanted in extras["gpu"] if wanted.startswith("vllm=="))


def unpacked(version: str, folder: Path) -> Path:
    """Take the GPU wheel and unpack its Python files into a folder; the wheel is removed."""
    wanted = ("--no-deps", "--quiet", "--disable-pip-version-check", "--dest", str(folder), f"vllm=={version}")
    subprocess.run([sys.executable, "-m", "pip", "download", *wanted], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("vllm/") and name.endswith(".py"):
                archive.extract(name, folder)
    wheel.unlink()
    return folder


def main(arguments: list[str]) -> None:
    """Write the contract."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(arguments[0]) if arguments else unpacked(pinned(), Path(work))
        made = {"vllm": pinned(), **contract(Package(folder), touched())}
    CONTRACT.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{CONTRACT.relative_to(ROOT)}: {len(made['names'])} names of vLLM {made['vllm']}")


if __name__ == "__main__":
    main(sys.argv[1:])
