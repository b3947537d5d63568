"""Pages from templates: one file each, that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from evolpo.recipes.drawing.charts import finite, number, percent_of
from evolpo.rl.logs.files import replacing


def render(template: Path, path: Path, **values: Any) -> Path:
    """Fill a template and write the page, replacing an older one whole; return its path."""
    page = _environment(template.parent).get_template(template.name).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return path


def points(value: Any) -> str:
    """A difference of two shares in percentage points, with its sign; a dash for what is not known."""
    return f"{100 * value:+.1f}".replace("-", "−") if finite(value) else "–"


def _minutes(value: Any) -> str:
    return f"{value:,.1f} min" if finite(value) else "–"


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent_of, "points": points, "minutes": _minutes}
    return environment
