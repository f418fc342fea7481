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
# # What is in a prior? One dimension, where the answer is known
#
# Numbers $x$ with the Laplace density $p(x) = \frac12 e^{-|x|}$ are seen with normal noise of
# deviation 1. Which function $f$ denoises them?
#
# - The *mean* of the posterior minimizes the squared error.
# - Its *maximum* minimizes $\frac12 (x - y)^2 - \log p(x)$: that is the proximal operator of
#   $R(x) = |x|$, soft thresholding.
#
# A learned proximal network is *some* proximal operator whatever it is trained by. Only if it
# is trained by proximal matching is its prior that of the data. The trainings here are short;
# `benchmarks/bench_lpn.py` has longer ones.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from models.lpn import LPN, ProximalMatching, proximal_matching_loss

torch.set_num_threads(1)
steps = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "20")) * 100

# %% [markdown]
# ## Two trainings of the same network
#
# Proximal matching minimizes $1 - e^{-(f(y) - x)^2/\gamma^2}$ with smaller and smaller
# $\gamma$, after a start with the absolute error: with a small $\gamma$ from the beginning the
# exponential is zero everywhere, and so is its gradient. After each step negative weights are
# set to zero, which keeps the potential convex.

# %%
schedule = ProximalMatching(
    gamma_min=0.2, stages=3, pretrain_steps=steps // 3, steps=steps - steps // 3, lr_pretrain=4e-3,
    lr=2e-3,
)  # fmt: skip


def train(loss):
    torch.manual_seed(0)
    net = LPN((1,), hidden=50, layers=4, beta=10.0, alpha=0.0, init="uniform").project_()
    optimizer = torch.optim.Adam(net.parameters())
    laplace = torch.distributions.Laplace(0.0, 1.0)
    for step in range(steps):
        stage = schedule.at(step, sigma=1.0, n=1)
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * (1 - step / steps)
        x = laplace.sample((500, 1))
        f = net(x + torch.randn_like(x))
        if loss == "squared":
            value = (f - x).square().mean()
        elif stage.gamma is None:
            value = (f - x).abs().mean()
        else:
            value = proximal_matching_loss(f, x, stage.gamma)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        net.project_()
    print(f"{loss}: smallest weight that must not be negative: {net.check_convexity():.3g}")
    return net


nets = {loss: train(loss) for loss in ("proximal matching", "squared")}

# %% [markdown]
# ## The denoisers, and the priors they are the proximal operators of
#
# $R$ at $x$ needs $y$ with $f(y) = x$, by minimizing a convex function; a point that cannot be
# inverted raises an error.

# %%
y = np.linspace(-4, 4, 161)
soft = np.sign(y) * np.maximum(np.abs(y) - 1, 0)
density = 0.5 * np.exp(-np.abs(np.linspace(-15, 15, 6001)))
x = np.linspace(-15, 15, 6001)
posterior = density * np.exp(-0.5 * (y[:, None] - x) ** 2)
mean = (posterior * x).sum(1) / posterior.sum(1)

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].plot(y, soft, "k", lw=1, label="maximum of the posterior (exact)")
axes[0].plot(y, mean, "k:", lw=1, label="mean of the posterior (exact)")
at = np.linspace(-2, 2, 41)
axes[1].plot(at, np.abs(at), "k", lw=1, label="|x|")
for loss, net in nets.items():
    with torch.no_grad():
        f = net(torch.as_tensor(y, dtype=torch.float32)[:, None])[:, 0].numpy()
    r = net.regularizer(torch.as_tensor(at)[:, None], method="cg", tol=1e-4).numpy()
    axes[0].plot(y, f, label=loss)
    axes[1].plot(at, r - r[20], label=loss)
    print(
        f"{loss}: rms to soft thresholding {np.sqrt(np.mean((f - soft) ** 2)):.3f} "
        f"(exact mean: {np.sqrt(np.mean((mean - soft) ** 2)):.3f}), "
        f"R(1) - R(0) = {r[30] - r[20]:.2f}, R(2) - R(0) = {r[40] - r[20]:.2f}"
    )
axes[0].set(xlabel="y", ylabel="f(y)", title="denoiser")
axes[1].set(xlabel="x", ylabel="R(x) - R(0)", title="its prior")
for ax in axes:
    ax.legend(frameon=False)

# %% [markdown]
# The network trained by the squared error is as good a denoiser in its own sense, and its prior
# is wrong: less than half of the true one at 1. In an inverse problem, that prior would be
# used.
