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
# # Deblurring with a learned prior that is certain to converge
#
# Given a blurred noisy image $y = Ax + \varepsilon$, which image $x$ was it? A *learned proximal
# network* has seen clean images and is the proximal operator of a function $R$, small for images
# like those. Iterating $x \leftarrow f(x - \eta A^T(Ax - y))$ with it minimizes
#
# $$F(x) = \tfrac12\|Ax - y\|^2 + \tfrac1\eta R(x),$$
#
# and $F$ falls in every step if $\eta < 1/\|A\|^2$. So the step is the weight of the prior. What
# the noise $\sigma_n$ asks for is $1/\eta = \sigma_n^2/\sigma^2$, with $\sigma$ the noise of the
# training. Both hold if $\sigma < \sigma_n/\|A\|$, and this is how $\sigma$ is chosen here.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import opkit
from opkit.inverse import StepSizeWarning, pnp_pgd, tikhonov, tv
from opkit.inverse.figures import plot_convergence, plot_line, plot_reconstructions
from opkit.inverse.maps import problem_map
from pde_data.problem import get_problem

torch.set_num_threads(1)
work = Path(tempfile.mkdtemp())
n = int(os.environ.get("OPKIT_NOTEBOOK_N", "1000"))
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "30"))

# %% [markdown]
# ## Data and prior
#
# Digits of 8 x 8 pixels, blurred over 0.8 pixels, noise 0.2. The prior learns from the clean images
# alone; it never sees a blurred one.

# %%
noise = 0.2
opkit.generate(
    "deblurring", out=work / "digits", n=n, n_valid=20, n_test=20,
    params={"source": "digits", "width": 0.8, "noise": noise}, progress=False,
)  # fmt: skip
prior = opkit.fit(
    work / "digits", model="lpn", out=work / "lpn", epochs=epochs, threads=1, progress=False,
    options={"arch": "mlp", "hidden": 128},
    task={"sigma": 0.99 * noise, "sigma_units": "absolute"},
)  # fmt: skip
prior

# %% [markdown]
# ## Reconstruction and certificate

# %%
A = problem_map(get_problem("deblurring", source="digits", width=0.8), (8, 8))
test = opkit.open_dataset(work / "digits")["test"].read(slice(None), ["measurement", "image"])
y, image = (test[k].astype(float) for k in ("measurement", "image"))

weight = noise**2 / prior.sigma**2
found = pnp_pgd(A, y, prior, step=1 / weight, sigma_noise=noise, max_iter=1000)
print(found.certificate)
print("L =", A.norm_bound(), " weight =", round(weight, 4))
print("largest increase of F:", found.certificate.largest_increase)


# %%
def db(x):
    return 10 * np.log10(1 / np.mean((x - image) ** 2, axis=(1, 2))).mean()


others = {
    "TV": max((tv(A, y, weight=w, tol=1e-2).x for w in (0.01, 0.03, 0.1)), key=db),
    "Tikhonov": max((tikhonov(A, y, weight=w).x for w in (0.03, 0.1, 0.3)), key=db),
}
for name, x in {"data": y, **others, "learned prior": found.x}.items():
    print(f"{name:14} {db(x):.2f} dB")

# %% [markdown]
# The baselines got the weight that is best on these very images; the learned prior got none.

# %%
rows = {"data": y[:3], "TV": others["TV"][:3], "learned prior": found.x[:3], "truth": image[:3]}
plot_reconstructions(rows, error_of=("learned prior", "truth"), image=True)

# %%
plot_convergence(found).figure

# %% [markdown]
# ## The prior along a line
#
# From the blurred data (0) to the reconstruction (1) and beyond: $R$ has its low where the
# iteration ended.

# %%
t = np.linspace(-0.25, 1.5, 36)
points = y[0] + t[:, None, None] * (found.x[0] - y[0])
values = prior.regularizer(points) / prior.sigma**2
plot_line({"t": t, "value": values - values.min()}).figure

# %% [markdown]
# ## When it is not certain
#
# A longer step is another objective, and beyond $1/L$ nothing is promised: the certificate says so.

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StepSizeWarning)
    beyond = pnp_pgd(A, y, prior, step=3 / weight, sigma_noise=noise, max_iter=200)
print(beyond.certificate)

# %% [markdown]
# The same from the command line: `opkit invert RUN DATA -o OUT` writes reconstructions,
# certificate and a page.

# %%
done = opkit.invert(
    work / "digits", work / "lpn", out=work / "inversion", method="admm", progress=False
)
print(sorted(p.name for p in done.path.iterdir()))
print(done.facts["certificate"]["convergence"], done.facts["certificate"]["map_consistency"])
