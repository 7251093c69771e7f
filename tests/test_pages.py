"""Report pages, opened in a browser: what makes them up. The reports themselves are opened where
they are made (`browser.assert_whole`)."""

from __future__ import annotations

from pathlib import Path

from browser import WIDTHS, look, needed

from forcenet_md.evaluation.page import embed, page, table

pytestmark = needed
NARROWEST = min(WIDTHS)


def test_the_browser_sees_what_is_wrong(tmp_path: Path) -> None:
    """What `assert_whole` asserts is seen where it is not so."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    body = [
        '<img src="http://elsewhere.test/a.png"><script>document.title = "run"</script>',
        *embed(tmp_path / "broken.png", "a caption"),
        '<div style="width: 900px">wide</div>',
    ]
    path = tmp_path / "page.html"
    path.write_text(page("a page", body, "0"))
    seen = look(path, tmp_path, NARROWEST)
    assert [line for line in seen.console if "elsewhere.test" in line]
    assert [line for line in seen.console if "inline script violates" in line]
    assert seen.images == [0, 0]
    assert seen.widest > NARROWEST


def test_texts_of_a_page_are_texts(tmp_path: Path) -> None:
    name = "<b>Cu</b> & <script>alert(1)</script>" + "Au" * 100
    path = tmp_path / "page.html"
    path.write_text(page(name, table(("", name), [[name, name]]), "0"))
    seen = look(path, tmp_path, NARROWEST)
    assert seen.text.replace("\n", "").count(name) == 4
    assert seen.console == []
    assert seen.widest <= NARROWEST
