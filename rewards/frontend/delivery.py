"""A content delivery network on this machine: what pages ask unpkg, jsDelivr, cdnjs, esm.sh or Google Fonts for.

An address names a package, a version and a file; the package of the same major version answers (see `packages`), of
several the one with the nearest minor number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from evolpo.rewards.frontend.modules import as_module, entry_module
from evolpo.rewards.frontend.packages import Package, find_packages, package_folder

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
    ".png": "image/png",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_JS = "text/javascript; charset=utf-8"
_MODULE_HOSTS = {"esm.sh", "esm.run", "cdn.skypack.dev", "ga.jspm.io", "jspm.dev", "cdn.esm.sh"}
_SPEC = re.compile(r"((?:@[^/@]+/)?[^/@]+)(?:@([^/]*))?(?:/(.*))?")
# Names that differ from the package's: of cdnjs, of repositories on GitHub, and of hosts that have one library.
_NAMES = {
    "three.js": "three",
    "babel-standalone": "@babel/standalone",
    "font-awesome": "@fortawesome/fontawesome-free",
    "twitter-bootstrap": "bootstrap",
    "lodash.js": "lodash",
    "underscore.js": "underscore",
    "moment.js": "moment",
    "highlight.js": "@highlightjs/cdn-assets",
    "p5.js": "p5",
    "htmx": "htmx.org",
    "tailwindcss-browser": "@tailwindcss/browser",
    "anime": "animejs",
    "prism": "prismjs",
    "plotly.js": "plotly.js-dist-min",
    "plotly.js-dist": "plotly.js-dist-min",
    "picocss": "@picocss/pico",
    "tween.js": "@tweenjs/tween.js",
    "bodymovin": "lottie-web",
    "dat-gui": "dat.gui",
    "chartjs": "chart.js",
    "limonte-sweetalert2": "sweetalert2",
    "cdn-release": "@highlightjs/cdn-assets",
}
_ONE_LIBRARY = (
    (r"cdn\.tailwindcss\.com/?([\d.]*)", "tailwindcss-cdn", "tailwindcss-with-all-plugins.js"),
    (r"code\.jquery\.com/jquery-([\d.]+\d).*", "jquery", "dist/jquery.min.js"),
    (r"ajax\.googleapis\.com/ajax/libs/jquery/([\d.]+)/.*", "jquery", "dist/jquery.min.js"),
    (r"d3js\.org/d3\.v(\d+).*", "d3", "dist/d3.min.js"),
    (r"cdn\.plot\.ly/plotly-([\d.]*\d|latest).*", "plotly.js-dist-min", "plotly.min.js"),
    (r"(?:stackpath|maxcdn|netdna)\.bootstrapcdn\.com/bootstrap/([\d.]+)/(.*)", "bootstrap", ""),
    (r"use\.fontawesome\.com/releases/v([\d.]+)/(.*)", "@fortawesome/fontawesome-free", ""),
    (r"(?:www\.)?threejs\.org/()(.*)", "three", ""),
)
_FOLDERS = ("", "dist/", "build/", "umd/", "dist/umd/", "dist/js/", "dist/css/", "lib/")
_SYMBOLS = (
    "font-weight: normal; font-style: normal; font-size: 24px; line-height: 1; letter-spacing: normal;"
    " text-transform: none; display: inline-block; white-space: nowrap; word-wrap: normal; direction: ltr;"
    " font-feature-settings: 'liga'"
)
_FONT_FILES = "https://fonts.gstatic.com/npm"
_INTEGRITY = re.compile(r"""(<(?:script|link)\b[^>]*?)\sintegrity\s*=\s*("[^"]*"|'[^']*')""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What an address answers with."""

    body: bytes
    content_type: str


def without_integrity(html: str) -> str:
    """The document without checksums of what it loads: another version than the one asked for may answer."""
    return _INTEGRITY.sub(r"\1", html)


@cache
def deliver(url: str, folders: Sequence[str] = ()) -> Delivered | None:
    """What the address is answered with, None if nothing here answers it.

    Args:
        url: an absolute address of http or https.
        folders: folders with packages of one's own (such as `node_modules`), which go before the list.
    """
    return Delivery(tuple(Path(folder) for folder in folders)).answer(url)


class Delivery:
    """Answers from the packages in some folders."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._packages = {**find_packages((package_folder(),))}
        for name, versions in find_packages(folders).items():
            self._packages[name] = versions + self._packages.get(name, ())

    def answer(self, url: str) -> Delivered | None:
        """See `deliver`."""
        address = urlsplit(url)
        host, path = address.netloc.lower(), unquote(address.path)
        if host in ("fonts.googleapis.com", "fonts.bunny.net", "rsms.me"):
            css = self._fonts(host, path, parse_qs(address.query))
            return Delivered(css.encode(), _TYPES[".css"]) if css else None
        if host == "cdn.jsdelivr.net" and path.startswith("/combine/"):
            parts = [self.answer(f"https://{host}/{part}") for part in path.removeprefix("/combine/").split(",")]
            there = [part for part in parts if part is not None]
            return Delivered(b"\n".join(part.body for part in there), there[0].content_type) if there else None
        for name, version, file in _readings(host, path):
            if package := self._version(name, version):
                module = host in _MODULE_HOSTS or "module" in parse_qs(address.query, keep_blank_values=True)
                path = file.removesuffix("+esm").rstrip("/")
                importer = url.partition("?")[0] if module or file.endswith("+esm") else ""
                if found := self._file(package, path, importer):
                    return found
        return None

    def _version(self, name: str, wanted: str) -> Package | None:
        """The package with the wanted major version; of several, and of 0.x, the one with the nearest minor."""
        versions = self._packages.get(name, ()) or self._packages.get(name.lower(), ())
        numbers = [int(part) for part in re.findall(r"\d+", wanted.partition("-")[0])]
        if name == "three" and re.fullmatch(r"r\d+", wanted):
            numbers = [0, *numbers]
        if not numbers:
            return versions[0] if versions else None
        same = [one for one in versions if one.version[0] == numbers[0]]
        minor = numbers[1] if len(numbers) > 1 else None
        return (
            min(same, key=lambda one: abs(one.version[1] - minor), default=None)
            if minor is not None
            else next(iter(same), None)
        )

    def _file(self, package: Package, path: str, module: str) -> Delivered | None:
        """A file of the package; as a module if the address from which one is imported is given."""
        about = json.loads((package.folder / "package.json").read_text(encoding="utf-8"))
        file = _exact(package.folder, path) if path else None
        if module:
            # A module at its own address, so that it is loaded once; at others a reference to it.
            file = file if file and module == _canonical(package, file) else _module_entry(package, about, path) or file
            if file is not None and file.suffix in (".js", ".mjs", ".cjs") and module != _canonical(package, file):
                return Delivered(entry_module(_canonical(package, file), _read(file)).encode(), _JS)
        if file is None and not path:
            fields = [about.get(key) for key in ("jsdelivr", "unpkg", "browser", "main")]
            named = [_exact(package.folder, field) for field in fields if isinstance(field, str)]
            file = next((one for one in named if one), None)
        file = file or _similar(package.folder, path)
        if file is None:
            return None
        kind = _TYPES.get(file.suffix, _JS)
        if module and kind == _JS:
            return Delivered(as_module(_read(file), lambda name: self._address(name, about)).encode(), _JS)
        return Delivered(file.read_bytes(), kind)

    def _address(self, specifier: str, about: dict[str, Any]) -> str:
        """Address of a package that another one imports, by the versions that the latter names."""
        match = _SPEC.fullmatch(specifier)
        assert match is not None
        name, _, path = match.groups()
        wanted = about.get("dependencies", {}).get(name) or about.get("peerDependencies", {}).get(name) or ""
        if name == about["name"]:
            wanted = about["version"]
        package = self._version(name, wanted) or self._version(name, "")
        version = ".".join(map(str, package.version)) if package else wanted
        return f"https://esm.sh/{name}@{version}" + (f"/{path}" if path else "")

    def _fonts(self, host: str, path: str, query: dict[str, list[str]]) -> str:
        if host == "rsms.me":
            query = {"family": ["Inter"]}
        families = [family for value in query.get("family", []) for family in value.split("|")]
        return "\n".join(css for family in families if (css := self._font(family)))

    def _font(self, asked: str) -> str:
        """Style sheet of one family: `Inter:wght@400;700` of css2, `Inter:400,700i` of css."""
        family, _, axes = asked.replace("+", " ").partition(":")
        slug = family.strip().lower().replace(" ", "-")
        if package := self._version("material-icons", "") if slug.startswith("material-icons") else None:
            file = package.folder / "iconfont" / "material-icons.css"
            return re.sub(r"url\((['\"]?)\./?", rf"url(\g<1>{_font_address(package)}/iconfont/", _read(file))
        if package := self._version(f"@fontsource-variable/{slug}", ""):
            files = ["index.css", *(["wght-italic.css"] if "ital" in axes or re.search(r"\di", axes) else [])]
            axis = "full.css"  # Width, optical size and so on, where the family has more axes than weight.
            files = [axis, *files[1:]] if not (package.folder / "index.css").exists() else files
        elif package := self._version(f"@fontsource/{slug}", ""):
            weights = sorted(set(re.findall(r"\b[1-9]00\b", axes))) or ["400"]
            files = [f"{weight}.css" for weight in weights]
            files += [f"{weight}-italic.css" for weight in weights if "ital" in axes or re.search(r"\di", axes)]
        else:
            return ""
        css = "\n".join(_read(package.folder / file) for file in files if (package.folder / file).exists())
        css = re.sub(r"font-family: '[^']*'", f"font-family: '{family.strip()}'", css)
        if slug.startswith("material-symbols"):
            css += f".{slug} {{font-family: '{family.strip()}'; {_SYMBOLS}}}\n"
        css = re.sub(r", url\([^)]*\.woff\) format\('woff'\)", "", css)
        return css.replace("url(./", f"url({_font_address(package)}/")


def _font_address(package: Package) -> str:
    return f"{_FONT_FILES}/{package.name}@{'.'.join(map(str, package.version))}"


def _readings(host: str, path: str) -> Iterator[tuple[str, str, str]]:
    """Ways to read an address as name, version and file."""
    for pattern, name, file in _ONE_LIBRARY:
        if match := re.fullmatch(pattern, host + path):
            groups = match.groups()
            yield name, groups[0], file or groups[1]
    rest = path.strip("/")
    if host == "cdnjs.cloudflare.com" and rest.startswith("ajax/libs/"):
        parts = rest.split("/", 4)
        if len(parts) == 5:
            yield from ((name, parts[3], parts[4]) for name in _aliases(parts[2]))
        return
    if host in ("cdn.jsdelivr.net", "fastly.jsdelivr.net", "ga.jspm.io", "fonts.gstatic.com", "esm.run"):
        kind, _, rest = rest.partition("/") if host != "esm.run" else ("npm", "", rest)
        kind, _, rest = ("npm", "", rest[4:]) if rest.startswith("npm:") else (kind, "", rest)
        if path.startswith("/npm:"):
            rest = path[5:]
        elif kind == "gh":  # user/repository@version/file
            rest = rest.partition("/")[2]
        elif kind != "npm":
            return
    elif host not in _MODULE_HOSTS and host not in ("unpkg.com", "www.unpkg.com"):
        return
    rest = re.sub(r"^(?:v\d+|stable|-)/", "", rest).lstrip("*")
    if match := _SPEC.fullmatch(rest):
        name, version, file = match.groups()
        yield from ((alias, (version or "").partition("&")[0], file or "") for alias in _aliases(name))


def _aliases(name: str) -> Iterator[str]:
    lower = name.lower()
    if lower in _NAMES:
        yield _NAMES[lower]
    yield name
    if lower != name:
        yield lower


def _exact(folder: Path, path: str) -> Path | None:
    root = folder.resolve()
    for ending in ("", ".js", ".mjs", "/index.js"):
        file = (root / f"{path}{ending}").resolve()
        if file.is_file() and file.is_relative_to(root):
            return file
    return None


def _similar(folder: Path, path: str) -> Path | None:
    """The file that another layout of the package has under this path: a minified one for a plain one and so on."""
    stem, dot, ending = path.rpartition(".")
    plain = stem.removesuffix(".min").removesuffix(".slim").removesuffix("-all")
    names = [f"{one}.{ending}" for one in (stem, plain, f"{plain}.min") if dot]
    names += [name.replace(".development", ".production") for name in names] if ".development" in path else []
    names += [name.replace(".production", ".production.min") for name in names if ".min" not in name]
    for name in names:
        for prefix in _FOLDERS:
            if file := _exact(folder, prefix + name):
                return file
    bases = {name.rpartition("/")[2] for name in names}
    found = [file for file in folder.rglob("*") if file.name in bases]
    return min(found, key=lambda file: (len(file.parts), str(file)), default=None)


def _module_entry(package: Package, about: dict[str, Any], path: str) -> Path | None:
    """What `import` finds under a path of the package: its `exports`, else `module` and `main`."""
    exports = about.get("exports")
    key = f"./{path}" if path else "."
    if isinstance(exports, str) or (isinstance(exports, dict) and not any(name.startswith(".") for name in exports)):
        exports = {".": exports}
    for pattern, target in (exports or {}).items():
        before, star, after = pattern.partition("*")
        if key == pattern or (star and key.startswith(before) and key.endswith(after)):
            filler = key[len(before) : len(key) - len(after)] if star else ""
            chosen = _condition(target)
            if chosen and (file := _exact(package.folder, chosen.replace("*", filler))):
                return file
    if path:
        return None
    fields = [about[name] for name in ("module", "main") if isinstance(about.get(name), str)]
    return next((file for field in [*fields, "index.js"] if (file := _exact(package.folder, field))), None)


def _condition(target: Any) -> str | None:
    if isinstance(target, str):
        return target
    if isinstance(target, list):
        return next((found for one in target if (found := _condition(one))), None)
    for name in ("browser", "import", "module", "production", "default", "require"):
        if isinstance(target, dict) and name in target and (found := _condition(target[name])):
            return found
    return None


def _canonical(package: Package, file: Path) -> str:
    version = ".".join(map(str, package.version))
    return f"https://esm.sh/{package.name}@{version}/{file.relative_to(package.folder.resolve())}"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
