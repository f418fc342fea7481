"""What other software makes of a shard: The Well, xarray, plain h5py; and the documentation."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from pde_data.hdf5 import dataset_info, export_h5, format_info, open_dataset

S = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("h5_samples.py"))))
DOCS = Path(__file__).parents[3] / "docs" / "data_format.md"
SCHEMAS = {
    "static": S.darcy(),
    "1d": S.flow((7,)),
    "2d": S.flow((6, 5), dtype="float32"),
    "3d": S.flow((4, 3, 5)),
}


@pytest.fixture(scope="module", params=SCHEMAS, ids=str)
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    schema = SCHEMAS[request.param]
    _, stored = S.write_dataset(root, schema, {"train": 7, "valid": 3, "test": 2}, fail={5})
    export_h5(root, root / "all.h5")
    return root, schema, stored


_spec = importlib.util.spec_from_file_location(
    "opkit_well_rules", Path(__file__).parents[1] / "well_rules.py"
)
_rules = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rules)
breaches_of_the_wells_rules = _rules.breaches_of_the_wells_rules


def test_rules_of_the_well(made):
    root, schema, _ = made
    files = sorted(root.rglob("data/*/*.h5"))
    assert len(files) == 4
    for path in [*files, root / "train.h5", root / "all.h5"]:
        with h5py.File(path) as f:
            assert breaches_of_the_wells_rules(f) == [], path
            assert sorted(f.attrs["simulation_parameters"]) == sorted(
                s.name for s in schema.scalars if s.value is not None
            )


def test_the_rules_notice(made, tmp_path):
    path = next(made[0].rglob("data/train/*.h5"))
    for change in (
        lambda f: f.attrs.__setitem__("n_trajectories", 3),
        lambda f: f["time"].attrs.__setitem__("time_varying", False),
        lambda f: f["t0_fields"].attrs.__setitem__("field_names", 1.0),
    ):
        copy = tmp_path / "copy.h5"
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as f:
            change(f)
            try:
                assert breaches_of_the_wells_rules(f)
            except TypeError:  # no names at all
                pass


def test_loader_of_the_well(made):
    data = pytest.importorskip("the_well.data")
    from the_well.data.normalization import ZScoreNormalization

    root, schema, stored = made
    timed = schema.problem_type == "time_dependent"
    options = {"n_steps_input": 1, "n_steps_output": 1 if timed else 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        well = data.WellDataset(path=str(root), well_split_name="train", **options)
        scaled = data.WellDataset(
            path=str(root),
            well_split_name="train",
            use_normalization=True,
            normalization_type=ZScoreNormalization,
            **options,
        )
        item, normal = well[2], scaled[2]
    meta = well.metadata
    assert meta.n_spatial_dims == schema.grid.dim
    assert meta.spatial_resolution == schema.grid.shape
    assert meta.dataset_name == schema.problem
    assert sum(meta.n_trajectories_per_file) == 6
    sample = 2 if not timed else 2 // (len(schema.time) - 1)
    fields, scalars = stored[sample]
    if not timed:
        truth = np.stack([fields["a"], fields["u"]], -1).astype("f4")
        np.testing.assert_array_equal(item["constant_fields"], truth)
        u = fields["u"].astype("f4")
        values = np.stack([f["u"].astype("f4") for f, _ in stored.values()][:6])
        expected = (u - values.mean()) / values.std()
        np.testing.assert_allclose(normal["constant_fields"][..., 1], expected, atol=2e-6)
        assert item["boundary_conditions"].tolist() == [[0, 0], [0, 0]]  # walls
        assert item["constant_scalars"].tolist() == [1.0]
    else:
        step = 2 % (len(schema.time) - 1)
        names = [n.rpartition("_")[0] or n for order in range(3) for n in meta.field_names[order]]
        truth = np.concatenate(
            [
                fields[n].astype(schema.dtype)[step].reshape(*schema.grid.shape, -1)
                for n in dict.fromkeys(names)
            ],
            -1,
        )
        np.testing.assert_array_equal(item["input_fields"][0], truth)
        assert item["constant_scalars"].tolist() == pytest.approx([scalars["nu"], 2.0])
        bcs = item["boundary_conditions"].tolist()
        assert bcs[0] == [2, 2] and bcs[1:] == [[0, 0]] * (schema.grid.dim - 1)  # periodic, walls
        assert np.isfinite(normal["input_fields"].numpy()).all()
    axes = [np.asarray(item["space_grid"][..., i]) for i in range(schema.grid.dim)]
    for a, b in zip(axes, schema.grid.meshgrid(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_xarray(made):
    xarray = pytest.importorskip("xarray")
    root, schema, stored = made
    for name in ("data/train/{}_train_00000.h5", "train.h5", "all.h5"):
        with xarray.open_datatree(root / name.format(schema.problem), engine="h5netcdf") as tree:
            for role in ("inputs", "outputs"):
                assert set(tree[role].data_vars) == set(getattr(schema, role))
            for f in schema.fields:
                v = tree[f"t{f.rank}_fields/{f.name}"]
                dims = ("sample",) * f.sample_varying + schema.sample_dims(f.name)
                assert v.dims == dims
                assert v.attrs["units"] == f.units and v.attrs["long_name"] == f.long_name
            last = schema.outputs[-1]
            u = tree[f"outputs/{last}"]
            np.testing.assert_array_equal(u.sel(sample=2), stored[2][0][last].astype(schema.dtype))
            for a in schema.grid.axes:
                np.testing.assert_array_equal(u[a.name], a.coords)
                assert u[a.name].attrs["units"] == a.units
            assert u["time"].dtype == "float64" if "time" in u.coords else True
            assert tree["quality/residual"].dims == ("sample",)
            assert tree["failures/reason"].dims == ("failure",)


def test_plain_h5py(made):
    root, schema, stored = made
    path = root / f"data/train/{schema.problem}_train_00000.h5"
    with h5py.File(path) as f:
        name = schema.outputs[0]
        np.testing.assert_array_equal(
            f[f"outputs/{name}"][0], stored[0][0][name].astype(schema.dtype)
        )
        assert f["quality/residual"].attrs["norm"] == "relative_l2"
        assert f.attrs["complete"] and f.attrs["format_version"] == "1.0"
        for ds in (f[f"t{s.rank}_fields/{s.name}"] for s in schema.fields):
            assert ds.fletcher32 and ds.shuffle and ds.compression == "gzip"
            assert ds.dtype.str in ("<f4", "<f8")
        # no dataset outside the root has the name of a dimension (xarray refuses such files)
        scales = {k for k, v in f.items() if isinstance(v, h5py.Dataset)}
        inside = []
        f.visititems(lambda k, o: inside.append(k) if isinstance(o, h5py.Dataset) else None)
        assert not [k for k in inside if "/" in k and k.rsplit("/", 1)[1] in scales]
        superblock = path.read_bytes()[8]
    assert superblock == 2  # metadata checksums, readable from HDF5 1.8 on


# -- info ------------------------------------------------------------------------------------------


def test_info_of_a_shard(tmp_path):
    schema = S.darcy(128)
    config = S.config_of(schema, {"train": 3}, solver="pyamg.ruge_stuben+cg")
    S.write_shard(tmp_path, schema, config, "train", 0, estimator={"estimator": "richardson"})
    path = tmp_path / "data/train/darcy_train_00000.h5"
    info = dataset_info(path)
    assert format_info(info).splitlines() == [
        "darcy_train_00000.h5   format=opkit-dataset 1.0  layout=grid  problem=darcy (static)  "
        "split=train shard 0   3 samples",
        "  sample (3) i8 0…2     time (1) f8 = 0     x (128) f8 m [0,1] node     "
        "y (128) f8 m [0,2] node",
        "  inputs   a → t0_fields/a (sample,x,y) f4  m^2/(Pa*s)  permeability   in [3,12]   "
        "chunk (1,128,128) gzip4 shuffle fletcher32",
        "  outputs  u → t0_fields/u (sample,x,y) f4  Pa  pressure   ≥ 0",
        "  scalars  forcing () f8 1/s = 1",
        "  bc       x, y: dirichlet u = 0",
        "  quality  residual max 3.0e-12 · discretization_error mean 1.0e-03 (richardson, 1 of 3) "
        "· wall_time 0.25 s/sample · failures 0",
        f"  made by  opkit {info['made_by']['opkit_version']}, pyamg.ruge_stuben+cg tol 1e-10, "
        f"config {config.sha256[:4]}…, seed 7",
    ]


def test_info(made):
    import json

    root, schema, _ = made
    for path in (root, root / "train.h5", root / "all.h5", next(root.rglob("data/valid/*.h5"))):
        info = dataset_info(path)
        assert json.loads(json.dumps(info)) == info
        assert info["content_digest"] == open_dataset(path).content_digest
        text = format_info(info)
        for word in (
            schema.problem,
            *schema.inputs,
            *schema.outputs,
            *(s.name for s in schema.scalars),
        ):
            assert word in text
    train = dataset_info(root)["splits"]["train"]
    assert (train["samples"], train["failures"], train["files"]) == (6, 1, 2)
    assert "train" in format_info(dataset_info(root)) and "6 samples" in format_info(
        dataset_info(root)
    )


# -- documentation ---------------------------------------------------------------------------------


def test_examples_in_the_documentation(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    S.write_dataset(tmp_path / "darcy", S.darcy(33), {"train": 20, "valid": 4, "test": 4})
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
