"""rq-dashboard's templates, changed so that untrusted values are shown as text and never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from jinja2 import Environment, FileSystemLoader

# Underscore writes `<%= x %>` into the page as HTML and `<%- x %>` as text.  The two that call
# jQuery's text() already escape.
RAW: Final = re.compile(r"<%=(?!\s*\$\()")
# Compacting pops and pushes ids one by one: killed in between, it loses requests.
COMPACT: Final = re.compile(r"\{% if registry_name == 'queued' %\}(?=\s*<a )")
# The policy below allows scripts by nonce, so one injected into the page does not run.
SCRIPT: Final = re.compile(r"<script ")
# Errors of the pages: every list is called "queued", and Requeue stays visible after use.
WRONG: Final = {
    "all the queued jobs": "all the {{ registry_name }} jobs",
    'if (job.status === "failed") {': (
        '$("#requeue-job-btn").toggle(job.status === "failed"); if (job.status === "failed") {'
    ),
}

POLICY: Final = (
    "default-src 'none'; "
    # Underscore compiles its templates with Function().
    "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class TextTemplates(FileSystemLoader):
    """The templates of a directory, rewritten when they are read."""

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        source, name, current = super().get_source(environment, template)
        return rewritten(source), name, current


def rewritten(source: str) -> str:
    """The template with escaped values, nonces on scripts, no compact button, corrected text."""
    source = RAW.sub("<%-", source)
    source = COMPACT.sub("{% if false %}", source)
    for wrong, right in WRONG.items():
        source = source.replace(wrong, right)
    return SCRIPT.sub('<script nonce="{{ g.nonce }}" ', source)
