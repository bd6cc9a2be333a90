"""Sharing long sequences only: a simulation for many ranks, and a program that measures two."""
