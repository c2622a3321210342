"""`healthy.py URL`: exit code 0 if the URL answers 200 within 3 s.  The image has no curl."""

from __future__ import annotations

import sys
import urllib.request
from urllib.error import URLError

try:
    with urllib.request.urlopen(sys.argv[1], timeout=3) as answer:  # noqa: S310  the URL is the compose file's
        sys.exit(answer.status != 200)
except (URLError, OSError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
