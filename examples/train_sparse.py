"""Train a small language model with ``group_topk``, then skip what it drops.

python -m examples.train_sparse [--steps 300] [--plot sparse.png]

Two byte-level transformers of four million parameters read the documentation that comes with Python itself: one with
an ordinary ReLU block, one whose block keeps 1/12 of its neurons in groups of 8. Both are then evaluated at several
densities, one token at a time as in decoding: masked (all neurons computed, the weak ones dropped) and rewritten by
``hire.transform`` (low-rank prediction, exact computation of candidates, the model's own choice among them).
"""

from __future__ import annotations

import argparse
import functools
import pydoc_data.topics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hire_compiler as hire
from benchmarks.group_recall import group_recall
from benchmarks.timing import interleaved, median_ms

VOCABULARY, CONTEXT, D, WIDTH, LAYERS, HEADS, GROUP = 128, 128, 192, 3072, 3, 4, 8
KEPT = WIDTH // 12
RANKS = (8, 16, 24, 32, 48, 64, 96, 128)
Params = dict[str, Any]
Cache = tuple[jax.Array, jax.Array]


def text() -> np.ndarray:
    """The language reference of Python as bytes: about 460 kB of English prose and code."""
    joined = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return np.frombuffer(joined.encode("ascii", "ignore"), np.uint8).astype(np.int32)


def initial(key: jax.Array) -> Params:
    """Random parameters; those of the layers are stacked."""
    sizes = {"qkv": (D, 3 * D), "out": (D, D), "up": (D, WIDTH), "down": (WIDTH, D)}
    keys = iter(jax.random.split(key, len(sizes) + 2))
    layers = {n: jax.random.normal(next(keys), (LAYERS, *s)) / np.sqrt(s[0]) for n, s in sizes.items()}
    layers["bias"] = jnp.zeros((LAYERS, WIDTH))
    return {
        "embed": jax.random.normal(next(keys), (VOCABULARY, D)) * 0.1,
        "position": jax.random.normal(next(keys), (CONTEXT, D)) * 0.1,
        "layers": layers,
    }


def normalize(x: jax.Array) -> jax.Array:
    """RMS normalization without a weight."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def neurons(w: Params, x: jax.Array, kept: int) -> jax.Array:
    """The hidden activations; of each token the ``kept`` strongest (in groups), the others zero."""
    h = jax.nn.relu(x @ w["up"] + w["bias"])
    return h if kept == WIDTH else hire.group_topk(h, kept, GROUP)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """Attention of ``q [t, D]`` to ``k, v [s, D]``."""
    q, k, v = (a.reshape(-1, HEADS, D // HEADS) for a in (q, k, v))
    scores = jnp.einsum("thc,shc->hts", q, k) / np.sqrt(D // HEADS)
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    return jnp.einsum("hts,shc->thc", weights, v).reshape(-1, D)


def forward(params: Params, tokens: jax.Array, kept: int) -> tuple[jax.Array, jax.Array]:
    """Logits of a whole passage ``[CONTEXT]``, and the inputs of every block ``[LAYERS, CONTEXT, D]``."""
    visible = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))

    def layer(x: jax.Array, w: Params) -> tuple[jax.Array, jax.Array]:
        q, k, v = jnp.split(normalize(x) @ w["qkv"], 3, axis=-1)
        x = x + attend(q, k, v, visible) @ w["out"]
        inner = normalize(x)
        return x + neurons(w, inner, kept) @ w["down"], inner

    x, inputs = lax.scan(layer, params["embed"][tokens] + params["position"][: len(tokens)], params["layers"])
    return normalize(x) @ params["embed"].T, inputs


def decode(params: Params, token: jax.Array, at: jax.Array, cache: Cache, kept: int) -> tuple[jax.Array, Cache]:
    """One token of batch 1: logits ``[1, VOCABULARY]``, and the cache ``[LAYERS, CONTEXT, D]`` twice."""
    visible = jnp.arange(CONTEXT) <= at

    def layer(x: jax.Array, entry: tuple[Params, jax.Array, jax.Array]) -> tuple[jax.Array, Cache]:
        w, keys, values = entry
        q, k, v = jnp.split(normalize(x) @ w["qkv"], 3, axis=-1)
        keys, values = (lax.dynamic_update_slice(old, new, (at, 0)) for old, new in ((keys, k), (values, v)))
        x = x + attend(q, keys, values, visible) @ w["out"]
        return x + neurons(w, normalize(x), kept) @ w["down"], (keys, values)

    x = params["embed"][token][None] + lax.dynamic_slice_in_dim(params["position"], at, 1)
    x, cache = lax.scan(layer, x, (params["layers"], *cache))
    return normalize(x) @ params["embed"].T, cache


def cross_entropy(logits: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean negative log likelihood, nats a token."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1))


def train(data: np.ndarray, kept: int, steps: int, batch: int, seed: int = 0) -> Params:
    """Adam with a warm-up and a cosine decay, on random passages."""

    def loss(params: Params, passages: jax.Array) -> jax.Array:
        logits = jax.vmap(lambda tokens: forward(params, tokens, kept)[0])(passages[:, :-1])
        return cross_entropy(logits, passages[:, 1:])

    @jax.jit
    def update(state: tuple[Params, Params, Params], passages: jax.Array, i: jax.Array) -> tuple[Any, jax.Array]:
        params, mean, square = state
        value, gradient = jax.value_and_grad(loss)(params, passages)
        rate = 3e-3 * jnp.minimum(1.0, (i + 1) / 40) * (0.55 + 0.45 * jnp.cos(jnp.pi * i / steps))
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.98 * s + 0.02 * g * g, square, gradient)

        def moved(p: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
            m, s = m / (1 - 0.9 ** (i + 1)), s / (1 - 0.98 ** (i + 1))
            return p - rate * m / (jnp.sqrt(s) + 1e-8)

        return (jax.tree.map(moved, params, mean, square), mean, square), value

    rng = np.random.default_rng(seed)
    params = initial(jax.random.key(seed))
    state = (params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))
    for i in range(steps):
        starts = rng.integers(0, len(data) - CONTEXT - 1, batch)
        passages = jnp.asarray(np.stack([data[s : s + CONTEXT + 1] for s in starts]))
        state, value = update(state, passages, jnp.float32(i))
        if i % 50 == 0 or i == steps - 1:
            print(f"  step {i:4d}  loss {float(value):.3f}", flush=True)
    return state[0]


def empty_cache() -> Cache:
    """The cache before the first token."""
    return (jnp.zeros((LAYERS, CONTEXT, D)), jnp.zeros((LAYERS, CONTEXT, D)))


def evaluate(step: Any, params: Params, passages: np.ndarray) -> float:
    """Loss in nats a token, decoding passages one token at a time."""
    losses = []
    for passage in passages:
        cache = empty_cache()
        for at in range(CONTEXT):
            logits, cache = step(params, jnp.int32(passage[at]), jnp.int32(at), cache)
            losses.append(float(cross_entropy(logits, jnp.asarray(passage[at + 1 : at + 2]))))
    return float(np.mean(losses))


def recalls(params: Params, passages: np.ndarray, moments: np.ndarray, kept: int, room: int) -> dict[int, float]:
    """Share of the kept groups that a predictor of each rank has among its ``room`` candidates, over all layers."""
    inputs = jax.jit(jax.vmap(lambda tokens: forward(params, tokens, kept)[1]))(jnp.asarray(passages[:, :-1]))
    inputs = np.asarray(inputs).transpose(1, 0, 2, 3).reshape(LAYERS, -1, D)
    found = {}
    for rank in RANKS:
        counts = []
        for layer in range(LAYERS):
            w, x = {name: a[layer] for name, a in params["layers"].items()}, jnp.asarray(inputs[layer])
            true = np.asarray(neurons(w, x, kept)).reshape(len(x), -1, GROUP).max(-1) > 0
            counts.append(group_recall(x, w["up"], w["bias"], moments[layer], true, rank, room))
        hits, wanted = np.sum(counts, axis=0)
        found[rank] = float(hits / wanted)
    return found


def main() -> None:
    """Train both models, evaluate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passages", type=int, default=8, help=f"held-out passages of {CONTEXT} tokens")
    parser.add_argument("--plot", metavar="FILE", help="also draw the table (needs matplotlib)")
    options = parser.parse_args()
    data = text()
    train_text, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    starts = np.linspace(0, len(held_out) - CONTEXT - 2, options.passages).astype(int)
    passages = np.stack([held_out[s : s + CONTEXT + 1] for s in starts])
    models = {}
    for name, kept in (("trained dense", WIDTH), (f"trained with {KEPT} of {WIDTH}", KEPT)):
        print(name)
        models[name] = train(train_text, kept, options.steps, options.batch)
    rows = []
    for name, params in models.items():
        for kept in (WIDTH, 4 * KEPT, 2 * KEPT, KEPT, KEPT // 2):
            rows.append((name, kept, *_compare(params, train_text, passages, kept)))
            print(_line(rows[-1]), flush=True)
    print("\n" + "\n".join([_HEADER, *map(_line, rows)]))
    if options.plot:
        draw(rows, options.plot)


def _compare(
    params: Params, train_text: np.ndarray, passages: np.ndarray, kept: int
) -> tuple[float, float, float, float, float, int]:
    """Losses and times, masked and rewritten, with the smallest rank whose recall is 0.99 (or the largest tried)."""
    masked_step = jax.jit(functools.partial(decode, kept=kept))
    masked_loss = evaluate(masked_step, params, passages)
    first = (params, jnp.int32(passages[0, 0]), jnp.int32(0), empty_cache())
    runs = {"masked": lambda: masked_step(*first)}
    if kept == WIDTH:
        alone = median_ms(interleaved(runs, 100)["masked"])
        return masked_loss, alone, masked_loss, alone, 1.0, 0
    room = min(3 * kept // 2, WIDTH)
    seen = np.stack([train_text[s : s + CONTEXT] for s in range(0, 64 * CONTEXT, CONTEXT)])
    run = jax.jit(functools.partial(forward, kept=kept))
    calibration = hire.calibrate(run, [(params, jnp.asarray(tokens)) for tokens in seen], kind="ffn")
    (moment,) = (m for key, m in calibration.moments.items() if "up" in key)
    found = recalls(params, passages, moment.mean, kept, room)
    rank = next((r for r, share in found.items() if share >= 0.99), RANKS[-1])
    predictor = hire.LowRank(rank=rank, dtype="float32")
    rule = hire.Rule(kind="ffn", predictor=predictor, candidates=room, group=GROUP)
    step = hire.transform(masked_step, hire.Config(rules=(rule,)), calibration=calibration)
    loss = evaluate(step, params, passages)
    runs["rewritten"] = lambda: step(*first)
    ms = {name: median_ms(seconds) for name, seconds in interleaved(runs, 100).items()}
    return masked_loss, ms["masked"], loss, ms["rewritten"], found[rank], rank


_HEADER = (
    f"{'model':28} {'kept':>6} {'masked loss':>12} {'ms':>6}   {'rank':>4} {'recall':>7} {'rewritten':>10} {'ms':>6} "
    f"{'loss':>8} {'speed':>6}"
)


def _line(row: tuple[Any, ...]) -> str:
    name, kept, masked, masked_ms, loss, ms, recall, rank = row
    start = f"{name:28} {kept / WIDTH:6.1%} {masked:12.4f} {masked_ms:6.3f}"
    if not rank:
        return start
    return f"{start}   {rank:4d} {recall:7.4f} {loss:10.4f} {ms:6.3f} {loss / masked - 1:+8.2%} {masked_ms / ms:5.2f}×"


def draw(rows: list[tuple[Any, ...]], path: str) -> None:
    """The losses over the density, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == name]
        axes.plot([r[1] / WIDTH for r in mine], [r[2] for r in mine], "o-", label=f"{name}, masked")
        axes.plot([r[1] / WIDTH for r in mine], [r[4] for r in mine], "x--", label=f"{name}, rewritten")
    axes.set(xscale="log", xlabel="share of neurons kept", ylabel="held-out loss, nats a byte")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
