"""An activation is recognised by what it computes, whatever its spelling, in every type; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.patterns.ffn.activations import ACTIVATIONS
from tests.support.models import WIDTH, D, array

Activation = Callable[[jax.Array], jax.Array]

SPELLINGS: dict[str, dict[str, Activation]] = {
    "relu": {
        "jax.nn.relu": jax.nn.relu,
        "maximum": lambda z: jnp.maximum(z, 0),
        "maximum the other way": lambda z: jnp.maximum(0, z),
        "where": lambda z: jnp.where(z > 0, z, 0),
        "where not": lambda z: jnp.where(z <= 0, 0, z),
        "times a mask": lambda z: z * (z > 0),
        "clip": lambda z: jnp.clip(z, 0),
        "half of z and its size": lambda z: (z + jnp.abs(z)) / 2,
        "leaky without leak": lambda z: jax.nn.leaky_relu(z, 0.0),
        "in float32": lambda z: jax.nn.relu(z.astype(jnp.float32)).astype(z.dtype),
    },
    "relu2": {
        "square": lambda z: jnp.square(jax.nn.relu(z)),
        "power 2": lambda z: jax.nn.relu(z) ** 2,
        "power 2.0": lambda z: jnp.power(jax.nn.relu(z), 2.0),
        "times itself": lambda z: jax.nn.relu(z) * jax.nn.relu(z),
        "times z": lambda z: jax.nn.relu(z) * z,
        "where": lambda z: jnp.where(z > 0, z * z, 0),
    },
    "relu6": {
        "jax.nn.relu6": jax.nn.relu6,
        "clip": lambda z: jnp.clip(z, 0, 6),
        "min of max": lambda z: jnp.minimum(jnp.maximum(z, 0), 6),
    },
    "silu": {
        "jax.nn.silu": jax.nn.silu,
        "jax.nn.swish": jax.nn.swish,
        "times sigmoid": lambda z: z * jax.nn.sigmoid(z),
        "division": lambda z: z / (1 + jnp.exp(-z)),
        "with tanh": lambda z: 0.5 * z * (1 + jnp.tanh(0.5 * z)),
        "logistic": lambda z: jax.lax.logistic(z) * z,
        "in float32": lambda z: jax.nn.silu(z.astype(jnp.float32)).astype(z.dtype),
    },
    "gelu": {
        "jax.nn.gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "erf": lambda z: 0.5 * z * (1 + jax.lax.erf(z / np.sqrt(2).astype(z.dtype))),
        "erfc": lambda z: 0.5 * z * jax.lax.erfc(-z * np.sqrt(0.5).astype(z.dtype)),
        "normal distribution": lambda z: (
            z * jax.scipy.stats.norm.cdf(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
        ),
    },
    "gelu_tanh": {
        "jax.nn.gelu": lambda z: jax.nn.gelu(z, approximate=True),
        "power": lambda z: 0.5 * z * (1 + jnp.tanh(0.7978845608 * (z + 0.044715 * z**3))),
        "products": lambda z: 0.5 * z * (1 + jnp.tanh(0.7978845608 * z * (1 + 0.044715 * z * z))),
        "sigmoid": lambda z: z * jax.nn.sigmoid(1.5957691216 * (z + 0.044715 * z * z * z)),
    },
    "gelu_sigmoid": {
        "sigmoid": lambda z: z * jax.nn.sigmoid(1.702 * z),
        "exponential": lambda z: z / (1 + jnp.exp(-1.702 * z)),
    },
    "sigmoid": {
        "jax.nn.sigmoid": jax.nn.sigmoid,
        "exponential": lambda z: 1 / (1 + jnp.exp(-z)),
    },
    "tanh": {
        "jnp.tanh": jnp.tanh,
        "jax.nn.tanh": jax.nn.tanh,
        "sigmoid": lambda z: 2 * jax.nn.sigmoid(2 * z) - 1,
    },
}
CASES = [
    pytest.param(name, act, id=f"{name}, {spelling}")
    for name, spellings in SPELLINGS.items()
    for spelling, act in spellings.items()
]
in_every_type = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def plain(act: Activation) -> Callable[..., jax.Array]:
    return lambda x, up, down: act(x @ up) @ down


def gated(act: Activation) -> Callable[..., jax.Array]:
    return lambda x, gate, up, down: (act(x @ gate) * (x @ up)) @ down


def shapes(dtype: Any, *names: str) -> list[jax.ShapeDtypeStruct]:
    sizes = {"x": (2, D), "gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D), "bias": (WIDTH,)}
    return [jax.ShapeDtypeStruct(sizes[name], dtype) for name in names]


@pytest.mark.diagonal(keep=14)
@in_every_type
@pytest.mark.parametrize(("name", "act"), CASES)
def test_every_spelling_is_recognised(name: str, act: Activation, dtype: Any) -> None:
    (site,) = hire.inspect(plain(act), *shapes(dtype, "x", "up", "down")).sites
    assert (site.kind, site.activation, site.gated) == ("ffn", name, False)
    (site,) = hire.inspect(gated(act), *shapes(dtype, "x", "gate", "up", "down")).sites
    assert (site.kind, site.activation, site.gated) == ("ffn", name, True)
    assert site.weights == ("gate", "up", "down")


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", SPELLINGS)
def test_the_table_and_the_spellings_agree_in_float64(name: str) -> None:
    """The definitions that programs are compared with are the functions that people mean by the names."""
    z = np.linspace(-6, 8, 401)
    with jax.enable_x64(True):
        for spelling, act in SPELLINGS[name].items():
            np.testing.assert_allclose(act(jnp.asarray(z)), ACTIVATIONS[name](z), atol=1e-6, err_msg=spelling)


# What the table names, and whatever else is elementwise and zero at zero: never taken for one of the common five.
OTHERS: dict[str, tuple[Activation, str]] = {
    "mish": (jax.nn.mish, "mish"),
    "elu": (jax.nn.elu, "elu"),
    "selu": (jax.nn.selu, "selu"),
    "celu": (jax.nn.celu, "elu"),
    "leaky relu": (jax.nn.leaky_relu, "leaky_relu"),
    "hard swish": (jax.nn.hard_swish, "hard_silu"),
    "cubed relu": (lambda z: jax.nn.relu(z) ** 3, "relu3"),
    "scaled relu": (lambda z: jax.nn.relu(z) * 1.5, "relu"),
    "hard tanh": (jax.nn.hard_tanh, "custom"),
    "soft sign": (jax.nn.soft_sign, "custom"),
    "shifted relu": (lambda z: jax.nn.relu(z - 0.1), "custom"),
    "relu of the negative": (lambda z: jax.nn.relu(-z), "custom"),
    "negative of relu": (lambda z: -jax.nn.relu(z), "custom"),
    "swish with beta 1.3": (lambda z: z * jax.nn.sigmoid(1.3 * z), "custom"),
    "relu clipped at 3": (lambda z: jnp.clip(z, 0, 3), "custom"),
    "absolute value": (jnp.abs, "custom"),
    "square": (jnp.square, "custom"),
    "sine": (jnp.sin, "custom"),
}


@pytest.mark.diagonal(keep=6)
@in_every_type
@pytest.mark.parametrize("name", OTHERS)
def test_another_activation_is_a_site_under_its_own_name(name: str, dtype: Any) -> None:
    function, expected = OTHERS[name]
    (site,) = hire.inspect(plain(function), *shapes(dtype, "x", "up", "down")).sites
    assert site.activation == expected


def test_every_activation_of_the_table_is_spelled_here_and_named_to_users() -> None:
    spelled = {*SPELLINGS, *(name for _, name in OTHERS.values()), "identity"}
    assert ACTIVATIONS.keys() <= spelled, "spell it in SPELLINGS"
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert not [name for name in ACTIVATIONS if f"`{name}`" not in page], "name it in docs/models.md"


LOOK_ALIKES: dict[str, Activation] = {
    "softplus": jax.nn.softplus,
    "squareplus": jax.nn.squareplus,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "log sigmoid": jax.nn.log_sigmoid,
    "relu plus one": lambda z: jax.nn.relu(z) + 1,
    "exponential": jnp.exp,
}


@pytest.mark.diagonal
@in_every_type
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_an_activation_that_is_not_zero_at_zero_is_a_miss_with_the_reason(name: str, dtype: Any) -> None:
    report = hire.inspect(plain(LOOK_ALIKES[name]), *shapes(dtype, "x", "up", "down"))
    assert not report.sites
    (miss,) = [miss for miss in report.misses if miss.weight == "down"]
    assert "activation is none of" in miss.reason


STRANGE: dict[str, Activation] = {
    "softmax": jax.nn.softmax,
    "rms norm": lambda h: h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6),
    "relu and norm": lambda h: jax.nn.relu(h) / (1 + jnp.linalg.norm(h, axis=-1, keepdims=True)),
    "cumulative sum": lambda h: jnp.cumsum(jax.nn.relu(h), axis=-1),
    "sorted": lambda h: jnp.sort(h, axis=-1),
    "rolled": lambda h: jnp.roll(jax.nn.relu(h), 1, axis=-1),
    "maximum over the batch": lambda h: jax.nn.relu(h - h.max(axis=0)),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_elementwise_is_no_activation(name: str) -> None:
    report = hire.inspect(plain(STRANGE[name]), *shapes(jnp.float32, "x", "up", "down"))
    assert not [site for site in report.sites if site.kind == "ffn"]
    assert [miss.weight for miss in report.misses if miss.weight == "down"] == ["down"]


GATES: dict[str, tuple[Callable[..., jax.Array], str | None]] = {
    "activation on the first": (lambda a, b: jax.nn.silu(a) * b, "gate"),
    "activation on the second": (lambda a, b: a * jax.nn.silu(b), "up"),
    "the other order": (lambda a, b: b * jax.nn.silu(a), "gate"),
    "sum": (lambda a, b: jax.nn.silu(a) + b, None),
    "maximum": (lambda a, b: jnp.maximum(a, b), None),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", GATES)
def test_which_of_two_streams_carries_the_activation(name: str, rng: np.random.Generator) -> None:
    """Seen from outside by which matrix the int8 copy was made of."""
    combine, gate = GATES[name]

    def block(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        return combine(x @ gate, x @ up) @ down

    report = hire.inspect(block, *shapes(jnp.float32, "x", "gate", "up", "down"))
    if gate is None:
        assert not report.sites
        return
    (site,) = report.sites
    assert (site.activation, site.gated) == ("silu", True)
    weights = {"gate": array(rng, D, WIDTH), "up": array(rng, D, WIDTH), "down": array(rng, WIDTH, D)}
    step = hire.transform(block, hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.25),)))
    (arrays,) = step.prepare(array(rng, 2, D), **weights).values()
    copy = np.asarray(arrays["q"], np.float64) * np.asarray(arrays["scale"], np.float64)[:, None]
    np.testing.assert_allclose(copy, np.asarray(weights[gate]).T, atol=0.05)


def test_a_gate_whose_activation_vanishes_is_bilinear_and_never_relu() -> None:
    (site,) = hire.inspect(gated(lambda z: z), *shapes(jnp.float32, "x", "gate", "up", "down")).sites
    assert site.activation == "identity"


@in_every_type
def test_biases_are_seen_through(dtype: Any) -> None:
    def with_biases(x: Any, gate: Any, up: Any, down: Any, b: Any, c: Any) -> jax.Array:
        return (jax.nn.gelu(x @ gate + b, approximate=False) * (x @ up + c)) @ down

    types = shapes(dtype, "x", "gate", "up", "down", "bias", "bias")
    (site,) = hire.inspect(with_biases, *types).sites
    assert (site.activation, site.gated) == ("gelu", True)


def test_only_the_function_counts_and_not_how_often_it_reads_the_product() -> None:
    (site,) = hire.inspect(
        lambda x, up, down: ((x @ up) * jax.nn.sigmoid(x @ up)) @ down, *shapes(jnp.float32, "x", "up", "down")
    ).sites
    assert (site.activation, site.gated) == ("silu", False)
