"""Elements: what comes from files stays text."""

from html.parser import HTMLParser

import pytest

from iris_cli.html_report.markup import Html, data_uri, join, table, tag
from iris_cli.html_report.page import Chapter, document

HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "</title><script>",
    "&lt;b&gt;", "]]>", "<!-- ", "javascript:alert(1)", "\x00\x1b[31m\ud800", "é 漢字 🎮",
]  # fmt: skip


class Elements(HTMLParser):
    """What a parser finds: elements with attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("words", HOSTILE)
def test_text_stays_text_wherever_it_stands(words: str) -> None:
    element = tag("p", words, title=words, data_x=words)
    shown = "".join(c if ord(c) >= 32 and not 0xD800 <= ord(c) < 0xE000 else "\ufffd" for c in words)

    found = Elements(element)

    assert found.names == ["p"]
    assert found.text == shown
    assert found.attributes == [("title", shown), ("data-x", shown)]
    element.encode("utf-8")


def test_elements_are_nested_and_nothing_is_nothing() -> None:
    inner = tag("b", 1, None, 2.5, " & ")

    assert inner == "<b>12.5 &amp; </b>"
    assert tag("p", inner, class_="x", hidden=True, id=None, lang=False) == f'<p class="x" hidden>{inner}</p>'
    assert tag("img", src="a") == '<img src="a">'
    assert tag("rect", x=1) == '<rect x="1"/>'
    assert tag("rect", tag("title", "t")) == "<rect><title>t</title></rect>"
    assert isinstance(join([inner, "<"]), Html)


def test_a_table_has_heads_and_cells() -> None:
    found = Elements(table(["a", "b"], [["<x>", 1], ["y", tag("i", "z")]]))

    assert found.names.count("th") == 4
    assert found.names.count("td") == 2
    assert "<x>" in found.text
    assert "thead" not in Elements(table(["", ""], [["a", "b"]])).names


def test_a_file_within_the_page_has_no_sign_that_ends_an_attribute() -> None:
    assert data_uri(bytes(range(256)), "image/png").startswith("data:image/png;base64,AAEC")
    assert set(data_uri(bytes(range(256)), "image/png")) & set("\"'<> ") == set()


@pytest.mark.parametrize("words", HOSTILE)
def test_a_page_has_one_policy_no_script_and_nothing_from_elsewhere(words: str) -> None:
    page = document(words, tag("p", words), [Chapter(words, tag("p", words))] * 2, tag("p", words))

    found = Elements(page)

    assert page.startswith("<!DOCTYPE html>")
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(found.names)
    policies = [value for name, value in found.attributes if name == "content" and "default-src 'none'" in str(value)]
    assert len(policies) == 1
    links = [value for name, value in found.attributes if name in ("href", "src")]
    assert sorted(set(map(str, links))) == ["#s0", "#s1", "data:,"]
