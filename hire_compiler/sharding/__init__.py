"""How arrays and sites lie on a mesh, how rows are dealt to shards, and how many of them a shard must keep.

Plain data and closed forms; the stage that works on several devices is ``passes/mesh``.
"""
