"""Programs on several devices: how sites lie on the mesh, shards that work by themselves, bodies of ``shard_map``."""
