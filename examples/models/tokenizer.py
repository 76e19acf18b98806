"""The tokenizer of a GGUF checkpoint, rebuilt from the checkpoint's own metadata.

Two families: `llama` is SentencePiece BPE (Gemma), which stores a score for each piece and no
merges; `gpt2` is byte-level BPE (SmolLM2), which stores its merges. Both run on the Hugging Face
`tokenizers` library, and give the ids llama.cpp gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

# Values of tokenizer.ggml.token_type.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPACE_MARK = "▁"


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    Attributes:
        fast: the underlying `tokenizers.Tokenizer`.
        bos: the id every text starts with, or None where the model was trained without one.
        stop: the ids that end a text.
    """

    fast: FastTokenizer
    bos: int | None
    stop: frozenset[int]

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of `text`, after the beginning-of-text id where the model has one.

        Markers such as `<eos>` written in the text stay text; user-defined pieces (runs of
        newlines, HTML tags) are matched first.
        """
        ids = self.fast.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if add_bos and self.bos is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids. Control tokens (beginning, end, unused) leave no trace."""
        return self.fast.decode(list(ids), skip_special_tokens=True)


def tokenizer_from(metadata: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file's metadata describes.

    Raises:
        ValueError: the file uses another tokenizer family, or a variant not rebuilt here.
    """
    family = metadata["tokenizer.ggml.model"]
    if family == "llama" and metadata.get("tokenizer.ggml.add_space_prefix", True):
        raise ValueError("This tokenizer puts a space before every text, which is not implemented.")
    if family == "gpt2" and metadata.get("tokenizer.ggml.pre") != "smollm":
        raise ValueError(f"Pre-tokenizer {metadata.get('tokenizer.ggml.pre')!r} is not implemented.")
    if family == "llama":
        fast = _sentencepiece(metadata)
    elif family == "gpt2":
        fast = _byte_level(metadata)
    else:
        raise ValueError(f"Tokenizer family {family!r} is not implemented; known are 'llama' and 'gpt2'.")
    bos = metadata["tokenizer.ggml.bos_token_id"] if metadata["tokenizer.ggml.add_bos_token"] else None
    end_names = ("<end_of_turn>", "<|im_end|>", "<|endoftext|>")
    ends = {i for name in end_names if (i := fast.token_to_id(name)) is not None}
    return Tokenizer(fast, bos, frozenset(ends | {metadata["tokenizer.ggml.eos_token_id"]}))


def _sentencepiece(metadata: dict[str, Any]) -> FastTokenizer:
    pieces, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    fast = FastTokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_from_scores(metadata),
            unk_token=pieces[metadata["tokenizer.ggml.unknown_token_id"]],
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Replace(" ", SPACE_MARK)
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    _add_tokens(fast, pieces, kinds)
    return fast


def _merges_from_scores(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges SentencePiece implies: any two pieces whose union is a piece, best first."""
    pieces, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    kinds = metadata["tokenizer.ggml.token_type"]
    score = {p: s for p, s, kind in zip(pieces, scores, kinds, strict=True) if kind == NORMAL}
    merges = [
        (-score[piece], cut, piece)
        for piece in score
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]
    return [(piece[:cut], piece[cut:]) for _, cut, piece in sorted(merges)]


def _byte_level(metadata: dict[str, Any]) -> FastTokenizer:
    pieces, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    fast = FastTokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    _add_tokens(fast, pieces, kinds)
    return fast


def _add_tokens(fast: FastTokenizer, pieces: list[str], kinds: list[int]) -> None:
    named = list(zip(pieces, kinds, strict=True))
    fast.add_tokens([AddedToken(p, normalized=False) for p, kind in named if kind == USER_DEFINED])
    fast.add_special_tokens([AddedToken(p, normalized=False) for p, kind in named if kind == CONTROL])
    # Control markers are for the program to insert, never for a text to smuggle in.
    fast.encode_special_tokens = True
