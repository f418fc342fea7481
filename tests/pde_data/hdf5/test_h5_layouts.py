"""Layouts mesh, ragged and series, extra fields, times a sample, parts of samples."""

import hashlib
import importlib.util
import json
import multiprocessing
import pickle
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml

from pde_data.hdf5 import (
    DatasetError,
    DatasetSchema,
    ExtraAxis,
    FieldSpec,
    InvalidSampleError,
    NonuniformAxis,
    SchemaError,
    ShardWriter,
    check_dataset,
    dataset_info,
    export_h5,
    find_damaged,
    format_info,
    import_h5,
    open_dataset,
    rebuild_index,
)
from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

S = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("h5_samples.py"))))
SCHEMAS = {
    "mesh": S.beam(),
    "ragged": S.pipes(),
    "series": S.ode(),
    "series, times a sample": S.ode(per_sample=True),
    "extra fields": S.sinogram(),
}


@pytest.fixture(scope="module", params=SCHEMAS)
def made(request, tmp_path_factory):
    """Dataset of 10 + 3 + 2 samples, one of which failed: schema, directory, what was written."""
    schema, root = SCHEMAS[request.param], tmp_path_factory.mktemp("made") / "d"
    _, stored = S.write_dataset(root, schema, fail={3}, more=True)
    return schema, root, stored


def same(sample, stored, schema):
    fields, scalars, more = stored
    for name, value in {**sample["inputs"], **sample["outputs"]}.items():
        if name in scalars:
            assert value == scalars[name]
        else:
            assert value.dtype == schema.dtype
            np.testing.assert_array_equal(value, fields[name].astype(schema.dtype))
    if "time" in more:
        np.testing.assert_array_equal(sample["time"], more["time"])
        np.testing.assert_array_equal(sample["coords"]["time"], more["time"])
    if "mesh" in more:
        assert sample["mesh"] == more["mesh"]
        np.testing.assert_array_equal(sample["coords"]["points"], more["mesh"].points)
        np.testing.assert_array_equal(sample["weights"], more["mesh"].point_weights)


def same_dataset(dataset, stored, schema):
    ids = []
    assert dataset.schema == schema
    for split in dataset.splits:
        for i, sample_id in enumerate(dataset[split].ids.tolist()):
            sample = dataset[split][i]
            assert sample["id"] == sample_id
            same(sample, stored[sample_id], schema)
            ids.append(sample_id)
    assert sorted(ids) == sorted(stored)


def test_what_is_written_is_read(made):
    schema, root, stored = made
    same_dataset(open_dataset(root), stored, schema)
    assert check_dataset(root, physics=True) == []


def test_without_compression(tmp_path, made):
    schema, root, stored = made
    S.write_dataset(tmp_path / "d", schema, fail={3}, compression=None)
    assert check_dataset(tmp_path / "d") == []
    plain, packed = open_dataset(tmp_path / "d"), open_dataset(root)
    assert plain.content_digest == packed.content_digest
    same_dataset(plain, stored, schema)


def test_several_at_once(made):
    schema, root, stored = made
    split = open_dataset(root)["train"]
    index = [4, 0, 0, -1, 7, 3]
    names = [f.name for f in schema.fields]
    for name, values in split.read(index, names).items():
        assert len(values) == len(index)
        for i, u in zip(index, values, strict=True):
            expected = stored[int(split.ids[i])][0][name].astype(schema.dtype)
            np.testing.assert_array_equal(u, expected)


def _first_and_last(split):
    return split[0]["id"], split[len(split) - 1]["inputs"], len(split)


def test_in_other_processes(made):
    split = open_dataset(made[1])["train"]
    first = _first_and_last(split)
    again = pickle.loads(pickle.dumps(split))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(_first_and_last, [split, again, split]):
            assert found[0] == first[0] and found[2] == first[2]
            for name, value in first[1].items():
                np.testing.assert_array_equal(found[1][name], value)


def test_axes_in_the_file(made):
    schema, root, _ = made
    with h5py.File(open_dataset(root)["train"].files[0]) as f:
        assert f.attrs["layout"] == schema.layout
        assert f.attrs["n_spatial_dims"] == schema.dim
        meshed = schema.layout in ("mesh", "ragged")
        assert f.attrs["grid_type"] == ("unstructured" if meshed else "cartesian")
        for spec in schema.fields:
            role = "inputs" if spec.name in schema.inputs else "outputs"
            if spec.name not in (*schema.inputs, *schema.outputs):
                continue
            ds = f[f"{role}/{spec.name}"]
            dims = [next(iter(d.keys())) for d in ds.dims]
            expected = list(schema.sample_dims(spec.name))
            if schema.layout == "ragged" and spec.dims is None:
                place = "cell" if spec.location == "cell" else "point"
                expected = [place, *(d for d in expected if d != place)]
            elif spec.sample_varying:
                expected = ["sample", *expected]
            assert dims == expected
            assert ("dim_varying" in ds.attrs) == (spec.dims is None)
            target = f[role].get(spec.name, getlink=True).path
            assert target.startswith("/extra_fields/") == (spec.dims is not None)
            for d in ds.dims:
                assert len(d[0]) == ds.shape[list(ds.dims).index(d)]
        if schema.time_per_sample:
            assert f["time"].shape == (len(f["sample"]), len(schema.time))
            assert not f["time"].is_scale and f["step"].is_scale
            assert f["time"].attrs["sample_varying"]
        if schema.layout == "series":
            assert list(f["extra_fields/state"].attrs["state_var_names"]) == ["x", "v"]


def test_xarray(made):
    import xarray

    schema, root, _ = made
    file = open_dataset(root)["train"].files[0]
    options = {"phony_dims": "sort"} if schema.layout in ("mesh", "ragged") else {}
    with xarray.open_datatree(file, engine="h5netcdf", **options) as tree:
        for name in schema.outputs:
            spec = schema.field(name)
            dims = schema.sample_dims(name)
            if schema.layout == "ragged" and spec.dims is None:
                dims = ("point", *(d for d in dims if d != "point"))
            else:
                dims = ("sample", *dims)
            assert tree["outputs"][name].dims == dims
        for axis in schema.axes:
            np.testing.assert_array_equal(tree[axis.name], axis.coords)


def test_digest_by_hand(made):
    schema, root, _ = made
    with h5py.File(open_dataset(root)["train"].files[1]) as f:
        k = 2
        ragged = schema.layout == "ragged"

        def feed(h, name, v):
            h.update(name.encode() + b"\0" + v.dtype.str.encode() + b"\0")
            h.update(np.array(v.shape, "<i8").tobytes() + v.tobytes())

        h = hashlib.blake2b(digest_size=16)
        if ragged:
            a, b = f["mesh/sample_point_offsets"][k : k + 2]
            c, d = f["mesh/sample_cell_offsets"][k : k + 2]
            start, stop = f["mesh/cell_offsets"][c], f["mesh/cell_offsets"][d]
            feed(h, "points", f["mesh/points"][a:b])
            feed(h, "connectivity", f["mesh/connectivity"][start:stop])
        for role in ("inputs", "outputs"):
            for name in f[role].attrs["field_names"]:
                ds = f[f"{role}/{name}"]
                first = next(iter(ds.dims[0].keys()))
                rows = {"point": slice(a, b), "cell": slice(c, d)} if ragged else {}
                feed(h, name, ds[rows.get(first, k)])
            if role == "inputs":
                assert h.hexdigest().encode() == f["quality/input_digest"][k]
        assert h.hexdigest().encode() == f["quality/digest"][k]


def test_content_does_not_depend_on_shards(tmp_path, made):
    schema, root, _ = made
    S.write_dataset(tmp_path / "d", schema, fail={3}, samples_per_shard=7)
    assert open_dataset(tmp_path / "d").content_digest == open_dataset(root).content_digest


def test_export_and_back(tmp_path, made):
    schema, root, stored = made
    file = export_h5(root, tmp_path / "one.h5")
    assert check_dataset(file, physics=True) == []
    same_dataset(open_dataset(file), stored, schema)
    export_h5(root, tmp_path / "two.h5")
    assert file.read_bytes() == (tmp_path / "two.h5").read_bytes()
    import_h5(file, tmp_path / "back")
    assert check_dataset(tmp_path / "back", physics=True) == []
    back = open_dataset(tmp_path / "back")
    same_dataset(back, stored, schema)
    assert back.content_digest == open_dataset(root).content_digest


def test_export_with_chunks_that_are_not_full(tmp_path, monkeypatch):
    monkeypatch.setattr("pde_data.hdf5._mesh.KIB", 4)  # chunks of 512 bytes
    schema = S.pipes()
    _, stored = S.write_dataset(tmp_path / "d", schema, more=True)
    with h5py.File(open_dataset(tmp_path / "d")["train"].files[0]) as f:
        assert f["mesh/points"].shape[0] > 2 * f["mesh/points"].chunks[0]
    file = export_h5(tmp_path / "d", tmp_path / "one.h5")
    same_dataset(open_dataset(file), stored, schema)
    import_h5(file, tmp_path / "back")
    same_dataset(open_dataset(tmp_path / "back"), stored, schema)


def test_views(tmp_path, made):
    schema, root, stored = made
    manifest = json.loads((root / "dataset.json").read_text())
    if schema.layout == "ragged":  # positions of points differ from shard to shard
        assert manifest["views"] == [] and not (root / "train.h5").exists()
        return
    assert manifest["views"] == ["train.h5", "valid.h5", "test.h5"]
    split = open_dataset(root / "train.h5")["train"]
    for i, sample_id in enumerate(split.ids.tolist()):
        same(split[i], stored[sample_id], schema)
    name = schema.outputs[0]
    with h5py.File(root / "train.h5") as f:
        np.testing.assert_array_equal(
            f[f"outputs/{name}"][-1], split[len(split) - 1]["outputs"][name]
        )
        if schema.mesh is not None:
            np.testing.assert_array_equal(f["mesh/points"], schema.mesh.points)
        if schema.time_per_sample:
            np.testing.assert_array_equal(f["time"][-1], split[len(split) - 1]["time"])


def test_statistics_are_numpys(made):
    schema, root, stored = made
    stats = yaml.safe_load((root / "stats.yaml").read_text())
    train = [v[0] for i, v in stored.items() if i < 10**9]
    for spec in schema.fields:
        samples = [v[spec.name].astype(schema.dtype).astype(float) for v in train]
        shape = (len(spec.labels),) if spec.labels else (schema.dim,) * spec.rank
        samples = samples if spec.sample_varying else samples[:1]
        values = np.concatenate([u.reshape(-1, *shape) for u in samples])
        np.testing.assert_allclose(stats["mean"][spec.name], values.mean(axis=0), atol=1e-7)
        np.testing.assert_allclose(stats["std"][spec.name], values.std(axis=0), rtol=1e-7)
        if spec.time_varying:
            steps = np.concatenate([np.diff(u, axis=0).reshape(-1, *shape) for u in samples])
            np.testing.assert_allclose(stats["std_delta"][spec.name], steps.std(axis=0), rtol=1e-7)
            assert np.shape(stats["mean_delta"][spec.name]) == shape


def test_index_without_the_writers_statistics(tmp_path, made):
    _schema, root, _ = made
    copy = shutil.copytree(root, tmp_path / "d")
    before = yaml.safe_load((copy / "stats.yaml").read_text())
    for path in (copy / "data").glob("*/*.h5"):
        with h5py.File(path, "r+") as f:
            del f["provenance"].attrs["statistics"]
    rebuild_index(copy)
    after = yaml.safe_load((copy / "stats.yaml").read_text())
    for key, fields in before.items():
        for name, value in fields.items():
            np.testing.assert_allclose(after[key][name], value, rtol=1e-6, atol=1e-8)


def test_info(made):
    schema, root, stored = made
    info = dataset_info(root)
    text = format_info(info)
    assert json.loads(json.dumps(info)) == info
    assert f"layout={schema.layout}" in text
    for axis in schema.axes:
        assert f"{axis.name} ({len(axis.coords)}) f8 {axis.units}" in text
    if schema.layout == "mesh":
        assert "mesh 2D m 25 points, 32 cells (triangle)" in text.replace(
            f"{schema.mesh.n_cells} cells", "32 cells"
        )
        assert info["mesh"]["mesh_size"] == pytest.approx(schema.mesh.max_diameter)
    if schema.layout == "ragged":
        meshes = [v[2]["mesh"] for v in stored.values()]
        points = [m.n_points for m in meshes]
        assert info["mesh"]["points"] == [min(points), max(points)]
        assert info["mesh"]["mesh_size"] == pytest.approx(max(m.max_diameter for m in meshes))
        assert f"{min(points)}…{max(points)} points" in text
    if schema.layout == "series":
        assert "state_var (2) f8 1 x,v" in text


# -- meshes --------------------------------------------------------------------------------------


def clouds():
    """Layout ragged, points without cells."""
    return DatasetSchema(
        problem="cloud", title="Points", grid=Grid(), layout="ragged", space_dim=3,
        fields=(FieldSpec("a", "a", location="point"), FieldSpec("u", "u", location="point")),
        inputs=("a",), outputs=("u",),
    )  # fmt: skip


def write(root, schema, samples, **options):
    """One shard of the given ``add`` arguments."""
    config = S.config_of(schema, {"train": len(samples)}, samples_per_shard=len(samples))
    with ShardWriter(root, split="train", shard=0, schema=schema, config=config, **options) as w:
        for i, s in zip(w.sample_ids, samples, strict=True):
            w.add(i, **{"residual": 0.0, "iterations": 1, "wall_time": 0.0, **s})
    rebuild_index(root)
    return open_dataset(root)["train"]


def test_point_clouds(tmp_path):
    rng = np.random.default_rng(0)
    meshes = [Mesh(rng.normal(size=(n, 3)), rng.uniform(size=n)) for n in (5, 1, 9)]
    samples = [
        {"mesh": m, "fields": {"a": m.points[:, 0], "u": m.points.sum(axis=1)}} for m in meshes
    ]
    split = write(tmp_path, clouds(), samples)
    assert check_dataset(tmp_path) == []
    with h5py.File(split.files[0]) as f:
        assert set(f["mesh"]) == {"points", "point_weights", "sample_point_offsets"}
        assert "mesh_size" not in f["provenance"].attrs
    for i, (m, s) in enumerate(zip(meshes, samples, strict=True)):
        assert split.mesh(i) == m
        np.testing.assert_array_equal(split[i]["outputs"]["u"], s["fields"]["u"].astype("f4"))
    export_h5(tmp_path, tmp_path / "one.h5")
    assert open_dataset(tmp_path / "one.h5")["train"].mesh(2) == meshes[2]


def test_cells_from_the_second_sample_on(tmp_path):
    rng = np.random.default_rng(1)
    cube = S.square_mesh(3, dim=3)
    meshes = [Mesh(rng.normal(size=(4, 3)), np.ones(4)), cube, Mesh(np.eye(3), np.ones(3)), cube]
    samples = [{"mesh": m, "fields": {"a": m.points[:, 0], "u": m.points[:, 1]}} for m in meshes]
    split = write(tmp_path, clouds(), samples)
    assert check_dataset(tmp_path) == []
    assert [split.mesh(i) == m for i, m in enumerate(meshes)] == [True] * 4


def polygon_area(points):
    """Area of the convex hull by the shoelace formula."""
    from scipy.spatial import ConvexHull

    x, y = points[ConvexHull(points).vertices].T
    return 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))


def test_100_random_triangulations(tmp_path):
    rng = np.random.default_rng(2)
    schema = replace(
        clouds(), space_dim=2, fields=(*clouds().fields, FieldSpec("c", "c", location="cell")),
        inputs=("a", "c"),
    )  # fmt: skip
    meshes = [S.random_mesh(rng) for _ in range(100)]
    samples = [
        {
            "mesh": m,
            "fields": {
                "a": rng.normal(size=m.n_points),
                "u": rng.normal(size=m.n_points),
                "c": rng.normal(size=m.n_cells),
            },
        }
        for m in meshes
    ]
    split = write(tmp_path, schema, samples)
    assert check_dataset(tmp_path) == []
    with h5py.File(split.files[0]) as f:
        points, weights = f["mesh/points"][:], f["mesh/point_weights"][:]
        offsets, cells = f["mesh/sample_point_offsets"][:], f["mesh/sample_cell_offsets"][:]
        u, c = f["outputs/u"][:], f["inputs/c"][:]
    for i in rng.permutation(100):
        p = slice(offsets[i], offsets[i + 1])
        assert weights[p].sum() == pytest.approx(polygon_area(points[p]), rel=1e-10)
        np.testing.assert_array_equal(points[p], meshes[i].points)
        np.testing.assert_array_equal(u[p], samples[i]["fields"]["u"].astype("f4"))
        np.testing.assert_array_equal(
            c[cells[i] : cells[i + 1]], samples[i]["fields"]["c"].astype("f4")
        )
        # VTK's numbering: the area of each triangle from its own points
        m = split.mesh(int(i))
        a, b, d = (m.points[m.connectivity[k::3]] for k in range(3))
        cross = (b - a)[:, 0] * (d - a)[:, 1] - (b - a)[:, 1] * (d - a)[:, 0]
        assert 0.5 * np.abs(cross).sum() == pytest.approx(polygon_area(m.points), rel=1e-10)


@pytest.mark.skipif(importlib.util.find_spec("pyvista") is None, reason="pyvista")
def test_pyvista(tmp_path):
    pyvista = pytest.importorskip("pyvista")
    m = S.random_mesh(np.random.default_rng(3))
    cells = np.insert(m.connectivity, m.cell_offsets[:-1], np.diff(m.cell_offsets))
    points = np.pad(m.points, ((0, 0), (0, 1)))
    grid = pyvista.UnstructuredGrid(cells, m.cell_types, points)
    area = grid.compute_cell_sizes()["Area"].sum()
    assert area == pytest.approx(polygon_area(m.points), rel=1e-6)


def test_a_sample_is_read_in_one_slice(tmp_path, monkeypatch):
    S.write_dataset(tmp_path / "d", S.pipes())
    split = open_dataset(tmp_path / "d")["train"]
    split.read([0])
    reads = []
    plain = h5py.Dataset.__getitem__

    def counted(self, args, **kw):
        if "fields" in self.name:
            reads.append(self.name)
        return plain(self, args, **kw)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    split.read([5], ["T", "q"])
    assert sorted(reads) == ["/t0_fields/T", "/t1_fields/q"]


def test_boundary_points(tmp_path):
    root = tmp_path / "d"
    schema = S.pipes()
    _, stored = S.write_dataset(root, schema, more=True)
    with h5py.File(open_dataset(root)["train"].files[0]) as f:
        group = f["boundary_conditions/boundary_wall"]
        assert list(group.attrs["associated_dims"]) == ["point"]
        expected, start = [], 0
        for i in f["sample"][:].tolist():
            mesh = stored[i][2]["mesh"]
            expected += (mesh.boundary_points() + start).tolist()
            start += mesh.n_points
        assert group["point_index"][:].tolist() == expected
        assert np.all(f["outputs/T"][:][expected] == 0)
    S.write_dataset(tmp_path / "beam", S.beam())
    with h5py.File(open_dataset(tmp_path / "beam")["train"].files[0]) as f:
        found = {tuple(g["point_index"][:]) for g in f["boundary_conditions"].values()}
        assert found == {(0, 1, 2), tuple(S.beam().mesh.boundary_points())}


# -- what the writer refuses ---------------------------------------------------------------------


def _good(schema, rng=None):
    fields, scalars, more = S.draw(schema, rng or np.random.default_rng(0))
    return {"fields": fields, "scalars": scalars, **more}


@pytest.mark.parametrize(
    ("schema", "change", "error", "words"),
    [
        (S.pipes(), {"mesh": None}, SchemaError, "mesh is missing"),
        (S.beam(), {"mesh": S.square_mesh(3)}, SchemaError, "mesh is given"),
        (S.pipes(), {"mesh": S.square_mesh(3, dim=3)}, SchemaError, "3 coordinates"),
        (S.pipes(), {"mesh": S.square_mesh(9)}, SchemaError, "k has shape"),
        (S.pipes(), {"time": None}, SchemaError, "time is missing"),
        (S.ode(), {"time": np.arange(5.0)}, SchemaError, "time is given"),
        (S.pipes(), {"time": np.arange(4.0)}, SchemaError, "time has shape (4,), expected (3,)"),
        (S.pipes(), {"time": np.array([0.0, 2, 1])}, InvalidSampleError, "increasing"),
        (S.pipes(), {"time": np.array([0.0, 2, np.nan])}, InvalidSampleError, "finite"),
    ],
)  # fmt: skip
def test_refused(tmp_path, schema, change, error, words):
    with pytest.raises(error) as e:
        write(tmp_path, schema, [{**_good(schema), **change}])
    assert words in str(e.value) and "\n" not in str(e.value)
    assert list(tmp_path.rglob("*.h5")) == []


def test_meshes_in_other_units_than_the_first(tmp_path):
    good = _good(S.pipes())
    other = {**good, "mesh": replace(good["mesh"], units="mm")}
    with pytest.raises(SchemaError, match="units are 'mm', those of the first sample 'm'"):
        write(tmp_path, S.pipes(), [good, other])


@pytest.mark.parametrize(
    ("schema", "change", "words"),
    [
        (S.ode(), {"axes": (*S.ode().axes, ExtraAxis.index("idle", 3))}, "'idle'"),
        (S.ode(), {"fields": (FieldSpec("state", "s"),), "axes": ()}, "no space"),
        (S.pipes(), {"fields": tuple(replace(f, sample_varying=False) for f in S.pipes().fields)},
         "points vary"),
        (S.beam(), {"boundary_conditions": (replace(S.beam().boundary_conditions[1],
                                                    points=(0, 25)),)}, "0 to 24"),
        (S.beam(), {"boundary_conditions": (replace(S.beam().boundary_conditions[0],
                                                    axis="x"),)}, "boundary"),
    ],
)  # fmt: skip
def test_schemas_that_make_no_sense(schema, change, words):
    with pytest.raises(ValueError, match=words):
        replace(schema, **change)


def test_time_error(tmp_path):
    schema = S.ode()
    samples = [_good(schema) | {"time_error": t} for t in (np.nan, 1e-3, 2e-4)]
    split = write(tmp_path / "a", schema, samples)
    np.testing.assert_array_equal(split.quality("time_error"), [np.nan, 1e-3, 2e-4])
    with h5py.File(split.files[0]) as f:
        assert f["quality/time_error"].attrs["estimator"] == "solver"
    assert "time_error max 1.0e-03" in format_info(dataset_info(split.files[0]))
    with pytest.raises(SchemaError):
        write(tmp_path / "b", S.sinogram(), [_good(S.sinogram())]).quality("group")
    # a shard without any does not have the column; view and export fill it in
    config = S.config_of(schema, {"train": 2}, samples_per_shard=1)
    for k, error in enumerate((np.nan, 0.5)):
        root = tmp_path / "c"
        with ShardWriter(root, split="train", shard=k, schema=schema, config=config) as w:
            w.add(
                k,
                residual=0,
                iterations=1,
                wall_time=0,
                time_error=error,
                **_good(schema, w.rng(k)),
            )
    rebuild_index(root)
    assert check_dataset(root) == []
    export_h5(root, tmp_path / "one.h5")
    for path in (root, root / "train.h5", tmp_path / "one.h5"):
        found = open_dataset(path)["train"].quality("time_error")
        np.testing.assert_array_equal(found, [np.nan, 0.5])


# -- what the checks find ------------------------------------------------------------------------


def _edit(path, change):
    with h5py.File(path, "r+") as f:
        change(f)


def _put(f, name, at, value):
    f[name][at] = value


@pytest.mark.parametrize(
    ("schema", "change", "words"),
    [
        (S.pipes(), lambda f: _put(f, "mesh/sample_point_offsets", 1, 0), "does not increase"),
        (S.pipes(), lambda f: _put(f, "mesh/sample_point_offsets", 4, 7), "does not increase"),
        (S.pipes(), lambda f: _put(f, "mesh/sample_cell_offsets", 0, 1), "expected 0 to"),
        (S.pipes(), lambda f: _put(f, "mesh/connectivity", 5, 10**6), "point numbers run"),
        (S.pipes(), lambda f: _put(f, "mesh/connectivity", 0, -1), "point numbers run"),
        (S.pipes(), lambda f: _put(f, "mesh/cell_offsets", 3, 10**9), "do not increase"),
        (S.pipes(), lambda f: _put(f, "mesh/cell_types", 2, 77), "cell_types [77]"),
        (S.pipes(), lambda f: _put(f, "mesh/cell_types", 2, 9), "a quad has 4 points"),
        (S.pipes(), lambda f: _put(f, "mesh/point_weights", 4, 5.0), "point_weights add up to"),
        (S.pipes(), lambda f: _put(f, "mesh/points", (2, 0), np.nan), "NaN"),
        (S.pipes(), lambda f: _put(f, "time", (1, 2), -1.0), "not strictly increasing"),
        (S.pipes(), lambda f: _put(f, "boundary_conditions/boundary_wall/point_index", 0, 10**6),
         "points run from 0"),
        (S.pipes(), lambda f: _put(f, "t0_fields/T", (3, 1), 99.0), "do not match"),
        (S.beam(), lambda f: _put(f, "mesh/connectivity", 0, 25), "point numbers run"),
        (S.beam(), lambda f: _put(f, "mesh/point_weights", 0, 1.0), "point_weights add up to"),
        (S.beam(), lambda f: f.__delitem__("mesh/points"), "mesh/points is missing"),
        (S.beam(), lambda f: f["mesh/points"].attrs.__delitem__("units"), "no attribute 'units'"),
        (S.ode(), lambda f: _put(f, "sensor", 1, -5.0), "strictly increasing"),
        (S.ode(), lambda f: f["extra_fields/state"].dims[2].detach_scale(f["state_var"]),
         "no dimension scale"),
        (S.ode(), lambda f: f["extra_fields/state"].attrs.__delitem__("units"), "'units'"),
    ],
)  # fmt: skip
def test_what_the_checks_find(tmp_path, schema, change, words):
    S.write_dataset(tmp_path / "d", schema, compression=None)
    shard = open_dataset(tmp_path / "d")["train"].files[0]
    _edit(shard, change)
    findings = [f for f in check_dataset(shard) if words in f.message]
    assert findings and all(shard.name in f.message and "\n" not in f.message for f in findings)


def test_physics_on_meshes(tmp_path):
    for schema, field in ((S.beam(), "load"), (S.pipes(), "T")):
        sample = _good(schema)
        mesh = schema.mesh or sample["mesh"]
        sample["fields"][field][..., mesh.boundary_points()[2]] = 1.0
        write(tmp_path / schema.problem, schema, [_good(schema), sample])
        (finding,) = check_dataset(tmp_path / schema.problem, physics=True)
        assert finding.kind == "PhysicsCheckError"
        assert f"{field} is not 0 on the dirichlet boundary in 1 of 2" in finding.message
    schema = S.beam()
    bare = replace(schema, fields=tuple(replace(f, valid_min=None) for f in schema.fields))
    sample = _good(schema)
    sample["fields"]["E"][4] = -2.0
    path = write(tmp_path / "bounds", bare, [sample]).files[0]
    _edit(path, lambda f: f["t0_fields/E"].attrs.__setitem__("valid_min", 0.0))
    assert any("below valid_min=0" in f.message for f in check_dataset(path, physics=True))


def test_find_damaged(tmp_path):
    root = tmp_path / "d"
    S.write_dataset(root, S.pipes(), {"train": 12, "valid": 4})
    assert find_damaged(root) == []
    a, b, c = sorted((root / "data/train").glob("*.h5"))
    data = bytearray(a.read_bytes())
    data[len(data) // 2] ^= 1
    a.write_bytes(data)
    c.unlink()
    found = find_damaged(root)
    assert [(d.split, d.shard, d.path) for d in found] == [("train", 0, a), ("train", 2, c)]
    assert "SHA-256" in found[0].reason and "missing" in found[1].reason
    # without the manifest the samples are read
    (root / "dataset.json").unlink()
    assert [d.path for d in find_damaged(root)] in ([a], [])
    b.write_bytes(b.read_bytes()[:-100])
    assert b in [d.path for d in find_damaged(root)]
    with pytest.raises(FileNotFoundError):
        find_damaged(tmp_path / "nothing")
    with pytest.raises(DatasetError):
        find_damaged(tmp_path)


# -- parts of samples ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow") / "d"
    schema = S.flow((6, 5), times=(0.0, 0.5, 2.0, 3.0, 7.0))
    nodes = Grid((Axis("x", 6, -1.0, 1.0, "node", True, "m"), schema.grid.axes[1]))
    schema = replace(schema, grid=nodes)
    S.write_dataset(root, schema)
    return open_dataset(root)["train"]


@pytest.mark.parametrize(
    "window", [slice(1, 4), slice(None, None, 2), slice(-2, None), slice(0, 1)]
)
def test_windows(flow, window):
    index, names = [3, 0, 7, 7], ["velocity", "p", "k", "nu"]
    whole = flow.read(index, names)
    part = flow.read(index, names, window=window)
    np.testing.assert_array_equal(part["p"], whole["p"][:, window])
    np.testing.assert_array_equal(part["velocity"], whole["velocity"][:, window])
    np.testing.assert_array_equal(part["k"], whole["k"])
    np.testing.assert_array_equal(part["nu"], whole["nu"])


def test_strides_and_components(flow):
    index, names = range(8), ["velocity", "p", "depth", "inflow", "strain"]
    whole = flow.read(index, names)
    part = flow.read(
        index, names, window=slice(1, 5, 3), stride=(3, 2),
        components={"velocity": [1], "strain": [0, 1]},
    )  # fmt: skip
    np.testing.assert_array_equal(part["p"], whole["p"][:, 1:5:3, ::3, ::2])
    np.testing.assert_array_equal(part["velocity"], whole["velocity"][:, 1:5:3, ::3, ::2, 1:])
    np.testing.assert_array_equal(part["strain"], whole["strain"][:, 1:5:3, ::3, ::2])
    np.testing.assert_array_equal(part["depth"], whole["depth"][:, ::3, ::2])
    np.testing.assert_array_equal(part["inflow"], whole["inflow"][:, ::2])
    # the coarse points are points of the coarse grid
    grid = flow.schema.grid
    coarse = grid.resized((2, 3))
    for fine, few, k in zip(grid.coords, coarse.coords, (3, 2), strict=True):
        np.testing.assert_allclose(fine[::k], few)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 4}, "axis 'x' has 6 intervals"),
        ({"stride": (1, 3)}, "axis 'y' has 4 intervals"),
        ({"stride": (6, 1)}, "axis 'x' has 6 intervals"),
        ({"stride": 0}, "need integers"),
        ({"stride": (2, 2, 2)}, "the grid has 2 axes"),
        ({"window": slice(3, 3)}, "need a forward slice"),
        ({"window": slice(None, None, -1)}, "need a forward slice"),
        ({"components": {"p": [0]}}, "a scalar field has none"),
        ({"components": {"velocity": [2]}}, "need 0 to 1"),
        ({"components": {"speed": [2]}}, "not among"),
    ],
)
def test_parts_that_do_not_exist(flow, options, words):
    with pytest.raises(SchemaError) as e:
        flow.read([0], ["p", "velocity"], **options)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_strides_of_cells_are_refused(tmp_path):
    S.write_dataset(tmp_path / "d", S.flow((6, 5)))
    with pytest.raises(SchemaError, match="cells of axis 'x'"):
        open_dataset(tmp_path / "d")["train"].read([0], stride=2)


def test_parts_of_other_layouts(made):
    schema, root, _stored = made
    split = open_dataset(root)["train"]
    if schema.layout != "grid":
        with pytest.raises(SchemaError, match="layout 'grid' alone"):
            split.read([0], stride=2)
    if schema.layout == "series":
        part = split.read([2, 0], ["state"], window=slice(1, 3), components={"state": ["v"]})
        whole = split.read([2, 0], ["state"])["state"]
        np.testing.assert_array_equal(part["state"], whole[:, 1:3, 1:])
        with pytest.raises(SchemaError, match="need 0 to 1, or x, v"):
            split.read([0], ["state"], components={"state": ["w"]})
    if schema.layout == "ragged":
        whole = split.read([5, 1], ["T", "q", "probe"])
        part = split.read([5, 1], ["T", "q", "probe"], window=slice(0, 3, 2), components={"q": [1]})
        for k in range(2):
            np.testing.assert_array_equal(part["T"][k], whole["T"][k][::2])
            np.testing.assert_array_equal(part["q"][k], whole["q"][k][::2, :, 1:])
        np.testing.assert_array_equal(part["probe"], whole["probe"][:, ::2])


def test_mesh_of_a_grid(flow):
    with pytest.raises(SchemaError, match="has no mesh"):
        flow.mesh(0)


def test_memory_of_ragged_writing_stays_flat(tmp_path):
    import tracemalloc

    schema = clouds()
    m = Mesh(np.random.default_rng(0).normal(size=(20000, 3)), np.ones(20000))
    fields = {"a": m.points[:, 0], "u": m.points[:, 1]}
    peaks = []
    for n in (10, 60):
        config = S.config_of(schema, {"train": n}, samples_per_shard=n)
        tracemalloc.start()
        with ShardWriter(
            tmp_path / str(n), split="train", shard=0, schema=schema, config=config
        ) as w:
            for i in w.sample_ids:
                w.add(i, fields=fields, mesh=m, residual=0, iterations=1, wall_time=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 50 more samples are 32 MB of points, weights and fields, and 8 MB of numbers of points
    assert peaks[1] < peaks[0] + 2 * 2**23


@pytest.mark.parametrize(
    ("location", "periodic", "points"),
    [
        ("node", False, (-1.0, -0.5, 0.5, 2.0)),
        ("cell_center", False, (-0.9, -0.5, 0.5, 1.0)),
        ("node", True, (-1.0, -0.5, 0.5, 1.0)),
    ],
)
def test_nonuniform_axes_of_imported_data(tmp_path, location, periodic, points):
    axis = NonuniformAxis("x", 4, -1.0, 2.0, location, periodic, "m", points)
    assert axis.weights.sum() == pytest.approx(3)
    if location == "node" and not periodic:
        u = np.array(points) * 3 + 1  # the trapezoidal rule is exact for it
        assert axis.weights @ u == pytest.approx(3 / 2 * (4 - 1) + 3)
    for use in (lambda a: a.spacing, lambda a: a.resized(5), lambda a: a.refined()):
        with pytest.raises(ValueError, match="not uniform"):
            use(axis)
    schema = DatasetSchema(
        problem="found", title="Found", grid=Grid((axis,)), inputs=("a",), outputs=("u",),
        fields=(FieldSpec("a", "a"), FieldSpec("u", "u")),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    samples = [{"fields": {"a": rng.normal(size=4), "u": rng.normal(size=4)}} for _ in range(3)]
    split = write(tmp_path, schema, samples, source={"source": "doi:10.0/0"})
    assert split.schema.grid == schema.grid
    np.testing.assert_array_equal(split[0]["coords"]["x"], points)
    np.testing.assert_array_equal(split[0]["weights"], axis.weights)
    assert check_dataset(tmp_path) == []
    _edit(split.files[0], lambda f: f["provenance"].attrs.__delitem__("source"))
    with pytest.raises(SchemaError, match="only imported data"):
        open_dataset(split.files[0])


@pytest.mark.parametrize(
    "points", [(0.0, 1.0), (0.0, 0.5, 0.5, 1.0), (0.1, 0.5, 0.6, 1.0), (0.0, 0.5, 0.7, 1.1)]
)
def test_bad_nonuniform_axes(points):
    with pytest.raises(ValueError, match="axis 'x'"):
        NonuniformAxis("x", 4, points=points)
