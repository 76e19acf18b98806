"""What the compiler looks for, one family a room, and the reading of the graph that they share.

From single operations (``operations``) to weights, to the code between two products (``region``), to blocks
(``ffn``), heads (``head``), experts and what is none of them (``misses``). Every match answers ``site_match.py``.
"""
