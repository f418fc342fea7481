"""The Well and netCDF, there and back."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import SchemaError, export_netcdf, export_well, open_dataset
from pde_data.imports import ImportOptions, import_data


def _well(path, n, mach, seed):
    """Write a file of The Well's layout: density and velocity, periodic in x, walls in y."""
    rng = np.random.default_rng(seed)
    density = rng.random((n, 4, 8, 6)).astype(np.float32)
    velocity = rng.random((n, 4, 8, 6, 2)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        f.attrs.update(
            {
                "dataset_name": "flow", "grid_type": "cartesian", "n_spatial_dims": 2,
                "n_trajectories": n, "simulation_parameters": ["mach"],
            }
        )  # fmt: skip
        d = f.create_group("dimensions")
        d.attrs["spatial_dims"] = ["x", "y"]
        d["time"], d["x"], d["y"] = np.linspace(0, 3, 4), np.arange(8) / 8, np.linspace(0, 1, 6)
        common = {"dim_varying": [True, True], "sample_varying": True, "time_varying": True}
        for name, values in (("t0_fields/density", density), ("t1_fields/velocity", velocity)):
            group = f.require_group(name.split("/")[0])
            group.attrs["field_names"] = [name.split("/")[1]]
            f[name] = values
            f[name].attrs.update(common)
        f.create_group("t2_fields").attrs["field_names"] = np.empty(0, h5py.string_dtype())
        s = f.create_group("scalars")
        s.attrs["field_names"] = ["mach"]
        s["mach"] = mach
        s["mach"].attrs.update({"sample_varying": False, "time_varying": False})
        for name, kind, axis in (("x_periodic", "PERIODIC", "x"), ("y_wall", "WALL", "y")):
            g = f.create_group(f"boundary_conditions/{name}")
            g.attrs.update({"bc_type": kind, "associated_dims": [axis], "associated_fields": []})
    return density, velocity


def test_well_arrays_splits_and_parameters_that_differ_between_files(tmp_path):
    base = tmp_path / "flow" / "data"
    a = _well(base / "train" / "a.hdf5", 3, 0.1, 0)
    b = _well(base / "train" / "b.hdf5", 2, 0.5, 1)
    _well(base / "valid" / "a.hdf5", 1, 0.1, 2)
    c = _well(base / "test" / "a.hdf5", 1, 0.5, 3)
    options = ImportOptions(units={"density": "kg/m^3", "velocity": "m/s", "x": "m", "time": "s"})
    manifest = import_data("well", [tmp_path / "flow"], tmp_path / "d", options)
    assert [s["written"] for s in manifest["splits"].values()] == [5, 1, 1]
    ds = open_dataset(tmp_path / "d")
    read = ds["train"].read(np.arange(5), ["density", "velocity", "mach"])
    np.testing.assert_array_equal(read["density"], np.concatenate([a[0], b[0]]))
    np.testing.assert_array_equal(read["velocity"], np.concatenate([a[1], b[1]]))
    np.testing.assert_array_equal(read["mach"], [0.1, 0.1, 0.1, 0.5, 0.5])
    np.testing.assert_array_equal(ds["test"][0]["outputs"]["density"], c[0][0])
    assert ds.schema.grid.periodic == (True, False) and ds.schema.grid.bounds == ((0, 1), (0, 1))
    assert ds.schema.field("velocity").units == "m/s" and ds.schema.time_units == "s"


def test_well_refuses_other_grids_and_files(tmp_path):
    _well(tmp_path / "a.hdf5", 2, 0.1, 0)
    with h5py.File(tmp_path / "a.hdf5", "a") as f:
        f["dimensions/y"][...] = np.linspace(0, 1, 6) ** 2
    with pytest.raises(SchemaError, match="y is not uniform"):
        import_data("well", [tmp_path / "a.hdf5"], tmp_path / "d")
    with h5py.File(tmp_path / "b.hdf5", "w") as f:
        f["x"] = 1
    with pytest.raises(SchemaError, match="not a file of The Well"):
        import_data("well", [tmp_path / "b.hdf5"], tmp_path / "d")


@pytest.fixture(scope="module")
def darcy(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "darcy"
    generate(GenerateConfig(problem="darcy", out=out, n=5, n_valid=2, n_test=2, resolution=9,
                            solver="direct"))  # fmt: skip
    return out


def test_export_netcdf_is_what_xarray_reads(darcy, tmp_path):
    import xarray

    files = export_netcdf(darcy, tmp_path / "nc")
    assert [p.name for p in files] == ["test.nc", "train.nc", "valid.nc"]
    ds = open_dataset(darcy)
    with xarray.open_dataset(tmp_path / "nc" / "train.nc", engine="h5netcdf") as x:
        assert x["u"].dims == ("sample", "x", "y") and x["u"].attrs["units"] == "Pa"
        np.testing.assert_array_equal(x["u"], ds["train"].read(np.arange(5), ["u"])["u"])
        np.testing.assert_array_equal(x["x"], ds.schema.grid.axes[0].coords)
        np.testing.assert_array_equal(x["quality_residual"], ds["train"].quality("residual"))
        assert x.attrs["inputs"] == "a" and float(x["forcing"]) == 1.0
    with pytest.raises(FileExistsError):
        export_netcdf(darcy, tmp_path / "nc")


def test_export_well_is_read_by_the_importer(darcy, tmp_path):
    export_well(darcy, tmp_path / "well")
    import_data("well", [tmp_path / "well"], tmp_path / "back")
    a, b = open_dataset(darcy), open_dataset(tmp_path / "back")
    for split in ("train", "valid", "test"):
        for name in ("a", "u"):
            i = np.arange(len(a[split]))
            np.testing.assert_array_equal(
                a[split].read(i, [name])[name], b[split].read(i, [name])[name]
            )


def test_export_well_is_read_by_the_well(darcy, tmp_path):
    from the_well.data import WellDataset

    export_well(darcy, tmp_path / "well")
    well = WellDataset(
        path=str(tmp_path / "well"), well_split_name="train", n_steps_input=1, n_steps_output=0
    )
    fields = well[2]["constant_fields"].numpy()
    ds = open_dataset(darcy)["train"].read([2], ["a", "u"])
    np.testing.assert_array_equal(fields, np.stack([ds["a"][0], ds["u"][0]], axis=-1))
