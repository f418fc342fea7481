"""Loading DOLFINx, and compiling forms where several processes share one cache."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..result import SolverUnavailable

__all__ = [
    "agree",
    "cache_dir",
    "communicator",
    "compile_forms",
    "current_communicator",
    "petsc",
    "require_dolfinx",
]

_communicator: ContextVar[Any] = ContextVar("communicator", default=None)


@contextmanager
def communicator(comm: Any) -> Iterator[None]:
    """Let solves inside the block share their work over the processes of `comm`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        All its processes must make the same solves, with the same data, in the same order.

    Notes
    -----
    The solution then comes to rank 0; the others get NaN in its shape.

    Examples
    --------
    >>> with communicator(MPI.COMM_WORLD):  # doctest: +SKIP
    ...     r = solve_diffusion(a, f, grid, solver="fenicsx")
    """
    token = _communicator.set(comm)
    try:
        yield
    finally:
        _communicator.reset(token)


def current_communicator() -> Any:
    """Return that of the innermost `communicator` block, ``COMM_SELF`` outside."""
    from mpi4py import MPI

    comm = _communicator.get()
    return MPI.COMM_SELF if comm is None else comm


def agree(comm: Any, problem: str) -> None:
    """Raise ValueError on all processes if one has found a problem: none waits for the others."""
    if comm.size > 1:
        problem = next((p for p in comm.allgather(problem) if p), "")
    if problem:
        raise ValueError(problem)


@cache
def require_dolfinx() -> None:
    """Make ``import dolfinx`` safe, or say what to install.

    Raises
    ------
    SolverUnavailable
        DOLFINx is not installed, or its PETSc is not the real double-precision one.
    """
    with suppress(ImportError):
        import h5py  # noqa: F401  # after DOLFINx it would run on DOLFINx's older HDF5
    try:
        try:
            import dolfinx_solver  # noqa: F401  # must come first: it orders MPI ahead of PETSc
        except ModuleNotFoundError as err:
            if err.name != "dolfinx_solver":
                raise
        import dolfinx.fem.petsc  # noqa: F401  # a conda or system build serves as well
    except ImportError as err:
        raise SolverUnavailable(
            f"solver 'fenicsx' needs DOLFINx with PETSc ({err}): pip install 'opkit[fem]'"
        ) from err
    scalar = np.dtype(petsc().ScalarType)
    if scalar != np.float64:
        raise SolverUnavailable(
            f"solver 'fenicsx' needs PETSc with float64 scalars, this one has {scalar}: "
            "pip install 'opkit[fem]'"
        )


def petsc() -> Any:
    """Return ``petsc4py.PETSc``, after `require_dolfinx`."""
    from petsc4py import PETSc

    return PETSc


@cache
def cache_dir() -> Path:
    """Directory of compiled forms: ``$XDG_CACHE_HOME/opkit/fenicsx``, by default in ``~/.cache``.

    A private temporary directory, removed at exit, if that one cannot be written.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "opkit" / "fenicsx"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="opkit-fenicsx-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
        return path


def compile_forms(forms: list[Any], *, comm: Any = None) -> list[Any]:
    """Compile UFL forms, or load them from the cache.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        Of the mesh, if it has several processes: rank 0 compiles for all.

    Raises
    ------
    SolverUnavailable
        No C compiler, or no Python headers.
    """
    from dolfinx import fem

    options = {"cache_dir": str(cache_dir()), "timeout": 120}
    try:
        # with all ranks waiting for the lock in turn, its holder would wait for them
        first = comm is None or comm.rank == 0
        with _exclusive(cache_dir()) if first else nullcontext():
            return [fem.form(form, jit_options=options) for form in forms]
    except Exception as err:
        reason = _missing_tool()
        if reason is None:
            raise
        raise SolverUnavailable(
            f"solver 'fenicsx' compiles its forms with a C compiler when it runs, {reason}"
        ) from err


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the cache; the system lets go of the lock when a process dies.

    FFCx marks a form in the making by its ``.c`` file, and waits for ever on one that a killed
    process left. Whoever holds the lock knows such files to be stale.
    """
    import fcntl

    with open(path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: FFCx's own marks must do
            yield
            return
        for source in path.glob("*.c"):
            if not source.with_suffix(".c.cached").exists():
                source.unlink(missing_ok=True)
        yield


def _missing_tool() -> str | None:
    """Say what a compilation lacks, and what to do about it."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    compiler = shlex.split(command)[0]
    if shutil.which(compiler) is None:
        return f"and found no {compiler!r}: install one (Debian: apt install gcc) or set CC"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return (
            f"and {header} is missing: install Python's headers (Debian: apt install python3-dev)"
        )
    return None
