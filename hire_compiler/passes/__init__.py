"""The stages between a captured program and the programs that run: one file a stage."""
