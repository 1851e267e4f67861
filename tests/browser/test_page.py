"""The page in headless Chromium, at the width of a desktop and of a phone."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pagefolder
import pytest
import synthetic
from faults import PATIENCE_S
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt install chromium"),
]

WIDE, NARROW, HEIGHT = 1400, 400, 900
POINTS = "g.cells_marks path"
ROWS = [
    synthetic.row(),
    synthetic.row("l1-30", fid_indomain=44.0),
    synthetic.row("groups-2", fid_indomain=70.0, macs=15_000_000),
    synthetic.row("groups-max", status="failed"),
    synthetic.row(model="ddpm", fid_indomain=20.0),
    synthetic.row("groups-2", model="ddpm", fid_indomain=33.0, size_gzip_bytes=2_000_000),
]


@dataclass
class Tab:
    """An open page, with the errors and warnings of its console and the URLs that it requested."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.console.append(message.text)

    @property
    def tip(self) -> Locator:
        """The box that shows the cell under the pointer."""
        return self.page.locator("#tip")

    def point(self, name: str) -> tuple[float, float]:
        """Scroll to the point of the recipe `name` and return its centre in the window."""
        point = self.page.locator(f"{POINTS}[aria-label^='{name},']")
        point.evaluate("element => element.scrollIntoView({block: 'center', behavior: 'instant'})")
        box = point.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    pagefolder.write(folder, ROWS)
    return pagefolder.build(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser, path: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """The page, drawn; parametrize indirectly with options of the browser's context."""
    options = {"viewport": {"width": WIDE, "height": HEIGHT}, **getattr(request, "param", {})}
    with browser.new_context(**options) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        tab = Tab(context.new_page())
        tab.page.on("console", tab.note)
        tab.page.on("pageerror", lambda error: tab.console.append(str(error)))
        tab.page.on("request", lambda sent: tab.requests.append(sent.url))
        tab.page.goto(path.as_uri())
        charts = tab.page.locator("[data-chart]")
        for index in range(charts.count()):
            expect(charts.nth(index).locator("svg").first).to_be_attached()
        expect(tab.page.locator("#tiles canvas").first).to_be_attached()
        yield tab


def window(width: int = WIDE, **options: object) -> dict[str, object]:
    return {"viewport": {"width": width, "height": HEIGHT}, **options}


WINDOWS = [window(WIDE), window(NARROW)]
WIDTHS = ["wide", "narrow"]
DARK_WINDOWS = [{**size, "color_scheme": "dark"} for size in WINDOWS]


@pytest.mark.parametrize(
    "tab", WINDOWS + DARK_WINDOWS, ids=[*WIDTHS, *(f"{name}-dark" for name in WIDTHS)], indirect=True
)
def test_it_opens_without_errors(tab: Tab, path: Path) -> None:
    """No error, no request, marks in every chart, and no horizontal scrolling."""
    assert tab.console == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [path.as_uri()]
    charts = tab.page.locator("[data-chart]")
    marks = [charts.nth(index).locator("g.role-mark path").count() for index in range(charts.count())]
    assert len(marks) == 4, "one chart of costs, two of losses, one timeline"
    assert min(marks) > 0
    root = "document.documentElement"
    assert tab.page.evaluate(f"() => {root}.scrollWidth <= {root}.clientWidth")


def test_the_policy_blocks_injected_scripts_remote_images_and_eval(tab: Tab) -> None:
    """An injected script does not run, a remote picture is blocked, and text is not evaluated."""
    result = tab.page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.broken = 1';
        const image = new Image();
        image.src = 'https://example.org/x.png';
        document.body.append(script, image);
        return new Promise((done) => setTimeout(() => {
            try { done(eval('1 + 1')); } catch (error) { done(error.name); }
        }));
    }""")
    assert result == "EvalError"
    assert tab.page.evaluate("() => window.broken === undefined")
    blocked = [text for text in tab.console if "Content Security Policy" in text]
    for directive in ("script-src", "img-src"):
        assert any(directive in text for text in blocked), tab.console


@pytest.mark.parametrize("tab", WINDOWS, ids=WIDTHS, indirect=True)
def test_a_point_shows_its_cell(tab: Tab) -> None:
    expect(tab.tip).to_be_hidden()
    tab.page.mouse.move(*tab.point("ddpm: groups-2"))
    expect(tab.tip).to_be_visible()
    expect(tab.tip).to_contain_text("ddpm: groups-2 (grouped)")
    expect(tab.tip).to_contain_text("2.00 MB")
    image = tab.tip.locator("img")
    expect(image).to_have_js_property("naturalWidth", 10 * pagefolder.PIXELS)
    assert str(image.get_attribute("alt")).endswith("images of mnist/ddpm/groups-2/seed0")
    box = tab.tip.bounding_box()
    assert box is not None and tab.page.viewport_size is not None
    assert 0 <= box["x"] < box["x"] + box["width"] <= tab.page.viewport_size["width"]
    tab.page.keyboard.press("Escape")
    expect(tab.tip).to_be_hidden()


@pytest.mark.parametrize("tab", [window(NARROW, has_touch=True, is_mobile=True)], ids=["phone"], indirect=True)
def test_a_tap_shows_a_cell_until_another_tap(tab: Tab) -> None:
    tab.page.touchscreen.tap(*tab.point("ncsn: l1-30"))
    expect(tab.tip).to_be_visible()
    tab.page.wait_for_timeout(300)  # the finger is lifted
    expect(tab.tip).to_contain_text("ncsn: l1-30 (pruned)")
    expect(tab.tip).to_be_visible()
    tab.page.locator("#pareto h2").evaluate("element => element.scrollIntoView({behavior: 'instant'})")
    tab.page.touchscreen.tap(20, 200)
    expect(tab.tip).to_be_hidden()
    assert tab.console == []


def test_the_keyboard_reaches_every_point(tab: Tab) -> None:
    tab.page.locator("input[name=cost]").first.focus()
    names = []
    for _ in range(5):
        tab.page.keyboard.press("Tab")
        names.append(tab.page.evaluate("() => document.activeElement.getAttribute('aria-label')?.split(',')[0]"))
        expect(tab.tip).to_be_visible()
    assert sorted(names) == ["ddpm: baseline", "ddpm: groups-2", "ncsn: baseline", "ncsn: groups-2", "ncsn: l1-30"]


def test_the_cost_can_be_switched(tab: Tab) -> None:
    chart = tab.page.locator("[data-chart=pareto]")
    expect(chart).to_contain_text("compressed checkpoint (MB, gzip)")
    for cost, axis in (("inference_ms_per_image", "time per image (ms)"), ("gmacs", "multiply-accumulates per image")):
        tab.page.locator(f"label:has(input[value={cost}])").click()
        expect(chart).to_contain_text(axis)
        expect(tab.page.locator(POINTS)).to_have_count(5)
    assert tab.console == []


def greys(tab: Tab) -> list[int]:
    """Return the grey of one pixel in the first tile: upper image, lower image, difference."""
    found: list[int] = tab.page.locator("#tiles canvas").first.evaluate(
        "(canvas, rows) => rows.map((y) => canvas.getContext('2d').getImageData(4, y, 1, 1).data[0])",
        [4, pagefolder.PIXELS + 5, 2 * pagefolder.PIXELS + 6],
    )
    return found


def test_images_can_be_compared(tab: Tab) -> None:
    """The fake images are uniformly grey: ten times their index, plus the length of the recipe's name."""
    comparison, selects = tab.page.locator("#comparison"), tab.page.locator("select")
    baseline, pruned, grouped = len("baseline"), len("l1-30"), len("groups-2")
    chosen = [selects.nth(index).evaluate("select => select.selectedOptions[0].textContent") for index in range(2)]
    assert chosen == ["baseline", "l1-30"]
    assert greys(tab) == [baseline, pruned, 255 - (baseline - pruned)]
    expect(comparison).to_contain_text("same noise")
    expect(tab.page.locator("#tiles canvas")).to_have_count(pagefolder.IMAGES)
    tab.page.select_option("#cell-b", label="groups-2")
    expect(comparison).to_contain_text("ncsn/groups-2")
    assert greys(tab) == [baseline, grouped, 255]
    tab.page.select_option("#cell-a", index=tab.page.locator("#cell-a option").count() - 1)
    expect(comparison).to_contain_text("ddpm/groups-2")
    expect(comparison).to_contain_text("different noise")


@pytest.mark.parametrize(
    "tab", [window(width) for width in (740, 1000, WIDE)], ids=["740", "1000", "1400"], indirect=True
)
def test_no_column_of_a_table_is_squeezed(tab: Tab) -> None:
    """Between phone and desktop, too, every cell of the techniques' tables is wide enough for its words."""
    cells = tab.page.locator(".dot-plot td, .dot-plot th")
    widths = cells.evaluate_all("cells => cells.map((cell) => cell.clientWidth).filter(Boolean)")
    assert len(widths) > 20
    assert min(widths) >= 70


def test_printing_opens_every_section(tab: Tab) -> None:
    closed = tab.page.locator("details:not([open])")
    assert closed.count() > 10
    assert tab.page.pdf().startswith(b"%PDF")
    expect(closed).to_have_count(0)
    assert tab.console == []
