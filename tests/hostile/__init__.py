"""Submissions that attack the marking: one file an attack in ``attacks/``, damaged files in ``damage.py``."""
