import errno
import hashlib
import json
import math
import os
import pickle
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pde_data.hdf5 import (
    ConfigMismatchError,
    DatasetConfig,
    DatasetError,
    DatasetSchema,
    FieldSpec,
    InvalidSampleError,
    MissingShardError,
    SchemaError,
    ShardWriter,
    UnitsError,
    check_dataset,
    clean_temporaries,
    default_samples_per_shard,
    export_h5,
    import_h5,
    is_complete_shard,
    n_shards,
    open_dataset,
    rebuild_index,
    shard_defect,
    shard_name,
    shard_path,
    split_of_id,
)
from pde_data.hdf5._atomic import write_text
from pde_data.hdf5._chunks import deflate_planes, encode, fletcher32
from pde_data.hdf5._file import chunk_shape
from pde_data.hdf5.writer import public_command
from solvers.grids import Axis, Grid
from solvers.names import UnknownNameError

S = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("h5_samples.py"))))
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def python(code, *args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENV,
    )


# -- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", None])
@pytest.mark.parametrize(
    "schema",
    [
        S.darcy(),
        S.darcy(dtype="float64"),
        S.flow((7,)),
        S.flow((6, 5)),
        S.flow((4, 3, 5), dtype="float32"),
        S.flow((6, 5), times=(1.0,)),
    ],
    ids=["static", "static64", "1d", "2d", "3d", "one-time"],
)
def test_what_is_written_is_read(tmp_path, schema, compression):
    n = {"train": 10, "valid": 3, "test_fine": 5}
    _, stored = S.write_dataset(tmp_path, schema, n, compression=compression)
    ds = open_dataset(tmp_path)
    assert ds.schema == schema
    assert ds.splits == tuple(n)
    for split in ds.splits:
        part = ds[split]
        assert len(part) == n[split]
        code = {"train": 0, "valid": 1, "test_fine": 3}[split]
        assert part.ids.tolist() == [code * 10**9 + i for i in range(n[split])]
        everything = part.read(range(len(part)), [f.name for f in schema.fields])
        for i, sample_id in enumerate(part.ids.tolist()):
            fields, scalars = stored[sample_id]
            s = part[i]
            assert s["id"] == sample_id
            assert s["params"] == pytest.approx({**scalars, **_constants(schema)}, abs=0)
            for role, names in (("inputs", schema.inputs), ("outputs", schema.outputs)):
                assert list(s[role]) == list(names)
                for name in names:
                    expected = np.asarray(fields.get(name, scalars.get(name)))
                    dtype = schema.dtype if name in fields else "float64"
                    np.testing.assert_array_equal(s[role][name], expected.astype(dtype))
                    assert s[role][name].dtype == dtype
            for name, values in fields.items():
                np.testing.assert_array_equal(everything[name][i], values.astype(schema.dtype))
    np.testing.assert_array_equal(s["weights"], schema.grid.weights)
    for a in schema.grid.axes:
        np.testing.assert_array_equal(s["coords"][a.name], a.coords)
    np.testing.assert_array_equal(s["coords"]["time"], schema.time)
    assert check_dataset(tmp_path, physics=schema.problem == "darcy") == []


def _constants(schema):
    return {s.name: s.value for s in schema.scalars if s.value is not None}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_round_trip_of_arbitrary_arrays(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("any")
    dim = data.draw(st.integers(1, 3))
    rank = data.draw(st.integers(0, 2))
    timed = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    n = data.draw(st.integers(1, 7))
    axes = tuple(
        Axis(
            name,
            data.draw(st.integers(2, 5)),
            location=data.draw(st.sampled_from(["node", "cell_center"])),
            periodic=data.draw(st.booleans()),
        )
        for name in "xyz"[:dim]
    )
    schema = DatasetSchema(
        problem="any",
        title="any",
        grid=Grid(axes),
        fields=(FieldSpec("v", "v", rank=rank, time_varying=timed),),
        inputs=("v",),
        outputs=("v",),
        problem_type="time_dependent" if timed else "static",
        time=(0.0, 1.0) if timed else (0.0,),
        dtype=dtype,
    )
    values = data.draw(
        hnp.arrays(
            dtype,
            (n, *schema.sample_shape("v")),
            elements={"allow_nan": False, "allow_infinity": False},
        )
    )
    config = S.config_of(schema, {"train": n}, samples_per_shard=3)
    for k in range(config.n_shards("train")):
        with ShardWriter(root, split="train", shard=k, schema=schema, config=config) as w:
            for i in w.sample_ids:
                w.add(i, fields={"v": values[i]}, residual=0.0, iterations=0, wall_time=0.0)
    ds = open_dataset(root)  # without an index
    assert ds.schema == schema
    order = data.draw(st.permutations(range(n)))
    np.testing.assert_array_equal(ds["train"].read(order)["v"], values[list(order)])


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays("u1", st.tuples(st.sampled_from([1, 4, 8]), st.integers(1, 5000))),
    st.booleans(),
)
def test_our_deflate_is_zlibs(planes, noisy):
    import zlib

    if noisy:
        rng = np.random.default_rng(planes.size)
        planes = np.concatenate([planes, rng.integers(0, 256, planes.shape, dtype="u1")])
    assert zlib.decompress(deflate_planes(planes)) == planes.tobytes()


def test_stored_planes_longer_than_a_deflate_block():
    import zlib

    planes = np.random.default_rng(0).integers(0, 256, (2, 3 * 65535 + 17), dtype="u1")
    assert zlib.decompress(deflate_planes(planes)) == planes.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_fletcher32_is_the_definition(data):
    low = high = 0
    padded = data + b"\0" * (len(data) % 2)
    for i in range(0, len(padded), 2):
        low += padded[i] << 8 | padded[i + 1]
        high += low
    low, high = ((s % 65535) or (65535 if s else 0) for s in (low, high))
    assert fletcher32(data) == high << 16 | low


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("shape", [(1, 50, 70), (8, 5, 5), (1, 3, 40, 40)])
def test_hdf5_reads_our_chunks(tmp_path, dtype, shape):
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, math.prod(shape)).reshape(shape)
    for values in (x, rng.normal(size=shape), np.where(x > 0.3, 12, 3), np.zeros(shape)):
        values = values.astype(dtype)
        with h5py.File(tmp_path / "c.h5", "w") as f:
            ds = f.create_dataset(
                "v", shape, dtype, chunks=shape, shuffle=True, compression="gzip", fletcher32=True
            )
            ds.id.write_direct_chunk((0,) * len(shape), encode(values))
        with h5py.File(tmp_path / "c.h5") as f:
            np.testing.assert_array_equal(f["v"][...], values)


@pytest.mark.parametrize(
    ("shape", "timed", "expected"),
    [
        ((64, 128, 128), False, (1, 128, 128)),  # 64 KiB a sample
        ((64, 17, 17), False, (57, 17, 17)),  # ceil(65536 / 1156)
        ((3, 17, 17), False, (3, 17, 17)),
        ((10, 50, 256, 256), True, (1, 4, 256, 256)),  # 1 MiB of 256 KiB snapshots
        ((10, 5, 2048, 2048), True, (1, 1, 512, 2048)),  # 16 MiB split to 4 MiB
        ((10, 2048, 2048, 2), False, (1, 128, 2048, 2)),  # 8 bytes each
    ],
)
def test_chunks(shape, timed, expected):
    itemsize = 8 if shape[-1] == 2 else 4
    assert chunk_shape(shape, itemsize, timed=timed) == expected


def test_samples_that_are_split_over_chunks(tmp_path, monkeypatch):
    import pde_data.hdf5._file as file

    monkeypatch.setattr(file, "MIB", 1000)
    monkeypatch.setattr(file, "KIB", 2)
    schema = S.flow((30, 31), dtype="float32", times=tuple(range(5)))
    _, stored = S.write_dataset(tmp_path, schema, {"train": 3})
    ds = open_dataset(tmp_path)
    path = ds["train"].files[0]
    with h5py.File(path) as f:
        assert f["t0_fields/p"].chunks == (1, 1, 30, 31)
        assert f["t1_fields/velocity"].chunks == (1, 1, 16, 31, 2)
    out = ds["train"].read([2, 0], ["velocity", "p", "strain"])
    for name, values in out.items():
        for row, i in zip(values, (2, 0), strict=True):
            np.testing.assert_array_equal(row, stored[i][0][name].astype("f4"))


# -- identity of samples -------------------------------------------------------------------------


def test_digests_by_hand(tmp_path):
    schema = S.flow((6, 5), dtype="float32")
    _, stored = S.write_dataset(tmp_path, schema, {"train": 3, "test": 2}, samples_per_shard=2)
    ds = open_dataset(tmp_path)
    ids, digests = [], []
    for split in ds.splits:
        for sample_id, digest, input_digest in zip(
            ds[split].ids,
            ds[split].quality("digest"),
            ds[split].quality("input_digest"),
            strict=True,
        ):
            fields, scalars = stored[int(sample_id)]
            h = hashlib.blake2b(digest_size=16)
            for role in ("inputs", "outputs"):
                for name in getattr(schema, role):
                    if name in fields:
                        v = fields[name].astype("<f4")
                    else:
                        v = np.array(scalars[name], "<f8")
                    h.update(name.encode() + b"\0" + v.dtype.str.encode() + b"\0")
                    h.update(np.array(v.shape, "<i8").tobytes() + v.tobytes(order="C"))
                if role == "inputs":
                    assert input_digest == h.hexdigest().encode()
            assert digest == h.hexdigest().encode()
            ids.append(sample_id)
            digests.append(digest)
    total = hashlib.sha256(np.array(ids, "<i8").tobytes() + b"".join(digests)).hexdigest()
    assert ds.content_digest == ds.manifest["content_digest"] == total
    first = hashlib.sha256(np.array(ids[:2], "<i8").tobytes() + b"".join(digests[:2])).hexdigest()
    with h5py.File(ds["train"].files[0]) as f:
        assert f.attrs["content_digest"] == first


def test_a_sample_depends_on_seed_and_id_alone(tmp_path):
    schema = S.darcy()
    config = S.config_of(schema, {"train": 9, "valid": 2}, seed=11)
    for split, shard, first in (("train", 2, 8), ("valid", 0, 10**9)):
        w = ShardWriter(tmp_path, split=split, shard=shard, schema=schema, config=config)
        assert w.sample_ids[0] == first
        sequence = np.random.SeedSequence(11, spawn_key=(first,))
        seed = int(sequence.generate_state(1, np.uint64)[0])
        assert w.seed(first) == seed
        assert w.rng(first).random() == np.random.default_rng(seed).random()
    assert split_of_id(first) == 1


def test_content_does_not_depend_on_shards_or_on_extension(tmp_path):
    roots = {}
    for name, parts, size in (
        ("once", [15], 4),
        ("extended", [10, 15], 4),  # shard 2 is partial and rewritten
        ("coarse", [15], 64),
    ):
        roots[name] = tmp_path / name
        for n in parts:
            before = {p: p.stat().st_mtime_ns for p in roots[name].rglob("darcy_train_0000[01].h5")}
            config = S.config_of(S.darcy(), {"train": n}, samples_per_shard=size)
            for k in range(config.n_shards("train")):
                path = shard_path(roots[name], "train", k, problem="darcy")
                if not is_complete_shard(path, ids=config.sample_ids("train", k)):
                    S.write_shard(roots[name], S.darcy(), config, "train", k)
            rebuild_index(roots[name])
            assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    digests = {open_dataset(r).content_digest for r in roots.values()}
    assert len(digests) == 1
    assert open_dataset(roots["extended"]).manifest["splits"]["train"]["requested"] == 15


def test_equal_content_gives_equal_bytes(tmp_path, monkeypatch):
    import pde_data.hdf5.writer as writer

    real = writer.provenance
    monkeypatch.setattr(writer, "provenance", lambda *a: {**real(*a), "created": "then"})
    for name in "ab":
        S.write_dataset(tmp_path / name, S.flow())
        S.write_dataset(tmp_path / name / "d", S.darcy(), fail={1})
    files = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("data/*/*.h5"))
        for n in "ab"
    ]
    assert files[0] == files[1]
    for p in files[0]:
        assert (tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes()


# -- what the writer refuses ---------------------------------------------------------------------


def _writer(root, schema=None, n=4, **changes):
    schema = schema or S.darcy()
    config = S.config_of(schema, {"train": n}, **changes)
    return ShardWriter(root, split="train", shard=0, schema=schema, config=config)


def _add(w, i, **changes):
    fields, scalars, _ = S.draw(w.schema, w.rng(i))
    fields.update(changes.pop("fields", {}))
    for name in [k for k, v in fields.items() if v is None]:
        del fields[name]
    w.add(
        i,
        **{
            "fields": fields,
            "scalars": scalars,
            "residual": 0.0,
            "iterations": 1,
            "wall_time": 0.1,
            **changes,
        },
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"fields": {"u": np.zeros((9, 8))}},
            SchemaError,
            r"u has shape \(9, 8\), expected \(9, 9\) from x, y",
        ),
        ({"fields": {"u": None}}, SchemaError, r"fields are \['a'\], expected \['a', 'u'\]"),
        ({"fields": {"w": np.zeros(2)}}, SchemaError, "expected"),
        ({"fields": {"u": np.zeros((9, 9), complex)}}, SchemaError, "complex128"),
        ({"scalars": {"nu": 1.0}}, SchemaError, "scalars"),
        (
            {"fields": {"u": np.full((9, 9), np.nan)}},
            InvalidSampleError,
            "81 non-finite values of 81",
        ),
        (
            {"fields": {"u": np.full((9, 9), 1e39)}},
            InvalidSampleError,
            "non-finite values of 81 in float32",
        ),
        ({"fields": {"u": np.full((9, 9), -1e-3)}}, InvalidSampleError, "below valid_min=0"),
        ({"fields": {"a": np.full((9, 9), 12.01)}}, InvalidSampleError, "above valid_max=12"),
        ({"residual": np.nan}, InvalidSampleError, "residual is nan"),
        ({"residual": -1.0}, InvalidSampleError, "residual is -1"),
        ({"wall_time": np.inf}, InvalidSampleError, "wall_time"),
    ],
)
def test_bad_samples_are_refused_and_may_be_failed(tmp_path, change, error, message):
    with _writer(tmp_path) as w:
        _add(w, 0)
        with pytest.raises(error, match=message):
            _add(w, 1, **change)
        w.fail(1, "bad")
        _add(w, 2)
        _add(w, 3)
    part = open_dataset(w.path)["train"]
    assert part.ids.tolist() == [0, 2, 3]
    assert np.isfinite(part.read([0, 1, 2])["u"]).all()
    with h5py.File(w.path) as f:
        assert f["failures/sample_id"][:].tolist() == [1]
        assert f["failures/seed"][0] == w.config.sample_seed(1)
        assert f["failures/reason"].asstr()[0] == "bad"
        assert f["t0_fields/u"].shape == (3, 9, 9)
    assert check_dataset(w.path) == []


def test_bounds_allow_the_rounding_of_the_stored_type(tmp_path):
    u = np.zeros((9, 9))
    u[4, 4], u[3, 3] = 1.0, -5e-8  # half an ulp of float32 at the maximum
    a = np.full((9, 9), 12 * (1 + 1e-9))
    with _writer(tmp_path, n=1) as w:
        _add(w, 0, fields={"u": u, "a": a})
    assert check_dataset(w.path, physics=True) == []


def test_all_samples_failed(tmp_path):
    S.write_dataset(tmp_path, n={"train": 4, "valid": 2}, fail={0, 1, 2, 3})
    ds = open_dataset(tmp_path)
    assert len(ds["train"]) == 0 and ds["train"].ids.tolist() == []
    assert ds["train"].read([])["u"].shape == (0, 9, 9)
    assert ds.manifest["splits"]["train"]["failed"] == 4
    assert check_dataset(tmp_path) == []


@pytest.mark.parametrize("how", ["exception", "left over", "interrupt"])
def test_nothing_is_left_of_a_shard_that_was_not_finished(tmp_path, how):
    kind = {
        "exception": ZeroDivisionError,
        "left over": DatasetError,
        "interrupt": KeyboardInterrupt,
    }
    with pytest.raises(kind[how]), _writer(tmp_path) as w:
        for i in (0, 1):
            _add(w, i)
        assert len(list(w.path.parent.glob(".darcy_train_00000.*.tmp"))) == 1
        if how == "exception":
            1 / 0  # noqa: B018
        if how == "interrupt":
            raise KeyboardInterrupt
    assert list(w.path.parent.iterdir()) == []


def test_ids_are_handed_over_in_order_and_once(tmp_path):
    with _writer(tmp_path) as w:
        with pytest.raises(DatasetError, match="9 does not belong to this shard"):
            _add(w, 9)
        _add(w, 2)
        with pytest.raises(DatasetError, match="comes after 2"):
            _add(w, 1)
        with pytest.raises(DatasetError, match="was stored or failed already"):
            w.fail(2, "again")
        for i in (0, 1, 3):
            w.fail(i, "no")
    with pytest.raises(DatasetError, match="outside its with block"):
        _add(w, 3)


def test_group_for_all_or_none(tmp_path):
    with _writer(tmp_path, n=3) as w:
        _add(w, 0, group=5)
        with pytest.raises(SchemaError, match="group"):
            _add(w, 1)
        _add(w, 1, group=6)
        _add(w, 2, group=6)
    assert open_dataset(w.path)["train"].quality("group").tolist() == [5, 6, 6]


def test_a_field_that_should_not_vary(tmp_path):
    schema = S.flow()
    with _writer(tmp_path, schema, n=2) as w:
        _add(w, 0)
        with pytest.raises(SchemaError, match="depth varies"):
            _add(w, 1, fields={"depth": np.ones((6, 5))})
        _add(w, 1)


def test_schema_and_configuration_must_agree(tmp_path):
    for changes, message in (
        ({"problem": "other"}, "problem is 'darcy' in the schema"),
        ({"dtype": "float64"}, "dtype"),
        ({"resolution": (8, 8)}, "resolution"),
    ):
        with pytest.raises(SchemaError, match=message):
            _writer(tmp_path, **changes)
    config = S.config_of(S.darcy(), {"train": 4})
    with pytest.raises(DatasetError, match="shard=1: split 'train' has 1 shards"):
        ShardWriter(tmp_path, split="train", shard=1, schema=S.darcy(), config=config)
    with pytest.raises(UnknownNameError, match="unknown split 'valid'"):
        ShardWriter(tmp_path, split="valid", shard=0, schema=S.darcy(), config=config)


def test_units_must_parse(tmp_path):
    fields = (FieldSpec("a", "a", "permeability"), FieldSpec("u", "u"))
    schema = DatasetSchema("darcy", "t", Grid.unit(9), fields, ("a",), ("u",))
    with pytest.raises(
        UnitsError, match="t0_fields/a: units 'permeability' are not understood by pint"
    ):
        _writer(tmp_path, schema)


def test_a_rewritten_shard_must_reproduce_its_samples(tmp_path):
    S.write_dataset(tmp_path, n={"train": 3})
    before = shard_path(tmp_path, "train", 0, problem="darcy").read_bytes()
    with pytest.raises(DatasetError, match="sample 1 came out different"), _writer(tmp_path) as w:
        for i in w.sample_ids:
            _add(w, i, fields={"a": np.full((9, 9), 5.0)} if i == 1 else {})
    with pytest.raises(ConfigMismatchError, match="seed 7 -> 8"), _writer(tmp_path, seed=8) as w:
        for i in w.sample_ids:
            _add(w, i)
    assert w.path.read_bytes() == before
    assert [p.name for p in w.path.parent.iterdir()] == [w.path.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_full(tmp_path, monkeypatch, code):
    real, written = os.pwrite, [0]

    def pwrite(fd, data, offset):
        written[0] += len(data)
        if written[0] > 30_000:
            raise OSError(code, os.strerror(code))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with (
        pytest.raises(OSError, match=r"cannot write .*darcy_train_00000\.h5") as e,
        _writer(tmp_path, S.darcy(40), n=40, samples_per_shard=40) as w,
    ):
        for i in w.sample_ids:
            _add(w, i)
    assert e.value.errno == code
    assert ("Free some space" in str(e.value)) == (code != errno.EIO)
    assert list(w.path.parent.iterdir()) == []


def test_disk_full_while_indexing(tmp_path, monkeypatch):
    S.write_dataset(tmp_path, n={"train": 2})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    def fsync(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    for call in (lambda: rebuild_index(tmp_path), lambda: write_text(tmp_path / "stats.yaml", "x")):
        with pytest.raises(OSError, match=r"cannot write .*Free some space") as e:
            call()
        assert e.value.errno == errno.ENOSPC
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_file_size_limit_of_the_system(tmp_path):
    code = """
        import resource, runpy, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        S = runpy.run_path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            S["write_dataset"](sys.argv[2], S["darcy"](60), {"train": 60}, samples_per_shard=60)
        except OSError as e:
            print(e)
    """
    done = python(code, Path(__file__).with_name("h5_samples.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Free some space" in done.stdout
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_killed_writers_leave_no_bad_shard(tmp_path):
    code = """
        import runpy, sys
        S = runpy.run_path(sys.argv[1])
        schema = S["darcy"](33)
        config = S["config_of"](schema, {"train": 400}, samples_per_shard=8)
        print("ready", flush=True)
        for k in range(50):
            S["write_shard"](sys.argv[2], schema, config, "train", k)
    """
    rng = np.random.default_rng(0)
    data = tmp_path / "data" / "train"
    for _ in range(6):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(code),
                str(Path(__file__).with_name("h5_samples.py")),
                str(tmp_path),
            ],
            stdout=subprocess.PIPE,
            env=ENV,
        )
        child.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(rng.uniform(0.05, 0.6))
        child.kill()
        child.wait()
        child.stdout.close()
        shards = sorted(data.glob("*.h5"))
        for p in shards:
            k = int(p.stem[-5:])
            assert shard_defect(p, ids=range(8 * k, 8 * k + 8)) == ""
            assert check_dataset(p) == []
        for k in range(50):
            clean_temporaries(tmp_path, "train", k, problem="darcy")
        assert not data.exists() or sorted(data.iterdir()) == shards


def test_temporaries_of_a_killed_writer_are_removed(tmp_path):
    code = """
        import os, runpy, signal, sys
        S = runpy.run_path(sys.argv[1])
        config = S["config_of"](S["darcy"](), {"train": 8})
        options = {"split": "train", "schema": S["darcy"](), "config": config}
        with S["ShardWriter"](sys.argv[2], shard=1, **options):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(code, Path(__file__).with_name("h5_samples.py"), tmp_path).returncode == -9
    (left,) = (tmp_path / "data" / "train").iterdir()
    assert left.name.startswith(".darcy_train_00001.") and left.suffix == ".tmp"
    assert clean_temporaries(tmp_path, "train", 0, problem="darcy") == 0
    assert clean_temporaries(tmp_path, "train", 1, problem="darcy") == 1
    assert list(left.parent.iterdir()) == []


def test_memory_does_not_grow_with_the_shard(tmp_path):
    code = """
        import resource, runpy, sys
        import numpy as np
        S = runpy.run_path(sys.argv[1])
        schema = S["darcy"](256)
        config = S["config_of"](schema, {"train": 160}, samples_per_shard=160)
        rng = np.random.default_rng(0)
        a = np.full((256, 256), 5.0)
        noise = rng.uniform(size=(256, 256))
        where = {"split": "train", "shard": 0, "schema": schema, "config": config}
        with S["ShardWriter"](sys.argv[2], **where) as w:
            for i in w.sample_ids:
                w.add(i, fields={"a": a, "u": noise + i}, residual=0.0, iterations=0, wall_time=0.0)
                if i == 9:
                    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
    """
    done = python(code, Path(__file__).with_name("h5_samples.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024  # KiB; 37 MiB of data follow


def test_names_and_permissions(tmp_path):
    assert shard_name("darcy", "test_res421", 3) == "darcy_test_res421_00003.h5"
    assert shard_path("d", "train", 12, problem="darcy") == Path(
        "d/data/train/darcy_train_00012.h5"
    )
    assert [n_shards(n, 64) for n in (0, 1, 64, 65)] == [0, 1, 1, 2]
    assert default_samples_per_shard(100_000, 2**20) == 256
    with pytest.raises(UnknownNameError):
        shard_name("darcy", "training", 0)
    S.write_dataset(tmp_path, n={"train": 1})
    old = os.umask(0o027)
    os.umask(old)
    for p in tmp_path.rglob("*.*"):
        assert p.stat().st_mode & 0o777 == 0o666 & ~old


# -- configuration -------------------------------------------------------------------------------


def test_config_round_trip_and_hash():
    config = S.config_of(S.darcy(), {"train": 10, "test_b": 3, "valid": 1, "test_a": 2})
    again = DatasetConfig.from_dict({**json.loads(json.dumps(config.as_dict())), "later": 1})
    assert again == config and again.sha256 == config.sha256
    assert [config.split_code(s) for s in config.n] == [0, 3, 1, 4]
    more = S.config_of(S.darcy(), {"train": 999})
    assert more.sha256 == config.sha256
    for change in ({"seed": 8}, {"rtol": 1e-9}, {"params": {}}, {"solver": "pyamg"}):
        other = S.config_of(S.darcy(), {"train": 10}, **change)
        assert other.sha256 != config.sha256
        assert next(iter(change)) in config.differences(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"samples_per_shard": 0}, "samples_per_shard=0"),
        ({"n": {"train": -5}}, r"n\['train'\]=-5"),
        ({"n": {"training": 5}}, "unknown split 'training'"),
        ({"params": {"f": print}}, "need JSON types"),
        ({"params": {"f": math.nan}}, "need JSON types"),
        ({"compression": "lzf"}, "unknown compression 'lzf'"),
        ({"dtype": "float16"}, "unknown dtype"),
    ],
)
def test_bad_config(change, message):
    n = change.pop("n", {"train": 1})
    with pytest.raises(ValueError, match=message):
        S.config_of(S.darcy(), n, **change)


def test_provenance(tmp_path):
    import importlib.metadata

    schema = S.darcy()
    config = S.config_of(schema, {"train": 1})
    S.write_shard(
        tmp_path,
        schema,
        config,
        "train",
        0,
        command="opkit generate darcy -o /home/someone/data/darcy --config=/etc/c.yaml",
        estimator={"estimator": "richardson", "order": 2.0, "reference_resolution": [17, 17]},
    )
    ds = open_dataset(tmp_path)
    with h5py.File(ds["train"].files[0]) as f:
        prov = dict(f["provenance"].attrs)
        assert f["quality/discretization_error"].attrs["estimator"] == "richardson"
        assert f["quality/discretization_error"].attrs["order"] == 2.0
    assert ds.config == config.as_dict()
    assert prov["config_sha256"] == config.sha256
    software = json.loads(prov["software"])
    for name in ("numpy", "scipy", "h5py", "pyamg", "opkit"):
        assert software[name] == importlib.metadata.version(name)
    assert prov["command"] == "opkit generate darcy -o darcy --config=c.yaml"
    text = " ".join(map(str, prov.values()))
    assert "/home" not in text and os.uname().nodename not in text.split()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("opkit generate darcy -n 5 -o ../a/b", "opkit generate darcy -n 5 -o ../a/b"),
        ("/usr/bin/opkit x '/a b/c' --f=\"/q/r\"", "opkit x 'a b/c' --f=\"r\""),
        ("opkit --max-failures 5/100", "opkit --max-failures 5/100"),
    ],
)
def test_public_command(given, kept):
    assert public_command(given) == kept


# -- reading -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("darcy")
    _, stored = S.write_dataset(root, n={"train": 23, "valid": 5}, fail={6, 7})
    return root, stored


@settings(max_examples=40, deadline=None)
@given(indices=st.lists(st.integers(-21, 20), max_size=30))
def test_any_order_repeated_or_negative(dataset, indices):
    root, stored = dataset
    part = open_dataset(root)["train"]
    out = part.read(indices, ["u", "a", "forcing"])
    assert out["u"].shape == (len(indices), 9, 9)
    for row, i in enumerate(indices):
        fields, _ = stored[int(part.ids[i])]
        np.testing.assert_array_equal(out["u"][row], fields["u"].astype("f4"))
        np.testing.assert_array_equal(out["a"][row], fields["a"].astype("f4"))
        assert out["forcing"][row] == 1.0


def test_indices(dataset):
    part = open_dataset(dataset[0])["train"]
    np.testing.assert_array_equal(part.read(slice(2, 9, 3))["u"], part.read([2, 5, 8])["u"])
    np.testing.assert_array_equal(part.read(np.array([1, 0]))["u"], part.read([1, 0])["u"])
    for bad in (21, -22):
        with pytest.raises(IndexError, match=f"index {bad} is out of range: split 'train' has 21"):
            part.read([0, bad])
        with pytest.raises(IndexError):
            part[bad]
    with pytest.raises(IndexError, match="integers"):
        part.read([0.5])
    with pytest.raises(TypeError, match="read"):
        part[0:2]
    with pytest.raises(SchemaError, match="no field or scalar 'ua'"):
        part.read([0], ["ua"])
    with pytest.raises(SchemaError, match="quality/nonsense is missing"):
        part.quality("nonsense")
    assert [s["id"] for s in part] == part.ids.tolist()  # iteration ends by IndexError


def test_splits_by_name(dataset):
    ds = open_dataset(dataset[0])
    assert ds["val"] is ds["valid"] and "val" in ds and "test" not in ds
    with pytest.raises(DatasetError, match=r"has no split 'test'\. It has: train, valid\."):
        ds["test"]


def test_quality(dataset):
    part = open_dataset(dataset[0])["train"]
    ids = part.ids
    np.testing.assert_allclose(part.quality("residual"), 1e-12 * (1 + ids % 10), rtol=0)
    np.testing.assert_array_equal(part.quality("iterations"), ids % 5)
    assert part.quality("converged").all()
    estimated = np.isfinite(part.quality("discretization_error"))
    np.testing.assert_array_equal(estimated, ids % 4 == 0)


def test_pickle_and_fork_and_few_descriptors(tmp_path):
    _, stored = S.write_dataset(tmp_path, n={"train": 50}, samples_per_shard=1)
    part = pickle.loads(pickle.dumps(open_dataset(tmp_path)))["train"]
    np.testing.assert_array_equal(part[7]["outputs"]["u"], stored[7][0]["u"].astype("f4"))
    code = """
        import os, resource, sys
        import numpy as np
        from pde_data.hdf5 import open_dataset
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        part = open_dataset(sys.argv[1])["train"]
        truth = part.read(range(50))["u"]
        pids = []
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                order = np.random.default_rng(child).permutation(50)
                ok = np.array_equal(part.read(order)["u"], truth[order])
                ok &= all(np.array_equal(part[int(i)]["outputs"]["u"], truth[i]) for i in order)
                os._exit(0 if ok else 1)
            pids.append(pid)
        for i in range(50):  # at the same time
            assert np.array_equal(part[i]["outputs"]["u"], truth[i])
        print([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids])
    """
    done = python(code, tmp_path)
    assert done.stdout.strip() == "[0, 0, 0]", done.stderr


def test_a_replaced_shard_is_noticed(tmp_path):
    S.write_dataset(tmp_path, n={"train": 6})
    part = open_dataset(tmp_path)["train"]
    part.read(range(6))
    config = S.config_of(S.darcy(), {"train": 8})
    S.write_shard(tmp_path, S.darcy(), config, "train", 1)  # now of 4 samples
    with pytest.raises(DatasetError, match="out of date"):
        open_dataset(tmp_path)["train"].read([5])
    rebuild_index(tmp_path)
    assert len(open_dataset(tmp_path)["train"]) == 8


def test_h5py_is_not_imported_to_describe_a_dataset():
    code = """
        import sys
        import pde_data.hdf5
        from pde_data.hdf5 import DatasetConfig, DatasetSchema, SchemaError
        from pde_data.hdf5.schema import FieldSpec
        assert not {"h5py", "pint", "torch", "yaml"} & set(sys.modules)
        missing = [n for n in pde_data.hdf5.__all__ if not hasattr(pde_data.hdf5, n)]
        assert not missing and "h5py" in sys.modules and "torch" not in sys.modules
    """
    done = python(code)
    assert done.returncode == 0, done.stderr
    import pde_data.hdf5

    with pytest.raises(AttributeError, match="nonsense"):
        pde_data.hdf5.nonsense  # noqa: B018


# -- index, views, one plain file ----------------------------------------------------------------


def test_manifest(dataset):
    root, _ = dataset
    m = json.loads((root / "dataset.json").read_text())
    train = m["splits"]["train"]
    assert {k: train[k] for k in ("code", "requested", "written", "failed")} == {
        "code": 0,
        "requested": 23,
        "written": 21,
        "failed": 2,
    }
    ids = [i for i in range(23) if i not in (6, 7)]
    assert train["residual_max"] == pytest.approx(1e-11)
    known = [i for i in ids if i % 4 == 0]
    assert train["discretization_error"] == {"n": len(known), "mean": 1e-3, "max": 1e-3}
    for s in train["shards"]:
        data = (root / s["file"]).read_bytes()
        assert (s["bytes"], s["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert m["views"] == ["train.h5", "valid.h5"]
    assert (m["inputs"], m["outputs"], m["resolution"]) == (["a"], ["u"], [9, 9])
    assert rebuild_index(root) == m


@pytest.mark.parametrize("schema", [S.darcy(), S.flow((6, 5)), S.flow((4, 3, 5))])
def test_statistics_are_numpys(tmp_path, schema):
    _, stored = S.write_dataset(tmp_path, schema, {"train": 11, "valid": 4})
    stats = yaml.safe_load((tmp_path / "stats.yaml").read_text())
    assert list(stats) == ["mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"]
    train = [fields for i, (fields, _) in stored.items() if i < 10**9]
    timed = [f.name for f in schema.fields if f.time_varying]
    assert all(sorted(stats[k]) == sorted(timed) for k in stats if k.endswith("delta"))
    for f in schema.fields:
        rows = train if f.sample_varying else train[:1]
        v = np.stack([r[f.name].astype(schema.dtype).astype("f8") for r in rows])
        comps = (schema.grid.dim,) * f.rank
        pairs = [("", v)] + ([("_delta", np.diff(v, axis=1))] if f.time_varying else [])
        for suffix, w in pairs:
            w = w.reshape(-1, *comps)
            for key, expected in (
                ("mean", w.mean(0)),
                ("std", w.std(0)),
                ("rms", np.sqrt((w**2).mean(0))),
            ):
                # 8 significant digits; the mean cancels, so relative to the rms
                scale = np.sqrt((w**2).mean(0)).max()
                np.testing.assert_allclose(
                    stats[key + suffix][f.name], expected, rtol=0, atol=1e-7 * scale
                )


def test_statistics_do_not_cancel():
    from pde_data.hdf5.stats import Moments, statistics

    m = Moments((), False)
    rng = np.random.default_rng(0)
    values = 1e8 + rng.normal(size=(50, 30))  # the sum of squares would lose all of the variance
    for row in values:
        m.add(row)
    assert statistics({"v": m})["std"]["v"] == pytest.approx(values.std(), rel=1e-7)


def test_index_without_the_writers_statistics(dataset, tmp_path):
    import shutil

    shutil.copytree(dataset[0], tmp_path / "d")
    before = (tmp_path / "d/stats.yaml").read_text()
    for p in (tmp_path / "d/data/train").iterdir():
        with h5py.File(p, "r+") as f:
            del f["provenance"].attrs["statistics"]
    rebuild_index(tmp_path / "d")
    assert (tmp_path / "d/stats.yaml").read_text() == before


def test_view_reads_like_the_shards_in_h5py(dataset, tmp_path):
    import shutil

    root = shutil.copytree(dataset[0], tmp_path / "moved")
    ds = open_dataset(root)
    with h5py.File(root / "train.h5") as f:
        assert f["t0_fields/u"].is_virtual and math.isnan(f["t0_fields/u"].fillvalue)
        assert all(not Path(v.file_name).is_absolute() for v in f["t0_fields/u"].virtual_sources())
        np.testing.assert_array_equal(f["outputs/u"][...], ds["train"].read(range(21))["u"])
        np.testing.assert_array_equal(f["sample"][...], ds["train"].ids)
        np.testing.assert_array_equal(f["quality/digest"][...], ds["train"].quality("digest"))
    view = open_dataset(root / "train.h5")
    assert view.splits == ("train",) and view.schema == ds.schema
    assert view["train"].files == ds["train"].files
    np.testing.assert_array_equal(view["train"].read([20, 3])["a"], ds["train"].read([20, 3])["a"])
    assert check_dataset(root / "train.h5", physics=True) == []


def test_view_with_a_shard_missing(dataset, tmp_path):
    import shutil

    root = shutil.copytree(dataset[0], tmp_path / "d")
    (root / "data/train/darcy_train_00003.h5").unlink()
    with h5py.File(root / "train.h5") as f:  # what HDF5 does
        u = f["outputs/u"][...]
        assert np.isnan(u[10:14]).all() and np.isfinite(u[:10]).all()
    with pytest.raises(
        MissingShardError, match=r"train.h5: data/train/darcy_train_00003.h5 is missing"
    ):
        open_dataset(root / "train.h5")
    with pytest.raises(
        MissingShardError, match=r"darcy_train_00003.h5 is missing \(samples 10 to 13"
    ):
        open_dataset(root)
    shutil.copy(root / "train.h5", tmp_path / "alone.h5")
    with pytest.raises(MissingShardError):
        open_dataset(tmp_path / "alone.h5")


def test_no_view_over_too_many_shards(tmp_path, monkeypatch):
    import pde_data.hdf5.manifest as manifest

    S.write_dataset(tmp_path, n={"train": 10, "valid": 2})
    assert (tmp_path / "train.h5").exists()
    monkeypatch.setattr(manifest, "MAX_VIEW_SHARDS", 2)
    assert rebuild_index(tmp_path)["views"] == ["valid.h5"]
    assert not (tmp_path / "train.h5").exists()
    assert check_dataset(tmp_path) == []


@pytest.mark.parametrize(
    "schema", [S.darcy(), S.darcy(130), S.flow((6, 5))], ids=["small", "big", "flow"]
)
def test_export_and_back(tmp_path, schema):
    n = {"train": 9, "valid": 3, "test": 2, "test_b": 1}
    S.write_dataset(tmp_path / "d", schema, n, fail={4, 10**9 + 1})
    ds = open_dataset(tmp_path / "d")
    for name in ("one.h5", "two.h5"):
        export_h5(tmp_path / "d", tmp_path / name)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    with pytest.raises(FileExistsError):
        export_h5(tmp_path / "d", tmp_path / "one.h5")
    plain = open_dataset(tmp_path / "one.h5")
    assert (plain.schema, plain.splits) == (ds.schema, ds.splits)
    assert plain.content_digest == ds.content_digest
    names = [f.name for f in schema.fields] + [s.name for s in schema.scalars]
    for split in ds.splits:
        a, b = ds[split], plain[split]
        np.testing.assert_array_equal(a.ids, b.ids)
        for name in names:
            every = range(len(a))
            np.testing.assert_array_equal(a.read(every, [name])[name], b.read(every, [name])[name])
    with h5py.File(tmp_path / "one.h5") as f:
        assert f["provenance"].attrs["manifest"] == (tmp_path / "d/dataset.json").read_text()
        assert f["provenance"].attrs["stats"] == (tmp_path / "d/stats.yaml").read_text()
        assert f["splits/valid"][...].tolist() == [8, 9]
        assert f["failures/sample_id"][...].tolist() == [4, 10**9 + 1]
    assert check_dataset(tmp_path / "one.h5") == []
    back = import_h5(tmp_path / "one.h5", tmp_path / "back")
    assert back["content_digest"] == ds.content_digest
    for split, info in back["splits"].items():
        old = ds.manifest["splits"][split]
        assert [s["content_digest"] for s in info["shards"]] == [
            s["content_digest"] for s in old["shards"]
        ]
        assert info["failed"] == old["failed"]
    assert (tmp_path / "back/stats.yaml").read_text() == (tmp_path / "d/stats.yaml").read_text()
    assert check_dataset(tmp_path / "back") == []
