"""Programs with an LM head: a description that hypothesis draws, its source text, its arguments, its float64 answer.

The source is what runs (it is executed, not paraphrased), so a reproducer shows the very program that failed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz import values

Array = np.ndarray
STEPS = 4  # trips of a loop

FORMS = {
    ("vd", "matmul"): "{x} @ w.T",
    ("dv", "matmul"): "{x} @ w",
    ("vd", "einsum"): 'jnp.einsum("bd,vd->bv", {x}, w)',
    ("dv", "einsum"): 'jnp.einsum("bd,dv->bv", {x}, w)',
    ("vd", "rows_first"): 'jnp.einsum("vd,bd->vb", w, {x}).T',
    ("dv", "rows_first"): 'jnp.einsum("dv,bd->vb", w, {x}).T',
    ("vd", "dot_general"): "jax.lax.dot_general({x}, w, (((1,), (1,)), ((), ())))",
    ("dv", "dot_general"): "jax.lax.dot_general({x}, w, (((1,), (0,)), ((), ())))",
    ("vd", "wide_result"): "jax.lax.dot_general({x}, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)",
    ("dv", "wide_result"): "jax.lax.dot_general({x}, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)",
    ("vd", "wide_operands"): "{x}.astype(jnp.float32) @ w.astype(jnp.float32).T",
    ("dv", "wide_operands"): "{x}.astype(jnp.float32) @ w.astype(jnp.float32)",
    ("vd", "third_axis"): "({x}[:, None] @ w.T)[:, 0]",
    ("dv", "third_axis"): "({x}[:, None] @ w)[:, 0]",
    ("vd", "in_one_array"): 'jnp.einsum("bd,hvd->bhv", {x}, w.reshape(2, -1, w.shape[1])).reshape(len({x}), -1)',
    ("dv", "in_one_array"): 'jnp.einsum("bd,dhv->bhv", {x}, w.reshape(w.shape[0], 2, -1)).reshape(len({x}), -1)',
}

BEFORE = {
    "": "x",
    "scaled": "x * 0.7",
    "normed": (
        'x * jax.lax.rsqrt(jnp.mean(x.astype(jnp.float32) ** 2, -1, keepdims=True) + 1e-6).astype(x.dtype) * p["g"]'
    ),
    "added": 'x + p["g"]',
}

# What may stand between the product and its readers. {v}: a constant of the step.
AFTER = {
    "bias": 'z = z + p["bias"]',
    "wide_bias": 'z = z + p["wide_bias"]',
    "mask_bias": 'z = z + p["mask_bias"]',
    "scale": "z = z * {v}",
    "negative": "z = -z",
    "temperature": 'z = z / q["t"]',
    "softcap": "z = {v} * jnp.tanh(z / {v})",
    "tanh": "z = jnp.tanh(z)",
    "clip": "z = jnp.clip(z, -{v}, {v})",
    "widen": "z = z.astype(jnp.float32)",
    "barrier": "z = jax.lax.optimization_barrier(z)",
    "in_and_out": "z = z[:, None][:, 0]",
    "carried": "z = jax.lax.fori_loop(0, 1, lambda i, s: (s[0], s[0].astype(jnp.float32)), (z, jnp.zeros(z.shape)))[1]",
    "mask": 'z = jnp.where(q["mask"], z, -jnp.inf)',
    "finite_mask": 'z = jnp.where(p["keep"], z, jnp.asarray(-1e9 if z.dtype != jnp.float16 else -6e4, z.dtype))',
    "softmax": "z = jax.nn.softmax(z, axis=-1)",
    "log_softmax": "z = jax.nn.log_softmax(z, axis=-1)",
    "gumbel": 'z = z + jax.random.gumbel(jax.random.key(q["seed"]), z.shape, z.dtype)',
}
# Samplers of engines: behind them there is no float64 answer, only dense's token (so only strict programs have them).
SAMPLERS = {
    "added": 'z = z.at[:, q["ids"]].add(q["values"].astype(z.dtype))',
    "min_p": 'z = jnp.where(z < jnp.max(z, -1, keepdims=True) + jnp.log(q["min_p"]).astype(z.dtype), -jnp.inf, z)',
    "shares": "z = jax.nn.softmax(z.astype(jnp.float32), axis=-1)",
    "best": "z = z.astype(jnp.float32); z = jnp.where(z < jax.lax.top_k(z, 20)[0][..., -1:], -jnp.inf, z)",
    "kth": (
        "z = z.astype(jnp.float32); "
        'z = jnp.where(z < jnp.take_along_axis(jnp.sort(z, -1), z.shape[-1] - q["k"], -1), -jnp.inf, z)'
    ),
    "nucleus": (
        "z = z.astype(jnp.float32); s = jnp.sort(z, -1, descending=True); "
        "n = jnp.sum(jnp.cumsum(jax.nn.softmax(s, -1), -1) < 0.8, -1, keepdims=True); "
        "z = jnp.where(z < jnp.take_along_axis(s, n, -1), -jnp.inf, z)"
    ),
    "if_needed": 'z = jax.lax.cond(q["k"][0, 0] > 10, lambda z: jnp.where(z > 0, z / 1.2, z * 1.2), lambda z: z, z)',
}
AFTER |= SAMPLERS
CONSTANTS = {"scale": (0.125, 3.0), "softcap": (1.0, 5.0, 30.0), "clip": (2.0, 50.0)}
WIDE = ("wide_bias", "widen", "carried")


@dataclass(frozen=True)
class Head:
    """One program, and how it is rewritten.

    Attributes:
      rule: ``"strict"``, ``"true"`` or ``"default"`` (no rule at all).
      layout: of the weight: ``"vd"`` or ``"dv"``.
      form: how it is contracted, a key of ``FORMS``.
      before: what is done to the input, a key of ``BEFORE``.
      after: what stands between product and readers: pairs (key of ``AFTER``, constant).
      readers: of the result, in order: ``argmax``, ``max``, ``top_k``.
      loop: ``""``, ``scan`` over inputs, ``last`` (of a sequence), or a token loop: ``fori``, ``while``.
    """

    rule: str
    dtype: str
    layout: str
    form: str
    before: str
    after: tuple[tuple[str, float], ...]
    readers: tuple[str, ...]
    k: int
    loop: str
    batch: int
    rows: int
    d: int
    candidates: int
    weight_kinds: tuple[str, ...]
    plain_share: float
    seed: int

    @property
    def feeds_back(self) -> bool:
        """Whether a token decides the next input, so that no row can be judged by itself."""
        return self.loop in ("fori", "while")

    @property
    def rows_a_call(self) -> int:
        return self.batch * (STEPS if self.loop in ("scan", "fori", "while") else 1)

    def names(self) -> set[str]:
        return {name for name, _ in self.after}

    def source(self) -> str:
        """The text of ``step(p, x, q)``: ``p`` are weights, ``q`` what changes with every call."""
        z = FORMS[self.layout, self.form].format(x="x")
        lines = ["def head(p, x, q):", '    w = p["w"]']
        if self.before:
            lines.append(f"    x = {BEFORE[self.before]}")
        lines.append(f"    z = {z}")
        lines += [f"    {AFTER[name].format(v=constant)}" for name, constant in self.after]
        read = {"argmax": "jnp.argmax(z, -1)", "max": "jnp.max(z, -1)", "top_k": f"*jax.lax.top_k(z, {self.k})"}
        lines.append(f"    return ({', '.join(read[reader] for reader in self.readers)},)")
        return "\n".join([*lines, "", "", *self._loop_lines()]) + "\n"

    def _loop_lines(self) -> list[str]:
        if self.loop == "scan":
            return ["def step(p, x, q):", "    return jax.lax.scan(lambda c, x: (c, head(p, x, q)), 0, x)[1]"]
        if self.loop == "last":
            return ["def step(p, x, q):", "    return head(p, x[:, -1], q)"]
        if not self.feeds_back:
            return ["def step(p, x, q):", "    return head(p, x, q)"]
        look = 'p["w"][token]' if self.layout == "vd" else 'p["w"][:, token].T'
        lines = [
            "def step(p, x, q):",
            "    def body(i, state):",
            "        token, out = state",
            f"        token = head(p, x + {look}, q)[0].astype(jnp.int32)",
            "        return token, out.at[i].set(token)",
            "",
            f'    start = (q["token"], jnp.zeros(({STEPS}, x.shape[0]), jnp.int32))',
        ]
        if self.loop == "fori":
            return [*lines, f"    return (jax.lax.fori_loop(0, {STEPS}, body, start)[1],)"]
        return [
            *lines,
            f"    end = jax.lax.while_loop(lambda s: s[0] < {STEPS}, lambda s: (s[0] + 1, body(*s)), (0, start))",
            "    return (end[1][1],)",
        ]

    def config_source(self) -> str:
        """The text of the configuration."""
        if self.rule == "default":
            return "hire.Config(adapt=False)"
        certify = {"strict": '"strict"', "true": "True"}[self.rule]
        return (
            f'hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), '
            f"candidates={self.candidates}, certify={certify}),))"
        )

    # ------------------------------------------------------------------------------------------------ arguments

    def weights(self, kind: str, rng: np.random.Generator) -> dict[str, Array]:
        """The weights ``p``."""
        w = values.weights(kind, rng, self.rows, self.d, self.dtype)
        p = {"w": w if self.layout == "vd" else np.ascontiguousarray(w.T)}
        names = self.names()
        if "bias" in names:
            p["bias"] = values.cast(rng.standard_normal(self.rows) * rng.choice([0.1, 3.0]), self.dtype)
        if "wide_bias" in names:
            p["wide_bias"] = (rng.standard_normal(self.rows) * rng.choice([0.1, 3.0])).astype(np.float32)
        if "mask_bias" in names:
            p["mask_bias"] = values.cast(np.where(rng.random(self.rows) < 0.2, -np.inf, 0), self.dtype)
        if "finite_mask" in names:
            p["keep"] = rng.random(self.rows) < 0.8
        if self.before in ("normed", "added"):
            p["g"] = values.cast(1 + 0.1 * rng.standard_normal(self.d), self.dtype)
        return p

    def matrix(self, p: dict[str, Array]) -> Array:
        """The weight, ``[rows, d]``."""
        return p["w"] if self.layout == "vd" else p["w"].T

    def call(self, rng: np.random.Generator, p: dict[str, Array]) -> tuple[Array, dict[str, Array], list[str]]:
        """``(x, q, the kinds of its rows)`` of one call."""
        steps = {"scan": STEPS, "last": 2}.get(self.loop, 1)
        kinds = values.input_kinds(rng, self.batch * steps, self.plain_share)
        x = values.inputs(kinds, rng, self.matrix(p), self.dtype)
        if self.loop == "scan":
            x = x.reshape(STEPS, self.batch, self.d)
        if self.loop == "last":
            x = x.reshape(self.batch, 2, self.d)
            kinds = kinds[1::2]
        names, q = self.names(), {}
        if "temperature" in names:
            q["t"] = values.cast(rng.choice([0.25, 0.7, 1.0, 2.0], (self.batch, 1)), self.dtype)
        if "mask" in names:
            q["mask"] = rng.random((self.batch, self.rows)) < rng.choice([0.02, 0.9])
        if names & set(SAMPLERS):
            q["ids"] = rng.integers(0, self.rows, 6).astype(np.int32)
            q["values"] = (rng.standard_normal(6) * 3).astype(np.float32)
            q["min_p"] = rng.choice([0.05, 0.3], (self.batch, 1)).astype(np.float32)
            q["k"] = rng.choice([1, 3, 20, 60, self.rows], (self.batch, 1)).astype(np.int32)
        if "gumbel" in names:
            q["seed"] = np.uint32(rng.integers(2**31))
        if self.feeds_back:
            q["token"] = rng.integers(0, self.rows, self.batch).astype(np.int32)
        return x, q, kinds

    def simpler(self) -> list[Head]:
        """Programs that are a little simpler, to look for the cause of a fault in."""
        out = []
        if self.loop:
            out.append(replace(self, loop=""))
        out += [replace(self, after=self.after[:i] + self.after[i + 1 :]) for i in range(len(self.after))]
        if self.before:
            out.append(replace(self, before=""))
        if len(self.readers) > 1:
            out += [replace(self, readers=(reader,)) for reader in self.readers]
        if "top_k" in self.readers and self.k > 1:
            out.append(replace(self, readers=tuple("argmax" if r == "top_k" else r for r in self.readers)))
        if self.batch > 1:
            out += [replace(self, batch=1), replace(self, batch=2)]
        if self.form != "matmul":
            out.append(replace(self, form="matmul"))
        if self.layout != "vd":
            out.append(replace(self, layout="vd"))
        if self.dtype != "float32":
            out.append(replace(self, dtype="float32"))
        if self.weight_kinds != ("gaussian",):
            out.append(replace(self, weight_kinds=("gaussian",)))
        if self.plain_share < 1:
            out.append(replace(self, plain_share=1.0))
        return [program for program in out if program.is_sensible()]

    def is_sensible(self) -> bool:
        return not (self.feeds_back and self.readers[0] != "argmax")

    def describe(self) -> str:
        """One line: what distinguishes this program."""
        after = "+".join(name for name, _ in self.after)
        parts = [self.rule, self.dtype, self.layout, self.form, self.before, after, "+".join(self.readers), self.loop]
        return " ".join(part for part in parts if part) + f" batch {self.batch}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_ORDINARY = (
    "matmul", "matmul", "einsum", "dot_general", "rows_first", "third_axis", "wide_result", "wide_operands",
    "in_one_array",
)  # fmt: skip
_HALVES = 2048  # rows of a head that lies in two parts, at least
_SIZES = ((1024, 16), (1024, 33), (2048, 64), (3001, 32), (1537, 257), (4096, 48))
_LARGE = {"float32": ((24576, 64),), "bfloat16": ((32768, 128), (65536, 64)), "float16": ((32768, 128), (65536, 64))}


@st.composite
def heads(
    draw: Any, rules: tuple[str, ...] = ("strict", "strict", "strict", "true", "true", "true", "default")
) -> Head:
    """A program of any kind. Explicit rules have small heads, the default one that it does not leave dense."""
    rule = draw(st.sampled_from(rules))
    dtype = draw(st.sampled_from(("float32", "bfloat16", "float16")))
    loop = draw(st.sampled_from(("", "", "", "scan", "last", "fori", "while")))
    if rule == "true" and loop in ("fori", "while"):
        loop = "scan"  # what feeds back has no float64 answer
    default = rule == "default"
    rows, d = draw(st.sampled_from(_LARGE[dtype] if default else _SIZES))
    batch = 1 if default else draw(st.sampled_from((1, 1, 1, 2, 3, 4, 8, 16)))
    readers = draw(
        st.sampled_from(
            (("argmax",), ("argmax",), ("top_k",), ("argmax", "max"), ("argmax", "top_k"), ("top_k", "max"))
        )
    )
    if loop in ("fori", "while"):
        readers = ("argmax",)
    after = draw(_afters(dtype))
    if rule == "strict" and not loop and draw(st.booleans()):
        readers, after = ("argmax",), draw(_samplers())
    form = draw(st.sampled_from(_ORDINARY))
    if form == "in_one_array" and (rows < _HALVES or rows % 2):
        form = "einsum"
    kinds = draw(st.lists(st.sampled_from(sorted(values.WEIGHTS)), min_size=2, max_size=3))
    if draw(st.booleans()):
        kinds[0] = "gaussian"
    return Head(
        rule=rule, dtype=dtype, layout=draw(st.sampled_from(("vd", "dv"))), form=form,
        before=draw(st.sampled_from(("", "", "", *BEFORE))), after=after, readers=readers,
        k=draw(st.sampled_from((1, 2, 8, 32, 64) if not default else (1, 8, 32))), loop=loop, batch=batch,
        rows=rows, d=d, candidates=draw(st.sampled_from((64, 128, 256))), weight_kinds=tuple(kinds),
        plain_share=draw(st.sampled_from((0.9, 0.5, 0.2))), seed=draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip


@st.composite
def _afters(draw: Any, dtype: str) -> tuple[tuple[str, float], ...]:
    names = draw(st.lists(st.sampled_from(_RISING), max_size=3, unique=True))
    names += draw(st.sampled_from(((),) * 8 + tuple((name,) for name in _RARE)))
    return tuple((name, draw(st.sampled_from(CONSTANTS.get(name, (1.0,))))) for name in names)


@st.composite
def _samplers(draw: Any) -> tuple[tuple[str, float], ...]:
    names = draw(st.lists(st.sampled_from(("bias", "temperature", "scale", "mask", "widen")), max_size=2, unique=True))
    names += draw(st.lists(st.sampled_from(sorted(SAMPLERS)), min_size=1, max_size=2, unique=True))
    names += draw(st.sampled_from(((), ("gumbel",))))
    return tuple((name, draw(st.sampled_from(CONSTANTS.get(name, (1.0,))))) for name in names)


# What certificates are made for, and what is refused or left dense today (one program in two has at most these).
_RISING = ("bias", "wide_bias", "scale", "softcap", "tanh", "clip", "widen", "widen", "barrier", "in_and_out")
_RARE = (*(name for name in AFTER if name not in _RISING and name not in SAMPLERS), "gumbel", "gumbel")
