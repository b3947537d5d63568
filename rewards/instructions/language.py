"""Is a text in a language? By py3langid, whose tables come with the package: the same text has the same answer."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator

_CODES = """
af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru sk
sl so sq sv sw ta te th tl tr uk ur vi zh
"""
LANGUAGES = frozenset(_CODES.split())
"""ISO 639-1 codes of the languages that are told apart: those of IFEval, and of langdetect, which it uses."""
TELLING = 5.0
"""How many times as likely another language must be before a text counts as not in the expected one: the shortest
texts (`Yes.`) could be in many languages."""


def _known(language: str) -> str:
    code = language.strip().lower().replace("_", "-").partition("-")[0]
    if code not in LANGUAGES:
        raise ValueError(f"none of {', '.join(sorted(LANGUAGES))}")
    return code


Language = Annotated[str, AfterValidator(_known)]
"""A code; what follows a hyphen, as in `zh-cn`, makes no difference."""


def is_in(text: str, language: str) -> bool:
    """Whether a text is in this language, as far as its characters can tell."""
    ranked = dict(_identifier().rank(text))
    return bool(TELLING * ranked[language] >= max(ranked.values()))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
