"""The page in a real browser: headless Chromium, at the width of a desk and of a phone."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import pagefolder
import pytest
import synthetic
from chromium import Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.program() is None, reason="no Chromium on the PATH: apt install chromium"),
]

WIDE, NARROW = 1400, 400
DRAWN = "[...document.querySelectorAll('[data-chart]')].every((chart) => chart.querySelector('svg'))"
TILED = "document.querySelectorAll('#tiles canvas').length > 0"
POINTS = "g.cells_marks path"
MIDDLE = f"""(() => {{
  const point = [...document.querySelectorAll('{POINTS}')].find((path) => path.__data__.datum.name === '%s');
  point.scrollIntoView({{block: 'center', behavior: 'instant'}});
  const box = point.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}})()"""
TIP = "document.getElementById('tip')"
# The grey of one pixel of the first tile: of the image above, the one below, and their difference.
GREYS = f"""(() => {{
  const canvas = document.querySelector('#tiles canvas');
  const context = canvas.getContext('2d');
  return [4, {pagefolder.PIXELS} + 5, 2 * {pagefolder.PIXELS} + 6].map((y) => context.getImageData(4, y, 1, 1).data[0]);
}})()"""
ROWS = [
    synthetic.row(),
    synthetic.row("l1-30", fid_indomain=44.0),
    synthetic.row("groups-2", fid_indomain=70.0, macs=15_000_000),
    synthetic.row("groups-max", status="failed"),
    synthetic.row(model="ddpm", fid_indomain=20.0),
    synthetic.row("groups-2", model="ddpm", fid_indomain=33.0, size_gzip_bytes=2_000_000),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    pagefolder.write(folder, ROWS)
    return pagefolder.build(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def opened(browser: Browser, page: Path, width: int = WIDE, dark: bool = False) -> None:
    browser.open(page, width, dark=dark)
    browser.until(DRAWN)
    browser.until(TILED)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_word(browser: Browser, page: Path, width: int, dark: bool) -> None:
    """No error, nothing fetched, every chart with marks in it, and nothing wider than the window."""
    opened(browser, page, width, dark)
    assert browser.console == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    marks = browser.run(
        "[...document.querySelectorAll('[data-chart]')]"
        ".map((chart) => chart.querySelectorAll('g.role-mark path').length)"
    )
    assert len(marks) == 4, "one of costs, two of losses, one of the timeline"
    assert min(marks) > 0
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_policy_holds(browser: Browser, page: Path) -> None:
    """Neither a script that got in nor a picture from elsewhere would do anything."""
    opened(browser, page)
    browser.run(
        "(() => { const made = document.createElement('script'); made.textContent = 'window.broken = 1';"
        " document.body.append(made); const image = new Image(); image.src = 'https://example.org/x.png';"
        " document.body.append(image); })()"
    )
    browser.until("true")
    assert browser.run("window.broken === undefined")
    assert any("Content Security Policy" in text for text in browser.console)
    assert (
        browser.run("(() => { try { return eval('1 + 1'); } catch (error) { return error.name; } })()") == "EvalError"
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_point_shows_its_cell(browser: Browser, page: Path, width: int) -> None:
    opened(browser, page, width)
    assert browser.run(f"{TIP}.hidden")
    x, y = browser.run(MIDDLE % "ddpm: groups-2")
    browser.point_at(x, y)
    browser.until(f"!{TIP}.hidden")
    assert "ddpm: groups-2 (grouped)" in browser.run(f"{TIP}.textContent")
    assert "2.00 MB" in browser.run(f"{TIP}.textContent")
    browser.until(f"{TIP}.querySelector('img').naturalWidth > 0")
    assert browser.run(f"{TIP}.querySelector('img').naturalWidth") == 10 * pagefolder.PIXELS
    assert browser.run(f"{TIP}.querySelector('img').alt").endswith("images of mnist/ddpm/groups-2/seed0")
    edges = browser.run(f"(() => {{ const box = {TIP}.getBoundingClientRect(); return [box.left, box.right]; }})()")
    assert 0 <= edges[0] < edges[1] <= width
    browser.press("Escape")
    assert browser.run(f"{TIP}.hidden")


def test_a_tap_shows_a_cell_until_another_tap(browser: Browser, page: Path) -> None:
    browser.open(page, NARROW, touch=True)
    browser.until(DRAWN)
    browser.until(TILED)
    browser.tap(*browser.run(MIDDLE % "ncsn: l1-30"))
    browser.until(f"!{TIP}.hidden")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert "ncsn: l1-30 (pruned)" in browser.run(f"{TIP}.textContent")
    assert not browser.run(f"{TIP}.hidden"), "the finger has left, and it is still there"
    browser.run("document.querySelector('#pareto h2').scrollIntoView({behavior: 'instant'})")
    browser.tap(20, 200)
    browser.until(f"{TIP}.hidden")
    assert browser.console == []


def test_the_keyboard_reaches_every_point(browser: Browser, page: Path) -> None:
    opened(browser, page)
    browser.run("document.querySelector('input[name=cost]').focus()")
    seen = []
    for _ in range(5):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.getAttribute('aria-label')?.split(',')[0]"))
        assert browser.run(f"!{TIP}.hidden")
    assert sorted(seen) == ["ddpm: baseline", "ddpm: groups-2", "ncsn: baseline", "ncsn: groups-2", "ncsn: l1-30"]


def test_the_cost_can_be_switched(browser: Browser, page: Path) -> None:
    opened(browser, page)
    title = "document.querySelector('[data-chart=pareto]').textContent"
    assert "compressed checkpoint (MB, gzip)" in browser.run(title)
    for cost, axis in (("inference_ms_per_image", "time per image (ms)"), ("gmacs", "multiply-accumulates per image")):
        browser.run(f"document.querySelector('input[value={cost}]').click()")
        browser.until(f"{title}.includes('{axis}')")
        browser.until(f"document.querySelectorAll('{POINTS}').length === 5")
    assert browser.console == []


def test_images_stand_beside_each_other(browser: Browser, page: Path) -> None:
    """Each made-up image is one grey: its number × 10 and the length of its recipe's name."""
    opened(browser, page)
    verdict = "document.getElementById('verdict').textContent"
    baseline, pruned, groups = len("baseline"), len("l1-30"), len("groups-2")
    chosen = "[...document.querySelectorAll('select')].map((select) => select.selectedOptions[0].textContent)"
    assert browser.run(chosen) == ["baseline", "l1-30"]
    assert browser.run(GREYS) == [baseline, pruned, 255 - (baseline - pruned)]
    assert "The same noise in each column." in browser.run(verdict)
    assert browser.run("document.querySelectorAll('#tiles canvas').length") == pagefolder.IMAGES
    browser.run(
        "(() => { const select = document.getElementById('cell-b');"
        " select.value = [...select.options].find((option) => option.textContent === 'groups-2').value;"
        " select.dispatchEvent(new Event('change')); })()"
    )
    browser.until(f"{verdict}.includes('ncsn/groups-2')")
    assert browser.run(GREYS) == [baseline, groups, 255]
    browser.run(
        "(() => { const select = document.getElementById('cell-a');"
        " select.value = [...select.options].pop().value; select.dispatchEvent(new Event('change')); })()"
    )
    browser.until(f"{verdict}.includes('ddpm/groups-2')")
    assert "Other noise" in browser.run(verdict)


@pytest.mark.parametrize("width", [740, 1000, WIDE])
def test_no_column_of_a_table_is_squeezed(browser: Browser, page: Path, width: int) -> None:
    """Between the phone and the desk as well, and on paper: every cell of techniques is wide enough for its words."""
    opened(browser, page, width)
    cells = "[...document.querySelectorAll('.strips td, .strips th')]"
    assert browser.run(f"Math.min(...{cells}.map((cell) => cell.clientWidth).filter(Boolean))") >= 70


def test_print_opens_what_is_closed(browser: Browser, page: Path, tmp_path: Path) -> None:
    opened(browser, page)
    assert browser.run("document.querySelectorAll('details:not([open])').length") > 10
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.console == []
