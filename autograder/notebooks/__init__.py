"""Solutions to student notebooks and back: what is handed out, what has to be repaired when it is handed in."""
