"""The author's program as plain data: operations and values, code between products, and where a weight comes from.

Read-only. Patterns read it, plans never see it, and the runtime knows only its expressions and weights.
"""
