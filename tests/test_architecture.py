"""Who may import whom, and that everything public is documented and typed: read from source, nothing is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "rl", "rollout", "rewards", "recipes")
DATA = "evolpo.rl.data"
# What a package may import of ours, besides itself and the package root.
ALLOWED = {
    "model": (),
    "rl": ("evolpo.model",),
    "rollout": (DATA,),
    "rewards": (DATA,),
    "recipes": ("evolpo.model", "evolpo.rl", "evolpo.rollout", "evolpo.rewards"),
}
ONLY_IN = {
    "deepspeed": {f"rl/training/{name}.py" for name in ("engine", "distributed", "sharded", "weights")},
    "ray": {"rollout/fleet.py", "rollout/engine_actor.py"},
    "vllm": {"rollout/vllm_engine.py", "rollout/vllm_worker.py", "rollout/vllm_models.py"},
}
SHARED = {"arguments", "runs", "drawing", "training", "memory", "conf"}
"""Rooms of recipes/ that the others share; every other folder there is the family of one command."""
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def module_of(name: str) -> list[str]:
    """`rl/losses.py` -> [evolpo, rl, losses]; a package's __init__ stands for the package."""
    parts = ["evolpo", *Path(name).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(name: str, source: str | None = None) -> Iterator[str]:
    """Full names of all that a file imports, wherever the statement stands; `from a import b` gives `a.b`."""
    tree = ast.parse(source) if source is not None else tree_of(name)
    package = module_of(name) if name.endswith("__init__.py") else module_of(name)[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def is_root(target: str) -> bool:
    """Whether this is the package root, or a name in it that is no package: `evolpo`, `evolpo.InputError`."""
    parts = target.split(".")
    return parts[0] == "evolpo" and (len(parts) == 1 or (len(parts) == 2 and parts[1] not in PACKAGES))


def inside(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(f"{prefix}.")


def broken_rules(name: str, source: str | None = None) -> list[str]:
    """Imports of ours that the package of a file may not make."""
    package = Path(name).parts[0]
    allowed = (f"evolpo.{package}", *ALLOWED[package])
    ours = [target for target in imports(name, source) if inside(target, "evolpo")]
    return [target for target in ours if not is_root(target) and not any(inside(target, a) for a in allowed)]


def foreign_heavy(name: str, source: str | None = None) -> list[str]:
    """Imports of libraries that only certain files may import."""
    found = imports(name, source)
    return [t for t in found if name not in ONLY_IN.get(t.split(".")[0], {name})]


def test_all_packages_are_there():
    assert {name.split("/")[0] for name in NAMES} == set(PACKAGES)
    assert {path.name for path in (ROOT / "src" / "evolpo").iterdir() if path.is_symlink()} == set(PACKAGES)


@pytest.mark.parametrize("name", NAMES)
def test_packages_import_only_what_they_may(name):
    assert broken_rules(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_deepspeed_and_vllm_have_one_place_each(name):
    assert foreign_heavy(name) == []


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("recipes/")])
def test_nobody_imports_recipes(name):
    assert not [target for target in imports(name) if inside(target, "evolpo.recipes")]


def family(module: list[str]) -> str | None:
    """The family of recipes/ that a module belongs to: `evolpo.recipes.bench.fp8` -> bench."""
    inner = module[2:] if module[:2] == ["evolpo", "recipes"] else []
    found = inner[0] if inner and (ROOT / "recipes" / inner[0]).is_dir() else None
    return None if found in SHARED else found


def foreign_families(name: str, source: str | None = None) -> list[str]:
    """Imports of a family of recipes/ by another one, or by what the families share."""
    module = module_of(name)
    if module[:2] != ["evolpo", "recipes"] or (len(module) < 4 and not name.endswith("__init__.py")):
        return []
    return [t for t in imports(name, source) if family(t.split(".")) not in (None, family(module))]


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("recipes/")])
def test_a_family_imports_what_is_shared_and_no_other_family(name):
    assert foreign_families(name) == []


def test_the_rule_of_families_catches():
    assert foreign_families("recipes/bench/x.py", "from evolpo.recipes.compare.plan import ALGORITHMS")
    assert foreign_families("recipes/runs/x.py", "from evolpo.recipes.report.report import write_report")
    assert not foreign_families("recipes/bench/x.py", "from evolpo.recipes.runs.checks import check_positive")
    assert not foreign_families("recipes/bench/x.py", "from evolpo.recipes.bench import step")
    assert not foreign_families("recipes/train.py", "from evolpo.recipes.report.report import write_report")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("recipes/runs/", "recipes/drawing/"))])
def test_what_commands_share_imports_no_command(name):
    own = tuple(f"evolpo.recipes.{one}" for one in ("arguments", "runs", "drawing", "memory", "config"))
    theirs = [target for target in imports(name) if inside(target, "evolpo.recipes")]
    assert [target for target in theirs if not any(inside(target, one) for one in own)] == []


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Every set of modules that reach each other, by depth-first search from each."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {name: reached(name) for name in graph}
    return sorted({tuple(sorted(b for b in reach[a] if a in reach[b])) for a in graph if a in reach[a]})


def test_no_two_files_import_each_other_in_a_circle():
    modules = {".".join(module_of(name)): name for name in NAMES}

    def target_module(target: str) -> str | None:
        return next((t for t in (target, target.rpartition(".")[0]) if t in modules), None)

    graph = {
        module: {found for t in imports(name) if (found := target_module(t)) and found != module}
        for module, name in modules.items()
    }
    assert circles(graph) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [("b", "c")]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("__init__.py")])
def test_every_folder_says_in_two_sentences_what_lives_there(name):
    text = " ".join((ast.get_docstring(tree_of(name)) or "").split())
    assert len(re.findall(r"[.!?](?= |$)", text)) >= 2


def test_the_loop_is_easy_to_read():
    assert len((ROOT / "recipes" / "train.py").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_our_own_packages_are_imported_by_full_name(name):
    assert not [target for target in imports(name) if target.split(".")[0] in PACKAGES]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model/x.py", "from evolpo.rl import data"),
        ("model/x.py", "import evolpo.rl.data"),
        ("rl/x.py", "def f():\n    from evolpo.rewards.base import Sample"),
        ("rl/x.py", "from ..rollout import engine"),
        ("rl/__init__.py", "from ..rollout import engine"),
        ("rl/x.py", "from evolpo import recipes"),
        ("rewards/x.py", "from evolpo.rl import losses"),
        ("rewards/x.py", "import importlib\nimportlib.import_module('evolpo.rollout')"),
        ("rollout/x.py", "from evolpo.model import load_model"),
        ("rollout/x.py", "from evolpo.rl.database import thing"),
    ],
)
def test_the_rules_catch(name, source):
    assert len(broken_rules(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model/x.py", "from evolpo import InputError\nimport evolpo"),
        ("rewards/x.py", "from evolpo.rl.data import Group\nfrom evolpo.rl import data\nfrom . import base"),
        ("rl/x.py", "from evolpo.model import load_model\nfrom .losses import LOSSES"),
        ("recipes/x.py", "from evolpo.rewards import Sample\nfrom evolpo.recipes.cli import main"),
    ],
)
def test_the_rules_let_pass(name, source):
    assert broken_rules(name, source) == []


def test_heavy_libraries_are_caught_wherever_they_are_imported():
    assert foreign_heavy("rl/losses.py", "def f():\n    import deepspeed.comm") == ["deepspeed.comm"]
    assert foreign_heavy("rl/training/engine.py", "from vllm import LLM") == ["vllm.LLM"]
    assert foreign_heavy("rl/training/engine.py", "import deepspeed") == []


# -- documentation and annotations --------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods, with their qualified names; what is inside a function is private."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def is_overload(node: Function | ast.ClassDef) -> bool:
    return any(ast.unparse(decorator) in ("overload", "typing.overload") for decorator in node.decorator_list)


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_has_a_docstring(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree), "the module"
    definitions = public_definitions(tree.body)
    assert [n for n, node in definitions if not ast.get_docstring(node) and not is_overload(node)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_and_result_is_annotated(name):
    missing = []
    for node in ast.walk(tree_of(name)):
        if not isinstance(node, Function):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [a.arg for a in arguments if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
        bare += ["return"] if node.returns is None else []
        missing += [f"{node.name}({argument})" for argument in bare]
    assert missing == []
