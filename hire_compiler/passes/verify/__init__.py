"""The last stage: no branch may hold a collective that some of its devices could skip."""
