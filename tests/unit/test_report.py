"""The report is one well-formed page: every section, nothing from outside, a sentence where a file is missing."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megacode.layout.schedules import make_placement, make_schedule
from megacode.layout.simulate import EqualStages, simulate
from megacode.metrics import MetricsLog
from megacode.metrics.axes import labelled, short, spanning
from megacode.metrics.charts import Level, Series, line_chart, thin
from megacode.metrics.report import ReportInputs, inputs_in, write_report
from megacode.metrics.timeline import read_timeline

SECTIONS = ("loss", "throughput", "timeline", "data", "completions")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text; raises where an end tag does not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> does not match"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def _timeline(stages: int, count: int, name: str = "1f1b", chunks: int = 1) -> dict[str, Any]:
    placement = make_placement(name, stages, chunks)
    timed = simulate(make_schedule(name, placement, count), EqualStages(0.01, 0.012, 0.009, num_chunks=chunks))
    actions = [
        {
            "stage": item.stage,
            "kind": item.action.kind.value,
            "micro_batch": item.action.micro_batch,
            "chunk": item.action.chunk,
            "start": 100 + item.start,
            "end": 100 + item.end,
        }
        for item in timed
    ]
    link = {"stage": 1, "kind": "recv_activation", "micro_batch": 0, "start": 100.0, "end": 100.01}
    return {"schedule": name, "stages": stages, "actions": [*actions, link]}


def _write_run(folder: Path) -> None:
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.append({"kind": "start", "world_size": 8, "parameters": 3_813_120, "unigram_entropy": 6.5})
        for step in range(10, 201, 10):
            seconds = {"data": 0.1, "compute": 0.7, "reduce": 0.1, "optimizer": 0.1, "total": 1.0}
            row = {"kind": "step", "step": step, "loss": 8 - step / 50, "tokens": step * 8192, "seconds": seconds}
            log.append({**row, "tokens_per_second": 9000.0 + step, "tflops_per_rank": 0.5, "mfu": None})
        log.append({"kind": "validation", "step": 200, "left_to_right": 4.25, "psm": 4.75, "spm": 4.5})
    (folder / "timeline.json").write_text(json.dumps(_timeline(2, 16)))
    reasons = [{"reason": "a line over 1000 characters", "documents": 17, "samples": ["a.py"]}]
    step = {"step": "filters", "documents_in": 1200, "kept": 1183, "dropped": 17, "bytes_kept": 4_560_000}
    output = {"name": "train.jsonl.zst", "documents": 1100, "content_bytes": 4_000_000}
    manifest = {"steps": [{**step, "reasons": reasons}], "train": output}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    samples = [
        {"kind": "prefix", "prefix": "def f(x):\n", "completion": "    return x"},
        {"kind": "middle", "prefix": "a = ", "completion": "<script>alert(1)</script>", "suffix": "  # http://x.y/z"},
    ]
    (folder / "completions.json").write_text(json.dumps(samples))


@pytest.fixture
def full(tmp_path: Path) -> str:
    _write_run(tmp_path)
    inputs = inputs_in(tmp_path, "quickstart <run>", tmp_path / "manifest.json")
    write_report(inputs, tmp_path / "out" / "report.html")
    return (tmp_path / "out" / "report.html").read_text()


def _sections(page: Page) -> dict[str, bool]:
    """The sections' ids in order, and whether each has content."""
    return {attrs["id"]: attrs.get("class") != "missing" for tag, attrs in page.tags if tag == "section"}  # type: ignore[misc]


def test_every_section_is_there_and_the_page_is_well_formed(full: str) -> None:
    assert _sections(Page(full)) == dict.fromkeys(SECTIONS, True)


def test_nothing_comes_from_outside(full: str) -> None:
    page = Page(full)
    fetching = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    assert not [(tag, attrs) for tag, attrs in page.tags if fetching & attrs.keys()]
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "img"}
    style = re.findall(r"<style>(.*?)</style>", full, re.DOTALL)[0]
    assert "@import" not in style and "url(" not in style
    assert "prefers-color-scheme: dark" in style
    assert [found for found in re.findall(r"https?://\S+", full) if "x.y/z" not in found] == []


def test_key_figures(full: str) -> None:
    words = Page(full).words
    for told in (
        "parameters 3,813,120 on 8 ranks",
        "tokens trained on 1,638,400 in 200 steps",
        "training loss 4.000 2.500 below unigram",
        "validation, left to right 4.250 2.250 below unigram",
        "validation, PSM 4.750 1.750 below unigram",
        "validation, SPM 4.500 2.000 below unigram",
        "unigram entropy 6.500",
    ):
        assert told in words


def test_the_pipeline_is_drawn_whole_and_its_bubble_told(full: str) -> None:
    for kind in ("forward", "backward"):
        assert full.count(f'<g class="pass {kind}">') == 32
    assert full.count('<rect class="wait"') == 2
    assert full.count('<g class="link receive">') == 1
    assert "A stage waits 5.9 % of it, measured" in full
    assert "equal stages and free messages would leave 5.9 %" in full


def test_data_and_completions_are_told_and_escaped(full: str) -> None:
    words = Page(full).words
    assert "filters 1,200 1,183 4.56 17 a line over 1000 characters" in words
    assert "train 1,100 4.00" in words
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</mark>  # http://x.y/z</pre>" in full
    assert "<h1>quickstart &lt;run&gt;</h1>" in full


def test_missing_inputs_are_told_in_their_place(tmp_path: Path) -> None:
    write_report(inputs_in(tmp_path, "empty"), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert _sections(page) == dict.fromkeys(SECTIONS, False)
    for name in ("metrics.jsonl", "timeline.json", "completions.json"):
        assert f"{tmp_path / name} is missing" in page.words
    assert "no manifest.json was given" in page.words


@pytest.mark.parametrize(
    ("name", "text", "section"),
    [
        ("metrics.jsonl", "what\n", "loss"),
        ("metrics.jsonl", '{"kind": "start"}\n', "loss"),
        ("timeline.json", '{"actions": []}', "timeline"),
        ("timeline.json", '{"stages": 2, "actions": [{"stage": 0}]}', "timeline"),
        ("timeline.json", json.dumps({**_timeline(2, 2), "schedule": "zigzag"}), "timeline"),
        ("timeline.json", json.dumps({"schedule": "1f1b", "stages": 1, "actions": [{"kind": "rest"}]}), "timeline"),
        ("timeline.json", "[", "timeline"),
        ("manifest.json", "[]", "data"),
        ("manifest.json", '{"steps": [3]}', "data"),
        ("manifest.json", '{"steps": []}', "data"),
        ("completions.json", "{}", "completions"),
        ("completions.json", "[]", "completions"),
    ],
)
def test_a_damaged_file_costs_its_section_only(tmp_path: Path, name: str, text: str, section: str) -> None:
    _write_run(tmp_path)
    (tmp_path / name).write_text(text)
    write_report(inputs_in(tmp_path, "run", tmp_path / "manifest.json"), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    lost = {section, "throughput"} if name == "metrics.jsonl" else {section}
    assert {key for key, whole in _sections(page).items() if not whole} == lost


def test_a_manifest_with_gaps_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    steps = [{"name": "old", "reasons": {"empty": 4}}, {"step": "odd", "kept": "many", "reasons": [{}]}]
    (tmp_path / "manifest.json").write_text(json.dumps({"steps": steps}))
    write_report(ReportInputs("run", tmp_path / "none", manifest=tmp_path / "manifest.json"), tmp_path / "r.html")
    words = Page((tmp_path / "r.html").read_text()).words
    assert "old 4 empty" in words and "odd" in words


def test_what_the_caller_gives_goes_before_the_start_row(tmp_path: Path) -> None:
    _write_run(tmp_path)
    given = ReportInputs("run", tmp_path / "metrics.jsonl", layout="TP 2", parameters=7, unigram_entropy=3.0)
    write_report(given, tmp_path / "r.html")
    words = Page((tmp_path / "r.html").read_text()).words
    assert "parameters 7 on 8 ranks" in words and "1.000 above unigram" in words and "TP 2" in words


@pytest.mark.parametrize(("name", "chunks"), [("1f1b", 1), ("interleaved", 3), ("zb-h1", 1), ("zb-v", 2)])
@pytest.mark.parametrize(("stages", "count"), [(1, 1), (2, 16), (4, 3), (8, 32)])
def test_the_measured_bubble_of_an_ideal_step_is_the_schedules(
    tmp_path: Path, name: str, chunks: int, stages: int, count: int
) -> None:
    form = _timeline(stages, count, name, chunks)
    form["actions"] = [action for action in form["actions"] if action["stage"] < stages]
    (tmp_path / "timeline.json").write_text(json.dumps(form))
    timeline = read_timeline(tmp_path / "timeline.json")
    assert timeline.num_micro_batches == count
    assert timeline.bubble == pytest.approx(timeline.ideal_bubble, abs=1e-9)
    if name == "1f1b":
        assert timeline.ideal_bubble == pytest.approx((stages - 1) / (count + stages - 1))


def test_parts_of_backward_passes_and_chunks_are_told_apart(tmp_path: Path) -> None:
    _write_run(tmp_path)
    (tmp_path / "timeline.json").write_text(json.dumps(_timeline(2, 4, "zb-v", 2)))
    write_report(inputs_in(tmp_path, "run"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for kind in ("forward", "backward_input", "backward_weight"):
        assert text.count(f'<g class="pass {kind}">') == 16
    assert text.count('fill-opacity="0.60"') == 24
    assert "backward, input" in text and "backward, weights" in text and "2 chunks on each" in text
    assert "backward weight of micro-batch 3, chunk 1" in text


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(step), 50.0 if step == 4321 else 2.0) for step in range(25_000)]
    kept = thin(points)
    assert len(kept) <= 800
    assert (4321.0, 50.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)
    assert thin(points[:7]) == tuple(points[:7])


@pytest.mark.parametrize("values", [[3.0], [0.0], [-2.0, -2.0], [1e-9, 2e-9], [4.0, 4.0000001], [0.1, 12_345.0]])
def test_an_axis_holds_its_values_between_round_ticks(values: list[float]) -> None:
    axis = spanning(values, 0.0, 100.0)
    assert axis.low <= min(values) and max(values) <= axis.high and axis.low < axis.high
    assert 2 <= len(axis.ticks()) <= 9
    assert all(0 <= axis.place(value) <= 100 for value in values)


def test_numbers_read_well() -> None:
    assert [short(value) for value in (0.5, 9651, 25_300, 1.5e6)] == ["0.5", "9,651", "25.3k", "1.5M"]
    assert [text for _, text in labelled([0, 2500, 12_500])] == ["0", "2.5k", "12.5k"]


def test_labels_do_not_overlap_and_stay_in_the_picture() -> None:
    series = [Series(f"line {index}", ((1.0, 3.0 + index / 1000), (2.0, 3.0)), "train") for index in range(4)]
    chart = str(line_chart(series, [Level("unigram", 3.0)], "loss"))
    heights = sorted(float(y) for y in re.findall(r'class="label \w+" x="\d+" y="([\d.]+)"', chart))
    assert len(heights) == 5
    assert all(below - above >= 16.9 for above, below in itertools.pairwise(heights))
    assert heights[0] > 0 and heights[-1] < 340
