"""Models without their Python code: read an export, rewrite it, save it, load it, run it, compare it.

``disk`` is what lies in files, ``source`` what comes in, ``artifact`` what goes out; the verbs stand here.
"""
