"""Measurements that the README quotes; each file is one command."""
