"""rq-dashboard's templates, with what a stranger wrote shown as text and never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from jinja2 import Environment, FileSystemLoader

# Underscore writes `<%= x %>` into the page as HTML and `<%- x %>` as text.  The two that call
# jQuery's text() escape already.
RAW: Final = re.compile(r"<%=(?!\s*\$\()")
# Compacting pops and pushes one id after another: killed in between, it loses requests.
COMPACT: Final = re.compile(r"\{% if registry_name == 'queued' %\}(?=\s*<a )")
# The policy below admits scripts by nonce, so one that slipped into the page does not run.
SCRIPT: Final = re.compile(r"<script ")

POLICY: Final = (
    "default-src 'none'; "
    # Underscore compiles its templates with Function().
    "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class TextTemplates(FileSystemLoader):
    """The templates of a directory, rewritten as they are read."""

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        """See `jinja2.BaseLoader`."""
        source, name, current = super().get_source(environment, template)
        return rewritten(source), name, current


def rewritten(source: str) -> str:
    """The template with text for HTML, a nonce for its scripts, and no button to compact."""
    source = RAW.sub("<%-", source)
    source = COMPACT.sub("{% if false %}", source)
    return SCRIPT.sub('<script nonce="{{ g.nonce }}" ', source)
