"""The life of a transformed function: a call is captured, rewritten, prepared, compiled; later calls only run.

Sites measure themselves while they run; a default that loses is planned anew in the background.
"""
