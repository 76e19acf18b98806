"""Layers of experts: what a router chooses, and the code that every expert runs."""
