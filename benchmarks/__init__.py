"""Measurements that docs/measured.md and the pages beside it quote; each file is one command."""
