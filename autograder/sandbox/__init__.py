"""Student code in a process of its own: out of sight of everything that is not its business, watched from outside.

``inside`` is all of the project that such a process sees, besides ``autograder.answer`` and ``autograder.bridge``.
"""
