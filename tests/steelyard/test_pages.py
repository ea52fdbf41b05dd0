import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from steelyard.charts import bars, intervals, lines, reliability, scatter
from steelyard.pages import PageTable, Section, number, with_interval, write_page

EVIL = '<script>alert("$x_1$")</script>'


class Tags(HTMLParser):
    """Keeps every tag, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        wanted = ("src", "href", "xlink:href", "data")
        self.fetched += [value or "" for name, value in attrs if name in wanted and not (value or "").startswith("#")]


def tags_of(path: Path) -> Tags:
    found = Tags()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def test_a_page_holds_what_data_says_as_text_and_fetches_nothing(tmp_path: Path) -> None:
    charts = [
        bars({EVIL: 1.0}, x=EVIL),
        lines({EVIL: ([1, 2], [3, 4]), "_b": ([1], [2])}, x=EVIL, y=EVIL),
        scatter({EVIL: ([1], [2]), "b": ([1], [2])}, x=EVIL, y=EVIL),
        intervals({EVIL: (1.0, 0.5, float("nan")), "b": (1.0, 0.5, 2.0)}, x=EVIL, line=1.0),
        reliability(*(np.array([0.1, 0.5]) for _ in range(4)), EVIL),
    ]
    section = Section(EVIL, EVIL, [EVIL], charts, [PageTable(EVIL, [EVIL, "b"], [(EVIL, 3)])])
    write_page(tmp_path / "deep" / "page.html", EVIL, EVIL, [section])
    tags = tags_of(tmp_path / "deep" / "page.html")
    assert "script" not in tags.names
    assert tags.names.count("svg") == 5
    assert tags.fetched == []
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(" in text
    assert '<meta name="viewport"' in text
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"page.html"}
    assert not re.search(r"url\((?!#)", text)


def test_names_in_any_script_and_of_any_length_are_drawn(recwarn: pytest.WarningsRecorder) -> None:
    drawn = bars({"商品": 1.0, "two\nlines": 2.0, "x" * 300: 3.0, "_$a$": 4.0}, x="share")
    assert [text for text in re.findall("<text[^>]*>([^<]*)<", drawn.text) if not text[0].isdigit()] == [
        "share",
        "商品",
        "two lines",
        "x" * 47 + "…",
        " _$a$",
    ]
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_a_page_that_fails_leaves_the_former_one(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, "first", "", [])
    with pytest.raises(TypeError):
        write_page(page, "second", "", [Section("s", "", charts=None)])  # type: ignore[arg-type]
    assert "<title>first</title>" in page.read_text()


def test_figures_have_four_digits_and_none_where_they_are_undefined() -> None:
    assert number(1234.56789) == "1,234.5679"
    assert number(float("nan")) == number(None) == ""
    assert with_interval(0.5, 0.25, 0.75) == "0.5000 (0.2500 – 0.7500)"
    assert with_interval(0.5, float("nan"), float("nan")) == "0.5000"


@pytest.mark.parametrize(
    ("module", "message"),
    [("jinja2", "page must have Jinja2 installed; got none"), ("matplotlib", "chart must have matplotlib installed")],
)
def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=message):
        write_page(tmp_path / "page.html", "", "", [Section("", "", charts=[bars({"a": 1.0}, x="")])])
