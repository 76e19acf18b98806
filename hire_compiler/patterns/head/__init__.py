"""LM heads: the product that makes logits, everything that reads them, and the winners among them."""
