# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # MgNO: from a textbook V-cycle to a trained operator
#
# A multigrid V-cycle solves $-\Delta u = f$ by a handful of small stencils: smooth, restrict the
# residual, solve on the coarser grid, interpolate, smooth. MgNO keeps this structure and learns the
# stencils. This notebook starts from the cycle in its textbook form, looks at it as a matrix, and
# ends with a network of such cycles that maps a permeability to a pressure.

# %%
# %matplotlib inline
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import opkit
from models.mgno import MultigridOperator

torch.set_num_threads(1)  # arrays this small are slower on several threads
work = Path(tempfile.mkdtemp())
n_samples = int(os.environ.get("OPKIT_NOTEBOOK_N", "160"))
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "12"))

# %% [markdown]
# ## The textbook cycle
#
# `init_poisson` sets second differences, damped Jacobi and linear interpolation. Repeating
# $u \leftarrow u + W(f - Au)$ multiplies the error by a factor that does not depend on the grid:
# this is what makes multigrid an $O(N)$ solver. The literature has 0.35, 0.24 and 0.17 for V(1,1),
# V(2,1) and V(2,2) with $\omega = 0.8$.


# %%
def cycle(n, pre, post):
    """V(pre, post)-cycle for the n x n interior points of the unit square."""
    levels = int(math.log2(n + 1))
    W = MultigridOperator(1, 1, levels=levels, smoothing=[(pre, post)] * levels).double()
    W.init_poisson(1 / (n + 1))
    return W


def factor(W, n):
    """Asymptotic reduction of the error in one cycle."""
    A = W.level[0].A[0]
    error = torch.randn(1, 1, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norms = []
    with torch.no_grad():
        for _ in range(20):
            error = error - W(A(error))
            norms.append(float(error.norm()))
            error = error / error.norm()
    return float(np.exp(np.mean(np.log(norms[-5:]))))


for pre, post in ((1, 1), (2, 1), (2, 2)):
    factors = "  ".join(f"{n} x {n}: {factor(cycle(n, pre, post), n):.3f}" for n in (15, 31, 63))
    print(f"V({pre},{post})  {factors}")

# %% [markdown]
# ## The cycle as a matrix
#
# A cycle is linear, so on a small grid it can be written down. It should be close to the inverse
# of the Laplacian, column by column a Green's function that vanishes on the boundary.

# %%
n = 15
W = cycle(n, 1, 1)
M = W.as_matrix((n, n)).numpy()
A = np.stack([W.level[0].A[0](e.view(1, 1, n, n)).detach().numpy().ravel()
              for e in torch.eye(n * n, dtype=torch.float64)], axis=1)  # fmt: skip
green = np.linalg.inv(A)
center = (n // 2) * n + n // 3

fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), constrained_layout=True)
for ax, column, title in (
    (axes[0], green[:, center], "column of the inverse"),
    (axes[1], M[:, center], "of one V(1,1)-cycle"),
):
    shown = ax.imshow(column.reshape(n, n), cmap="viridis", vmin=0, vmax=green[:, center].max())
    ax.set_title(title)
    fig.colorbar(shown, ax=ax)
eigenvalues = np.sort(np.abs(np.linalg.eigvals(np.eye(n * n) - M @ A)))[::-1]
axes[2].semilogy(np.maximum(eigenvalues, 1e-6))
axes[2].set(title="|eigenvalues| of I - W A", xlabel="number", ylim=(1e-4, 1))
print(f"largest eigenvalue of I - W A: {eigenvalues[0]:.3f}")

# %% [markdown]
# ## Boundaries are part of the stencils
#
# Every smoother, restriction and prolongation sees the field continued by its rule: odd for
# Dirichlet, even for Neumann, periodic. So a Neumann cycle gives the same as a periodic one on the
# reflected field, to rounding, with any flip-symmetric weights.

# %%
m = 17
neumann = MultigridOperator(1, 1, levels=4, boundary="neumann").double()
with torch.no_grad():
    for p in neumann.parameters():
        p.copy_((p + p.flip(2) + p.flip(3) + p.flip(2, 3)) / 4)
periodic = MultigridOperator(1, 1, levels=4, boundary="periodic").double()
periodic.load_state_dict(neumann.state_dict())
f = torch.randn(1, 1, m, m, dtype=torch.float64)
reflected = torch.cat([f, f.flip(2)[:, :, 1:-1]], 2)
reflected = torch.cat([reflected, reflected.flip(3)[..., 1:-1]], 3)
with torch.no_grad():
    here, there = neumann(f), periodic(reflected)[..., :m, :m]
print(f"difference to the reflected field: {float((here - there).abs().max()):.1e}")

# %% [markdown]
# ## Learning the stencils
#
# Now the coefficient varies: $-\nabla\cdot(a\nabla u) = 1$ with a rough two-valued $a$ and $u = 0$
# on the boundary. The map $a \mapsto u$ is not linear; MgNO alternates cycles with a pointwise
# activation. First some data, solved on a four times finer grid:

# %%
opkit.generate(
    "darcy",
    out=work / "darcy",
    n=n_samples,
    n_test=40,
    resolution=33,
    seed=1,
    set={"preset": "mgno_rough", "solve_refinement": 4},
)
data = opkit.open_dataset(work / "darcy")
train = data["train"]
print(len(train), "samples, largest residual", train.quality("residual").max())

# %% [markdown]
# `opkit fit` reads the boundary condition and the layout from the dataset. The loss is the relative
# $H^1$ error: derivatives count. FNO gets the same data, loss and epochs.

# %%
errors = {}
for name, options in (
    ("mgno", {"hidden_channels": 12}),
    ("fno", {"n_modes": 12, "hidden_channels": 16}),
):
    operator = opkit.fit(
        work / "darcy", model=name, out=work / name, epochs=epochs, batch_size=8, set=options
    )
    metrics = opkit.evaluate(work / name, work / "darcy", compare=False)
    errors[name] = metrics
    print(
        f"{name}: {sum(p.numel() * (1 + p.is_complex()) for p in operator.model.parameters()):,} "
        f"parameters, relative L2 error: mean {metrics['rel_l2']['mean']:.1%}, "
        f"H1 {metrics['rel_h1']['mean']:.1%}"
    )

# %%
from opkit.plots import plot_sample

operator = opkit.load(work / "mgno")
sample = data["test"][0]
prediction = operator(sample["inputs"]["a"])
plot_sample(
    sample["inputs"]["a"][None],
    sample["outputs"]["u"][None],
    prediction[None],
    [sample["coords"][k] for k in "xy"],
    input_labels=["a [m²/(Pa s)]"],
    output_labels=["u [Pa]"],
    axis_units=["m", "m"],
)

# %% [markdown]
# ## A finer grid
#
# Stencils contain the mesh width, so a trained MgNO belongs to its grid. `refined` puts one finer
# level in front of every cycle and keeps what the coarser ones have learned: a start for a short
# training on the finer data.

# %%
fine = operator.model.refined()
x = torch.randn(1, 1, 65, 65)
with torch.no_grad():
    print(
        "levels", [c.levels for c in operator.model.cycles], "->", [c.levels for c in fine.cycles]
    )
    print("walls stay exact:", bool((fine(x)[..., 0, :] == 0).all()))
