"""What is asked: predictors, rules, a configuration of them, and the same as a TOML file.

Plain frozen data that checks itself; nothing here knows of graphs.
"""
