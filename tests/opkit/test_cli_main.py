"""The command line as a user meets it: results, one-line errors, exit statuses."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from opkit.cli import main

COMMANDS = [
    "", "generate", "fit", "evaluate", "predict", "report", "list", "demo", "data", "data info",
    "data check", "data index", "data export", "data import", "data repair", "verify",
]  # fmt: skip


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def darcy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset made through the command line."""
    path = tmp_path_factory.mktemp("data") / "darcy"
    command = f"generate darcy -n 6 --n-valid 2 --n-test 2 --resolution 9 --solver direct -o {path}"
    assert main(command.split()) == 0
    return path


def fails(capsys: pytest.CaptureFixture[str], command: str | list[str], status: int = 2) -> str:
    """The one line on stderr of a command that must fail."""
    capsys.readouterr()
    args = command.split() if isinstance(command, str) else command
    assert main(args) == status
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert "Traceback" not in err
    assert line.startswith("opkit")
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: {' '.join(['opkit', *command.split()])} ")
    assert err == ""
    if command not in ("", "data"):
        assert "--debug" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "opkit 0.1.0\n"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "genrate darcy",
            "opkit: no command 'genrate'. Did you mean 'generate'? Commands: generate,",
        ),
        ("data chek x", "opkit data: no command 'chek'. Did you mean 'check'? Commands: info,"),
        ("generate darcy --sede 3", "opkit generate: no option '--sede'. Did you mean '--seed'?"),
        ("fit d --epoch 3", "opkit fit: no option '--epoch'. Did you mean '--epochs'?"),
        ("generate darcy x -o y", "opkit generate: Got unexpected extra argument"),
        ("generate darcy -o", "opkit: Option '-o' requires an argument"),
        ("list modles", "opkit list: Invalid value for"),
        ("data info", "opkit data info: Missing argument 'DATA'"),
        ("generate", "opkit generate: problem is missing"),
        ("generate darcy", "opkit generate: out is missing"),
        ("generate darcy -o x", "opkit generate: n is missing"),
        ("generate darci -o x -n 3", "opkit: unknown problem 'darci'. Did you mean 'darcy'?"),
        ("generate darcy -o x -n 0", "opkit: n=0: input should be greater than or equal to 1"),
        ("generate darcy -o x -n -5", "opkit: n=-5: input should be greater than or equal to 1"),
        ("generate darcy -o x -n many", "opkit: n='many': input should be a valid integer"),
        ("generate darcy -o x -n 3 --resolution 2", "opkit: resolution=2: darcy needs at least"),
        ("generate darcy -o x -n 3 --resolution 9.5", "opkit: --resolution '9.5': need an integer"),
        (
            "generate darcy -o x -n 3 --resolution 9,9,9",
            "opkit: resolution=(9, 9, 9) has 3 entries",
        ),
        ("generate darcy -o x -n 3 --solver amg", "opkit: unknown solver of darcy 'amg'."),
        ("generate darcy -o x -n 3 --set lo=3", "opkit: darcy has no parameter 'lo'. Did you mean"),
        ("generate darcy -o x -n 3 --set low=-3", "opkit: darcy: low=-3"),
        ("generate darcy -o x -n 3 --set low", "opkit: --set 'low': need key=value"),
        ("generate darcy -o x -n 3 --dtype float16", "opkit: dtype='float16': input should be"),
        ("generate darcy -o x -n 3 --workers 0", "opkit: workers=0: input should be greater"),
        ("generate darcy -o x -n 3 --max-failures lots", "opkit: max_failures='lots': input"),
        ("generate darcy -o x -n 3 --config no.yaml", "opkit: --config no.yaml: No such file"),
        ("generate darcy -o x -n 3 --resume --overwrite", "opkit: overwrite and resume exclude"),
        ("fit nowhere -m mgno -o x", "opkit: nowhere: no such file or directory"),
        ("fit nowhere -m mngo -o x", "opkit: unknown model 'mngo'. Did you mean 'mgno'?"),
        ("fit nowhere -o x", "opkit fit: model is missing"),
        ("fit nowhere -m mgno -o x --epochs 0", "opkit: epochs=0: input should be greater than"),
        ("report nowhere", "opkit: nowhere: no such run directory"),
        ("data info nowhere", "opkit: nowhere: no such file or directory"),
        ("data check nowhere", "opkit: nowhere: no such file or directory"),
    ],
)
def test_the_callers_mistakes(
    capsys: pytest.CaptureFixture[str], cwd: Path, command: str, line: str
) -> None:
    assert fails(capsys, command).startswith(line)
    assert not any(cwd.iterdir())  # nothing half-written


def test_debug_shows_the_traceback(cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opkit", "generate", "darcy", "-o", "x", "-n", "0", "--debug"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_generate_says_what_it_does_and_what_is_next(
    capsys: pytest.CaptureFixture[str], cwd: Path
) -> None:
    args = (
        "generate darcy -n 4 --n-valid 1 --n-test 1 --resolution 9,17 --solver direct -o my\\ data"
    )
    import shlex

    assert main(shlex.split(args)) == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        "generating darcy at 9 x 17: 4 train, 1 valid, 1 test samples, in my data"
    )
    assert err.splitlines()[-2:] == [
        "next: opkit data info 'my data'",
        "      opkit fit 'my data' -m mgno -o 'runs/my data-mgno'",
    ]
    assert "4 train, 1 valid, 1 test samples of darcy at 9 x 17, solver direct" in out
    assert "largest residual" in out


def test_generate_json_is_machine_readable(capsys: pytest.CaptureFixture[str], cwd: Path) -> None:
    args = "generate darcy -n 3 --resolution 9 --solver direct --set coefficient=smooth -o d --json"
    assert main(args.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["solver"], found["resolution"], found["solved"]) == ("direct", [9, 9], 5)
    assert found["splits"]["train"]["written"] == 3
    assert 0 <= found["splits"]["train"]["residual_max"] < 1e-10


def test_options_win_over_the_config_file(capsys: pytest.CaptureFixture[str], cwd: Path) -> None:
    Path("c.yaml").write_text(
        "problem: darcy\nn: 50\nn-valid: 1\nn_test: 1\nresolution: [9, 9]\nsolver: direct\n"
        "set: {coefficient: smooth, low: 1.0}\n"
    )
    args = "generate --config c.yaml -n 2 -o d --set low=2 --json"
    assert main(args.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["written"] == 2
    from pde_data.hdf5 import open_dataset

    params = open_dataset("d").config["params"]
    assert (params["coefficient"], params["low"]) == ("smooth", 2.0)


def test_config_file_with_an_unknown_name(capsys: pytest.CaptureFixture[str], cwd: Path) -> None:
    Path("c.yaml").write_text("resolutoin: 9\n")
    line = fails(capsys, "generate darcy -n 2 -o d --config c.yaml")
    assert "--config c.yaml: unknown name 'resolutoin'. Did you mean 'resolution'?" in line


def test_dataset_that_is_there_is_not_touched(
    capsys: pytest.CaptureFixture[str], darcy: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in darcy.rglob("*")}
    line = fails(capsys, f"generate darcy -n 6 --resolution 9 -o {darcy}")
    assert "exists already" in line and "--resume" in line
    line = fails(capsys, f"generate darcy -n 6 --resolution 17 --resume -o {darcy}")
    assert "resolution 9x9 -> 17x17" in line
    assert {p: p.stat().st_mtime_ns for p in darcy.rglob("*")} == before


def test_data_commands(capsys: pytest.CaptureFixture[str], darcy: Path, tmp_path: Path) -> None:
    assert main(["data", "info", str(darcy), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["splits"]["train"]["samples"] == 6
    assert main(["data", "info", str(darcy)]) == 0
    assert "inputs   a" in capsys.readouterr().out
    assert main(["data", "check", str(darcy), "--physics"]) == 0
    assert capsys.readouterr().out == ""
    file, back = tmp_path / "darcy.h5", tmp_path / "back"
    assert main(["data", "export", "h5", str(darcy), str(file)]) == 0
    assert main(["data", "import", "opkit", str(file), str(back)]) == 0
    capsys.readouterr()
    assert main(["data", "index", str(back), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["content_digest"] == info["content_digest"]


def test_a_damaged_dataset(capsys: pytest.CaptureFixture[str], darcy: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(darcy, copy)
    shard = next(copy.glob("data/train/*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    capsys.readouterr()
    assert main(["data", "check", str(copy), "--json"]) == 1  # the check failed
    findings = json.loads(capsys.readouterr().out)
    assert findings and all(f["file"] and f["message"] for f in findings)
    shard.write_bytes(content[: len(content) // 2])
    assert shard.name in fails(capsys, f"data info {shard}")
    (tmp_path / "text.h5").write_text("not HDF5")
    assert "not an HDF5 file" in fails(capsys, f"data info {tmp_path / 'text.h5'}")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"darcy"} <= set(found["problems"])
    assert {"mgno", "fno"} <= set(found["models"])
    assert {"structured", "pyamg", "direct", "fenicsx"} <= set(found["solvers"])
    assert {"rel_l2", "rel_h1", "max_error", "spectrum_error"} == set(found["metrics"])
    assert main(["list", "problems", "darcy"]) == 0
    assert "--set coefficient=two_valued" in capsys.readouterr().out


def test_failures_of_the_work_are_status_1(
    capsys: pytest.CaptureFixture[str], cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solvers.result import SolverDidNotConverge

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "d/data/train/x.h5")

    def stuck(*args: object, **kwargs: object) -> None:
        raise SolverDidNotConverge("pyamg", iterations=200, residual=0.1, rtol=1e-10)

    command = "generate darcy -n 2 --resolution 9 -o d"
    monkeypatch.setattr("pde_data.generate.generate", full)
    line = fails(capsys, command, status=1)
    assert line == "opkit: d/data/train/x.h5: No space left on device"
    monkeypatch.setattr("pde_data.generate.generate", stuck)
    assert "pyamg did not converge: residual 1.00e-01 after 200" in fails(capsys, command, status=1)


def test_interrupt_is_130_and_keeps_what_is_finished(cwd: Path) -> None:
    args = "generate darcy -n 4000 --resolution 33 --solver direct --samples-per-shard 4 -o d"
    process = subprocess.Popen(
        [sys.executable, "-m", "opkit", *args.split()],
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not list(cwd.glob("d/data/train/*.h5")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("opkit: interrupted")
    assert "Traceback" not in err
    from pde_data.hdf5 import check_dataset, open_dataset

    assert len(open_dataset(cwd / "d")["train"]) >= 4
    assert check_dataset(cwd / "d") == []


def test_reader_that_goes_away_leaves_no_traceback(darcy: Path) -> None:
    command = f"{sys.executable} -m opkit data info {darcy} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("generate", "pde_data.generate:GenerateConfig"),
        ("fit", "opkit.fit:FitConfig"),
        ("evaluate", "opkit.evaluate:EvaluateConfig"),
        ("predict", "opkit.predict:PredictConfig"),
    ],
)
def test_options_are_the_settings(command: str, model: str) -> None:
    """Every setting has an option of the same name, its default is told, and nothing else is."""
    import importlib

    from opkit import _functions
    from opkit.cli import _app

    module, _, name = model.partition(":")
    fields = getattr(importlib.import_module(module), name).model_fields
    group = typer.main.get_command(_app.app)
    params = {p.name: p for p in group.commands[command].params}  # type: ignore[attr-defined]
    shared = {"config", "json", "debug", "help", "sample_on"}
    aliases = _functions.ALIASES.get(command, {})
    options = {aliases.get(n.rstrip("_"), n.rstrip("_")) for n in params} - shared
    assert options == set(fields)
    for key, field in fields.items():
        help_text = getattr(params.get(key), "help", None) or ""
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            told = help_text.rpartition("(default ")[2].rstrip(".)")
            number = float(told[:-1]) / 100 if told.endswith("%") else told
            assert type(default)(number) == default, f"{command} --{key}: {help_text}"


def test_python_functions_have_the_signature_of_the_settings() -> None:
    import opkit

    signature = inspect.signature(opkit.generate)
    assert next(iter(signature.parameters)) == "problem"
    assert signature.parameters["n"].kind is inspect.Parameter.KEYWORD_ONLY
    assert signature.parameters["seed"].default == 0
    assert "Parameters\n----------" in (opkit.generate.__doc__ or "")


def test_python_function_is_the_command(
    darcy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import opkit
    from opkit.errors import UsageError

    made = opkit.generate(
        "darcy", n=6, n_valid=2, n_test=2, resolution=9, solver="direct", out=tmp_path / "d",
        progress=False,
    )  # fmt: skip
    there = opkit.open_dataset(darcy).content_digest
    assert made.manifest["content_digest"] == there
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UsageError, match=r"opkit\.generate: unknown name 'sede'"):
        opkit.generate("darcy", n=3, out=tmp_path / "e", sede=3)
    with pytest.raises(TypeError, match="takes 1 positional"):
        opkit.generate("darcy", 3)
    with pytest.raises(TypeError, match="problem is given twice"):
        opkit.generate("darcy", problem="darcy", n=3, out=tmp_path / "e")
