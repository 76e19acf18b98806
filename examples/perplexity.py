"""Print a model's perplexity on the held-out prose.

python -m examples.perplexity --model auto --dtype float32 --window 1024
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

from examples.models import MODEL_NAMES, load_model
from examples.models.score import text_loss
from examples.models.text import heldout_text


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="auto", choices=["auto", *MODEL_NAMES])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--window", type=int, default=1024, help="tokens seen at a time")
    options = parser.parse_args(arguments)

    model = load_model(options.model, options.dtype)
    ids = model.tokenizer.encode(heldout_text(), add_bos=False)
    began = time.perf_counter()
    loss, count = text_loss(model, ids, options.window)
    seconds = time.perf_counter() - began
    print(
        f"{model.name} in {options.dtype}: perplexity {math.exp(loss):.2f} "
        f"({loss:.4f} nats a token) over {count} held-out tokens, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
