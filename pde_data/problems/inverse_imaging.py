"""Inverse problems of imaging: an image from a blurred, incomplete or projected noisy one."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

import solvers as numerics
from solvers.grids import Axis, Grid

from ..hdf5.schema import BoundarySpec, DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec
from ..images import Image, Shape, Shapes, image_source
from ..problem import Dtype, Parameters, Problem, ProblemError, Solution, register
from ..verification import Check, agreement, at_most

__all__ = ["CompressedSensing", "Deblurring", "Tomography"]

Source = Literal["inclusions", "gaussian", "phantom", "digits", "photos"]
_SOURCE = (
    "images: random inclusions, smooth Gaussian fields, phantoms of ellipses; digits "
    "(scikit-learn, resolution 8); photos (tiles of scikit-image's photographs)"
)
_SCALE = (
    "absolute: noise is the standard deviation; relative: times the root mean square of the clean "
    "measurement"
)


class ImagingParameters(Parameters):
    """Parameters of every imaging problem; a subclass repeats a field to change its default."""

    source: Source = Field("inclusions", description=_SOURCE)
    noise: float = Field(
        0.02, ge=0, le=10, description="standard deviation of the Gaussian noise, see noise_scale"
    )
    noise_scale: Literal["absolute", "relative"] = Field("absolute", description=_SCALE)


class DeblurringParameters(ImagingParameters):
    """Parameters of `Deblurring`."""

    kernel: Literal["gaussian", "disk", "motion", "none"] = Field(
        "gaussian", description="gaussian: width is the standard deviation; disk (defocus): the "
        "radius; motion: the length of a line; none: denoising",
    )  # fmt: skip
    width: float = Field(1.0, ge=0.1, le=50, description="size of the kernel, pixels")
    angle: float = Field(
        0.0, ge=-7, le=7, description="of the motion, from the x axis, rad; motion alone"
    )
    boundary: Literal["periodic", "zero"] = Field(
        "periodic", description="what the blur sees outside of the image"
    )


class CompressedSensingParameters(ImagingParameters):
    """Parameters of `CompressedSensing`."""

    matrix: Literal["gaussian", "cosine"] = Field(
        "gaussian", description="independent normal entries; or random rows of the cosine "
        "transform of the image with random signs, for large images",
    )  # fmt: skip
    ratio: float = Field(0.25, gt=0, le=1, description="measurements per pixel")
    operator_seed: int = Field(0, ge=0, description="seed of the matrix")


class TomographyParameters(ImagingParameters):
    """Parameters of `Tomography`."""

    source: Source = Field("phantom", description=_SOURCE)
    noise: float = Field(
        0.01, ge=0, le=10, description="standard deviation of the Gaussian noise, see noise_scale"
    )
    noise_scale: Literal["absolute", "relative"] = Field("relative", description=_SCALE)
    n_angles: int = Field(30, ge=1, le=10_000, description="directions, uniform in [0, arc)")
    arc: float = Field(
        180.0, gt=0, le=360, description="angular range, degrees; below 180: limited angle"
    )
    n_detectors: int | None = Field(
        None, ge=2, le=10_000, description="lines a direction, across the image's diagonal; "
        "default 3/2 times the pixels an axis",
    )  # fmt: skip


@dataclass(frozen=True)
class ImagingInputs:
    """An image and the seed of its noise.

    Attributes
    ----------
    image : Image
    noise_seed : int
        Of the noise, whose shape depends on the resolution.
    """

    image: Image
    noise_seed: int


class _Imaging(Problem):
    dim = 2
    default_resolution = 32
    min_resolution = 4
    resolution_counts: ClassVar[str] = "pixels per axis"
    quick_resolution: ClassVar[int | tuple[int, ...] | None] = 16
    solvers: ClassVar[tuple[str, ...]] = ("fast", "direct")
    Params: ClassVar[type[Parameters]] = ImagingParameters
    params: Any
    #: Ends of the image on both axes.
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    reference: ClassVar[str] = (
        "Fang, Buchanan, Sulam, What's in a Prior? Learned Proximal Networks for Inverse "
        "Problems, ICLR 2024, arXiv:2310.14344"
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.source = image_source(self.params.source)
        if self.params.source == "digits":
            self.default_resolution = 8

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid of pixels."""
        lower, upper = self.bounds
        return Grid(
            tuple(
                Axis(a, n, lower, upper, location="cell_center", periodic=self._periodic)
                for a, n in zip("xy", resolution, strict=True)
            )
        )

    @property
    def _periodic(self) -> bool:
        return False

    # -- what a problem defines ------------------------------------------------------------

    @abstractmethod
    def operator(self, resolution: tuple[int, ...]) -> Any:
        """Return the forward operator A, with exact adjoint; see `solvers.observation`."""

    @abstractmethod
    def evaluate(self, resolution: tuple[int, ...], image: np.ndarray, solver: str) -> np.ndarray:
        """Return ``A image`` by the fast or by the direct way, flat."""

    @abstractmethod
    def measurement_axes(self, resolution: tuple[int, ...]) -> tuple[ExtraAxis, ...]:
        """Return the axes of the measurement; none where it is an image."""

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the constant scalars."""
        return ()

    # -- what follows from it ---------------------------------------------------------------

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe: measurement in, image out; and the measurement without noise."""
        self._check_pixels(resolution)
        axes = self.measurement_axes(resolution)
        where: dict[str, Any] = {"location": "cell_center"}
        data = {"dims": tuple(a.name for a in axes)} if axes else where
        fields = (
            FieldSpec("image", "image to recover", valid_min=0.0, valid_max=1.0, **where),
            FieldSpec("measurement", "noisy measurement", **data),
            FieldSpec("clean", "measurement without noise", **data),
        )
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=fields,
            inputs=("measurement",),
            outputs=("image",),
            axes=axes,
            scalars=(
                ScalarSpec("noise_std", "standard deviation of the noise in the measurement"),
                *self.constants(),
            ),
            boundary_conditions=self._boundary(),
            dtype=dtype,
            equation=self.equation,
            sampling="pixels",
        )

    def _boundary(self) -> tuple[BoundarySpec, ...]:
        return ()

    def _check_pixels(self, resolution: tuple[int, ...]) -> None:
        if self.params.source == "digits" and resolution != (8, 8):
            raise ProblemError(f"resolution={resolution}: source='digits' has 8 x 8 pixels")
        if self.params.source == "photos" and (resolution[0] > 172 or resolution[1] > 384):
            raise ProblemError(
                f"resolution={resolution}: tiles of source='photos' have at most 172 x 384 pixels"
            )

    def sample(self, rng: np.random.Generator) -> ImagingInputs:
        """Draw an image; of real images, any one of the training set."""
        return self.draw(rng, int(rng.integers(10**6)))

    def draw(self, rng: np.random.Generator, sample_id: int) -> ImagingInputs:
        """Draw an image; the split decides which real images it may be."""
        image = self.source.draw(rng, sample_id)
        return ImagingInputs(image, int(rng.integers(2**62)))

    def solve(
        self, inputs: ImagingInputs, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> Solution:  # fmt: skip
        """Evaluate the forward operator and add the noise.

        The residual is the relative difference between its two evaluations, fast and direct.
        """
        self.check_solver(solver)
        self._check_pixels(resolution)
        image = inputs.image.pixels(self.grid(resolution))
        A = self.operator(resolution)
        start = time.perf_counter()
        clean = self.evaluate(resolution, image, solver)
        seconds = time.perf_counter() - start
        residual = self.evaluation_gap(resolution, image, clean, solver)
        std = self.params.noise
        if self.params.noise_scale == "relative":
            std *= float(np.sqrt(np.mean(clean**2)))
        rng = np.random.default_rng(inputs.noise_seed)
        noisy = clean + std * rng.standard_normal(clean.shape)
        shape = A.data_shape
        return Solution(
            {"image": image, "measurement": noisy.reshape(shape), "clean": clean.reshape(shape)},
            residual,
            0,
            seconds,
            solver,
            scalars={"noise_std": float(std)},
            group=inputs.image.group,
        )

    def evaluation_gap(
        self, resolution: tuple[int, ...], image: np.ndarray, clean: np.ndarray, solver: str
    ) -> float:
        """Return the relative difference to the other way of evaluating the operator."""
        other = self.evaluate(resolution, image, "direct" if solver == "fast" else "fast")
        return _relative(clean - other, other)

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the fast evaluation."""
        return "fast"

    def convergence_order(self, solver: str) -> float:
        """Return infinity: the problem is discrete, its pixels are exact."""
        return math.inf

    def discretization_error(
        self, inputs: Any, solution: Solution, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """Return 0: the pixel image is the unknown itself, and the operator acts on pixels."""
        return 0.0

    def _common_checks(self, resolution: tuple[int, ...]) -> Iterable[Check]:
        A = self.operator(resolution)
        gap = numerics.adjoint_gap(A, np.random.default_rng(0))
        yield at_most("adjoint: <Ax, y> = <x, A'y>", gap, 1e-12, kind="invariant")
        inputs = self.draw(np.random.default_rng(1), 0)
        noise = []
        for seed in range(20):
            again = ImagingInputs(inputs.image, seed)
            s = self.solve(again, self._quick(resolution), solver="fast")
            noise.append((s.fields["measurement"] - s.fields["clean"]).ravel())
            std = s.scalars["noise_std"]
        if std > 0:
            flat = np.concatenate(noise) / std
            # five standard deviations of the estimate
            yield agreement(
                "standard deviation of the noise over noise_std", float(flat.std()), 1.0,
                within=5 / math.sqrt(2 * flat.size), kind="invariant",
            )  # fmt: skip

    def _quick(self, resolution: tuple[int, ...]) -> tuple[int, ...]:
        return (8, 8) if self.params.source == "digits" else resolution


def _relative(difference: np.ndarray, reference: np.ndarray) -> float:
    size = float(np.linalg.norm(reference))
    e = float(np.linalg.norm(difference))
    return e / size if size > 0 else e


@register
class Deblurring(_Imaging):
    """Recover an image from a blurred noisy one: ``y = k * x + noise``, values in [0, 1].

    Parameters
    ----------
    **params
        Fields of `DeblurringParameters`.

    Notes
    -----
    Pixels are unknowns, the width of the kernel counts pixels. "fast" convolves by FFT, "direct"
    sums over the kernel. Of ten digits in a row 8 are for training, 1 each for the other splits;
    photographs belong to one split each: no base image is in two (`quality/group` is its number).
    """

    name: ClassVar[str] = "deblurring"
    title: ClassVar[str] = "Deblurring of images"
    equation: ClassVar[str] = r"y = k * x + \varepsilon,\quad \varepsilon\sim N(0,\sigma^2)"
    Params: ClassVar[type[Parameters]] = DeblurringParameters
    params: DeblurringParameters

    @property
    def _periodic(self) -> bool:
        return self.params.boundary == "periodic"

    def kernel(self) -> np.ndarray:
        """Return the kernel, sum 1."""
        p = self.params
        if p.kernel == "none":
            return np.ones((1, 1))
        if p.kernel == "gaussian":
            return numerics.gaussian_kernel(p.width)
        return (
            numerics.disk_kernel(p.width)
            if p.kernel == "disk"
            else numerics.motion_kernel(p.width, p.angle)
        )

    def operator(self, resolution: tuple[int, ...]) -> numerics.Blur:
        """Return the blur."""
        return numerics.Blur(resolution, self.kernel(), boundary=self.params.boundary)

    def evaluate(self, resolution: tuple[int, ...], image: np.ndarray, solver: str) -> np.ndarray:
        """Return the blurred image, flat."""
        A = self.operator(resolution)
        return (A.apply(image) if solver == "fast" else _direct_blur(A, image)).ravel()

    def measurement_axes(self, resolution: tuple[int, ...]) -> tuple[ExtraAxis, ...]:
        """Return none: the measurement is an image."""
        return ()

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the width of the kernel."""
        return (ScalarSpec("width", "size of the kernel in pixels", "1", self.params.width),)

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say how the operator is evaluated."""
        return "convolution on pixels by " + ("FFT" if solver == "fast" else "sums")

    def checks(self) -> Iterable[Check]:
        """Check: a wave is damped by the kernel's Fourier series, mass is kept, adjoint."""
        yield from self._common_checks((16, 16))
        n = 24
        kernel = self.kernel()
        A = numerics.Blur((n, n), kernel)
        i = np.arange(n)
        phase = 2 * np.pi * (2 * i[:, None] + 3 * i) / n
        half = [k // 2 for k in kernel.shape]
        a, b = (np.arange(-h, h + 1) for h in half)
        symbol = np.sum(kernel * np.exp(-2j * np.pi * (2 * a[:, None] + 3 * b) / n))
        exact = np.real(symbol * np.exp(1j * phase))
        error = float(np.abs(A.apply(np.cos(phase)) - exact).max())
        yield at_most("a wave is an eigenfunction of the periodic blur", error, 1e-13)
        x = np.random.default_rng(0).random((n, n))
        drift = abs(A.apply(x).sum() / x.sum() - 1)
        yield at_most("the periodic blur keeps the sum", drift, 1e-13, kind="invariant")


def _direct_blur(A: numerics.Blur, x: np.ndarray) -> np.ndarray:
    """Sum directly; a kernel wider than the image is wrapped first."""
    if A.boundary == "periodic" and any(
        k // 2 > n for k, n in zip(A.kernel.shape, A.field_shape, strict=True)
    ):
        out = np.zeros_like(x)
        half = [k // 2 for k in A.kernel.shape]
        for index in np.ndindex(A.kernel.shape):
            shift = tuple(i - h for i, h in zip(index, half, strict=True))
            out += A.kernel[index] * np.roll(x, shift, axis=(0, 1))
        return out
    return A.direct(x)


@register
class CompressedSensing(_Imaging):
    """Recover an image from few random projections: ``y = A x + noise``, A of M < N rows.

    Parameters
    ----------
    **params
        Fields of `CompressedSensingParameters`.

    Notes
    -----
    The matrix is the same for all samples and follows from `operator_seed`:
    ``get_problem("compressed_sensing", ...).operator((32, 32))`` gives it. Columns have norm 1 on
    average. "fast" is a matrix product in float64 (or a fast cosine transform), "direct" one in
    extended precision, row by row (or products with cosine matrices). Splits as in `Deblurring`.
    """

    name: ClassVar[str] = "compressed_sensing"
    title: ClassVar[str] = "Compressed sensing of images"
    equation: ClassVar[str] = (
        r"y = Ax + \varepsilon,\quad A\in\mathbb{R}^{M\times N},\ M<N,\quad "
        r"\varepsilon\sim N(0,\sigma^2)"
    )
    Params: ClassVar[type[Parameters]] = CompressedSensingParameters
    params: CompressedSensingParameters

    def _rows(self, resolution: tuple[int, ...]) -> int:
        return max(1, round(self.params.ratio * math.prod(resolution)))

    def operator(self, resolution: tuple[int, ...]) -> Any:
        """Return the matrix."""
        p, m = self.params, self._rows(resolution)
        if p.matrix == "gaussian" and m * math.prod(resolution) > 2**26:
            raise ProblemError(
                f"resolution={resolution}: a gaussian matrix of {m} x {math.prod(resolution)} "
                "needs more than 512 MiB; use matrix='cosine'"
            )
        return _sensing(p.matrix, tuple(resolution), m, p.operator_seed)

    def evaluate(self, resolution: tuple[int, ...], image: np.ndarray, solver: str) -> np.ndarray:
        """Return the measurements."""
        A = self.operator(resolution)
        if solver == "fast":
            return A.apply(image)
        if isinstance(A, numerics.CosineSensing):
            return A.direct(image)
        x = image.ravel().astype(np.longdouble)
        return np.array([float(np.sum(row * x)) for row in A.matrix])

    def measurement_axes(self, resolution: tuple[int, ...]) -> tuple[ExtraAxis, ...]:
        """Return the axis of the measurements."""
        return (ExtraAxis.index("row", self._rows(resolution), long_name="row of the matrix"),)

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the operator is."""
        n = math.prod(resolution)
        return f"{self.params.matrix} matrix, {self._rows(resolution)} x {n}, on pixels"

    def checks(self) -> Iterable[Check]:
        """Check: spectra known from theory, adjoint."""
        yield from self._common_checks((16, 16))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((12, 12))
        A = numerics.CosineSensing((12, 12), 144, rng)
        gap = abs(float(np.linalg.norm(A.apply(x)) / np.linalg.norm(x)) - 1)
        yield at_most("all rows of the cosine transform: an isometry", gap, 1e-13)
        s = np.linalg.svd(numerics.gaussian_sensing((24, 24), 144, rng).matrix, compute_uv=False)
        # Marchenko-Pastur: singular values fill [sqrt(N/M) - 1, sqrt(N/M) + 1] = [1, 3]
        yield agreement("Gaussian matrix: largest singular value", float(s[0]), 3.0, within=0.15)
        yield agreement("Gaussian matrix: smallest singular value", float(s[-1]), 1.0, within=0.15)


@lru_cache(maxsize=4)
def _sensing(kind: str, shape: tuple[int, ...], m: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (numerics.gaussian_sensing if kind == "gaussian" else numerics.CosineSensing)(
        shape, m, rng
    )


@register
class Tomography(_Imaging):
    """Recover an image from line integrals: parallel-beam computed tomography.

    ``y(theta, s) = int_{x . n(theta) = s} image + noise``, ``n = (cos theta, sin theta)``, on the
    square [-1, 1]^2.

    Parameters
    ----------
    **params
        Fields of `TomographyParameters`.

    Notes
    -----
    The image is constant in each pixel, and the integrals of that function are exact: a sparse
    matrix of the lengths of the lines in the pixels, whose transpose is the exact adjoint. "fast"
    multiplies with it, "direct" adds up pixel by pixel where a line enters and leaves; the residual
    of "fast" compares 64 lines. Detectors lie across the diagonal, sqrt(2) to either side of the
    center. Splits as in `Deblurring`.
    """

    name: ClassVar[str] = "tomography"
    title: ClassVar[str] = "Computed tomography"
    equation: ClassVar[str] = (
        r"y(\theta,s) = \int_{x\cdot n(\theta)=s} u\,d\ell + \varepsilon,\quad "
        r"\varepsilon\sim N(0,\sigma^2)"
    )
    Params: ClassVar[type[Parameters]] = TomographyParameters
    params: TomographyParameters
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    quick_params: ClassVar[dict[str, Any]] = {"n_angles": 8}

    def geometry(self, resolution: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return angles (rad) and offsets of the lines."""
        p = self.params
        n = p.n_detectors or math.ceil(1.5 * max(resolution))
        angles = math.radians(p.arc) / p.n_angles * np.arange(p.n_angles)
        half = math.sqrt(2.0)
        return angles, -half + 2 * half / n * (np.arange(n) + 0.5)

    def operator(self, resolution: tuple[int, ...]) -> Any:
        """Return the Radon transform, a sparse matrix."""
        angles, offsets = self.geometry(resolution)
        return _radon(self.grid(resolution), tuple(angles), tuple(offsets))

    def evaluate(self, resolution: tuple[int, ...], image: np.ndarray, solver: str) -> np.ndarray:
        """Return the sinogram, flat."""
        if solver == "fast":
            return self.operator(resolution).apply(image).ravel()
        angles, offsets = (
            v.ravel() for v in np.meshgrid(*self.geometry(resolution), indexing="ij")
        )
        return numerics.ray_integrals(image, self.grid(resolution), angles, offsets)

    def evaluation_gap(
        self, resolution: tuple[int, ...], image: np.ndarray, clean: np.ndarray, solver: str
    ) -> float:
        """Return the relative difference to the other evaluation; of "fast", on 64 lines."""
        if solver == "direct":
            return super().evaluation_gap(resolution, image, clean, solver)
        angles, offsets = (
            v.ravel() for v in np.meshgrid(*self.geometry(resolution), indexing="ij")
        )
        some = np.unique(np.linspace(0, clean.size - 1, 64).astype(int))
        other = numerics.ray_integrals(image, self.grid(resolution), angles[some], offsets[some])
        return float(np.linalg.norm(clean[some] - other)) / max(
            float(np.linalg.norm(clean)) * math.sqrt(some.size / clean.size), 1e-300
        )

    def measurement_axes(self, resolution: tuple[int, ...]) -> tuple[ExtraAxis, ...]:
        """Return angle and detector."""
        angles, offsets = self.geometry(resolution)
        return (
            ExtraAxis("angle", tuple(angles), "rad", "of the normal of the lines, from the x axis"),
            ExtraAxis("detector", tuple(offsets), "1", "distance of the line from the center"),
        )

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the operator is."""
        return "exact line integrals of the piecewise constant image"

    def checks(self) -> Iterable[Check]:
        """Check against a square, a disk's chords and a Gaussian's transform; mass; adjoint."""
        yield from self._common_checks((16, 16))
        offsets = np.linspace(-1.3, 1.3, 53)
        angles = np.array([0.1, 0.7, 1.4, 2.2])
        grid = self.grid((16, 16))
        x = np.zeros(grid.shape)
        x[4:12, 4:12] = 1.0  # the square of half side 1/2: its transform is a trapezoid
        c, s = np.abs(np.cos(angles))[:, None], np.abs(np.sin(angles))[:, None]
        top, base = 0.5 * np.abs(c - s), 0.5 * (c + s)
        exact = np.clip((base - np.abs(offsets)) / (base - top), 0, 1) / np.maximum(c, s)
        error = float(np.abs(numerics.radon_operator(grid, angles, offsets).apply(x) - exact).max())
        yield at_most("a square, exact", error, 1e-12)
        grid = self.grid((128, 128))
        x1, x2 = grid.meshgrid()
        blob = np.exp(-12 * ((x1 - 0.1) ** 2 + (x2 + 0.2) ** 2))
        shift = offsets - (0.1 * np.cos(angles) - 0.2 * np.sin(angles))[:, None]
        truth = math.sqrt(np.pi / 12) * np.exp(-12 * shift**2)
        error = _relative(numerics.radon_operator(grid, angles, offsets).apply(blob) - truth, truth)
        yield at_most("a Gaussian, 128 x 128 pixels", error, 1e-3)
        disk = Shapes((Shape((0.5, 0.5), (0.35, 0.35), 0.0, 1.0),))(grid)
        inner = np.linspace(-0.6, 0.6, 25)  # away from the tangents, where the chord has no slope
        gap = numerics.radon_operator(grid, angles, inner).apply(disk) - 2 * np.sqrt(
            0.7**2 - inner**2
        )
        yield at_most("chords of a disk, 128 x 128 pixels", float(np.abs(gap).max()), 2 * 2 / 128)


@lru_cache(maxsize=4)
def _radon(grid: Grid, angles: tuple[float, ...], offsets: tuple[float, ...]) -> Any:
    return numerics.radon_operator(grid, np.array(angles), np.array(offsets))
