"""Measurements that print a table, write JSON and draw recall against queries/s. The product imports nothing of it."""
