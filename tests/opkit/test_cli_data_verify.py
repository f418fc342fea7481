"""opkit verify, and opkit data import, export and repair, as a user meets them."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from opkit.cli import main
from pde_data.hdf5 import open_dataset
from pde_data.problems.poisson import Poisson
from pde_data.verification import at_most


def test_verify_prints_the_table_and_is_0(capsys):
    assert main("verify antiderivative".split()) == 0
    out = capsys.readouterr().out
    assert "residual, exact" in out and "hold" in out and "FAIL" not in out
    assert main("verify antiderivative --json".split()) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["passed"] and {"name", "measured", "asked"} <= set(found["checks"][0])


def test_verify_is_1_when_a_check_fails(monkeypatch, capsys):
    monkeypatch.setattr(Poisson, "checks", lambda self: [at_most("a wrong number", 1.0, 0.5)])
    assert main("verify poisson".split()) == 1
    assert "FAIL a wrong number" in capsys.readouterr().out

    def broken(self):
        raise RuntimeError("no solution known")
        yield

    monkeypatch.setattr(Poisson, "checks", broken)
    assert main("verify poisson".split()) == 1
    assert "RuntimeError: no solution known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("verify poison", "unknown problem 'poison'. Did you mean 'poisson'?"),
        ("verify poisson --seed -1", "seed=-1: need an integer >= 0"),
        ("verify poisson --set boundary=open", "boundary='open'"),
        ("data import pdebench a.h5", "need FILE... and the directory to make"),
        ("data import pdebench no.h5 out", "no.h5: no such file"),
        ("data import matlab a.mat out", "pdebench"),
        ("data import fno a.mat out --domain 0", "--domain 0: need LO,HI"),
        ("data import fno a.mat out --units Pa", "--units Pa: need NAME=VALUE"),
        ("data import fno a.mat out --map x=a:3", "need NAME=FIELD:{OLD:NEW,...}"),
        ("data import fno a.mat out --bc wall", "bc"),
        ("data export netcdf nowhere out", "nowhere"),
        ("data repair nowhere", "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_2(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mat").write_bytes(b"")
    assert main(command.split()) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1], err
    assert not (tmp_path / "out").exists()


def test_import_export_and_repair(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    coeff = (rng.random((10, 9, 9)) > 0.5).astype(float)
    savemat("piece.mat", {"coeff": coeff, "sol": rng.random((10, 9, 9))})
    command = "data import fno piece.mat d --domain 0,1 --bc dirichlet --units a=m^2/(Pa*s)"
    assert main([*command.split(), "--units", "u=Pa", "--map", "coeff=a:{0:3,1:12}"]) == 0
    assert "train: 9 samples" in capsys.readouterr().out
    np.testing.assert_array_equal(
        open_dataset("d")["train"].read([0], ["a"])["a"][0], np.where(coeff[0] == 1, 12, 3)
    )
    assert main("data check d".split()) == 0
    assert main("data export netcdf d nc".split()) == 0
    assert (tmp_path / "nc" / "train.nc").is_file()
    shard = tmp_path / "d" / "data" / "train" / next((tmp_path / "d/data/train").iterdir()).name
    with shard.open("r+b") as f:
        f.seek(shard.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 0xFF]))
    assert main("data repair d".split()) == 2
    assert "import it anew" in capsys.readouterr().err


def test_repair_makes_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("generate poisson -n 4 --resolution 9 --solver direct -o d".split()) == 0
    digest = json.loads((tmp_path / "d/dataset.json").read_text())["content_digest"]
    assert main("data repair d".split()) == 0
    assert "sound" in capsys.readouterr().out
    (shard,) = (tmp_path / "d/data/test").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main("data repair d".split()) == 0
    assert "test shard 0: made again" in capsys.readouterr().out
    assert main("data check d".split()) == 0
    assert json.loads((tmp_path / "d/dataset.json").read_text())["content_digest"] == digest
    with h5py.File(shard) as f:
        assert f.attrs["complete"]
