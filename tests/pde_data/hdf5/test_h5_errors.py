import json
import os
import pickle
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import pde_data.hdf5 as hdf5
from pde_data.hdf5 import (
    BoundarySpec,
    ChecksumError,
    ConfigMismatchError,
    DatasetError,
    DatasetSchema,
    FieldSpec,
    FormatVersionError,
    IncompleteShardError,
    MissingShardError,
    NotAnOpkitFileError,
    SchemaError,
    ShardWriter,
    TruncatedFileError,
    check_dataset,
    is_complete_shard,
    open_dataset,
    rebuild_index,
    shard_defect,
)

S = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("h5_samples.py"))))
GOLDEN = Path(__file__).parents[2] / "data" / "golden_1_0.h5"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    _, stored = S.write_dataset(root, n={"train": 6, "valid": 2}, samples_per_shard=4)
    return root, stored


@pytest.fixture
def root(made, tmp_path):
    return Path(shutil.copytree(made[0], tmp_path / "darcy"))


@pytest.fixture
def shard(root):
    return root / "data/train/darcy_train_00000.h5"


def kinds(findings):
    return {f.kind for f in findings}


def refused(path, error, *words):
    """Both reading and checking name the error, the file and the object, on one line."""
    with pytest.raises(error) as e:
        open_dataset(path)
    assert type(e.value) is error
    found = check_dataset(path, quick=True)
    assert error.__name__ in kinds(found)
    for message in (str(e.value), next(f.message for f in found if f.kind == error.__name__)):
        assert "\n" not in message
        for word in (str(path), *words):
            assert word in message
    assert not is_complete_shard(path) and str(path) in shard_defect(path)


def edit(path, change):
    with h5py.File(path, "r+") as f:
        change(f)


def put(f, name, values):
    """Put other values in place of a dataset; scales are attached again."""
    attrs = {
        k: f[name].attrs[k]
        for k in f[name].attrs
        if k not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME")
    }
    scales = [list(d.keys()) for d in f[name].dims]
    del f[name]
    ds = f.create_dataset(name, data=values)
    for k, v in attrs.items():
        ds.attrs[k] = v
    for dim, names in zip(ds.dims, scales, strict=False):
        for s in names:
            dim.attach_scale(f[s])
    return ds


# -- one test a row of the table of errors ---------------------------------------------------------


def test_not_hdf5(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"a,b,c\n1,2,3\n" * 50)
    refused(path, NotAnOpkitFileError, "not an HDF5 file")


@pytest.mark.parametrize(
    ("keys", "guess"),
    [
        (("tensor", "nu"), "PDEBench Darcy"),
        (("tensor", "x-coordinate"), "PDEBench data"),
        (("coeff", "sol"), "MATLAB"),
        (("other",), "found keys other"),
        ((), "found keys none"),
    ],
)
def test_another_kind_of_hdf5(tmp_path, keys, guess):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as f:
        for k in keys:
            f[k] = 1.0
    refused(path, NotAnOpkitFileError, "root attribute 'format' is missing", guess)


def test_version(shard):
    edit(shard, lambda f: f.attrs.__setitem__("format_version", "2.0"))
    refused(shard, FormatVersionError, "format_version 2.0, this opkit reads 1.x")


def test_version_of_the_manifest(root):
    m = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**m, "format_version": "3.1"}))
    with pytest.raises(FormatVersionError, match=r"dataset\.json: format_version 3\.1"):
        open_dataset(root)
    assert "FormatVersionError" in kinds(check_dataset(root))


def test_later_minor_version_with_unknown_names(shard, made):
    def extend(f):
        f.attrs["format_version"] = "1.7"
        f.attrs["new_attribute"] = [1, 2, 3]
        f.create_group("new_group").create_dataset("data", data=np.arange(4))
        f["quality"].create_dataset("new_column", data=np.arange(4.0)).dims[0].attach_scale(
            f["sample"]
        )
        f["t0_fields/u"].attrs["new"] = "text"

    edit(shard, extend)
    part = open_dataset(shard)["train"]
    np.testing.assert_array_equal(part[1]["outputs"]["u"], made[1][1][0]["u"].astype("f4"))
    assert check_dataset(shard) == []


def test_truncated(shard):
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    refused(shard, TruncatedFileError, f"ends at byte {len(data) // 2} of {len(data)}", "cut short")


def test_damaged_chunk_names_the_sample(shard, made):
    with h5py.File(shard) as f:
        ds = f["t0_fields/u"]
        info = ds.id.get_chunk_info(0)
    data = bytearray(shard.read_bytes())
    data[info.byte_offset + info.size // 2] ^= 1
    shard.write_bytes(data)
    part = open_dataset(shard)["train"]
    np.testing.assert_array_equal(part.read([2], ["a"])["a"][0], made[1][2][0]["a"].astype("f4"))
    with pytest.raises(
        ChecksumError, match=r"t0_fields/u, sample id 2: a chunk fails its checksum"
    ) as e:
        part.read([2], ["u"])
    assert str(shard) in str(e.value)
    # all 4 samples of this small shard lie in one chunk
    assert "0 other samples of the file are readable" in str(e.value)
    found = [f for f in check_dataset(shard) if f.kind == "ChecksumError"]
    assert len(found) == 1 and "t0_fields/u, sample id 0, 1, 2, 3: chunk fails" in found[0].message


def test_damaged_chunk_of_one_sample_among_others(tmp_path):
    _, stored = S.write_dataset(tmp_path, S.darcy(140), {"train": 4})
    path = tmp_path / "data/train/darcy_train_00000.h5"
    with h5py.File(path) as f:
        info = f["t0_fields/u"].id.get_chunk_info_by_coord((1, 0, 0))
    data = bytearray(path.read_bytes())
    data[info.byte_offset + 99] ^= 128
    path.write_bytes(data)
    part = open_dataset(tmp_path)["train"]
    np.testing.assert_array_equal(part.read([3, 0, 2])["u"][1], stored[0][0]["u"].astype("f4"))
    with pytest.raises(
        ChecksumError, match=r"sample id 1: .* 3 other samples of the file are readable"
    ):
        part.read([0, 1])
    found = check_dataset(tmp_path)
    assert kinds(found) == {"ChecksumError"}
    assert any("SHA-256" in f.message for f in found)
    assert any(
        "t0_fields/u, sample id 1: chunk fails its checksum. 3 other" in f.message for f in found
    )


def test_metadata_damage(shard):
    data = bytearray(shard.read_bytes())
    at = data.index(b"OHDR") + 20  # object header of the root group
    data[at] ^= 4
    shard.write_bytes(data)
    refused(shard, ChecksumError, "metadata fails its checksum")


def test_incomplete(shard):
    edit(shard, lambda f: f.attrs.__delitem__("complete"))
    refused(shard, IncompleteShardError, "'complete' is missing")


def test_missing_shard(root):
    (root / "data/train/darcy_train_00001.h5").unlink()
    with pytest.raises(
        MissingShardError, match=r"darcy_train_00001.h5 is missing \(samples 4 to 5 of"
    ):
        open_dataset(root)
    assert "MissingShardError" in kinds(check_dataset(root, quick=True))
    assert check_dataset(root / "train.h5")[0].kind == "MissingShardError"


def _drop_last_column(f):
    put(f, "t0_fields/u", f["t0_fields/u"][:, :, :-1])


def _swap_x(f):
    x = f["x"][...]
    f["x"][...] = np.r_[x[:2], x[2] - 1, x[3:]]


def _shift_x(f):
    f["x"][...] = f["x"][...] ** 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _drop_last_column,
            ("t0_fields/u has shape (4, 9, 8), expected (4, 9, 9) from sample, x, y",),
        ),
        (_swap_x, ("x is not strictly increasing at index 2",)),
        (_shift_x, ("non-uniform",)),
        (
            lambda f: f["t0_fields/u"].attrs.__delitem__("units"),
            ("t0_fields/u has no attribute 'units'",),
        ),
        (lambda f: f["x"].attrs.__delitem__("bounds"), ("x has no attribute 'bounds'",)),
        (lambda f: f["t0_fields"].__delitem__("a"), ("t0_fields/a is missing",)),
        (lambda f: f.__delitem__("scalars"), ("scalars is missing",)),
        (
            lambda f: f.attrs.__setitem__("n_trajectories", 5),
            ("n_trajectories is 5, but there are 4",),
        ),
        (lambda f: f.attrs.__setitem__("layout", "sphere"), ("layout 'sphere'",)),
        (lambda f: f["quality"].__delitem__("residual"), ("quality/residual is missing",)),
        (
            lambda f: put(f, "quality/seed", f["quality/seed"][:3]),
            ("quality/seed has shape (3,)",),
        ),
        (
            lambda f: f["t0_fields/u"].attrs.__setitem__("location", "middle"),
            ("location", "middle"),
        ),
    ],
)
def test_schema(shard, change, words):
    edit(shard, change)
    refused(shard, SchemaError, *words)


def test_units(shard):
    edit(shard, lambda f: f["t0_fields/a"].attrs.__setitem__("units", "permeability"))
    (found,) = check_dataset(shard, quick=True)
    assert found.kind == "UnitsError"
    assert f"{shard}: t0_fields/a: units 'permeability' are not understood by pint" in found.message


def test_values_that_are_not_finite(shard):
    # written by hand, so neither chunk checksum nor digest of the chunk can tell
    edit(shard, lambda f: f["t0_fields/u"].__setitem__((2, 4, 4), np.nan))
    found = check_dataset(shard)
    assert kinds(found) == {"SchemaError", "ChecksumError"}
    assert any(
        "t0_fields/u, sample id 2: has values that are not finite" in f.message for f in found
    )
    assert any("sample id 2: the values do not match quality/digest" in f.message for f in found)


def test_ids_digests_seeds_links(shard, tmp_path):
    for name, change, word in (
        (
            "ids",
            lambda f: f["sample"].__setitem__(1, 0),
            "sample is not strictly increasing at index 1",
        ),
        ("digest", lambda f: f["quality/digest"].__setitem__(1, b"0" * 32), "content_digest"),
        ("seed", lambda f: f["quality/seed"].__setitem__(1, 5), "quality/seed of sample id 1"),
        ("link", lambda f: f["inputs"].move("a", "b"), "inputs/a is not a soft link"),
    ):
        copy = shutil.copy(shard, tmp_path / f"{name}.h5")
        edit(copy, change)
        found = check_dataset(copy, quick=True)
        assert any(word in f.message for f in found), (name, found)


def test_no_dimension_scale(shard):
    def detach(f):
        f["t0_fields/u"].dims[1].detach_scale(f["x"])

    edit(shard, detach)
    (found,) = check_dataset(shard, quick=True)
    assert "t0_fields/u has no dimension scale 'x' attached" in found.message


def test_messages_of_all_errors_survive_a_process_boundary():
    for name in hdf5.__all__:
        error = getattr(hdf5, name)
        if isinstance(error, type) and issubclass(error, Exception):
            assert issubclass(error, DatasetError) and issubclass(error, ValueError)
            again = pickle.loads(pickle.dumps(error("file: what.")))
            assert type(again) is error and str(again) == "file: what."


# -- physics ---------------------------------------------------------------------------------------


def _rewrite(root, change, schema=None, n=4, **options):
    """A dataset whose samples went through `change` before the writer saw them, with a schema that
    lets them pass; then the bounds are put into the file."""
    schema = schema or S.darcy()
    free = tuple(FieldSpec(f.name, f.long_name, f.units) for f in schema.fields)
    loose = DatasetSchema(
        "darcy",
        "t",
        schema.grid,
        free,
        ("a",),
        ("u",),
        boundary_conditions=schema.boundary_conditions,
    )
    config = S.config_of(loose, {"train": n})
    with ShardWriter(root, split="train", shard=0, schema=loose, config=config) as w:
        for i in w.sample_ids:
            fields, *_ = S.draw(schema, w.rng(i))
            change(i, fields)
            w.add(
                i, fields=fields, residual=options.get("residual", 1e-11), iterations=1, wall_time=0
            )
    edit(
        w.path,
        lambda f: [
            f[f"t0_fields/{s.name}"].attrs.__setitem__(k, float(getattr(s, k)))
            for s in schema.fields
            for k in ("valid_min", "valid_max")
            if getattr(s, k) is not None
        ],
    )
    return w.path


def test_bounds(tmp_path):
    def dip(i, fields):
        if i in (1, 2):
            fields["u"][4, 4] = -0.1 * i

    path = _rewrite(tmp_path, dip)
    assert check_dataset(path) == []
    (found,) = check_dataset(path, physics=True)
    assert found.kind == "PhysicsCheckError"
    assert (
        f"{path}: outputs/u is below valid_min=0 in 2 of 4 samples (worst -0.2, sample id 2)"
        in found.message
    )


def test_upper_bound_of_an_input(tmp_path):
    path = _rewrite(tmp_path, lambda i, fields: fields["a"].__setitem__((0, 0), 13.0))
    (found,) = check_dataset(path, physics=True)
    assert (
        "inputs/a is above valid_max=12 in 4 of 4 samples (worst 13, sample id 0)" in found.message
    )


def test_boundary_values(tmp_path):
    path = _rewrite(tmp_path, lambda i, fields: fields["u"].__setitem__((3, -1), 0.5 * (i == 3)))
    (found,) = check_dataset(path, physics=True)
    assert "u is not 0 on the dirichlet boundary y (both) in 1 of 4 samples" in found.message


def test_boundary_value_of_one_side_divided_by_alpha(tmp_path):
    base = S.darcy()
    bcs = (BoundarySpec("x", "dirichlet", ("u",), "upper", 3.0, alpha=2.0, units="Pa"),)
    schema = DatasetSchema(
        "darcy", "t", base.grid, base.fields, ("a",), ("u",), boundary_conditions=bcs
    )
    good = _rewrite(tmp_path / "good", lambda i, f: f["u"].__setitem__(-1, 1.5), schema)
    assert check_dataset(good, physics=True) == []
    bad = _rewrite(tmp_path / "bad", lambda i, f: f["u"].__setitem__(-1, 3.0), schema)
    assert "u is not 1.5 on the dirichlet boundary x (upper)" in str(
        check_dataset(bad, physics=True)[0]
    )


def test_residuals_against_the_tolerance(tmp_path):
    path = _rewrite(tmp_path, lambda i, fields: None, residual=3e-4)
    (found,) = check_dataset(path, physics=True)
    assert "quality/residual is above 1e-09" in found.message and "4 of 4" in found.message
    assert check_dataset(path) == []


# -- the directory ---------------------------------------------------------------------------------


def test_sound(root, shard):
    for path in (root, shard, root / "train.h5"):
        for options in ({}, {"quick": True}, {"physics": True}, {"quick": True, "physics": True}):
            assert check_dataset(path, **options) == []
    with pytest.raises(FileNotFoundError):
        check_dataset(root / "nothing")


def test_leaks(tmp_path):
    """The valid split is made with the fields of the train split."""
    schema = S.darcy()
    config = S.config_of(schema, {"train": 3, "valid": 2})
    for split in config.n:
        with ShardWriter(tmp_path, split=split, shard=0, schema=schema, config=config) as w:
            for i in w.sample_ids:
                seed = w.seed(i if i != 10**9 + 1 else 2)
                fields, *_ = S.draw(schema, np.random.default_rng(seed))
                w.add(i, fields=fields, residual=0, iterations=1, wall_time=0, group=i % 10**9 % 2)
    rebuild_index(tmp_path)
    found = check_dataset(tmp_path, quick=True)
    assert kinds(found) == {"SplitLeakError"} and len(found) == 2
    assert "1 inputs are in both train and valid (sample ids 2/1000000001)" in found[0].message
    assert "groups are in both train and valid" in found[1].message


def test_stale_index(root):
    config = S.config_of(S.darcy(), {"train": 8})
    S.write_shard(root, S.darcy(), config, "train", 1)
    found = check_dataset(root, quick=True)
    assert any("splits.train.written is 6, the shards say 8" in f.message for f in found)
    assert any("content_digest is" in f.message for f in found)
    rebuild_index(root)
    assert check_dataset(root) == []


def test_new_shard_that_the_index_does_not_know(root):
    config = S.config_of(S.darcy(), {"train": 12})
    S.write_shard(root, S.darcy(), config, "train", 2)
    assert any("is not in dataset.json" in f.message for f in check_dataset(root, quick=True))


def test_shards_of_two_configurations(root):
    config = S.config_of(S.darcy(), {"train": 12}, seed=8)
    S.write_shard(root, S.darcy(), config, "train", 2)
    with pytest.raises(ConfigMismatchError, match=r"darcy_train_00002\.h5 was made with another"):
        rebuild_index(root)
    assert "ConfigMismatchError" in kinds(check_dataset(root, quick=True))


def test_shard_in_the_wrong_split(root):
    shutil.copy(root / "data/valid/darcy_valid_00000.h5", root / "data/train/darcy_train_00002.h5")
    with pytest.raises(DatasetError, match="do not belong to split 'train'"):
        rebuild_index(root)


def test_shard_twice(root):
    train = root / "data/train"
    shutil.copy(train / "darcy_train_00000.h5", train / "darcy_train_00002.h5")
    with pytest.raises(DatasetError, match="sample ids repeat"):
        rebuild_index(root)


def test_wrong_statistics(root):
    text = (root / "stats.yaml").read_text()
    (root / "stats.yaml").write_text(text.replace("a: ", "a: 1", 1))
    (found,) = check_dataset(root)
    assert "mean of a is 1" in found.message
    (root / "stats.yaml").write_text("mean: [")
    assert "cannot be understood" in check_dataset(root)[0].message
    (root / "stats.yaml").unlink()
    assert "is missing" in check_dataset(root)[0].message


def test_broken_manifest(root):
    (root / "dataset.json").write_text("{")
    with pytest.raises(SchemaError, match="not JSON"):
        open_dataset(root)
    (root / "dataset.json").write_text('{"format": "other"}')
    with pytest.raises(NotAnOpkitFileError):
        open_dataset(root)
    (root / "dataset.json").write_text('{"format": "opkit-dataset", "format_version": "1.0"}')
    with pytest.raises(SchemaError, match="incomplete"):
        open_dataset(root)
    (root / "dataset.json").unlink()
    assert len(open_dataset(root)["train"]) == 6
    assert "dataset.json is missing" in check_dataset(root)[0].message


def test_not_a_dataset_directory(tmp_path):
    with pytest.raises(NotAnOpkitFileError, match="no shards"):
        open_dataset(tmp_path)
    with pytest.raises(NotAnOpkitFileError):
        rebuild_index(tmp_path)
    assert kinds(check_dataset(tmp_path)) == {"NotAnOpkitFileError"}
    with pytest.raises(FileNotFoundError):
        rebuild_index(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        open_dataset(tmp_path / "none")


def test_view_made_before_a_shard_was_replaced(root):
    config = S.config_of(S.darcy(), {"train": 8})
    S.write_shard(root, S.darcy(), config, "train", 1)
    with pytest.raises(DatasetError, match="other samples than when the view was made"):
        open_dataset(root / "train.h5")


# -- files that would lead elsewhere ---------------------------------------------------------------


@pytest.mark.parametrize("source", ["/etc/secret.h5", "../other/secret.h5", "data/../../secret.h5"])
def test_paths_that_leave_the_directory(root, source):
    m = json.loads((root / "dataset.json").read_text())
    m["splits"]["train"]["shards"][0]["file"] = source
    (root / "dataset.json").write_text(json.dumps(m))
    with pytest.raises(SchemaError, match="outside its directory"):
        open_dataset(root)

    def point(f):
        attrs = dict(f["t0_fields/u"].attrs)
        del f["t0_fields/u"]
        layout = h5py.VirtualLayout((6, 9, 9), "<f4")
        layout[:] = h5py.VirtualSource(source, "/secret", (6, 9, 9))
        ds = f.create_virtual_dataset("t0_fields/u", layout)
        ds.attrs.update({k: v for k, v in attrs.items() if k != "DIMENSION_LIST"})
        del f["t0_fields/a"]  # the first field is the one that is looked at
        f["t0_fields/a"] = h5py.SoftLink("/t0_fields/u")

    edit(root / "train.h5", point)
    with pytest.raises(SchemaError):
        open_dataset(root / "train.h5")


def test_links_and_external_storage_are_not_followed(root, shard, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as f:
        f["u"] = np.ones((4, 9, 9), "f4")
    (tmp_path / "raw").write_bytes(bytes(4 * 9 * 9 * 4))

    def external_link(f):
        del f["t0_fields/u"]
        f["t0_fields/u"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/u")

    def external_group(f):
        del f["t0_fields"]
        f["t0_fields"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")

    def external_storage(f):
        attrs = dict(f["t0_fields/u"].attrs)
        del f["t0_fields/u"]
        ds = f.create_dataset(
            "t0_fields/u", (4, 9, 9), "f4", external=[(str(tmp_path / "raw"), 0, 1296)]
        )
        ds.attrs.update({k: v for k, v in attrs.items() if k != "DIMENSION_LIST"})

    def virtual(f):
        attrs = dict(f["t0_fields/u"].attrs)
        del f["t0_fields/u"]
        layout = h5py.VirtualLayout((4, 9, 9), "<f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "/u", (4, 9, 9))
        ds = f.create_virtual_dataset("t0_fields/u", layout)
        ds.attrs.update({k: v for k, v in attrs.items() if k != "DIMENSION_LIST"})

    for i, change in enumerate((external_link, external_group, external_storage, virtual)):
        copy = Path(shutil.copy(shard, tmp_path / f"{i}.h5"))
        edit(copy, change)
        with pytest.raises(SchemaError, match="not followed"):
            open_dataset(copy)
        assert "SchemaError" in kinds(check_dataset(copy))


# -- damage ----------------------------------------------------------------------------------------


def test_200_flipped_bytes(tmp_path):
    """Each is reported; a damaged chunk's sample is named; no read gives other numbers."""
    schema = S.darcy(20, m=25)
    _, stored = S.write_dataset(tmp_path, schema, {"train": 4})
    path = tmp_path / "data/train/darcy_train_00000.h5"
    clean = path.read_bytes()
    with h5py.File(path) as f:
        chunks = [
            (name, info.byte_offset, info.byte_offset + info.size)
            for name in ("a", "u")
            for info in [f[f"t0_fields/{name}"].id.get_chunk_info(0)]
        ]
    rng = np.random.default_rng(2024)
    hits = silent = 0
    for _ in range(200):
        at = int(rng.integers(len(clean)))
        damaged = bytearray(clean)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = check_dataset(tmp_path)
        assert any("SHA-256" in f.message and str(path) in f.message for f in found), at
        hit = [name for name, a, b in chunks if a <= at < b]
        if hit:
            hits += 1
            assert any(f"t0_fields/{hit[0]}, sample id 0, 1, 2, 3" in f.message for f in found), at
        for name in ("a", "u"):
            try:
                values = open_dataset(tmp_path)["train"].read(range(4), [name])[name]
            except DatasetError as e:
                assert not hit or name in hit, e
                continue
            assert not hit or name not in hit
            silent += 1
            for i in range(4):
                np.testing.assert_array_equal(values[i], stored[i][0][name].astype("f4"))
    assert hits > 10 and silent > 100
    path.write_bytes(clean)
    assert check_dataset(tmp_path) == []


# -- golden file -----------------------------------------------------------------------------------


def golden_schema():
    schema = S.flow((6, 5), dtype="float32")
    return replace(
        schema,
        fields=tuple(f for f in schema.fields if f.name != "inflow"),
        boundary_conditions=tuple(
            b for b in schema.boundary_conditions if b.kind in ("no_slip", "robin")
        ),
    )


def make_golden(path=GOLDEN):
    """How the golden file of format 1.0 was made, once and for ever."""
    schema = golden_schema()
    config = S.config_of(schema, {"train": 4})
    scratch = path.parent / "golden"
    S.write_shard(scratch, schema, config, "train", 0, fail={2})
    os.replace(scratch / "data/train/flow_train_00000.h5", path)
    shutil.rmtree(scratch)


def test_golden_file():
    assert GOLDEN.stat().st_size < 100_000
    ds = open_dataset(GOLDEN)
    assert ds.schema == golden_schema()
    assert ds.content_digest == GOLDEN_DIGEST
    part = ds["train"]
    assert part.ids.tolist() == [0, 1, 3]
    s = part[2]
    for (role, name, index), value in GOLDEN_VALUES.items():
        assert float(s[role][name][index]) == value
    assert s["params"] == GOLDEN_PARAMS
    assert check_dataset(GOLDEN) == []


GOLDEN_DIGEST = "68a935c7f0872dd7e5144c1e881b60016a4ceecac6619871f7c58f84717e8392"
GOLDEN_PARAMS = {"nu": 0.48138993936400454, "rho": 2.0}
GOLDEN_VALUES = {
    ("inputs", "k", (0, 0)): 2.038175582885742,
    ("inputs", "depth", (5, 4)): -0.08131828904151917,
    ("outputs", "p", (2, 5, 4)): -0.8112916946411133,
    ("outputs", "velocity", (1, 0, 3, 1)): 0.8960393071174622,
    ("outputs", "strain", (0, 2, 2, 1, 0)): -0.2862311601638794,
}
