from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from benchmark.leaderboard import Leaderboard, leaderboard
from benchmark.report.page import MEANINGS, to_html
from tests.test_tables import board, hostile

EVIL = "</td></table><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"'&amp;"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table", "thead", "tbody", "tr",
    "th", "td", "a", "details", "summary", "ul", "li", "strong", "span", "dl", "dt", "dd",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: its tags, their attributes, its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def evil() -> Leaderboard:
    """A leaderboard with markup wherever a text may come from outside."""
    made = hostile()
    frames = {}
    for name in ("rows", "attacks", "notes", "claims"):
        frame = getattr(made, name).copy()
        for column in ("defense", "params", "worst_attack", "dataset", "model", "cut", "sentence", "threat_model"):
            if column in frame:
                frame[column] = EVIL
        frames[name] = frame
    return replace(made, suite=EVIL, suite_digest=EVIL, **frames)


@pytest.mark.parametrize("made", [board, hostile, evil], ids=["ordinary", "hostile names", "markup everywhere"])
def test_the_page_is_made_of_its_own_tags_alone_and_closes_them_all(made: object) -> None:
    page = Page(to_html(made()))  # type: ignore[operator]
    assert page.open == []
    assert set(page.tags) <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]


def test_what_comes_from_outside_is_text_and_stays_what_it_was() -> None:
    made = evil()
    texts = Page(to_html(made)).texts
    assert f"Leaderboard of {EVIL}" in texts
    assert f"Suite file: SHA-256 {EVIL}." in texts
    assert EVIL in texts
    assert len(made.notes) > 0
    assert sum(text == f": {EVIL}" for text in texts) > 0


def test_nothing_is_loaded_from_anywhere() -> None:
    page = to_html(board())
    links = [value or "" for name, value in Page(page).attributes if name == "href"]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page


def test_every_link_leads_to_a_place_on_the_page() -> None:
    attributes = Page(to_html(board())).attributes
    places = {f"#{value}".replace("(", "%28").replace(")", "%29") for name, value in attributes if name == "id"}
    assert {value for name, value in attributes if name == "href"} <= places


def test_every_flag_of_every_row_stands_there_with_its_sentence() -> None:
    made = board()
    texts = Page(to_html(made)).texts
    assert len(made.notes) > 0
    for code, sentence in zip(made.notes["flag"], made.notes["sentence"], strict=True):
        assert code in texts
        assert any(sentence in text for text in texts), sentence


def test_every_column_in_print_but_those_that_name_a_cell_has_its_meaning() -> None:
    made = board()
    page = Page(to_html(made))
    headers = {text for text in page.texts if text in MEANINGS}
    assert {"rank", "leakage", "utility", "identified (chance)", "done"} <= headers


def test_a_leaderboard_of_nothing_is_a_page_too() -> None:
    assert Page(to_html(leaderboard([]))).open == []
