"""The report: complete, self-contained, readable without a script, and safe whatever the strings hold."""

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from beside import load

from experiments import figures
from experiments.report import render
from experiments.report.overview import SECTIONS

made_up = load(__file__, "synthetic_evidence")
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" onclick=\"alert(3)&amp;"
# The smallest PNG header with a size of 3 x 2 pixels; the report reads no further.
TINY = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00\x00\x00\x03" + b"\x00\x00\x00\x02" + b"\x08\x02"
VOID = {"meta", "input", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Elements with their attributes and own text; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.parents: dict[int, list[int]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parents[len(self.elements)] = list(self.open)
        if tag not in VOID:
            self.open.append(len(self.elements))
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (found, " ".join(" ".join(text).split()))
            for name, found, text in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    def inside(self, identifier: str, tag: str) -> list[dict[str, str | None]]:
        outer = next(i for i, (_, found, _) in enumerate(self.elements) if found.get("id") == identifier)
        return [e[1] for i, e in enumerate(self.elements) if e[0] == tag and outer in self.parents[i]]


def page(claims: dict[str, Any], pictures: dict[str, Path | bytes], tmp_path: Path) -> Page:
    return Page(render(claims, pictures, tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def five() -> dict[str, Any]:
    statuses = ("supported", "refuted", "inconclusive", "check broken", "not run")
    return made_up.claims(*(made_up.claim(f"BB{i}", status) for i, status in enumerate(statuses)))


def test_every_claim_has_a_row_and_a_card_that_it_links_to(five: dict[str, Any], tmp_path: Path) -> None:
    shown = page(five, {}, tmp_path)
    identifiers = [found["id"] for _, found, _ in shown.elements if "id" in found]
    assert len(identifiers) == len(set(identifiers))
    links = [found["href"] for found, _ in shown.all("a")]
    assert all(link is not None and link[0] == "#" and link[1:] in identifiers for link in links)
    for entry in five["claims"]:
        anchor = f"claim-{entry['id']}"
        ((_, card),) = shown.all("article", id=anchor)
        assert f"#{anchor}" in links
        for text in (entry["statement"], entry["source"], entry["status"], entry["kind"], "quick", "41.7 s"):
            assert text in card
        assert "Backcopy excess risk (nats) below .02 0.0122 [0.0101, 0.0142] 3 ≤ 0.02 ✓ inside" in card
        assert "Val ratio of <s>, final falls to 0 0.313" in card
        assert "✗ outside" in card
        assert "? undecided" in card
        assert "Negative control ✗ refuted Setting: uniform attention forced at every step." in card
        assert "3f2a9c0d11" in card


def test_header_says_what_ran_where_and_how_to_repeat_it(five: dict[str, Any], tmp_path: Path) -> None:
    shown = page(five, {}, tmp_path)
    ((_, header),) = shown.all("header")
    assert "1 ✓ supported 1 ✗ refuted 1 ? inconclusive 1 ! check broken 1 – not run" in header
    for text in (
        "31 January 2025, 12:00 UTC",
        "jax 0.10.2",
        "cpu x 2",
        "20 min 34 s",
        "quick",
        "one layer, d 64",
    ):
        assert text in header
    assert five["command"] in header


def test_verdict_table_names_the_worst_measure_and_the_surprise(five: dict[str, Any], tmp_path: Path) -> None:
    narrow = five["claims"][0]
    narrow["measures"] = [
        made_up.measure("far", [1.0, 1.0], None, 2.0),
        made_up.measure("near", [1.9, 1.9], None, 2.0),
        made_up.measure("free", [5.0, 5.0], None, None),
    ]
    rows = [text for found, text in page(five, {}, tmp_path).all("tr") if "data-anchor" in found]
    assert "near: 1.9 (≤ 2)" in rows[0]
    assert all("Val ratio of <s>, final: 0.313 (0 to 0.15)" in row for row in rows[1:])
    assert ["differs" in row for row in rows] == [False, True, False, False, False]


def test_page_works_without_its_script(five: dict[str, Any], tmp_path: Path) -> None:
    shown = page(five, {}, tmp_path)
    assert [tag for tag, found, _ in shown.elements if "hidden" in found] == ["form"]


def test_filters_offer_what_there_is(five: dict[str, Any], tmp_path: Path) -> None:
    five["claims"][4].update(id="NX-N1", source="theory")
    options = [text for _, text in page(five, {}, tmp_path).all("option")]
    assert options == ["all", "supported", "refuted", "inconclusive", "check broken", "not run",
                       "all", "BB", "NX", "all", "2410.13835 section 3", "theory"]  # fmt: skip


def poison(value: Any) -> Any:
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [poison(entry) for entry in value]
    if isinstance(value, dict):
        return {poison(key) if key == "adam" else key: poison(entry) for key, entry in value.items()}
    return value


def test_no_string_becomes_markup(five: dict[str, Any], tmp_path: Path) -> None:
    wicked = poison(five)
    for entry in wicked["claims"]:
        entry["note"] = "token <script>"
    name = wicked["claims"][0]["id"]
    clean = page(five, {"BB0": TINY, "dynamics": TINY}, tmp_path)
    shown = page(wicked, {name: TINY, f"dynamics{HOSTILE}": TINY}, tmp_path)
    assert len(shown.all("script")) == len(shown.all("style")) == 1
    assert shown.all("script") == clean.all("script")
    for tag, found, _ in shown.elements:
        assert not [key for key in found if key.startswith("on")], tag
        assert set(found) <= {key for same, known, _ in clean.elements if same == tag for key in known}
    ((_, card),) = shown.all("article", id=shown.all("article")[0][0]["id"] or "")
    assert " ".join(wicked["claims"][0]["statement"].split()) in card
    assert "token <script>" in card
    links = [found["href"] for found, _ in shown.all("a")]
    assert set(links) <= {f"#{found['id']}" for _, found, _ in shown.elements if "id" in found}


def test_nothing_comes_from_outside_and_only_our_code_may_run(five: dict[str, Any], tmp_path: Path) -> None:
    out = render(five, {"BB0": TINY}, tmp_path / "report.html")
    html = out.read_text(encoding="utf-8")
    shown = Page(html)
    assert not re.search(r"https?:|@import|url\(", html)
    for _, found, _ in shown.elements:
        assert (found.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in found
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"] or ""
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        ((_, _, parts),) = (element for element in shown.elements if element[0] == tag)
        digest = base64.b64encode(hashlib.sha256("".join(parts).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_figures_are_inlined_where_they_belong(five: dict[str, Any], tmp_path: Path) -> None:
    png, _ = figures.save(figures.measures(five["claims"][1]), tmp_path / "BB1")
    shown = page(five, {"dynamics": TINY, "BB1": png, "BB1/dynamics": TINY, "value_norms": TINY}, tmp_path)
    (first, second) = shown.inside("claim-BB1", "img")
    assert base64.b64decode((first["src"] or "").split(",")[1]) == png.read_bytes()
    assert int(first["width"] or 0) == int(8.5 * 150)
    assert (second["width"], second["height"]) == ("3", "2")
    assert shown.inside("claim-BB0", "img") == []
    assert len(shown.inside("training", "img")) == 2
    assert [text for _, text in shown.all("figcaption")] == ["Training dynamics", "Value norms"]
    assert all(found["alt"] for found, _ in shown.all("img"))


def test_figures_come_in_their_sections(five: dict[str, Any], tmp_path: Path) -> None:
    names = [name for rows in SECTIONS.values() for name in rows]
    assert len(set(names)) == len(names), "a figure in two sections has two places"
    shown = page(five, dict.fromkeys(reversed(names), TINY), tmp_path)
    assert [text for _, text in shown.all("h2")] == ["Verdicts", *SECTIONS, "Claims"]
    titles = [row.title for rows in SECTIONS.values() for row in rows.values()]
    assert [text for _, text in shown.all("figcaption")] == titles, "the order is that of the table"
    for title, rows in SECTIONS.items():
        assert [found["alt"] for found in shown.inside(title.lower(), "img")] == [row.alt for row in rows.values()]
        assert [text for _, text in shown.all("a", href=f"#{title.lower()}")] == [title]


def test_a_section_without_figures_is_absent(five: dict[str, Any], tmp_path: Path) -> None:
    def sections(**pictures: bytes) -> list[str]:
        shown = page(five, dict(pictures), tmp_path)
        links = [text for found, text in shown.all("a") if (found["href"] or "")[1:] in ("theory", "training", "other")]
        headings = [text for _, text in shown.all("h2")]
        assert headings == ["Verdicts", *links, "Claims"]
        return links

    assert sections() == []
    assert sections(value_norms=TINY) == ["Training"]
    assert sections(value_norms=TINY, concentration=TINY) == ["Theory", "Training"]
    assert sections(something=TINY, phase_portrait=TINY) == ["Theory", "Other figures"]


def test_infinite_and_undefined_numbers_are_shown(five: dict[str, Any], tmp_path: Path) -> None:
    entry = five["claims"][0]
    entry["measures"] = [made_up.measure("passage", [1.0], None, None) | {"measured": float("inf"), "ci95": None}]
    ((_, card),) = page(five, {}, tmp_path).all("article", id="claim-BB0")
    assert "passage as the tolerance ∞ – 1 any value" in card


def test_many_runs_do_not_stand_before_the_verdicts(five: dict[str, Any], tmp_path: Path) -> None:
    few = page(five | {"sizes": [f"run {i}" for i in range(6)]}, {}, tmp_path)
    assert "run 5" in [text for _, text in few.all("dd")]
    assert not few.all("li")
    many = page(five | {"sizes": [f"run {i}" for i in range(7)]}, {}, tmp_path)
    assert "7 kinds" in [text for _, text in many.all("summary")]
    assert [text for _, text in many.all("li")] == [f"run {i}" for i in range(7)]


def test_an_interval_over_samples_stands_below_that_over_seeds(five: dict[str, Any], tmp_path: Path) -> None:
    entry = five["claims"][0]
    entry["measures"] = [made_up.measure("passage", [1.0], None, None) | {"ci95": [1, 3], "ci95_samples": [1.5, 2.5]}]
    ((_, card),) = page(five, {}, tmp_path).all("article", id="claim-BB0")
    assert "passage as the tolerance 1 [1, 3] samples [1.5, 2.5] 1 any value" in card


def test_tables_are_accessible(five: dict[str, Any], tmp_path: Path) -> None:
    shown = page(five, {}, tmp_path)
    assert all(found.get("scope") in ("col", "row") for found, _ in shown.all("th"))
    tables = [i for i, element in enumerate(shown.elements) if element[0] == "table"]
    for index in tables:
        wrapper = shown.elements[shown.parents[index][-1]][1]
        assert wrapper["class"] == "scroll"
        assert wrapper["tabindex"] == "0"
        assert wrapper["aria-label"]


def test_smallest_claims_render(tmp_path: Path) -> None:
    shown = page({"schema": 1, "claims": [{"id": "X 1"}]}, {}, tmp_path)
    ((found, card),) = shown.all("article")
    assert found["id"] == "claim-X_20_1"
    assert "No measures." in card
    assert "undefined" not in card.lower()
    assert page({"schema": 1, "claims": []}, {}, tmp_path).all("article") == []


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_have_contrast_in_both_modes() -> None:
    css = (Path(figures.__file__).parents[1] / "report" / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 3  # light, dark, print
    for block in blocks:
        colours = {
            name: value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
            for name, value in re.findall(r"--(\w+): (#\w+)", block)
        }
        for back in ("page", "card"):
            for front in set(colours) - {"page", "card", "line", "tint"}:
                light, dark = sorted((luminance(colours[back]), luminance(colours[front])), reverse=True)
                # WCAG 2.2, success criterion 1.4.3 (AA)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_mistakes_are_named_and_leave_the_old_report(five: dict[str, Any], tmp_path: Path) -> None:
    out = render(five, {}, tmp_path / "report.html")
    before = out.read_bytes()
    with pytest.raises(ValueError, match="expected 1, got 2"):
        render(five | {"schema": 2}, {}, out)
    with pytest.raises(ValueError, match=r"figures\['BB0'\]: expected a PNG image"):
        render(five, {"BB0": b"<svg></svg>"}, out)
    with pytest.raises(ValueError, match=r"figures\['BB0'\].*No such file"):
        render(five, {"BB0": tmp_path / "none.png"}, out)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_rendering_changes_nothing_and_repeats(five: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(five)
    first = render(five, {}, tmp_path / "a" / "report.html").read_bytes()
    assert five == before
    assert render(five, {}, tmp_path / "b.html").read_bytes() == first
