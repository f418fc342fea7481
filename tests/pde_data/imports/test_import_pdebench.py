"""PDEBench's five kinds of files, made here in its layouts, become equal arrays in opkit."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from pde_data.hdf5 import (
    MissingMetadataError,
    MissingShardError,
    PhysicsCheckError,
    SchemaError,
    check_dataset,
    open_dataset,
)
from pde_data.imports import ImportOptions, import_data
from solvers import Grid, solve_diffusion

N, T, X = 20, 11, 64


def _centers(n, lower=0.0, upper=1.0):
    return (lower + (upper - lower) / n * (np.arange(n) + 0.5)).astype(np.float32)


def _advected(speed, n=N, seed=0):
    rng = np.random.default_rng(seed)
    x, t = _centers(X), np.linspace(0, 1, T)
    k = 2 * np.pi * np.arange(1, 4)
    a, p = rng.normal(size=(n, 3)), rng.uniform(0, 6, (n, 3))
    phase = k * (x[None, None, :, None] - speed * t[None, :, None, None])
    u = np.sum(a[:, None, None] * np.sin(phase + p[:, None, None]), axis=-1)
    return u.astype(np.float32)


def _one_dimensional(path, tensor, attrs, t_end=1.0):
    with h5py.File(path, "w") as f:
        f["tensor"] = tensor
        f["x-coordinate"] = _centers(tensor.shape[-1])
        n_t = tensor.shape[-2]
        f["t-coordinate"] = np.linspace(0, t_end, n_t)[-1] / (n_t - 1) * np.arange(n_t + 1)
        f.attrs.update(attrs)
    return path


def _outputs(path, split, name="u"):
    part = open_dataset(path)[split]
    return part.read(np.arange(len(part)), [name])[name]


def test_advection_arrays_split_and_times(tmp_path):
    u = _advected(0.4)
    file = _one_dimensional(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", u, {"beta": 0.4})
    manifest = import_data("pdebench", [file], tmp_path / "d")
    out = tmp_path / "d"
    # the first tenth is PDEBench's test set
    assert [manifest["splits"][s]["written"] for s in ("train", "valid", "test")] == [17, 1, 2]
    np.testing.assert_array_equal(_outputs(out, "test"), u[:2])
    np.testing.assert_array_equal(_outputs(out, "train"), u[2:19])
    np.testing.assert_array_equal(_outputs(out, "valid"), u[19:])
    schema = open_dataset(out).schema
    assert len(schema.time) == T and schema.time[-1] == pytest.approx(1.0)
    (axis,) = schema.grid.axes
    assert (axis.lower, axis.upper, axis.periodic, axis.location) == (0, 1, True, "cell_center")
    assert {s.name: s.value for s in schema.scalars} == {"beta": 0.4}
    assert check_dataset(out, physics=True) == []
    with h5py.File(next(out.rglob("*train_00000.h5"))) as f:
        p = f["provenance"].attrs
        assert p["source_file"] == file.name and len(p["source_sha256"]) == 64


def test_wrong_speed_is_refused_and_nothing_is_left(tmp_path):
    """PDEBench#46: the time scale was off by a factor of two."""
    file = _one_dimensional(tmp_path / "a.hdf5", _advected(0.2), {"beta": 0.4})
    with pytest.raises(PhysicsCheckError, match=r"20 of 20 .*beta=0\.4, the data moves with 0\.2"):
        import_data("pdebench", [file], tmp_path / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5"]


def test_drop_invalid_moves_to_failures(tmp_path):
    u = _advected(0.4)
    u[5] = _advected(0.8, seed=0)[5]
    file = _one_dimensional(tmp_path / "a.hdf5", u, {"beta": 0.4})
    with pytest.raises(PhysicsCheckError, match=r"1 of 20 samples fail .*train 3"):
        import_data("pdebench", [file], tmp_path / "d")
    manifest = import_data("pdebench", [file], tmp_path / "d", ImportOptions(drop_invalid=True))
    assert manifest["splits"]["train"]["failed"] == 1
    np.testing.assert_array_equal(_outputs(tmp_path / "d", "train"), np.delete(u[2:19], 3, axis=0))


def _logistic(limit):
    t = np.linspace(0, 4, 81)
    u0 = np.linspace(0.1, 0.3, N)[:, None, None] * np.ones((1, 1, X)) * limit
    e = np.exp(2.0 * t)[None, :, None]
    return (limit * u0 * e / (limit + u0 * (e - 1))).astype(np.float32)


def test_reaction_diffusion_with_the_wrong_limit_is_refused(tmp_path):
    """PDEBench#94: the data tends to 0.5 where the equation tends to 1."""
    attrs = {"Nu": 0.5, "rho": 2.0}
    right = _one_dimensional(tmp_path / "r.hdf5", _logistic(1.0), attrs, t_end=4.0)
    import_data("pdebench", [right], tmp_path / "right")
    wrong = _one_dimensional(tmp_path / "w.hdf5", _logistic(0.5), attrs, t_end=4.0)
    with pytest.raises(PhysicsCheckError, match="does not grow as rho"):
        import_data("pdebench", [wrong], tmp_path / "wrong")


def test_burgers_needs_its_mean_and_batched_files_are_not_darcy(tmp_path):
    u = np.stack([_advected(0.0), _advected(0.0, seed=1)])  # (B, N, T, X), PDEBench#57
    file = _one_dimensional(tmp_path / "b.hdf5", u, {"Nu": 0.1})
    import_data("pdebench", [file], tmp_path / "d")
    np.testing.assert_array_equal(_outputs(tmp_path / "d", "test"), u.reshape(-1, T, X)[:4])
    u[0, 3] += np.linspace(0, 1, T, dtype=np.float32)[:, None]
    drifting = _one_dimensional(tmp_path / "c.hdf5", u, {"Nu": 0.1})
    with pytest.raises(PhysicsCheckError, match="mean of u drifts"):
        import_data("pdebench", [drifting], tmp_path / "e")


def _darcy_file(path, scale=1.0):
    n, points = 12, 32
    rng = np.random.default_rng(3)
    a = np.where(rng.random((n, points, points)) < 0.5, 0.1, 1.0).astype(np.float32)
    grid = Grid.unit(points, dim=2, location="cell_center")
    u = np.stack([scale * solve_diffusion(v, 1.0, grid, solver="direct").x for v in a])
    with h5py.File(path, "w") as f:
        f["nu"], f["tensor"] = a, u[:, None].astype(np.float32)
        f["x-coordinate"] = f["y-coordinate"] = _centers(points)
        f.attrs["beta"] = 1.0
    return a, u.astype(np.float32)


def test_darcy(tmp_path):
    a, u = _darcy_file(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5")
    import_data("pdebench", [tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5"], tmp_path / "d")
    np.testing.assert_array_equal(_outputs(tmp_path / "d", "train", "a"), a[1:11])
    np.testing.assert_array_equal(_outputs(tmp_path / "d", "train"), u[1:11])
    assert check_dataset(tmp_path / "d", physics=True) == []
    _darcy_file(tmp_path / "half.hdf5", scale=0.5)
    with pytest.raises(PhysicsCheckError, match="away from opkit's solution"):
        import_data("pdebench", [tmp_path / "half.hdf5"], tmp_path / "e")


def test_compressible(tmp_path):
    rng = np.random.default_rng(0)
    shape = (10, 4, 16, 8)
    fields = {k: rng.random(shape).astype(np.float32) + 1 for k in ("pressure", "Vx", "Vy")}
    density = np.repeat(rng.random((10, 1, 16, 8)) + 1, 4, axis=1).astype(np.float32)
    with h5py.File(tmp_path / "2D_CFD_Rand_M0.1_periodic.hdf5", "w") as f:
        f["density"] = density
        for k, v in fields.items():
            f[k] = v
        f["x-coordinate"], f["y-coordinate"] = _centers(16), _centers(8)
        f["t-coordinate"] = 0.05 * np.arange(5)
        f.attrs.update({"eta": 0.01, "zeta": 0.01, "M": 0.1})
    import_data("pdebench", [tmp_path / "2D_CFD_Rand_M0.1_periodic.hdf5"], tmp_path / "d")
    velocity = _outputs(tmp_path / "d", "test", "velocity")
    np.testing.assert_array_equal(velocity, np.stack([fields["Vx"][:1], fields["Vy"][:1]], -1))
    schema = open_dataset(tmp_path / "d").schema
    assert schema.grid.periodic == (True, True) and len(schema.time) == 4
    assert {s.name: s.value for s in schema.scalars} == {"eta": 0.01, "zeta": 0.01, "mach": 0.1}


def test_per_seed_reports_missing_seeds_and_tests_on_the_last_tenth(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.random((20, 5, 8, 8, 2)).astype(np.float32)
    with h5py.File(tmp_path / "2D_diff-react_NA_NA.h5", "w") as f:
        for i in range(20):
            seed = i if i < 7 else i + 1  # 0007 is missing
            f[f"{seed:04d}/data"] = data[i]
            f[f"{seed:04d}/grid/t"] = np.linspace(0, 5, 5)
            for axis in "xy":
                f[f"{seed:04d}/grid/{axis}"] = _centers(8, -1, 1)
    manifest = import_data("pdebench", [tmp_path / "2D_diff-react_NA_NA.h5"], tmp_path / "d")
    assert manifest["splits"]["test"]["written"] == 2
    np.testing.assert_array_equal(_outputs(tmp_path / "d", "test", "v"), data[18:, ..., 1])
    with h5py.File(next((tmp_path / "d").rglob("*train_00000.h5"))) as f:
        assert "1 seeds missing in the file: 0007" in f["provenance"].attrs["import_notes"]
    assert open_dataset(tmp_path / "d").schema.grid.bounds == ((-1, 1), (-1, 1))


def test_incompressible_refuses_unfinished_runs_and_asks_for_the_domain(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "ns_incom.h5"
    with h5py.File(file, "w") as f:
        f["velocity"] = rng.random((4, 3, 8, 8, 2)).astype(np.float32)
        f["particles"] = rng.random((4, 3, 8, 8, 1)).astype(np.float32)
        f["force"] = rng.random((4, 8, 8, 2)).astype(np.float32)
        f["t"] = np.tile(np.linspace(0, 1, 3), (4, 1))
        f.attrs["latestIndex"] = 1
    options = ImportOptions(domain=((0.0, 1.0),))
    with pytest.raises(MissingShardError, match="stopped at frame 1 of 3"):
        import_data("pdebench", [file], tmp_path / "d", options)
    with h5py.File(file, "a") as f:
        f.attrs["latestIndex"] = 2
    with pytest.raises(MissingMetadataError, match="--domain"):
        import_data("pdebench", [file], tmp_path / "d")
    import_data("pdebench", [file], tmp_path / "d", options)
    with h5py.File(file) as f:
        np.testing.assert_array_equal(_outputs(tmp_path / "d", "test", "force"), f["force"][:1])


def test_other_files_are_refused_in_one_line(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["something"] = 1
    with pytest.raises(SchemaError, match=r"none of PDEBench's layouts \(found something"):
        import_data("pdebench", [tmp_path / "x.h5"], tmp_path / "d")
    (tmp_path / "y.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        import_data("pdebench", [tmp_path / "y.h5"], tmp_path / "d")
    with pytest.raises(FileNotFoundError):
        import_data("pdebench", [tmp_path / "z.h5"], tmp_path / "d")
    assert not (tmp_path / "d").exists()
