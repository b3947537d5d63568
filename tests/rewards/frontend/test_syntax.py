import time

import pytest
from documents import ATTACKS, HONEST, document
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.syntax import check_syntax

SVG = '<svg xmlns="http://www.w3.org/2000/svg">'


def problems(html, **page):
    return [(one.kind, one.line, one.fatal) for one in check_syntax(Page(html, **page)).problems]


@pytest.mark.parametrize("html", [*HONEST.values(), *ATTACKS.values()])
def test_pages_of_the_other_tests_are_well_formed(html):
    report = check_syntax(Page(html))
    assert (report.problems, report.score, report.passed) == ((), 1.0, True)


@pytest.mark.parametrize(
    "script",
    [
        "const a = b?.c?.[0] ?? d; a ??= 1; a ||= 2; a &&= 3;",
        "class A { #x = 1; static #y = 2; static { A.z = 1; } has(o) { return #x in o; } get x() { return this.#x; } }",
        "async function* f() { for await (const x of y) yield* x; }",
        "const {a, ...rest} = b; f({...rest, [a]: 1, async *g() {}});",
        "label: for (;;) { break label; } const n = 1_000n; const r = /(?<year>\\d{4})/v;",
        "const s = `a ${`b ${1}`} c`; try { f() } catch { g() } new.target;",
        "a\n++b\nvar of = 1, async = 2; x = y => ({})",
        "const tag = '<div>' + \"</div>\"; if (a < b) c = d > e;",
    ],
)
def test_modern_javascript_passes(script):
    assert problems(document(f"<script>{script}</script>")) == []


def test_modules_json_and_unknown_languages():
    html = document(
        """<script type="module">import a from "./a.js"; import b from "./b.json" with {type: "json"};
        const got = await fetch(import.meta.url); export {a, b};</script>
        <script type="importmap">{"imports": {"a": "./a.js"}}</script><script type="application/json">{"a": 1}</script>
        <script type="text/babel">const a = <b>1</b>;</script><script type="x-shader/x-vertex">void main() {</script>"""
    )
    assert problems(html) == []


def test_modern_html_and_css_pass():
    html = document(
        """<style>
        @import url("a.css"); @charset "utf-8";
        :root { --gap: clamp(1rem, 2vw, 3rem); --empty: ; }
        .card { display: grid; &:hover { color: red } .title & { margin: calc(1px + var(--gap)) }
          @media (width >= 40em) { padding: 0 } }
        @layer base, theme; @layer base { a:not(.b, .c):has(> img)::after { content: "}{"; inset: 0 } }
        @container card (inline-size > 30em) { .x { width: min(100%, 20rem) } }
        @supports (display: grid) { @keyframes spin { from { rotate: 0deg } 50% { rotate: 90deg } } }
        @font-face { font-family: X; src: url(data:font/woff2;base64,AA==) } @property --p { syntax: "<color>"; }
        </style>
        <template><tr><td>Cell</td></tr></template>
        <ul><li>One<li>Two</ul><p>First<p>Second & third
        <table><tr><td>1<tr><td>2</table><dl><dt>A<dd>B</dl>
        <my-element></my-element><dialog open><form method="dialog"><button>OK</button></form></dialog>
        <select><option>1<hr><option>2</select><br/><input disabled><a href="?a=1&b=2">x</a>
        <svg viewBox="0 0 1 1"><defs><linearGradient id="g"/></defs><path d="M0 0"/><foreignObject><div></div>
        </foreignObject></svg><math><mi>x</mi></math><video controls></video><details><summary>S</summary></details>"""
    )
    report = check_syntax(Page(html))
    assert report.problems == ()
    assert {("rotate", "90deg"), ("padding", "0"), ("color", "red")} <= set(report.declarations)
    assert not {name for name, _ in report.declarations} & {"--gap", "src", "syntax"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<script>\nlet a = ;\n</script>", [("js", 14, True)]),
        ("\n<script>if (a) {</script>", [("js", 14, True)]),
        ("<script>const a = <b>1</b>;</script>", [("js", 13, True)]),
        ("\n<button onclick='go('>x</button>", [("js", 14, True)]),
        ("<button onclick='return go()'>x</button>", []),
        ("<style>\na { color red; }\n</style>", [("css", 14, False)]),
        ("<style>a { color: red</style>", [("css", 13, True)]),
        ("<style>a { content: 'x }\n</style>", [("css", 13, True)]),
        ("<style>a {}\n}\nb {}</style>", [("css", 14, False)]),
        ("<style>a {}\n}</style>", [("css", 14, False)]),
        ("<style>a {}\nb</style>", [("css", 14, False)]),
        ("<p style='color: red; width'>x</p>", [("css", 13, False)]),
        ("<p>One</b></p>", [("html", 13, False)]),
        ("<div><span>One</div></span>", [("html", 13, False)] * 2),
        ("<p id='a' id='b'>One</p>", [("html", 13, False)]),
        ("<table><div>One</div></table>", [("html", 13, False)] * 2),
    ],
)
def test_errors_with_their_lines(body, expected):
    assert problems(document(body)) == expected


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<!DOCTYPE html><p>One</p><script>let a = 1;",
        "<!DOCTYPE html><style>p { color: red }",
        '<!DOCTYPE html><p class="a>One</p>',
        "<!DOCTYPE html><p>One</p><!-- rest",
        "<!DOCTYPE html><p>One</p><div",
    ],
)
def test_documents_cut_off_fail(html):
    report = check_syntax(Page(html))
    assert (report.score, report.passed) == (0.0, False)
    assert any(one.fatal for one in report.problems)


def test_score_counts_distinct_mistakes():
    one = check_syntax(Page("<p>No doctype</p>"))
    assert (one.score, one.passed, one.count("html")) == (pytest.approx(0.9), True, 1)
    same = check_syntax(Page(document("<p>a</i></p>" * 30)))
    assert (same.score, same.count("html")) == (pytest.approx(0.9), 30)
    many = check_syntax(Page(document("".join(f"<p>a</{tag}></p>" for tag in ("b", "i", "u", "em", "q", "s")))))
    assert (many.score, many.passed) == (pytest.approx(0.4), False)


def test_files_are_checked_by_their_endings():
    report = check_syntax(
        Page(document(""), {"a.css": "\n}", "js/b.js": "\n\nlet a = ;", "c.json": "{", "d.mjs": "a b"})
    )
    assert sorted((one.kind, one.file, one.line) for one in report.problems) == [
        ("css", "a.css", 2),
        ("js", "d.mjs", 1),
        ("js", "js/b.js", 3),
    ]


@pytest.mark.parametrize(
    ("svg", "expected"),
    [
        (f'<?xml version="1.0"?>{SVG}<style>a {{ fill: red }}</style><g><path d="M0 0"/></g></svg>', []),
        (f"{SVG}\n<path></svg>", [("svg", 2, True)]),
        ("<svg><path/></svg>", [("svg", 1, False)]),
        (f'<!DOCTYPE x [<!ENTITY a "b">]>{SVG}&a;</svg>', [("svg", 1, True)]),
        (f"{SVG}<script>let a = ;</script></svg>", [("js", 1, True)]),
    ],
)
def test_svg(svg, expected):
    assert problems(svg, kind="svg") == expected


@given(st.text(alphabet="<>/=\"'{}();:!-abpstyle \n", max_size=200))
def test_any_markup_is_taken(text):
    for page in (Page(text), Page(text, kind="svg"), Page("<!DOCTYPE html>", {"a.css": text, "a.js": text})):
        assert 0.0 <= check_syntax(page).score <= 1.0


@pytest.mark.parametrize("piece", ["a:b;", "<div>", "<b>", "<b><p>", "<table>", "<svg>", "<a b", "&", "</p>"])
@pytest.mark.parametrize("wrap", ["{}", "<style>{}</style>", "<script>{}</script>"])
def test_degenerate_pages_are_refused_in_time(piece, wrap):
    started = time.process_time()
    check_syntax(Page("<!DOCTYPE html>" + wrap.format(piece * (60_000 // len(piece)))))
    assert time.process_time() - started < 15


@pytest.mark.parametrize("piece", ["{", "(", "a{", "@media x{", "/*", "}", '"', "if(", "function f(){", "x?", "`${"])
def test_degenerate_files_are_refused_in_time(piece):
    started = time.process_time()
    report = check_syntax(Page("<!DOCTYPE html>", dict.fromkeys(("a.css", "a.js"), piece * (40_000 // len(piece)))))
    assert not report.passed
    assert time.process_time() - started < 25


def test_page_too_long():
    assert not check_syntax(Page("<!DOCTYPE html>" + "x" * 1_000_000)).passed
