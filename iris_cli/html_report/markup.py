"""HTML and SVG elements as values. Whatever is not `Html` is text, and is escaped."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

EMPTY = ("img", "meta", "rect", "line", "circle", "path", "polyline", "polygon")

_IMPOSSIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]")
LONG = 40  # characters of a cell that is read as text


class Html(str):
    """Markup, safe as it is. Only this package makes it, out of elements."""


Cell = Html | str | float | int | None


def tag(name: str, /, *children: Cell, **attributes: str | float | bool | None) -> Html:
    """An element. Children that are not `Html` are escaped; None is nothing.

    Args:
        name: of the element.
        children: what it holds.
        attributes: `class_` is `class`, other underscores are hyphens; True stands alone, None and False are left out.
    """
    words = "".join(
        f" {_attribute_name(key)}" + ("" if value is True else f'="{escape(_text(value), quote=True)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(children)
    if name in EMPTY and not inner:
        return Html(f"<{name}{words}>" if name in ("img", "meta") else f"<{name}{words}/>")
    return Html(f"<{name}{words}>{inner}</{name}>")


def join(children: Iterable[Cell]) -> Html:
    """Several things, one behind the other."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(_text(child), quote=False)
            for child in children
            if child is not None
        )
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """A table that scrolls by itself where the screen is narrow.

    Cells behind the first are aligned as numbers, long ones as text.
    """

    def cell(value: Cell) -> Html:
        return tag("td", value, class_="left" if isinstance(value, str) and len(value) > LONG else None)

    head = tag("tr", *(tag("th", column) for column in columns)) if any(columns) else None
    body = (tag("tr", *(tag("th", one) if i == 0 else cell(one) for i, one in enumerate(row))) for row in rows)
    return tag(
        "div", tag("table", tag("thead", head) if head else None, tag("tbody", *body)), class_="scroll", tabindex="0"
    )


def data_uri(content: bytes, kind: str) -> str:
    """A file within the page; `kind` such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    """As text; characters that XML and HTML cannot hold become a mark."""
    return _IMPOSSIBLE.sub("\ufffd", f"{value:g}" if isinstance(value, float) else str(value))
