"""The stages between a captured program and the step that runs, a room a stage; ``pipeline.py`` calls them in order.

normalize → detect → plan → replace → splice → verify. ``kinds`` says what each stage does with each kind of site,
``mesh`` what changes when a program runs on several devices.
"""
