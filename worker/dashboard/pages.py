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
# What the pages say wrongly: every list is "queued", and Requeue stays after it was pressed.
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
    """The templates of a directory, rewritten as they are read."""

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        """See `jinja2.BaseLoader`."""
        source, name, current = super().get_source(environment, template)
        return rewritten(source), name, current


def rewritten(source: str) -> str:
    """The template: text for HTML, a nonce for its scripts, no button to compact, true words."""
    source = RAW.sub("<%-", source)
    source = COMPACT.sub("{% if false %}", source)
    for wrong, right in WRONG.items():
        source = source.replace(wrong, right)
    return SCRIPT.sub('<script nonce="{{ g.nonce }}" ', source)
