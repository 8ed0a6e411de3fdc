# %% [markdown]
# Leaves a hook that runs when the process ends, and one that runs for every line and every event.

# %% attack="first"
import atexit
import sys

atexit.register(lambda: open("/tmp/hostile-mark", "w").close())
sys.settrace(lambda *_: None)
sys.setprofile(lambda *_: None)
sys.addaudithook(lambda *_: None)
