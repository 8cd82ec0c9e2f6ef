"""What goes to the terminal: names from data, models and other people's run folders are text and nothing else."""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters (C0 but tab and newline, DEL, C1), which can move the cursor, set titles or answer as if typed; and
# the marks that turn the direction of writing, which can show one name as another (unicode.org/reports/tr36).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""``text`` with the characters that steer a terminal made visible.

    >>> print(printable("red \x1b[31m, 答案"))
    red \x1b[31m, 答案
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class PlainConsole(Console):
    """A rich console on which no text is markup, an emoji's name or an escape sequence: styles come from code alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich renders; its own control segments pass, texts are made printable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)
