import re

import pytest

from feature_eng.progress import row_bar


def test_nothing_is_drawn_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with row_bar("scored", 10) as advance:
        advance(4)
        advance(6)
    assert capfd.readouterr() == ("", "")


def test_the_bar_tells_the_title_and_the_rows_per_second_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with row_bar("scored", 10, show=True) as advance:
        advance(10)
    out, err = capfd.readouterr()
    assert out == ""
    assert "scored" in err
    assert re.search(r"[\d,]+ rows/s", err)


def fail_half_way() -> None:
    with row_bar("scored", 10, show=True) as advance:
        advance(5)
        raise KeyError("inside")


def test_an_error_inside_is_not_hidden_by_the_bar() -> None:
    with pytest.raises(KeyError, match="inside"):
        fail_half_way()
