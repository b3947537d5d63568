"""Files of npm packages as modules that a browser can import, as esm.sh serves them."""

from __future__ import annotations

import re
from collections.abc import Callable

_MODULE = re.compile(
    r"^\s*(?:import\b\s*[\w{*\"']|export\b\s*[\w{*])|[;}]\s*(?:import|export)\s*[{*\"']"
    r"|[;}]\s*export\s+(?:default|const|let|var|function|class|async)\b",
    re.MULTILINE,
)
_SPECIFIER = re.compile(
    r"""((?:^|[\s;}/])(?:import|export)\s*(?:[\w$*{][^"'();]*?\bfrom\s*|(?=["']))|\bimport\(\s*)(["'])([^"'\n]+)\2""",
    re.MULTILINE,
)
_REQUIRE = re.compile(r"""\brequire\(\s*["']([^"']+)["']\s*\)""")
_NAMED = re.compile(r"""\bexports\.([A-Za-z_$][\w$]*)\s*=|defineProperty\(exports,\s*["']([A-Za-z_$][\w$]*)["']""")
_RESERVED = {"default", "__esModule", "typeof", "delete", "new", "in", "function", "return", "switch", "this", "var"}


def as_module(source: str, address: Callable[[str], str]) -> str:
    """The file as a module: imports of packages by their addresses; CommonJS is wrapped.

    Args:
        source: JavaScript of any kind.
        address: address of a package, with a path in it perhaps.
    """
    if not _MODULE.search(source):
        return _wrapped(source, address)

    def absolute(match: re.Match[str]) -> str:
        before, quote, name = match.groups()
        return f"{before}{quote}{name if _is_path(name) else address(name)}{quote}"

    return _SPECIFIER.sub(absolute, source)


def entry_module(address: str, source: str) -> str:
    """A module that stands for the one at the address, so that whatever leads to it shares one instance."""
    default = not _MODULE.search(source) or re.search(r"\bexport\s+default\b|\bas\s+default\b|[{,]default[,}]", source)
    again = f'export {{default}} from "{address}";\n' if default else ""
    return f'export * from "{address}";\n{again}'


def _is_path(name: str) -> bool:
    return name.startswith((".", "/")) or ":" in name


def _wrapped(source: str, address: Callable[[str], str]) -> str:
    """CommonJS: what it requires is imported first, what it exports is exported by name as far as the source tells."""
    required = [name for name in dict.fromkeys(_REQUIRE.findall(source)) if ".development" not in name]
    imports, table = [], []
    for index, name in enumerate(required):
        imports.append(f'import * as $m{index} from "{name if _is_path(name) else address(name)}";')
        table.append(f'"{name}": $m{index}.default ?? $m{index}')
    names = {one or other for one, other in _NAMED.findall(source)} - _RESERVED
    again = "".join(
        f'export * from "{name}";\n'
        for name in required
        if re.search(rf"""module\.exports\s*=\s*require\(\s*["']{re.escape(name)}["']""", source)
    )
    named = "".join(f"const $e_{name} = $x[{name!r}]; export {{$e_{name} as {name}}};\n" for name in sorted(names))
    newline = "\n"
    return f"""{newline.join(imports)}
const $module = {{exports: {{}}}};
(function (module, exports, require, process, global) {{
{source}
}}).call($module.exports, $module, $module.exports, (name) => ({{{", ".join(table)}}})[name],
  {{env: {{NODE_ENV: "production"}}}}, globalThis);
const $x = $module.exports;
export default $x;
{again}{named}"""
