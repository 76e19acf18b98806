"""Continue a prompt greedily and print the text and the time a token.

python -m examples.generate --model auto --tokens 64 "The lighthouse keeper opened the door and saw"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from examples.models import MODEL_NAMES, load_model
from examples.models.generate import generate, jit_step
from examples.models.text import prompts


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="*", help="by default, the prompts that come with us")
    parser.add_argument("--model", default="auto", choices=["auto", *MODEL_NAMES])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens at most")
    options = parser.parse_args(arguments)

    model = load_model(options.model, options.dtype)
    step = jit_step(model)
    for prompt in options.prompts or prompts():
        ids = model.tokenizer.encode(prompt)
        result = generate(model, ids, options.tokens, step=step)
        print(f"{prompt}{model.tokenizer.decode(result.tokens)}")
        print(
            f"  [{model.name}, {options.dtype}: {len(result.tokens)} tokens, "
            f"{result.median_milliseconds():.1f} ms a token]"
        )


if __name__ == "__main__":
    main()
