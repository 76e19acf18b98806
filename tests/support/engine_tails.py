"""Tails as serving engines write them, restated: what stands between the logits and the token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

from tests.support.drawn import drawn

Request = dict[str, Any]


def request(rng: np.random.Generator, batch: int, vocabulary: int) -> Request:
    """What a server hands over with a batch."""
    return {
        "ids": jnp.asarray(rng.integers(0, vocabulary, size=8), jnp.int32),
        "row_ids": jnp.asarray(rng.integers(0, vocabulary, size=(batch, 5)), jnp.int32),
        "values": drawn(rng.normal(size=8) * 3, jnp.float32),
        "heat": jnp.asarray(rng.uniform(0.5, 1.2, size=batch), jnp.float32),
        "temperature": jnp.asarray(rng.choice([0.0, 0.7, 1.0], size=batch), jnp.float32),
        "k": jnp.asarray(rng.choice([1, 5, 20, 40], size=batch), jnp.int32),
        "k_or_all": jnp.asarray(rng.choice([0, 5, 40], size=batch), jnp.int32),
        "p": jnp.asarray(rng.choice([0.5, 0.9, 0.95], size=batch), jnp.float32),
        "min_p": jnp.asarray(rng.choice([0.05, 0.2], size=batch), jnp.float32),
        "seen": jnp.asarray(rng.random((batch, vocabulary)) < 0.05),
        "counts": jnp.asarray(rng.integers(0, 3, size=(batch, vocabulary)) * (rng.random((batch, vocabulary)) < 0.05)),
        "any": jnp.asarray(rng.random() < 0.5),
        "greedy": jnp.asarray(rng.random() < 0.5),
        "key": jax.random.key(int(rng.integers(1 << 30))),
    }


def greedy(z: jax.Array) -> jax.Array:
    return jnp.argmax(z, axis=-1)


def sampled(z: jax.Array, q: Request) -> jax.Array:
    return jax.random.categorical(q["key"], z, axis=-1)


# ------------------------------------------------------------------------------------------------------ masks by rank


def kth_by_sort(z: jax.Array, k: jax.Array) -> jax.Array:
    """Where a logit is less than the k-th largest of an ascending sort, it is removed (HF and vLLM on TPU)."""
    width = z.shape[-1]
    last = jnp.where(k > 0, jnp.minimum(k, width), width)
    least = jnp.take_along_axis(jnp.sort(z, axis=-1), (width - last)[:, None], axis=-1)
    return jnp.where(z < least, -jnp.inf, z)


def best_of(z: jax.Array, k: int) -> jax.Array:
    """The same with a number that the program knows."""
    return jnp.where(z < lax.top_k(z, k)[0][..., -1:], -jnp.inf, z)


def ordered_bits(x: jax.Array) -> jax.Array:
    return x ^ jnp.where(x < 0, jnp.int32(0x7FFFFFFF), jnp.int32(0))


def halve(rows: tuple[int, ...], holds: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest float for which ``holds`` is false, bit by bit (tpu-inference, sglang-jax)."""
    exponent = jnp.int32(0x7F800000)

    def holds_for_bits(bits: jax.Array) -> jax.Array:
        bits = ordered_bits(bits)
        finite = (bits & exponent) != exponent
        return jnp.where(finite, holds(lax.bitcast_convert_type(bits, jnp.float32)), bits >= 0)

    found = jnp.zeros(rows, jnp.int32)
    found = found | jnp.where(holds_for_bits(found), jnp.int32(-(2**31)), jnp.int32(0))

    def body(i: jax.Array, found: jax.Array) -> jax.Array:
        bit = jnp.int32(1) << (30 - i)
        return found | jnp.where(holds_for_bits(found | bit), jnp.int32(0), bit)

    return lax.bitcast_convert_type(ordered_bits(lax.fori_loop(0, 31, body, found)), jnp.float32)


def kth_by_halving(z: jax.Array, k: jax.Array, instead: float = -1e12) -> jax.Array:
    turned = jnp.swapaxes(z, -1, -2)
    cut = -halve(z.shape[:-1], lambda t: jnp.sum(turned > -t[None], axis=0) >= k)
    return jnp.where(z >= cut[:, None], z, instead)


def mass_by_halving(z: jax.Array, p: jax.Array, instead: float = -1e12) -> jax.Array:
    shares = jax.nn.softmax(z, axis=-1)
    turned = jnp.swapaxes(shares, -1, -2)
    cut = halve(z.shape[:-1], lambda t: jnp.sum(jnp.where(turned >= t[None], turned, 0.0), axis=0) < p)
    return jnp.where(shares >= cut[:, None], z, instead)


def tpu_inference(z: jax.Array, q: Request) -> jax.Array:
    best, z = greedy(z), z.astype(jnp.float32)
    z = mass_by_halving(kth_by_halving(z, q["k"]), q["p"])
    return jnp.where(q["temperature"] < 1e-5, best, sampled(z / q["temperature"][:, None], q))


def sglang(z: jax.Array, q: Request, least: bool = False) -> jax.Array:
    """Sorted probabilities, cut by k, p and min-p, sampled among ranks, looked up."""
    shares = jax.nn.softmax(z / q["heat"][:, None], axis=-1)
    ordered, ids = jnp.sort(shares, axis=-1, descending=True), jnp.argsort(shares, axis=-1, descending=True)
    summed = jnp.cumsum(ordered, axis=-1)
    ordered = jnp.where(jnp.arange(z.shape[-1])[None] >= q["k"][:, None], 0.0, ordered)
    ordered = jnp.where(summed - ordered > q["p"][:, None], 0.0, ordered)
    if least:
        ordered = jnp.where(ordered < (ordered[:, 0] * q["min_p"])[:, None], 0.0, ordered)
    at = sampled(jnp.log(ordered), q)
    return jnp.take_along_axis(ids, at[:, None], axis=1)[:, 0]


def nucleus_of_best(z: jax.Array, q: Request, k: int, p: float) -> jax.Array:
    """The k best, of these the most likely, then one of them (MaxText's composite)."""
    values, ids = lax.top_k(z, k)
    summed = jnp.cumsum(jax.nn.softmax(values, axis=-1), axis=-1)
    last = jnp.sum(summed < p, axis=-1, keepdims=True)
    cut = jnp.take_along_axis(values, last, axis=-1)
    at = sampled(jnp.where(values < cut, -1e10, values) / 0.9, q)
    return jnp.take_along_axis(ids, at[:, None], axis=-1)[:, 0]


def keras_top_k(z: jax.Array, q: Request, k: int = 5) -> jax.Array:
    shares, ids = lax.top_k(jax.nn.softmax(z / 0.7, axis=-1), k)
    at = sampled(jnp.log(shares), q)
    return jnp.take_along_axis(ids, at[:, None], axis=-1)[:, 0]


def keras_top_p(z: jax.Array, q: Request, k: int = 20, p: float = 0.9) -> jax.Array:
    shares, ids = lax.top_k(jax.nn.softmax(z, axis=-1), k)
    keep = jnp.cumsum(shares, axis=-1) <= p
    keep = jnp.concatenate([jnp.ones_like(keep[:, :1]), keep[:, :-1]], axis=-1)
    at = sampled(jnp.log(jnp.where(keep, shares, 0.0)), q)
    return jnp.take_along_axis(ids, at[:, None], axis=-1)[:, 0]


def scattered_best(z: jax.Array, q: Request, k: int = 20) -> jax.Array:
    """The k best put into an array of -inf at their places (flax and EasyDeL)."""
    values, ids = lax.top_k(z, k)
    rows = jnp.arange(len(z))[:, None]
    return sampled(jnp.full_like(z, -jnp.inf).at[rows, ids].set(values), q)


def gemma_top_p(z: jax.Array, q: Request, p: float = 0.9) -> jax.Array:
    ordered = jnp.sort(z / 0.8, axis=-1, descending=True)
    summed = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    last = jnp.sum(summed < p, axis=-1, keepdims=True)
    cut = jnp.take_along_axis(ordered, last, axis=-1)
    return sampled(jnp.where(z / 0.8 < cut, -jnp.inf, z / 0.8), q)


def most_likely(z: jax.Array, p: jax.Array) -> jax.Array:
    """What lies beyond the mass ``p`` of a descending sort is removed (HF's processor)."""
    ordered = jnp.sort(z, axis=-1, descending=True)
    summed = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    cut = jnp.take_along_axis(ordered, jnp.sum(summed < p[:, None], axis=-1, keepdims=True), axis=-1)
    return jnp.where(z < cut, -jnp.inf, z)


def min_p(z: jax.Array, q: Request) -> jax.Array:
    z = z / q["heat"][:, None]
    least = jnp.max(z, axis=-1, keepdims=True) + jnp.log(q["min_p"])[:, None]
    return jnp.where(z >= least, z, -jnp.inf)


def min_p_of_shares(z: jax.Array, q: Request) -> jax.Array:
    shares = jax.nn.softmax(z / q["heat"][:, None], axis=-1)
    least = jnp.max(shares, axis=-1, keepdims=True) * q["min_p"][:, None]
    return jnp.where(shares < least, -jnp.inf, z / q["heat"][:, None])


def counted(z: jax.Array, q: Request) -> jax.Array:
    """Frequency and presence penalties."""
    return z - 0.3 * q["counts"].astype(jnp.float32) - 0.2 * (q["counts"] > 0)


def penalised(z: jax.Array, q: Request) -> jax.Array:
    return jnp.where(q["seen"], jnp.where(z > 0, z / 1.2, z * 1.2), z)


def guided(z: jax.Array, scale: float = 1.5) -> jax.Array:
    """Two rows a request, without its prompt and with it, and what lies beyond the second (one row: nothing to mix)."""
    if len(z) % 2:
        return z
    without, prompted = jnp.split(z, 2)
    return without + scale * (prompted - without)


def if_needed(z: jax.Array, q: Request) -> jax.Array:
    return lax.cond(q["any"], lambda z: penalised(z, q), lambda z: z, z)


def either_sampler(z: jax.Array, q: Request) -> jax.Array:
    return lax.cond(q["greedy"], lambda z: greedy(z), lambda z: sampled(kth_by_sort(z, q["k"]), q), z)


def rows_of(z: jax.Array) -> jax.Array:
    return jnp.arange(len(z))[:, None]


def without_top_choices(z: jax.Array, threshold: float = 0.1) -> jax.Array:
    """XTC: of all tokens that are likely, the least likely alone is left."""
    shares = jax.nn.softmax(z, axis=-1)
    likely = shares >= threshold
    least = jnp.min(jnp.where(likely, shares, jnp.inf), axis=-1, keepdims=True)
    several = jnp.sum(likely, axis=-1, keepdims=True) >= 2
    return jnp.where(likely & (shares > least) & several, -jnp.inf, z)


def without_end(z: jax.Array, q: Request, end: int = 2) -> jax.Array:
    """No end of the text while it is short."""
    return z.at[:, end].set(jnp.where(q["k"] > 5, -jnp.inf, z[:, end]))


def penalised_at(z: jax.Array, q: Request) -> jax.Array:
    """What was said already is read, made smaller, and put back (as processors of Hugging Face do)."""
    said = jnp.take_along_axis(z, q["row_ids"], axis=-1)
    return z.at[rows_of(z), q["row_ids"]].set(jnp.where(said < 0, said * 1.3, said / 1.3))


def first_of_the_largest(z: jax.Array) -> jax.Array:
    largest = z == jnp.max(z, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest, jnp.arange(z.shape[-1]), z.shape[-1]), axis=-1)


def two_groups(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Diverse beams: what the first half of a batch takes costs the second half something."""
    half = max(len(z) // 2, 1)
    first = greedy(z[:half])
    return first, greedy(z[len(z) - half :].at[:, first].add(-0.7))


def drafted(z: jax.Array, q: Request) -> tuple[jax.Array, jax.Array]:
    """Are drafted tokens likely enough, and what comes after the last that is: each of a batch is a position here."""
    shares = jnp.take_along_axis(jax.nn.softmax(z, axis=-1), q["row_ids"][:, :1], axis=-1)[:, 0]
    taken = jnp.sum(jnp.cumprod((shares > q["min_p"] * 0.01).astype(jnp.int32)))
    return taken, jnp.take(greedy(z), jnp.minimum(taken, len(z) - 1))


def several_samples(z: jax.Array, q: Request, count: int = 2) -> jax.Array:
    return jax.vmap(lambda key: jax.random.categorical(key, z / 0.8, axis=-1))(jax.random.split(q["key"], count))


TAILS: dict[str, Callable[[jax.Array, Request], Any]] = {
    "a bias added at constant places": lambda z, q: greedy(z.at[:, :4].add(-2.0).at[:, jnp.arange(9)].add(1.0)),
    "a bias added at some places": lambda z, q: greedy(z.at[:, q["ids"]].add(q["values"])),
    "a bias added at places of each row": lambda z, q: greedy(
        z.at[jnp.arange(len(z))[:, None], q["row_ids"]].add(-1.5)
    ),
    "a penalty for how often": lambda z, q: greedy(counted(z, q)),
    "softmax": lambda z, q: greedy(jax.nn.softmax(z, axis=-1)),
    "log-softmax": lambda z, q: greedy(jax.nn.log_softmax(z, axis=-1)),
    "softmax of a temperature": lambda z, q: greedy(jax.nn.softmax(z / q["heat"][:, None], axis=-1)),
    "softmax, sampled": lambda z, q: sampled(jnp.log(jax.nn.softmax(z, axis=-1)), q),
    "log-softmax, sampled": lambda z, q: sampled(jax.nn.log_softmax(z / 0.9, axis=-1), q),
    "the best eight of a softmax": lambda z, q: lax.top_k(jax.nn.softmax(z, axis=-1), 8)[1],
    "min-p": lambda z, q: sampled(min_p(z, q), q),
    "min-p of probabilities": lambda z, q: sampled(min_p_of_shares(z, q), q),
    "top-k by top_k": lambda z, q: sampled(best_of(z, 20), q),
    "top-k by top_k and a temperature": lambda z, q: sampled(best_of(z / q["heat"][:, None], 20), q),
    "top-k by a sort": lambda z, q: sampled(kth_by_sort(z, q["k"]), q),
    "top-k by a sort, or all": lambda z, q: sampled(kth_by_sort(z / 0.9, q["k_or_all"]), q),
    "top-k, greedy": lambda z, q: greedy(kth_by_sort(z, q["k"])),
    "top-k by halving": lambda z, q: sampled(kth_by_halving(z, q["k"]), q),
    "top-k and top-p by halving": tpu_inference,
    "top-k by a scatter": scattered_best,
    "top-k, one of the best": lambda z, q: jnp.take_along_axis(
        lax.top_k(z, 20)[1], sampled(lax.top_k(z, 20)[0], q)[:, None], axis=-1
    )[:, 0],
    "top-k and top-p, one of the best": lambda z, q: nucleus_of_best(z, q, 20, 0.9),
    "top-k of a softmax": keras_top_k,
    "top-p of the best of a softmax": keras_top_p,
    "top-k and top-p of sorted probabilities": sglang,
    "top-k, top-p and min-p of sorted probabilities": lambda z, q: sglang(z, q, least=True),
    "top-p": gemma_top_p,
    "top-k and top-p by sorts": lambda z, q: sampled(most_likely(kth_by_sort(z, q["k"]), q["p"]), q),
    "top-k by top_k, top-p by a sort": lambda z, q: sampled(most_likely(best_of(z / 0.9, 20), q["p"]), q),
    "a penalty if any row needs it": lambda z, q: greedy(if_needed(z, q)),
    "one of two samplers": either_sampler,
    "XTC": lambda z, q: sampled(without_top_choices(z), q),
    "no end while it is short": lambda z, q: greedy(without_end(z, q)),
    "what was said is penalised where it stands": lambda z, q: greedy(penalised_at(z, q)),
    "what was said is all but forbidden": lambda z, q: greedy(z.at[rows_of(z), q["row_ids"]].min(-1e9)),
    "what was said is scaled": lambda z, q: greedy(z.at[rows_of(z), q["row_ids"][:, :1]].multiply(0.5)),
    "the first of the largest": lambda z, q: first_of_the_largest(z),
    "the smallest of what was negated": lambda z, q: jnp.argmin(-z, axis=-1),
    "the first of the smallest": lambda z, q: jnp.argmax(-z == jnp.min(-z, axis=-1, keepdims=True), axis=-1),
    "the first of the least costs": lambda z, q: jnp.argmax(3.0 - z <= jnp.min(3.0 - z, axis=-1)[:, None], axis=-1),
    "batch rows one after the other": lambda z, q: lax.fori_loop(
        0, len(z), lambda i, out: out.at[i].set(greedy(z[i]).astype(jnp.int32)), jnp.zeros(len(z), jnp.int32)
    ),
    "a batch row with each key": lambda z, q: lax.map(
        lambda one: jax.random.categorical(*one), (jax.random.split(q["key"], len(z)), z)
    ),
    "the smallest of a cost": lambda z, q: jnp.argmin(3.0 - z, axis=-1),
    "the smallest behind a temperature": lambda z, q: jnp.argmin(-z / q["heat"][:, None], axis=-1),
    "the smallest surprise": lambda z, q: jnp.argmin(logsumexp(z, axis=-1, keepdims=True) - z, axis=-1),
    "the smallest of those that are allowed": lambda z, q: jnp.argmin(jnp.where(q["seen"], jnp.inf, -z), axis=-1),
    "the first of a race": lambda z, q: jnp.argmin(jax.random.exponential(q["key"], z.shape) * jnp.exp(-z), axis=-1),
    "the cheapest four": lambda z, q: jnp.argsort(3.0 - z / q["heat"][:, None], axis=-1)[:, :4],
    "sorted from the best": lambda z, q: jnp.argsort(-z, axis=-1)[:, :4],
    "sorted downwards": lambda z, q: jnp.argsort(z, axis=-1, descending=True)[:, :4],
    "two groups of beams": lambda z, q: two_groups(z),
    "beams, of which the best three": lambda z, q: lax.top_k(z.reshape(-1), 3)[1] // z.shape[-1],
    "drafted tokens": drafted,
    "several samples": several_samples,
    "guidance": lambda z, q: greedy(guided(z)),
    "guidance of log-probabilities, sampled": lambda z, q: sampled(guided(jax.nn.log_softmax(z, axis=-1)), q),
}
