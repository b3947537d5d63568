import json
import warnings
from pathlib import Path

import pytest

from evolpo import InputError
from evolpo.rewards.frontend.delivery import deliver, without_integrity
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.function import exercise
from evolpo.rewards.frontend.modules import as_module
from evolpo.rewards.frontend.packages import listed, package_folder
from evolpo.rewards.frontend.reward import Frontend


def _package(folder: Path, name: str, version: str, files: dict[str, str], **about) -> None:
    for path, content in {"package.json": json.dumps({"name": name, "version": version, **about}), **files}.items():
        (folder / name / version / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / version / path).write_text(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three versions of a library, and one that needs it, of their own making."""
    root = tmp_path_factory.mktemp("own")
    for number in ("1.2.0", "2.5.1", "2.9.0"):
        files = {"dist/tally.min.js": f"globalThis.tally = '{number}';", "dist/tally.css": "h1 { color: #123 }"}
        _package(root / number, "@own/tally", number, files, unpkg="dist/tally.min.js")
    # As in `node_modules`: one folder a package.
    plain = root / "plain"
    _package(root / "x", "unused", "1.0.0", {})
    for name, main, body in (
        ("ownbase", "index.js", "exports.add = (a, b) => a + b;"),
        ("ownsum", "index.js", "const base = require('ownbase'); exports.sum = (all) => all.reduce(base.add, 0);"),
    ):
        (plain / name).mkdir(parents=True)
        about = {"name": name, "version": "3.0.1", "main": main, "dependencies": {"ownbase": "^3.0.0"}}
        (plain / name / "package.json").write_text(json.dumps(about))
        (plain / name / main).write_text(body)
    scoped = plain / "@own"
    scoped.mkdir()
    for number in ("1.2.0", "2.5.1", "2.9.0"):
        (root / number / "@own/tally" / number).rename(scoped / f"tally@{number}")
    return str(plain)


@pytest.mark.parametrize(
    ("address", "version"),
    [
        ("https://unpkg.com/@own/tally@1.0.7/dist/tally.min.js", "1.2.0"),
        ("https://unpkg.com/@own/tally@2.4/dist/tally.js", "2.5.1"),
        ("https://cdn.jsdelivr.net/npm/@own/tally", "2.9.0"),
        ("https://cdn.jsdelivr.net/npm/@own/tally@^2/tally.min.js?x=1", "2.9.0"),
        ("https://unpkg.com/@own/tally@latest", "2.9.0"),
    ],
)
def test_the_same_major_version_answers(folder, address, version):
    assert deliver(address, (folder,)).body == f"globalThis.tally = '{version}';".encode()


@pytest.mark.parametrize(
    "address",
    [
        "https://unpkg.com/@own/tally@4/dist/tally.js",
        "https://unpkg.com/@own/tally@2/dist/other.js",
        "https://unpkg.com/@own/tally@2/../../ownbase/index.js",
        "https://unpkg.com/@own/tally@2/..%2f..%2fownbase/index.js",
        "https://pages.example/@own/tally@2/dist/tally.js",
        "https://fonts.googleapis.com/css2?family=No+Such+Family",
        "https://unpkg.com/",
    ],
)
def test_nothing_else_is_answered(folder, address):
    assert deliver(address, (folder,)) is None


def test_modules_are_loaded_once_and_find_what_they_import(folder, run):
    html = """<!DOCTYPE html><html lang="en"><head><title>Sum</title></head>
    <body><main><h1>Sum</h1><p id="p">none</p></main>
    <script type="module">import {sum} from "https://esm.sh/ownsum@3"; import {add} from "https://esm.sh/ownbase";
    document.getElementById("p").textContent = "The sum is " + add(sum([1, 2]), 4);
    if (document.getElementById("p").textContent !== "The sum is 7") throw Error("wrong"); </script></body></html>"""
    [report] = run(exercise(Page(html, packages=(folder,))))
    assert report.messages == ()
    [refused] = run(exercise(Page(html)))
    assert refused.messages == (
        "refused: https://esm.sh/ownsum@3",
        "refused: https://esm.sh/ownbase",
    )


def test_imports_become_addresses():
    source = 'import a, {b} from "a";import "./c.js";export*from"d/e";const f = import("f"); const text = "from \'g\'";'
    done = as_module(source, lambda name: f"https://esm.sh/{name}@1")
    assert done == (
        'import a, {b} from "https://esm.sh/a@1";import "./c.js";export*from"https://esm.sh/d/e@1";'
        'const f = import("https://esm.sh/f@1"); const text = "from \'g\'";'
    )


def test_checksums_are_left_out():
    tag = '<script src="https://unpkg.com/x" integrity="sha384-abc" crossorigin></script>'
    assert without_integrity(tag) == '<script src="https://unpkg.com/x" crossorigin></script>'
    assert without_integrity("<p>integrity='x'</p>") == "<p>integrity='x'</p>"


def test_a_folder_of_ones_own_has_to_be_there():
    with pytest.raises(InputError, match="packages: /no/such is no folder"):
        Frontend(packages="/no/such")


@pytest.fixture(scope="module")
def installed():
    """The list, where set-up could take it: without npm or a network everything else works, and this is told."""
    if not package_folder().is_dir():
        warnings.warn("set-up found no npm packages for pages: their addresses are not tested", stacklevel=1)
        pytest.skip("no npm packages: python -m evolpo.rewards.frontend.packages")


ADDRESSES = [
    "https://unpkg.com/react@18/umd/react.production.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/react-dom/18.2.0/umd/react-dom.production.min.js",
    "https://unpkg.com/@babel/standalone/babel.min.js",
    "https://unpkg.com/vue@3/dist/vue.global.js",
    "https://cdn.jsdelivr.net/npm/vue@2",
    "https://cdn.jsdelivr.net/npm/alpinejs@3.x.x/dist/cdn.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/Chart.js/3.9.1/chart.min.js",
    "https://d3js.org/d3.v7.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/three.js/r128/three.min.js",
    "https://cdn.jsdelivr.net/npm/three@0.160.0/examples/jsm/controls/OrbitControls.js",
    "https://cdn.tailwindcss.com",
    "https://cdn.tailwindcss.com/3.4.1?plugins=forms",
    "https://cdn.jsdelivr.net/npm/@tailwindcss/browser@4",
    "https://stackpath.bootstrapcdn.com/bootstrap/4.5.2/css/bootstrap.min.css",
    "https://code.jquery.com/jquery-3.6.0.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/lodash.js/4.17.21/lodash.min.js",
    "https://cdn.jsdelivr.net/npm/marked/marked.min.js",
    "https://cdn.jsdelivr.net/npm/katex@0.16.9/dist/contrib/auto-render.min.js",
    "https://cdn.jsdelivr.net/npm/mermaid@10/dist/mermaid.esm.min.mjs",
    "https://unpkg.com/leaflet@1.9.4/dist/leaflet.css",
    "https://cdnjs.cloudflare.com/ajax/libs/gsap/3.12.2/ScrollTrigger.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/font-awesome/6.4.0/webfonts/fa-solid-900.woff2",
    "https://fonts.googleapis.com/icon?family=Material+Icons",
    "https://cdn.jsdelivr.net/gh/davidshimjs/qrcodejs@master/qrcode.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/highlight.js/11.9.0/highlight.min.js",
    "https://esm.sh/preact@10/hooks",
    "https://esm.sh/react-dom@18.2.0/client",
    "https://cdn.skypack.dev/canvas-confetti",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_list_answers(installed, address):
    assert deliver(address) is not None


def test_fonts_have_the_families_that_were_asked_for(installed):
    asked = "https://fonts.googleapis.com/css2?family=Inter:wght@400;700&family=Poppins:ital,wght@0,600;1,400"
    css = deliver(asked).body.decode()
    assert "font-family: 'Inter'" in css
    assert "font-family: 'Poppins'" in css
    assert "font-style: italic" in css
    address = css.partition("url(")[2].partition(")")[0]
    assert deliver(address).body.startswith(b"wOF2")


def test_the_list_is_pinned():
    assert all(digest.startswith("sha512-") for digest in listed().values())


def test_react_from_a_network_works(installed, run):
    html = """<!DOCTYPE html><html lang="en"><head><title>Count</title></head><body><div id="root"></div>
    <script type="module">import React, {useState} from "https://esm.sh/react@18"; import {createRoot} from
    "https://esm.sh/react-dom@18/client"; const h = React.createElement; function App() { const [n, set] = useState(0);
    return h("main", null, h("h1", null, "Count"), h("p", null, "So far " + n), h("p", null, "Press the button."),
    h("button", {onClick: () => set(n + 1)}, "More")); } createRoot(document.getElementById("root")).render(h(App));
    </script></body></html>"""
    [report] = run(exercise(Page(html)))
    assert report.messages == ()
    assert list(report.controls.verdicts.values()) == ["works"]
