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
# # DeepONet: generalization, data and sensors
#
# The first example of the DeepONet paper (Lu et al., Nature Machine Intelligence 3, 2021): the
# antiderivative
#
# $$s(y) = \int_0^y u(t)\,dt,\qquad y\in[0, 1],$$
#
# of random functions $u$, Gaussian processes of correlation length 0.2. A *branch* net sees $u$ at
# a few sensors, a *trunk* net sees $y$, and the answer is the inner product of the two. Three
# questions: does it generalize better than one plain network on $(u, y)$; how does the error fall
# with the number of functions; and how many sensors does it take? The trainings here are short, so
# that the notebook runs in a minute or two; `benchmarks/bench_deeponet.py` has longer ones.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import opkit

torch.set_num_threads(1)  # nets this small are slower on several threads
work = Path(tempfile.mkdtemp())
n = int(os.environ.get("OPKIT_NOTEBOOK_N", "1000"))
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "5"))
made = opkit.generate(
    "antiderivative", out=work / "data", n=n, n_test=200, seed=1, params={"n_sensors": 61},
    error_fraction=0.0, samples_per_shard=4000, progress=False,
)  # fmt: skip
data = opkit.open_dataset(work / "data")
train = data["train"]
print(len(train), "samples, largest residual", train.quality("residual").max())

# %% [markdown]
# ## Train on one random point of each function
#
# That is the paper's setting: $n$ triples $(u, y, s(y))$. The errors on test are mean squares over
# whole new functions.

# %%
small = {"latent": 40, "branch_layers": [40], "trunk_layers": [40], "activation": "relu"}
plain = {"layers": [40, 40], "activation": "relu"}


def errors(model, options, *, count=n, **task):
    """Mean squared errors at the training points and on test."""
    run = work / f"{model}-{count}-{task.get('sensors', 61)}"
    op = opkit.fit(
        work / "data", model=model, out=run, options=options, n_train=count, threads=1,
        task={"points": 1, **task}, batch_size=min(count, 500), epochs=epochs,
        repeat=max(1, 100 * min(count, 500) // count), lr=3e-3, weight_decay=0.0, progress=False,
    )  # fmt: skip
    found = opkit.evaluate(run, work / "data", progress=False)
    pairs = op.task.data(train, dtype=torch.float32, limit=count, train=True)
    u, y, s, _, _ = pairs[range(len(pairs))]
    low, high = op.task.coordinates[0].lower, op.task.coordinates[0].upper
    with torch.no_grad():
        guess = op.at((u,), low + (y + 1) / 2 * (high - low))
    return float((guess - s).square().mean()), found


sizes = [n // 4, n // 2, n]
curves = {
    name: [errors(name, options, count=k) for k in sizes]
    for name, options in (("deeponet", small), ("fnn", plain))
}
result = curves["deeponet"][-1][1]
print(f"relative L2 error: mean {result['rel_l2']['mean']:.3f} with {n} functions")

# %% [markdown]
# ## The generalization gap, and the error against the number of functions
#
# Both networks fit their training points; on new functions the plain one is off by far more. The
# slopes are fitted to the errors on test.

# %%
fig, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
for (name, found), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
    test = [f["mse"]["mean"] for _, f in found]
    on_train = [t for t, _ in found]
    slope = np.polyfit(np.log(sizes), np.log(test), 1)[0]
    ax.loglog(sizes, test, "o-", color=color, label=f"{name}, test (slope {slope:.1f})")
    ax.loglog(sizes, on_train, "s--", color=color, alpha=0.6, label=f"{name}, training points")
    print(f"{name}: test {test[-1]:.2e}, training {on_train[-1]:.2e}, slope {slope:.2f}")
ax.set(xlabel="functions", ylabel="mean squared error", title="one point of each function")
ax.legend(frameon=False, fontsize=8)
ratio = curves["fnn"][-1][1]["mse"]["mean"] / curves["deeponet"][-1][1]["mse"]["mean"]
print(f"FNN over DeepONet on test: {ratio:.0f}")

# %% [markdown]
# ## How many sensors?
#
# Between its sensors $u$ is not known. Given $m$ values, $u$ is still a Gaussian process, and
# the variance that $s(y)$ keeps is a *floor*: no method can have a smaller expected squared error.
# It falls faster than any power of $m$, as $u$ is smooth; the network follows it until its own
# error takes over.


# %%
def floor(m, length=0.2, k=201):
    """Mean over y of the variance of s(y) given u at m points."""
    x = np.linspace(0, 1, k)
    cov = np.exp(-((x[:, None] - x) ** 2) / (2 * length**2))
    w = np.tril(np.ones((k, k))) / (k - 1)  # trapezoids up to y
    w[np.arange(k), np.arange(k)] /= 2
    w[:, 0] /= 2
    w[0] = 0
    at = np.linspace(0, k - 1, m).round().astype(int)
    left = cov - cov[:, at] @ np.linalg.solve(cov[np.ix_(at, at)], cov[at])
    return float(np.trapezoid(np.einsum("yi,ij,yj->y", w, left, w), x))


counts = [2, 3, 4, 5, 6]
least = [floor(m) for m in counts]
measured = [errors("deeponet", small, sensors=m)[1]["mse"]["mean"] for m in counts]
fig, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
ax.semilogy(counts, measured, "o-", label="DeepONet")
ax.semilogy(counts, least, "k--", label="least possible: posterior variance")
ax.set(xlabel="sensors", ylabel="mean squared error", xticks=counts)
ax.legend(frameon=False)
for m, got, low in zip(counts, measured, least, strict=True):
    print(f"{m} sensors: {got:.2e}, {got / low:.2f} times the least possible")

# %% [markdown]
# ## Ask anywhere
#
# The answer is a function: it can be evaluated, and differentiated, at any $y$. Its derivative
# should be $u$.

# %%
op = opkit.load(work / f"deeponet-{n}-61")
u = data["test"].read([0], ["u"])["u"]
y = torch.linspace(0, 1, 400)[:, None].requires_grad_()
s = op(torch.as_tensor(u), y)
(slope,) = torch.autograd.grad(s.sum(), y)
fig, ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
ax.plot(op.sensors()[:, 0], u[0], "k.", label="u at the sensors")
ax.plot(y.detach()[:, 0], slope[:, 0], label="derivative of the answer")
ax.plot(y.detach()[:, 0], s.detach()[0], label="the answer s")
ax.set(xlabel="y")
_ = ax.legend(frameon=False)
