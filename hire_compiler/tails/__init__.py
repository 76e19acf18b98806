"""Tails: the author's code behind an LM head, run on bounds of the logits instead of the logits.

The code between the product and the token is interpreted operation by operation, on what is known of every number:
exact values (up to rounding) for the candidates, bounds of the predictions for all other rows. A token that comes out
as one number is the token of dense, whatever the rows are between their bounds.
"""
