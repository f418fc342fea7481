"""Settings, error lines, exit statuses and progress: the pieces of every command."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from opkit.config import parse_resolution, parse_set, resolutions, resolve
from opkit.errors import UsageError, describe, exit_status
from opkit.progress import Progress, duration
from pde_data.hdf5.errors import DatasetError, TooManyFailuresError
from pde_data.problem import ProblemError
from solvers.names import UnknownNameError
from solvers.result import SolverDidNotConverge


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    epochs: int = Field(10, gt=0)
    loss: Literal["l2", "h1"] = "l2"
    n_valid: int | None = None
    options: dict[str, object] = {}

    @field_validator("data")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("data is empty: name a dataset")
        return value


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "data: d\nepochs: 3\nn-valid: 7\noptions: {a: 1, b: 2}\n")
    s = resolve(Settings, {"epochs": 5, "loss": None, "options": {"b": 3}}, config=file)
    assert s == Settings(data="d", epochs=5, n_valid=7, options={"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3\n", "unknown name 'epoch'. Did you mean 'epochs'? Allowed: data, epochs"),
        ("- 1\n", "need 'name: value' lines, found [1]"),
        ("a: [1\n", "not YAML: while parsing"),
        ("data: d\nepochs: 0\n", "epochs=0: input should be greater than 0"),
        ("data: d\nepochs: many\n", "epochs='many': input should be a valid integer"),
        ("data: d\nloss: l3\n", "loss='l3': input should be 'l2' or 'h1'"),
        ("data: ''\n", "data is empty: name a dataset"),
        ("", "data is missing"),
    ],
)
def test_mistakes_in_the_file_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as e:
        resolve(Settings, {}, config=write(tmp_path / "c.yaml", text))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"c\.yaml: No such file"):
        resolve(Settings, {}, config=tmp_path / "c.yaml")


def test_unknown_keyword_of_a_function_suggests() -> None:
    with pytest.raises(
        UsageError, match=r"opkit\.fit: unknown name 'epoch'. Did you mean 'epochs'"
    ):
        resolve(Settings, {"epoch": 3}, what="opkit.fit")


def test_set_values_are_yaml_scalars() -> None:
    items = ["a=2.5", "b=smooth", "c=[3, 12]", "d=true", "e=1e-3", "f=null", "g=x=y"]
    assert parse_set(items) == {
        "a": 2.5, "b": "smooth", "c": [3, 12], "d": True, "e": 1e-3, "f": None, "g": "x=y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["alpha"], "--set 'alpha': need key=value"),
        (["=1"], "--set '=1': need key=value"),
        (["a=1", "a=2"], "--set 'a=2': a is given twice"),
        (["a=[1"], "is not a YAML value"),
    ],
)
def test_bad_set(items: list[str], message: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_set(items)
    assert message in str(e.value)


def test_resolution() -> None:
    assert parse_resolution("128") == 128
    assert parse_resolution("128,64") == parse_resolution("128x64") == (128, 64)
    assert parse_resolution(None) is None
    for bad in ("abc", "12.5", "64,", "", "64x"):
        with pytest.raises(UsageError, match=r"--resolution '.*': need an integer"):
            parse_resolution(bad)


def test_several_resolutions() -> None:
    assert resolutions("32,64") == (32, 64)
    assert resolutions("32x64,64x128") == ((32, 64), (64, 128))
    assert resolutions(None) is None
    for bad in ("abc", "12.5", "64,", "", "64x"):
        with pytest.raises(UsageError, match=r"--resolution '.*': need integers such as 32,64"):
            resolutions(bad)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("n=0: need an integer >= 1"), 2, "n=0: need an integer >= 1"),
        (UnknownNameError("unknown model"), 2, "unknown model"),
        (ProblemError("resolution=2"), 2, "resolution=2"),
        (DatasetError("darcy:\n damaged"), 2, "darcy: damaged"),
        (
            FileNotFoundError("darcy: no such file or directory"),
            2,
            "darcy: no such file or directory",
        ),
        (FileExistsError(17, "File exists", "out"), 2, "out: File exists"),
        (TooManyFailuresError("61 of 1000"), 1, "61 of 1000"),
        (OSError(28, "No space left on device", "d/x.h5"), 1, "d/x.h5: No space left on device"),
        (RuntimeError("loss is NaN"), 1, "loss is NaN"),
        (MemoryError(), 1, "not enough memory"),
        (KeyError("k"), 1, "KeyError: 'k' (--debug shows where)"),
        (ImportError("install mpich"), 1, "install mpich"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_status_and_line(error: BaseException, status: int, line: str) -> None:
    assert (exit_status(error), describe(error)) == (status, line)


def test_a_solver_that_fails_is_a_failure_of_the_work() -> None:
    error = SolverDidNotConverge("pyamg", iterations=3, residual=0.1, rtol=1e-10)
    assert exit_status(error) == 1
    assert "pyamg did not converge: residual 1.00e-01 after 3 iterations" in describe(error)


def test_pydantic_errors_are_one_line_too() -> None:
    with pytest.raises(ValidationError) as e:
        Settings(data="d", epochs=-1)
    assert exit_status(e.value) == 2
    assert describe(e.value) == "epochs=-1: input should be greater than 0"


def test_aliases_stand_for_a_name(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "data: d\nset: {a: 1}\n")
    s = resolve(Settings, {"set": {"b": 2}}, config=file, aliases={"set": "options"})
    assert s.options == {"a": 1, "b": 2}


def test_plain_progress_tells_rate_time_left_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    with Progress("generating", 100, "samples", stream=stream) as p:
        p.update(0)
        clock[0] += 5
        p.update(10)  # too early for a line
        clock[0] += 5
        p.update(20)
        clock[0] += 40
        p.update(100, note="residual 1e-11")
    first, *_, last = stream.getvalue().splitlines()
    assert first == "generating: 20/100 samples, 2/s, 40 s left"
    assert last == "generating: 100/100 samples, 2/s, took 50 s, residual 1e-11"


def test_a_resumed_run_counts_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    p = Progress("generating", 1000, "samples", stream=io.StringIO())
    p.update(900)
    clock[0] = 10.0
    p.update(910)
    assert p.text() == "910/1000 samples, 1/s, 1 min 30 s left"


def test_progress_on_a_terminal_ends_with_a_plain_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("training", 4, "epochs", stream=stream) as p:
        for i in range(1, 5):
            p.update(i, note=f"loss {i}")
    assert "training: 4/4 epochs, " in stream.getvalue().splitlines()[-1]


def test_duration() -> None:
    assert [duration(s) for s in (0.0123, 7.4, 60, 754, 7300)] == [
        "12 ms", "7 s", "1 min 0 s", "12 min 34 s", "2 h 1 min",
    ]  # fmt: skip
