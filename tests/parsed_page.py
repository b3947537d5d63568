"""A page as a parser sees it."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Collects what is on a page, and checks that every element is closed."""

    VOID = ("meta", "input", "br", "path", "use", "rect", "image")

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str, of_class: str = "") -> list[dict[str, str | None]]:
        return [a for name, a in self.tags if name == tag and of_class in [*(a.get("class") or "").split(), ""]]

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)
