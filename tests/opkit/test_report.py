"""From generate to report through the command line, small; and what the page says."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest

import opkit
from opkit.cli import main
from opkit.errors import UsageError
from opkit.report import _seconds, report


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset and run, not evaluated yet."""
    path = tmp_path_factory.mktemp("work")
    generate = f"generate darcy -n 12 --n-valid 4 --n-test 6 --resolution 17 -o {path / 'darcy'}"
    fit = (
        f"fit {path / 'darcy'} -m mgno -o {path / 'run'} --epochs 2 --batch-size 4 --lr 0.01 "
        "--set hidden_channels=4 --set n_layers=2 --accelerator cpu"
    )
    assert main(generate.split()) == 0
    assert main(fit.split()) == 0
    return path


@pytest.fixture(scope="module")
def evaluated(work: Path) -> Path:
    assert main(["evaluate", str(work / "run"), str(work / "darcy"), "--repeats", "1"]) == 0
    return work


class Page(HTMLParser):
    """Texts, tags and images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def assert_self_contained(page: Page) -> None:
    assert page.open == []
    for tag, name, value in page.attributes:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        if name in ("src", "href", "srcset", "data", "poster"):
            assert value.startswith(("data:image/", "#")), f"<{tag} {name}={value[:60]}>"
    assert not re.search(r"@import|url\(", page.source)
    for tag, name, value in page.attributes:
        if (tag, name) == ("img", "src"):
            kind, _, data = value.partition(";base64,")
            content = base64.b64decode(data, validate=True)
            start = b"\x89PNG" if kind == "data:image/png" else b"<?xml"
            assert content.startswith(start)
    images = sum((t, n) == ("img", "src") for t, n, _ in page.attributes)
    assert images == sum((t, n) == ("img", "alt") and bool(v) for t, n, v in page.attributes)


def test_before_evaluation_it_says_how_to_get_the_rest(work: Path, tmp_path: Path) -> None:
    bare = tmp_path / "run"
    shutil.copytree(work / "run", bare, ignore=shutil.ignore_patterns("evaluation"))
    page = Page(report(bare, out=tmp_path / "r.html"))
    assert_self_contained(page)
    assert "This run has not been evaluated" in page.text
    assert f"opkit evaluate {bare} {work / 'darcy'}" in page.text
    assert "Evidence" in page.text


def test_after_evaluation_it_holds_the_numbers(evaluated: Path) -> None:
    run = evaluated / "run"
    assert main(["report", str(run)]) == 0
    page = Page(run / "report.html")
    assert_self_contained(page)
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    for name in ("rel_l2", "rel_h1", "max_error", "spectrum_error"):
        for key in ("mean", "median", "p95", "max"):
            assert f"{metrics[name][key]:.4g}" in page.text, (name, key)
    assert f"{100 * metrics['rel_l2']['mean']:.2f} % relative L2 error" in page.text
    # of the data: units, boundary conditions, residuals, the equation as text of its image
    for fact in ("pressure [Pa]", "x: dirichlet u = 0", "17 nodes", "largest residual", "seed"):
        assert fact in page.text
    alts = [v for t, n, v in page.attributes if (t, n) == ("img", "alt")]
    assert any("nabla" in a for a in alts)
    for role in ("best", "median", "worst"):
        assert any(f"{role} sample, id 2000" in a for a in alts)
    # of the comparison
    c = metrics["comparison"]
    said = "never pays off" if c["break_even"] == "never" else "pays off after"
    assert said in page.text
    assert c["solver"] in page.text
    # two pages of the same run are equal
    again = report(run, out=evaluated / "again.html")
    assert again.read_bytes() == (run / "report.html").read_bytes()


def test_best_and_worst_sample_carry_their_errors(evaluated: Path) -> None:
    directory = evaluated / "run/evaluation/test"
    with (directory / "per_sample.csv").open() as f:
        errors = {int(r["id"]): float(r["rel_l2"]) for r in csv.DictReader(f)}
    page = Page(report(evaluated / "run", out=evaluated / "roles.html"))
    worst = max(errors, key=errors.__getitem__)
    assert f"worst sample, id {worst}, relative L2 error {100 * errors[worst]:.2f} %" in page.text


def test_without_the_data_it_says_so(evaluated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated / "run", run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(evaluated / "darcy"), "gone"))
    page = Page(report(run))
    assert_self_contained(page)
    assert "The dataset gone is not here" in page.text
    assert "u [Pa]" not in page.text  # in the images alone
    assert any("worst sample" in v for _, _, v in page.attributes)


def test_names_are_escaped(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "<b>run & co"
    shutil.copytree(work / "run", run)
    page = Page(report(run))
    assert_self_contained(page)
    assert "<b>run & co" in page.text


@pytest.mark.parametrize("name", ["operator.json", "config.yaml"])
def test_damaged_run_is_one_line(work: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(work / "run", run, ignore=shutil.ignore_patterns("report.html"))
    (run / name).write_text("{[")
    with pytest.raises(UsageError, match="the run is damaged"):
        report(run)
    assert not (run / "report.html").exists()
    assert not list(run.glob(".*.tmp"))


def test_equation_that_mathtext_does_not_know_stays_text(work: Path) -> None:
    from opkit.report import _equation

    assert _equation(r"u_t = \unknowncommand{u}") == r"<pre>u_t = \unknowncommand{u}</pre>"
    assert "data:image/svg+xml" in _equation(r"u_t + u u_x = \nu u_{xx}")


def test_times_are_in_the_unit_a_person_would_choose() -> None:
    times = [_seconds(s) for s in (3.2e-6, 0.0031, 1.5, 754.0, 7300.0)]
    assert times == ["0.0032 ms", "3.1 ms", "1.5 s", "12 min 34 s", "2 h 1 min"]


def test_evaluate_and_predict_tell_their_results(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated / "run", tmp_path / "run")
    run, data, out = (str(p) for p in (tmp_path / "run", evaluated / "darcy", tmp_path / "p.h5"))
    capsys.readouterr()
    assert main(["evaluate", run, data, "--split", "valid", "--no-compare", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert (metrics["n_samples"], metrics["comparison"]) == (4, None)
    assert main(["evaluate", run, data, "--repeats", "1"]) == 0
    told = capsys.readouterr()
    assert "rel_l2" in told.out and "reaches this accuracy at" in told.out
    assert f"next: opkit report {run}" in told.err
    assert main(["predict", run, data, "-o", out]) == 0
    assert capsys.readouterr().out.strip() == out
    operator = opkit.load(run)
    a = opkit.open_dataset(data)["test"].read(np.arange(6), ["a"])["a"]
    with h5py.File(out) as f:
        np.testing.assert_allclose(f["outputs/u"][...], operator(a), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("evaluate RUN nowhere", "opkit: nowhere: no such file or directory"),
        ("evaluate nowhere DATA", "opkit: nowhere: no such run directory"),
        ("evaluate RUN DATA --split tset", "opkit: DATA has no split 'tset'. It has: train, valid"),
        (
            "evaluate RUN DATA --resolution x",
            "opkit: --resolution 'x': need integers such",
        ),
        ("evaluate RUN DATA --batch-size 0", "opkit: batch_size=0: input should be greater"),
        ("evaluate RUN", "opkit evaluate: data is missing"),
        ("predict RUN DATA", "opkit predict: out is missing"),
        ("predict RUN DATA -o p.txt", "opkit: out=p.txt: need a name that ends in .h5, .npz, .npy"),
        ("fit DATA -m mgno -o RUN", "opkit: RUN exists already; use --resume"),
        (
            "fit DATA -m mgno -o new --set hiden_channels=4",
            "opkit: mgno has no option 'hiden_channels'. Did you mean 'hid",
        ),
        ("report RUN -o DATA", "opkit: out=DATA: need the name of an .html file"),
    ],
)
def test_mistakes_about_runs(
    evaluated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"RUN": str(evaluated / "run"), "DATA": str(evaluated / "darcy")}
    for short, name in names.items():
        command, line = command.replace(short, name), line.replace(short, name)
    assert main(command.split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith(line)
    assert not any(tmp_path.iterdir())


def test_python_functions_end_to_end(evaluated: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", evaluated / "darcy"
    shutil.copytree(evaluated / "run", run)
    metrics = opkit.evaluate(run, data, compare=False, repeats=1, progress=False)
    assert metrics["n_samples"] == 6
    path = opkit.predict(run, data, out=tmp_path / "p.npz", progress=False)
    with np.load(path) as f:
        assert f["u"].shape == (6, 17, 17)
    trained = opkit.fit(
        data, model="mgno", out=tmp_path / "r", epochs=1, batch_size=4, accelerator="cpu",
        set={"hidden_channels": 4, "n_layers": 2}, progress=False,
    )  # fmt: skip
    assert trained.options["hidden_channels"] == 4
    assert opkit.report(tmp_path / "r") == tmp_path / "r" / "report.html"


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
#: Says in the title whether all images have been decoded and nothing sticks out of the page.
PROBE = """<script>onload = () => {
const images = [...document.images], root = document.documentElement;
const style = getComputedStyle(document.body);
document.title = JSON.stringify({
  n: images.length, broken: images.filter(i => !i.naturalWidth).length,
  over: root.scrollWidth - root.clientWidth, back: style.backgroundColor, ink: style.color});
}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1200, 600])
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser(evaluated: Path, tmp_path: Path, width: int, dark: bool) -> None:
    source = report(evaluated / "run", out=tmp_path / "r.html").read_text(encoding="utf-8")
    page = tmp_path / "probe.html"
    page.write_text(source.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title is not None, done.stderr[-500:]
    seen = json.loads(title[1])
    assert seen["n"] == 8  # equation, curves, three samples, histogram, spectrum, comparison
    assert (seen["broken"], seen["over"]) == (0, 0)
    back, ink = (sum(map(int, re.findall(r"\d+", seen[k])[:3])) / 3 for k in ("back", "ink"))
    assert (back < 60 and ink > 200) if dark else (back > 240 and ink < 60)
