import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rewards.frontend.extract import Page, extract_page

HTML = "<!DOCTYPE html>\n<title>A</title>\n<p>Hello</p>\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="5"/></svg>\n'


def fenced(info, content, fence="```"):
    return f"{fence}{info}\n{content}{fence}\n"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        (f"Here it is:\n\n{fenced('html', HTML)}\nEnjoy.", Page(HTML)),
        (fenced("html", "<p>draft</p>\n") + "Better:\n" + fenced("html", HTML), Page(HTML)),
        (fenced("HTML", HTML, "~~~~"), Page(HTML)),
        (fenced("", HTML), Page(HTML)),
        (f"1. First\n\n   ```html\n   {HTML.splitlines()[0]}\n   ```\n", Page("<!DOCTYPE html>\n")),
        (f"```html\n{HTML}", Page(HTML)),
        (f"<think>{fenced('html', '<p>no</p>')}</think>{fenced('html', HTML)}", Page(HTML)),
        (fenced("svg", SVG), Page(SVG, kind="svg")),
        (fenced("xml", SVG), Page(SVG, kind="svg")),
        (fenced("html", SVG), Page(SVG, kind="svg")),
        (fenced("html", HTML) + fenced("svg", SVG), Page(SVG, kind="svg")),
        (HTML.strip(), Page(HTML.strip())),
        (f"Sure.\n\n{HTML}</html>\nThat was it.", Page(f"{HTML}</html>")),
        ("<html><p>x</html> and more", Page("<html><p>x</html>")),
        (SVG.strip(), Page(SVG.strip(), kind="svg")),
        ('<?xml version="1.0"?>\n' + SVG.strip(), Page('<?xml version="1.0"?>\n' + SVG.strip(), kind="svg")),
        ("No page here, only <b>bold</b> talk of <html> tags.", None),
        (fenced("python", "print('<html>')\n"), None),
        (fenced("html", "\n"), None),
        ("", None),
    ],
)
def test_document(text, page):
    assert extract_page(text) == page


LINKING = '<!DOCTYPE html>\n<link rel="stylesheet" href="style.css">\n<script src="./js/app.js"></script>\n<p>x\n'
CSS, JS = "p { color: red }\n", "let a = 1;\n"
FILES = {"style.css": CSS, "js/app.js": JS}


@pytest.mark.parametrize(
    "text",
    [
        fenced("html index.html", LINKING) + fenced("css style.css", CSS) + fenced("js js/app.js", JS),
        fenced("css:style.css", CSS) + fenced("js:js/app.js", JS) + fenced("html:index.html", LINKING),
        fenced('html title="index.html"', LINKING) + fenced("css {style.css}", CSS) + fenced("js/app.js", JS),
        f"**style.css**\n{fenced('css', CSS)}### `js/app.js`:\n\n{fenced('js', JS)}{fenced('html', LINKING)}",
        fenced("html", LINKING) + fenced("css", CSS) + fenced("javascript", JS),
    ],
)
def test_files_by_name(text):
    assert extract_page(text) == Page(LINKING, FILES)


def test_files_named_in_their_first_line():
    css, js = f"/* style.css */\n{CSS}", f"// file: js/app.js\n{JS}"
    page = extract_page(fenced("css", css) + fenced("js", js) + fenced("html", LINKING))
    assert page == Page(LINKING, {"style.css": css, "js/app.js": js})


def test_index_goes_before_other_documents_and_images():
    text = fenced("html index.html", HTML) + fenced("html about.html", "<p>about\n") + fenced("svg logo.svg", SVG)
    assert extract_page(text) == Page(HTML, {"about.html": "<p>about\n", "logo.svg": SVG})


def test_unnamed_file_of_which_nobody_knows_the_name():
    page = extract_page(fenced("css", CSS) + fenced("css", "q {}\n") + fenced("html", LINKING))
    assert page == Page(LINKING, {})


@given(st.text(alphabet="`~html<>!/ \ncs.svg:#*", max_size=300))
def test_any_text_is_taken(text):
    page = extract_page(text)
    assert page is None or page.html


@pytest.mark.parametrize(
    "piece", ["```html\n", "```", "<html", "<!-- ", "**style.css**\n```\n", "- ", "<link href=", "a/"]
)
def test_degenerate_responses_take_linear_time(piece):
    started = time.process_time()
    extract_page(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 5
