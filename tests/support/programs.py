"""Generated programs: feed-forward blocks and heads as people write them, each with a float64 oracle.

A ``Ffn`` or ``Head`` is a description that hypothesis can shrink; it builds a JAX function, random parameters and,
from the *same* parameters, the float64 answer for any selection of rows, with a bound on what rounding may do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from hypothesis import strategies as st

from tests.support.drawn import drawn

Array = np.ndarray

ACTIVATIONS_JAX = {
    "relu": jax.nn.relu,
    "relu2": lambda z: jnp.square(jax.nn.relu(z)),
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
}
ACTIVATIONS_64 = {
    "relu": lambda z: np.maximum(z, 0),
    "relu2": lambda z: np.maximum(z, 0) ** 2,
    "silu": lambda z: z * scipy.special.expit(z),
    "gelu": lambda z: z * scipy.special.ndtr(z),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
}


def rank_of(activation: str) -> Callable[[Any], Any]:
    """What ranks neurons by their predicted gates, told by hand: the gate itself where negative ones give zero."""
    return (lambda z: z) if activation in ("relu", "relu2") else lambda z: jnp.abs(ACTIVATIONS_JAX[activation](z))


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def wide(array: object) -> Array:
    """An array of any float type in float64."""
    return np.asarray(array).astype(np.float64)


def rounding(dtype: str) -> float:
    """What one product and a few elementwise operations may lose, relative to the sum of absolute terms.

    Several roundings of the storage type; in float32, where the sums round too, more of them.
    """
    return {"float32": 32, "bfloat16": 4, "float16": 6}[dtype] * float(jnp.finfo(dtype).eps)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> jax.Array:
    return drawn(rng.normal(size=shape) * scale, DTYPES[dtype])


# --------------------------------------------------------------------------- feed-forward blocks

GATED_LAYOUTS = ("in_out", "out_in", "fused_2df", "fused_d2f", "fused_d_2f", "fused_2f_d", "fused_df2")
PLAIN_LAYOUTS = ("in_out", "out_in", "transposed")


@dataclass(frozen=True)
class Ffn:
    """A feed-forward block, alone or as the body of a scan over layers.

    Attributes:
      layout: how the first weights are stored; ``fused_…`` spells the axes of one weight for gate and up.
      down: ``in_out`` ([width, d]) or ``out_in`` ([d, width]).
      bias: one on the gate (or the only) stream.
      sequence: x has an axis of length one between batch and features.
      lookup: x is looked up in a table (computed), instead of being an argument.
      layers: of the scan, or None.
    """

    activation: str
    gated: bool
    layout: str
    down: str
    bias: bool
    dtype: str
    batch: int
    sequence: bool
    lookup: bool
    d: int
    width: int
    layers: int | None
    seed: int

    @property
    def group_choices(self) -> list[int]:
        return [g for g in (1, 2, 8) if self.width % g == 0]

    @property
    def products(self) -> int:
        """Matrix products with a weight in the program text."""
        return 3 if self.gated and not self.layout.startswith("fused") else 2

    def arguments(self) -> tuple[dict[str, jax.Array], jax.Array]:
        """Random parameters and input."""
        rng = np.random.default_rng(self.seed)
        stack = () if self.layers is None else (self.layers,)
        d, m = self.d, self.width

        def weight(*shape: int, scale: float) -> jax.Array:
            return random_array(rng, (*stack, *shape), self.dtype, scale)

        up = 1 / np.sqrt(d)
        shapes = {
            "fused_2df": (2, d, m),
            "fused_d2f": (d, 2, m),
            "fused_d_2f": (d, 2 * m),
            "fused_2f_d": (2 * m, d),
            "fused_df2": (d, m, 2),
        }
        params = {}
        if self.layout in shapes:
            params["gate_up"] = weight(*shapes[self.layout], scale=up)
        else:
            for name in ("gate", "up") if self.gated else ("up",):
                params[name] = weight(*((d, m) if self.layout == "in_out" else (m, d)), scale=up)
        if self.bias:
            params["bias"] = weight(m, scale=0.5)
        params["down"] = weight(*((m, d) if self.down == "in_out" else (d, m)), scale=1 / np.sqrt(m))
        middle = (1,) if self.sequence else ()
        if self.lookup:
            params["embed"] = random_array(rng, (17, d), self.dtype)
            return params, jnp.asarray(rng.integers(0, 17, (self.batch, *middle)), jnp.int32)
        return params, random_array(rng, (self.batch, *middle, d), self.dtype)

    def function(self, params: dict[str, jax.Array], x: jax.Array) -> object:
        """The program: ``y``, or ``(y, inputs of every layer)`` of a scan."""
        params = dict(params)
        if self.lookup:
            x = params.pop("embed")[x]
        if self.layers is None:
            return self._block(params, x)
        return jax.lax.scan(lambda h, layer: (h + self._block(layer, h), h), x, params)

    def _block(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        gate, up = self._streams(p, x)
        act = ACTIVATIONS_JAX[self.activation]
        if self.bias:
            gate = gate + p["bias"]
        h = act(gate) if up is None else act(gate) * up
        return h @ p["down"] if self.down == "in_out" else jnp.einsum("...f,df->...d", h, p["down"])

    def _streams(self, p: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        def product(w: jax.Array) -> jax.Array:
            if self.layout == "in_out":
                return x @ w
            return x @ w.T if self.layout == "transposed" else jnp.einsum("...d,fd->...f", x, w)

        match self.layout:
            case "fused_2df":
                both = jnp.einsum("...d,gdf->g...f", x, p["gate_up"])
                return both[0], both[1]
            case "fused_d2f":
                both = jnp.einsum("...d,dgf->...gf", x, p["gate_up"])
                return both[..., 0, :], both[..., 1, :]
            case "fused_d_2f":
                return tuple(jnp.split(x @ p["gate_up"], 2, axis=-1))
            case "fused_2f_d":
                both = x @ p["gate_up"].T
                return both[..., : self.width], both[..., self.width :]
            case "fused_df2":
                both = jnp.einsum("...d,dfg->...fg", x, p["gate_up"])
                return both[..., 0], both[..., 1]
        return (product(p["gate"]), product(p["up"])) if self.gated else (product(p["up"]), None)

    def matrices(self, params: dict[str, jax.Array], layer: int | None) -> tuple[Array, Array | None, Array, Array]:
        """(gate or only, up, down, bias) in float64: rows of neurons, ``[width, d]``."""
        p = {name: wide(value if layer is None else value[layer]) for name, value in params.items() if name != "embed"}
        bias = p.get("bias", np.zeros(self.width))
        down = p["down"] if self.down == "in_out" else p["down"].T
        fused = p.get("gate_up")
        if fused is None:
            rows = {name: p[name].T if self.layout == "in_out" else p[name] for name in ("gate", "up") if name in p}
            return rows.get("gate", rows["up"]), rows["up"] if self.gated else None, down, bias
        match self.layout:
            case "fused_2df":
                gate, up = fused[0].T, fused[1].T
            case "fused_d2f":
                gate, up = fused[:, 0].T, fused[:, 1].T
            case "fused_d_2f":
                gate, up = fused[:, : self.width].T, fused[:, self.width :].T
            case "fused_2f_d":
                gate, up = fused[: self.width], fused[self.width :]
            case _:
                gate, up = fused[..., 0].T, fused[..., 1].T
        return gate, up, down, bias

    def oracle(
        self, params: dict[str, jax.Array], x: Array, neurons: Array | None = None, layer: int | None = None
    ) -> tuple[Array, Array]:
        """The block in float64 on some neurons, and how far rounding may take a program from it.

        Args:
          x: ``[batch, d]`` float64.
          neurons: indices; all of them by default.
        """
        gate_rows, up_rows, down, bias = self.matrices(params, layer)
        chosen = np.arange(self.width) if neurons is None else neurons
        gate = x @ gate_rows[chosen].T + bias[chosen]
        size = np.abs(x) @ np.abs(gate_rows[chosen]).T + np.abs(bias[chosen])
        h = ACTIVATIONS_64[self.activation](gate)
        bound = size**2 if self.activation == "relu2" else size
        if up_rows is not None:
            h = h * (x @ up_rows[chosen].T)
            bound = bound * (np.abs(x) @ np.abs(up_rows[chosen]).T)
        return h @ down[chosen], rounding(self.dtype) * (bound @ np.abs(down[chosen])) + 1e-7


@st.composite
def ffns(draw: st.DrawFn) -> Ffn:
    gated = draw(st.booleans())
    return Ffn(
        activation=draw(st.sampled_from(sorted(ACTIVATIONS_JAX))),
        gated=gated,
        layout=draw(st.sampled_from(GATED_LAYOUTS if gated else PLAIN_LAYOUTS)),
        down=draw(st.sampled_from(("in_out", "out_in"))),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        batch=draw(st.integers(1, 8)),
        sequence=draw(st.booleans()),
        lookup=draw(st.booleans()),
        d=draw(st.sampled_from((8, 12, 16))),
        width=draw(st.sampled_from((32, 40, 64))),
        layers=draw(st.sampled_from((None, None, 2, 3))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


# --------------------------------------------------------------------------- heads

WINNERS = ("argmax", "top_k")
CONSUMERS = (*WINNERS, "softmax", "log_softmax", "returned")
CAP, TEMPERATURE, TOP = 4.0, 0.7, 5


@dataclass(frozen=True)
class Head:
    """An LM head with one or more readers of its logits.

    Attributes:
      layout: ``in_out`` ([d, vocabulary]), ``tied`` (the transposed embedding table), ``out_in`` (einsum).
      consumers: what is done with the logits.
      upcast: logits are converted to float32 before anything else.
      position: ``none`` ([batch, d]), ``kept`` ([batch, 1, d]) or ``last`` (cut out of a sequence, after the product).
    """

    layout: str
    consumers: tuple[str, ...]
    bias: bool
    scale: bool
    softcap: bool
    upcast: bool
    dtype: str
    batch: int
    position: str
    lookup: bool
    d: int
    vocabulary: int
    seed: int

    def arguments(self) -> tuple[dict[str, jax.Array], jax.Array]:
        rng = np.random.default_rng(self.seed)
        shape = (self.d, self.vocabulary) if self.layout == "in_out" else (self.vocabulary, self.d)
        params = {"head": random_array(rng, shape, self.dtype, 1 / np.sqrt(self.d))}
        if self.bias:
            params["bias"] = random_array(rng, (self.vocabulary,), self.dtype, 0.2)
        middle = {"none": (), "kept": (1,), "last": (3,)}[self.position]
        if self.lookup:
            params["embed"] = random_array(rng, (17, self.d), self.dtype)
            return params, jnp.asarray(rng.integers(0, 17, (self.batch, *middle)), jnp.int32)
        return params, random_array(rng, (self.batch, *middle, self.d), self.dtype)

    def function(self, params: dict[str, jax.Array], x: jax.Array) -> dict[str, object]:
        if self.lookup:
            x = params["embed"][x]
        w = params["head"]
        if self.layout == "out_in":
            logits = jnp.einsum("...d,vd->...v", x, w)
        else:
            logits = x @ (w if self.layout == "in_out" else w.T)
        if self.position == "last":
            logits = logits[:, -1]
        if self.upcast:
            logits = logits.astype(jnp.float32)
        if self.scale:
            logits = logits / TEMPERATURE
        if self.bias:
            logits = logits + params["bias"]
        if self.softcap:
            logits = jnp.tanh(logits / CAP) * CAP
        read = {
            "argmax": lambda: jnp.argmax(logits, axis=-1),
            "top_k": lambda: jax.lax.top_k(logits, TOP),
            "softmax": lambda: jax.nn.softmax(logits, axis=-1),
            "log_softmax": lambda: jax.nn.log_softmax(logits, axis=-1),
            "returned": lambda: logits,
        }
        return {name: read[name]() for name in self.consumers}

    def inputs(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """What the product reads, ``[rows, d]``, in the program's own type."""
        x = params["embed"][x] if self.lookup else x
        return x.reshape(-1, self.d)

    def read_rows(self) -> Array:
        """Which rows of :meth:`inputs` the consumers see."""
        rows = np.arange(self.batch * (3 if self.position == "last" else 1))
        return rows[2::3] if self.position == "last" else rows

    def products(self, params: dict[str, jax.Array], x: jax.Array) -> tuple[Array, Array]:
        """Raw products in float64, ``[rows, vocabulary]``, and the sizes of what was summed."""
        rows = wide(params["head"]).T if self.layout == "in_out" else wide(params["head"])
        inputs = wide(self.inputs(params, x))
        return inputs @ rows.T, np.abs(inputs) @ np.abs(rows).T

    def finish(self, z: Array, params: dict[str, jax.Array]) -> Array:
        """From raw products to logits, in float64."""
        if self.scale:
            z = z / TEMPERATURE
        if self.bias:
            z = z + wide(params["bias"])
        return np.tanh(z / CAP) * CAP if self.softcap else z

    def slack(self, size: Array, params: dict[str, jax.Array]) -> Array:
        """How far rounding may take a logit."""
        size = size / TEMPERATURE if self.scale else size
        bias = np.abs(wide(params["bias"])) if self.bias else 0.0
        return rounding(self.dtype) * (size + bias + (CAP if self.softcap else 0.0))


@st.composite
def heads(draw: st.DrawFn, winners_only: bool | None = None) -> Head:
    pool = WINNERS if winners_only else CONSUMERS
    chosen = draw(st.sets(st.sampled_from(pool), min_size=1, max_size=2))
    return Head(
        layout=draw(st.sampled_from(("in_out", "tied", "out_in"))),
        consumers=tuple(sorted(chosen)),
        bias=draw(st.booleans()),
        scale=draw(st.booleans()),
        softcap=draw(st.booleans()),
        upcast=draw(st.booleans()),
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        batch=draw(st.integers(1, 8)),
        position=draw(st.sampled_from(("none", "none", "kept", "last"))),
        lookup=draw(st.booleans()),
        d=draw(st.sampled_from((8, 12, 16))),
        vocabulary=draw(st.sampled_from((1024, 1031))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
