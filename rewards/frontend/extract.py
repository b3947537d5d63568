"""From a response to the page in it: fenced blocks, whole files, several files with names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markdown_it import MarkdownIt

_NAME = r"[\w.-]+(?:/[\w.-]+)*\.(?:html?|css|m?js|svg|json)"
_NAME_ANYWHERE = re.compile(rf"(?<![\w/]){_NAME}(?!\w)")
_NAME_COMMENT = re.compile(
    rf"\s*(?://|/\*|<!--|#)\s*(?:file(?:name)?\s*:\s*)?({_NAME})\s*(?:\*/|-->)?\s*", re.IGNORECASE
)
_NAME_HEADING = re.compile(rf"[#*\s\d.)]*(?:file(?:name)?\s*:?\s*)?[`*]*({_NAME})[`*]*\s*:?[`*]*\s*", re.IGNORECASE)
_DOCUMENT_START = re.compile(r"^[ \t]*(<!doctype html|<html|<\?xml|<svg)\b", re.IGNORECASE | re.MULTILINE)
_HTML_START = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL)
_SVG_START = re.compile(r"\s*(?:<\?xml.*?\?>\s*|<!doctype svg.*?>\s*|<!--.*?-->\s*)*<svg\b", re.IGNORECASE | re.DOTALL)
_LINKED = re.compile(r"""<(?:link|script)\b[^>]*?\b(?:href|src)\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_LANGUAGES = {"html": "html", "htm": "html", "xhtml": "html", "svg": "svg", "css": "css", "js": "js"} | dict.fromkeys(
    ("javascript", "mjs"), "js"
)
_FENCES = MarkdownIt("zero").enable(["fence", "list"])


@dataclass(frozen=True, slots=True)
class Page:
    """A document with the files that it may load."""

    html: str
    """Source of the document; of an SVG image if `kind` says so."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path relative to the document -> content of every other file given."""
    kind: Literal["html", "svg"] = "html"
    step_ms: int = 0
    """Time passes in it in steps of so many milliseconds, frames between are dropped; 0: none are (see `Tab.wait`)."""
    packages: tuple[str, ...] = ()
    """Folders with npm packages that it may load besides those of the list (see `delivery`)."""


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    name: str
    content: str


def extract_page(text: str) -> Page | None:
    """The page in a response, or None if there is none.

    The document is the last fenced block of HTML or SVG (a block named index.html goes first), else the text from the
    first line that starts a document. Further blocks are files: by the name in their info string (`css style.css`), in
    a comment on their first line, or on the line above. A style sheet or script without a name stands for the one
    linked file that is not given, if it is the only one. What precedes the last `</think>` is not looked at.
    """
    text = text.rpartition("</think>")[2]
    blocks = [block for block in _blocks(text) if block.content.strip()]
    documents = [block for block in blocks if block.language in ("html", "svg")]
    if not documents:
        return _bare_document(text)
    indexes = [block for block in documents if block.name.rpartition("/")[2] in ("index.html", "index.htm")]
    html = [block for block in documents if block.language == "html"]
    # An HTML block beside SVG files is the page, and they are its images; unnamed, the last block is the answer.
    named_images = all(block.name for block in documents if block.language == "svg")
    document = (indexes or (html if named_images else None) or documents)[-1]
    others = [block for block in blocks if block is not document]
    files = {block.name.removeprefix("./"): block.content for block in others if block.name}
    if document.language == "svg":
        return Page(document.content, files, "svg")
    return Page(document.content, files | _unnamed_files(document.content, others, files))


def _blocks(text: str) -> list[_Block]:
    lines = text.splitlines()
    blocks = []
    for token in _FENCES.parse(text):
        if token.type != "fence" or token.map is None:
            continue
        before = next((line for line in reversed(lines[max(0, token.map[0] - 2) : token.map[0]]) if line.strip()), "")
        name = _file_name(token.info, before, token.content)
        blocks.append(_Block(_language(token.info, name, token.content), name, token.content))
    return blocks


def _file_name(info: str, before: str, content: str) -> str:
    if named := _NAME_ANYWHERE.search(info):
        return named.group()
    first = content.lstrip("\n").partition("\n")[0]
    if named := _NAME_COMMENT.fullmatch(first) or _NAME_HEADING.fullmatch(before):
        return named.group(1)
    return ""


def _language(info: str, name: str, content: str) -> str:
    word = re.split(r"[\s:{]", info.strip().lower(), maxsplit=1)[0]
    for candidate in (word, name.rpartition(".")[2].lower()):
        if candidate in _LANGUAGES:
            language = _LANGUAGES[candidate]
            return "svg" if language == "html" and _SVG_START.match(content) else language
    if word in ("", "xml") or word == name.lower():
        return "svg" if _SVG_START.match(content) else "html" if _HTML_START.match(content) else ""
    return ""


def _unnamed_files(html: str, blocks: Sequence[_Block], files: Mapping[str, str]) -> dict[str, str]:
    """Linked names that are not given -> the unnamed block of their language, where there is one of each."""
    linked = {link.removeprefix("./") for link in _LINKED.findall(html) if not re.match(r"[a-z]+:|//|#", link)}
    found = {}
    for language, endings in (("css", (".css",)), ("js", (".js", ".mjs"))):
        missing = [link for link in sorted(linked) if link.endswith(endings) and link not in files]
        unnamed = [block.content for block in blocks if block.language == language and not block.name]
        if len(missing) == 1 and len(unnamed) == 1:
            found[missing[0]] = unnamed[0]
    return found


def _bare_document(text: str) -> Page | None:
    """A document that stands in the text without a fence."""
    start = _DOCUMENT_START.search(text)
    if start is None:
        return None
    document = text[start.start(1) :]
    kind: Literal["html", "svg"] = "svg" if _SVG_START.match(document) else "html"
    if start.group(1).lower() == "<?xml" and kind == "html":
        return None
    end = document.lower().rfind(f"</{kind}>")
    return Page(document[: end + len(f"</{kind}>")] if end >= 0 else document, kind=kind)
