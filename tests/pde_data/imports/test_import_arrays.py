"""Files of bare arrays: what they do not say must be stated; nothing in them is executed."""

from __future__ import annotations

import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from pde_data.hdf5 import MissingMetadataError, SchemaError, check_dataset, open_dataset
from pde_data.hdf5.errors import NotAnOpkitFileError
from pde_data.imports import ImportOptions, import_data
from pde_data.imports.torch_file import load_tensors

STATED = ImportOptions(
    domain=((0.0, 1.0),),
    boundary="dirichlet",
    units={"a": "m^2/(Pa*s)", "u": "Pa"},
    fields={"x": "a", "y": "u"},
    values={"x": {0: 3.0, 1: 12.0}},
)


def _read(path, split, name):
    part = open_dataset(path)[split]
    return part.read(np.arange(len(part)), [name])[name]


def _darcy(path, n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 16, 16, generator=generator) > 0.5
    y = torch.rand(n, 16, 16, generator=generator)
    torch.save({"x": x, "y": y}, path)
    return x.numpy(), y.numpy()


def test_neuraloperator_darcy(tmp_path):
    x, y = _darcy(tmp_path / "darcy_train_16.pt", 20, 0)
    x_test, y_test = _darcy(tmp_path / "darcy_test_16.pt", 5, 1)
    from dataclasses import replace

    options = replace(STATED, test=(tmp_path / "darcy_test_16.pt",))
    import_data("neuraloperator", [tmp_path / "darcy_train_16.pt"], tmp_path / "d", options)
    np.testing.assert_array_equal(_read(tmp_path / "d", "train", "a"), np.where(x, 12, 3)[:18])
    np.testing.assert_array_equal(_read(tmp_path / "d", "valid", "u"), y[18:])
    np.testing.assert_array_equal(_read(tmp_path / "d", "test", "u"), y_test)
    np.testing.assert_array_equal(_read(tmp_path / "d", "test", "a"), np.where(x_test, 12, 3))
    schema = open_dataset(tmp_path / "d").schema
    assert schema.field("u").units == "Pa" and schema.boundary_of("u")[0] == ("dirichlet",) * 2
    assert check_dataset(tmp_path / "d") == []


def test_all_that_is_missing_is_named_at_once(tmp_path):
    _darcy(tmp_path / "darcy.pt", 4, 0)
    with pytest.raises(MissingMetadataError, match=r"--domain, --bc, --units, --map x=NAME"):
        import_data("neuraloperator", [tmp_path / "darcy.pt"], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_bounds_that_the_user_states_are_checked(tmp_path):
    x, y = _darcy(tmp_path / "darcy.pt", 12, 0)
    y[7, 3, 3] = -0.4
    torch.save({"x": torch.as_tensor(x), "y": torch.as_tensor(y)}, tmp_path / "darcy.pt")
    from dataclasses import replace

    options = replace(STATED, valid_min={"u": 0.0})
    with pytest.raises(ValueError, match=r"1 of 12 samples fail .*train 7.*below valid_min=0"):
        import_data("neuraloperator", [tmp_path / "darcy.pt"], tmp_path / "d", options)


def test_burgers_in_time(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((10, 16)), rng.random((10, 5, 16))
    data = {"x": x, "y": y, "visc": np.array([[0.1]]), "t": np.linspace(0, 1, 5)}
    torch.save({k: torch.as_tensor(v) for k, v in data.items()}, tmp_path / "burgers.pt")
    options = ImportOptions(domain=((0.0, 1.0),), boundary="periodic", units={"u": "1"})
    import_data("neuraloperator", [tmp_path / "burgers.pt"], tmp_path / "d", options)
    np.testing.assert_array_equal(_read(tmp_path / "d", "train", "u"), y[:9])
    schema = open_dataset(tmp_path / "d").schema
    assert schema.dtype == "float64" and schema.scalars[0].value == 0.1
    assert schema.time == tuple(np.linspace(0, 1, 5))


def test_tensors_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    saved = {"t": base.T, "part": base[1:3, ::2], "i": torch.tensor([1, 2]), "n": {"b": base > 3}}
    torch.save(saved, tmp_path / "t.pt")
    found = load_tensors(tmp_path / "t.pt")
    for key in ("t", "part", "i"):
        np.testing.assert_array_equal(found[key], saved[key].numpy())
    np.testing.assert_array_equal(found["n"]["b"], saved["n"]["b"].numpy())


class _Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Evil()}, "evil.pt")
    with pytest.raises(NotAnOpkitFileError, match="which is not data"):
        load_tensors(tmp_path / "evil.pt")
    np.savez("evil.npz", X=np.array([_Evil()], object), y=np.zeros(3))
    options = ImportOptions(units={"u": "1"})
    with pytest.raises(NotAnOpkitFileError, match="which is not data"):
        import_data("deepxde", ["evil.npz"], "d", options)
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(NotAnOpkitFileError, match=r"not a file of torch\.save"):
        load_tensors(tmp_path / "p.pt")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_fno_mat(tmp_path, version):
    rng = np.random.default_rng(0)
    coeff, sol = rng.random((10, 8, 12)), rng.random((10, 8, 12))
    file = tmp_path / "piececonst.mat"
    if version == "5":
        savemat(file, {"coeff": coeff, "sol": sol})
    else:
        with h5py.File(file, "w", userblock_size=512) as f:
            f["coeff"], f["sol"] = coeff.T, sol.T
        with file.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file".ljust(128))
    options = ImportOptions(domain=((0.0, 1.0),), boundary="dirichlet", units={"a": "1", "u": "1"})
    import_data("fno", [file], tmp_path / "d", options)
    np.testing.assert_array_equal(_read(tmp_path / "d", "train", "a"), coeff[:9])
    np.testing.assert_array_equal(_read(tmp_path / "d", "valid", "u"), sol[9:])


def test_fno_navier_stokes_has_time_last(tmp_path):
    rng = np.random.default_rng(0)
    a, u = rng.random((10, 8, 8)), rng.random((10, 8, 8, 4))
    savemat(tmp_path / "ns.mat", {"a": a, "u": u, "t": np.arange(1.0, 5.0)})
    options = ImportOptions(domain=((0.0, 1.0),), boundary="periodic", units={"u": "1/s"})
    import_data("fno", [tmp_path / "ns.mat"], tmp_path / "d", options)
    np.testing.assert_array_equal(_read(tmp_path / "d", "train", "u"), np.moveaxis(u[:9], -1, 1))


def test_deepxde_aligned_and_unaligned(tmp_path):
    rng = np.random.default_rng(0)
    u, y, s = rng.random((10, 6)), rng.random((7, 2)), rng.random((10, 7))
    x = np.empty(2, object)
    x[:] = [u, y]
    np.savez(tmp_path / "aligned.npz", X=x, y=s)
    options = ImportOptions(units={"u": "1", "s": "1"})
    import_data("deepxde", [tmp_path / "aligned.npz"], tmp_path / "d", options)
    np.testing.assert_array_equal(_read(tmp_path / "d", "train", "u"), u[:9])
    np.testing.assert_array_equal(_read(tmp_path / "d", "valid", "s"), s[9:])
    sample = open_dataset(tmp_path / "d")["train"][2]
    np.testing.assert_array_equal(sample["inputs"]["y"], y)

    points, values = rng.random((10, 2)), rng.random((10, 1))
    keys = {"X_train0": u, "X_train1": points, "y_train": values}
    np.savez(tmp_path / "unaligned.npz", **keys)
    import_data("deepxde", [tmp_path / "unaligned.npz"], tmp_path / "e", options)
    np.testing.assert_array_equal(_read(tmp_path / "e", "train", "y"), points[:9, None])
    np.testing.assert_array_equal(_read(tmp_path / "e", "train", "s"), values[:9])


def test_wrong_shapes_and_names(tmp_path):
    rng = np.random.default_rng(0)
    savemat(tmp_path / "m.mat", {"coeff": rng.random((4, 8, 8)), "sol": rng.random((4, 8, 9))})
    options = ImportOptions(domain=((0.0, 1.0),), boundary="neumann", units={"u": "1"})
    with pytest.raises(SchemaError, match="has shape"):
        import_data("fno", [tmp_path / "m.mat"], tmp_path / "d", options)
    savemat(tmp_path / "n.mat", {"foo": rng.random((4, 8, 8))})
    with pytest.raises(SchemaError, match="no input among the arrays foo"):
        import_data("fno", [tmp_path / "n.mat"], tmp_path / "d", options)
    with pytest.raises(ValueError, match=r"bc.*'wall'"):
        ImportOptions(boundary="wall")
