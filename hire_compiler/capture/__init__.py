"""From a function to a program: the call is split into leaves, closed-over weights become arguments, JAX lowers it.

What comes out is a :class:`Program`, a private copy of the lowered module; nothing later touches the function.
"""
