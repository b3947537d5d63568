"""Is the page well-formed? HTML, CSS and JavaScript errors with their lines, without running anything."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evolpo.rewards.frontend.extract import Page

MAX_CHARACTERS = 1_000_000
"""Longer pages, their files included, are not parsed: they fail."""
MAX_DEPTH = 400
"""Elements nested deeper fail; Chromium itself flattens what is deeper than 512."""
PARSE_TIMEOUT_S = 10.0
"""Seconds for a script; a valid one of a megabyte takes less than one."""
ERROR_COST = 0.1
PASS_SCORE = 0.5

Kind = Literal["html", "svg", "css", "js"]

_HANDLER = re.compile(r"on[a-z]+")
_TEMPLATE = re.compile(r"<template\b.*?</template\s*>", re.DOTALL | re.IGNORECASE)
_JS_TYPES = {"", "module", "text/javascript", "application/javascript", "text/ecmascript", "application/ecmascript"}
_CSS_END = "evolpo-end"
# What html5lib reports although people who know HTML have no quarrel with it: `<div/>` as in JSX, `&` in text and
# addresses, and the contents of <select>, which the standard has since opened.
_HARMLESS = re.compile(r"non-void-element-with-trailing-solidus|.*named-entity.*|.*-in-select")
# The document ends within something, so that what follows is lost.
_CUT_OFF = re.compile(r"eof-in-(?!table|select).*|expected-(?!closing-tag).*-but-got-eof|unexpected-EOF-.*")


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """One error, where it is, and whether it takes a part of the page with it."""

    kind: Kind
    code: str
    """What is wrong, the same for the same mistake."""
    line: int
    """Line of the document, or of the file."""
    file: str = ""
    """Name of the file, empty for the document."""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class SyntaxReport:
    """What the parsers say, and the declarations for `CSS.supports` in a browser."""

    problems: tuple[SyntaxProblem, ...]
    declarations: tuple[tuple[str, str], ...] = ()
    """Distinct (property, value) of the style sheets, custom properties and vendor prefixes left out."""

    @property
    def score(self) -> float:
        """1 less 0.1 for each distinct mistake (the same mistake made ten times is one), 0 if one is fatal."""
        if any(problem.fatal for problem in self.problems):
            return 0.0
        return max(0.0, 1.0 - ERROR_COST * len({(problem.kind, problem.code) for problem in self.problems}))

    @property
    def passed(self) -> bool:
        """Nothing fatal and a score of 0.5 or more, that is, at most five distinct mistakes."""
        return self.score >= PASS_SCORE

    def count(self, kind: Kind) -> int:
        """Number of errors of this kind."""
        return sum(problem.kind == kind for problem in self.problems)


def check_syntax(page: Page) -> SyntaxReport:
    """Parse the page and the files it was given.

    Fatal are: a script that does not parse, a document or style sheet that ends within a tag, comment, string, block
    or raw text, SVG that is no well-formed XML, and pages too long or too deep to parse. HTML errors are the parse
    errors of the HTML standard as html5lib reports them, without those that a competent author makes on purpose.
    """
    if len(page.html) + sum(map(len, page.files.values())) > MAX_CHARACTERS:
        return SyntaxReport((SyntaxProblem(page.kind, f"longer than {MAX_CHARACTERS} characters", 1, fatal=True),))
    problems: list[SyntaxProblem] = []
    declarations: dict[tuple[str, str], None] = {}
    styles, scripts = _embedded(page, problems)
    for name, content in page.files.items():
        if name.endswith(".css"):
            styles.append((content, 1, name))
        elif name.endswith((".js", ".mjs")):
            scripts.append((content, 1, name))
    for content, line, name in styles:
        problems += _css_problems(content, line, name, declarations)
    for content, line, name in scripts:
        problems += _js_problems(content, line, name)
    return SyntaxReport(tuple(problems), tuple(declarations))


Source = tuple[str, int, str]
"""Content, its first line, name of its file."""


def _embedded(page: Page, problems: list[SyntaxProblem]) -> tuple[list[Source], list[Source]]:
    """Style sheets and scripts in the document; errors of the markup are added to `problems`."""
    from justhtml import JustHTML

    if page.kind == "svg":
        problems += _svg_problems(page.html)
    # justhtml is linear in every input and knows lines and templates; html5lib reports more errors.
    document = JustHTML(page.html, sanitize=False, track_node_locations=True)
    styles: list[Source] = []
    scripts: list[Source] = []
    deepest = 0
    for node, depth in _walk(document.root):
        deepest = max(deepest, depth)
        attributes = getattr(node, "attrs", None) or {}
        line = node.origin_line or 1
        if node.name == "style":
            styles.append((_text(node), _first_line(node), ""))
        elif node.name == "script" and "src" not in attributes and _script_type(attributes) in _JS_TYPES:
            scripts.append((_text(node), _first_line(node), ""))
        if attributes.get("style"):
            styles.append((f"x{{{attributes['style']}\n}}", line, ""))
        scripts += [(value, line, "") for name, value in attributes.items() if value and _HANDLER.fullmatch(name)]
    if deepest > MAX_DEPTH:
        problems.append(SyntaxProblem(page.kind, f"elements nested deeper than {MAX_DEPTH}", 1, fatal=True))
    elif page.kind == "html":
        problems += _html_problems(page.html)
    return styles, scripts


def _walk(root: Any) -> Iterator[tuple[Any, int]]:
    """All nodes in document order with their depths, the contents of templates included."""
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        children = list(getattr(node, "children", None) or ())
        if content := getattr(node, "template_content", None):
            children.append(content)
        stack += [(child, depth + 1) for child in reversed(children)]


def _script_type(attributes: Mapping[str, str | None]) -> str:
    return (attributes.get("type") or "").strip().lower()


def _text(node: Any) -> str:
    return "".join(child.data or "" for child in node.children)


def _first_line(node: Any) -> int:
    return next((child.origin_line for child in node.children if child.origin_line), node.origin_line or 1)


def _html_problems(html: str) -> Iterator[SyntaxProblem]:
    import html5lib

    # html5lib does not know the contents of templates: they are taken out, line breaks kept.
    plain = _TEMPLATE.sub(lambda match: "\n" * match.group().count("\n"), html)
    parser = html5lib.HTMLParser()
    parser.parse(plain)
    for (line, _), code, details in parser.errors:
        fatal = bool(_CUT_OFF.fullmatch(code))
        if fatal or not _HARMLESS.fullmatch(code):
            yield SyntaxProblem("html", f"{code} {(details or {}).get('name', '')}".strip(), line, fatal=fatal)


def _svg_problems(svg: str) -> Iterator[SyntaxProblem]:
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root = fromstring(svg.strip().encode())
    except ParseError as error:
        yield SyntaxProblem("svg", f"not well-formed: {error}", error.position[0], fatal=True)
    except (DefusedXmlException, ValueError) as error:
        yield SyntaxProblem("svg", f"refused: {type(error).__name__}", 1, fatal=True)
    else:
        if root.tag != "{http://www.w3.org/2000/svg}svg":
            yield SyntaxProblem("svg", "the root is no svg element with the SVG namespace", 1)


def _css_problems(
    css: str, first_line: int, name: str, declarations: dict[tuple[str, str], None]
) -> Iterator[SyntaxProblem]:
    import tinycss2

    try:
        # A rule after the end shows whether the sheet closes its blocks, strings and comments.
        rules = tinycss2.parse_stylesheet(f"{css}\n@{_CSS_END} {{}}", skip_comments=True, skip_whitespace=True)
        last = rules.pop() if rules else None
        tail = list(getattr(last, "prelude", ()))
        if getattr(last, "at_keyword", "") == _CSS_END:
            tail = []
        elif not any(getattr(token, "value", "") == _CSS_END for token in tail):
            yield SyntaxProblem("css", "ends within a block, string or comment", first_line, name, fatal=True)
            return
        found = [*_rule_problems(rules, declarations), *_token_problems(tail)]
        if tail and not any(token.type == "error" for token in tail):
            found.append(("a selector without a block", tail[0].source_line))
        for what, line in found:
            yield SyntaxProblem("css", what, first_line + line - 1, name)
    except RecursionError:
        yield SyntaxProblem("css", "nested too deeply to parse", first_line, name, fatal=True)


def _token_problems(tokens: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """(what, line) of stray closing brackets and broken strings in a selector."""
    for token in tokens:
        if token.type == "error":
            yield f"{token.kind}: {token.message}", token.source_line


def _rule_problems(nodes: Iterable[Any], declarations: dict[tuple[str, str], None]) -> Iterator[tuple[str, int]]:
    """(what, line) of each error in rules and in what is nested in them; declarations are collected on the way."""
    import tinycss2

    for node in nodes:
        if node.type == "error":
            yield f"{node.kind}: {node.message}", node.source_line
        elif node.type == "declaration":
            if not node.name.startswith("-"):
                declarations[node.lower_name, tinycss2.serialize(node.value).strip()] = None
        elif node.type in ("qualified-rule", "at-rule") and node.content is not None:
            yield from _token_problems(node.prelude)
            block = tinycss2.parse_blocks_contents(node.content, skip_comments=True, skip_whitespace=True)
            descriptors = node.type == "at-rule" and node.lower_at_keyword not in _GROUPING_RULES
            yield from _rule_problems(block, {} if descriptors else declarations)


_GROUPING_RULES = {"media", "supports", "layer", "container", "scope", "starting-style", "keyframes"}
"""At-rules whose declarations are properties; elsewhere (`@font-face`, `@property`) they are descriptors."""


def _js_problems(source: str, first_line: int, name: str) -> Iterator[SyntaxProblem]:
    import tree_sitter
    import tree_sitter_javascript

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_javascript.language()))
    content = source.encode("utf-8", "replace")
    deadline = time.monotonic() + PARSE_TIMEOUT_S
    try:
        tree = parser.parse(
            lambda offset, _: content[offset : offset + 65536],
            progress_callback=lambda *_: time.monotonic() > deadline,
        )
    except ValueError:
        yield SyntaxProblem("js", "too tangled to parse", first_line, name, fatal=True)
        return
    if not tree.root_node.has_error and b"<" not in content:
        return
    stack = [tree.root_node]
    while stack:
        node = stack.pop()
        if node.is_error or node.is_missing or node.type.startswith("jsx_"):
            what = f"missing {node.type}" if node.is_missing else "JSX" if not node.is_error else "unexpected"
            text = content[node.start_byte : node.end_byte][:30].decode(errors="replace")
            code = f"{what} {text.splitlines()[0] if text.strip() else ''}".strip()
            yield SyntaxProblem("js", code, first_line + node.start_point.row, name, fatal=True)
            return  # The first error is enough: the script does not run.
        stack += reversed(node.children)
