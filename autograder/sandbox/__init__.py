"""Student code in a process of its own, with limits, watched from outside."""
