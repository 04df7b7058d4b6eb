"""Self-contained HTML pages and their charts, shared by `nec demo` and `nec bench`."""

from nec.pages.html import Page, megabytes, size_text

__all__ = ["Page", "megabytes", "size_text"]
