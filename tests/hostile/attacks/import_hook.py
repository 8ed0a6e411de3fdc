# %% [markdown]
# An import hook gives a forged autograder with a mark() of full points.

# %% attack="first"
import sys
import types

forged = types.ModuleType("autograder.engine.examine")
forged.mark = forged.examine = lambda *_, **__: 5.0
sys.modules["autograder.engine"] = sys.modules["autograder.engine.examine"] = forged
sys.modules["autograder"].mark = forged.mark
