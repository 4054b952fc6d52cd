"""Data Docs that need nothing else: no script, no network, and no word on when they were made.

Great Expectations' own pages fetch their styles, scripts and logo from the web, without which the
tables stay empty, and tell the time of the run and random ids. It takes the class of a site's pages
from the site's settings; this one puts the templates in `looks/` before those of the same name.
"""

from html import escape
from typing import Any

from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import ChoiceLoader, PackageLoader, pass_context


class Page(DefaultJinjaPageView):
    """Any page of the site: the index, a suite, or what a suite found."""

    def __init__(self) -> None:
        super().__init__()
        self.env.loader = ChoiceLoader([PackageLoader("tasks.validate", "looks"), self.env.loader])

    @pass_context
    def render_content_block(self, context: Any, block: Any, *args: Any, **options: Any) -> Any:
        """As Great Expectations does it, but a value from the data is text, whatever is in it."""
        if isinstance(block, str):
            return escape(block)
        return super().render_content_block(context, block, *args, **options)
