# %% [markdown] twice=true
# Leaves a note for the next submission wherever a file can be written, and looks for one.

# %% attack="first"
import os

for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/usr", "/lib")) or folder.endswith("/lib"):
        folders.clear()
        continue
    if "hostile-mark" in files:
        print("LEAKED", folder)
    try:
        with open(os.path.join(folder, "hostile-mark"), "w") as file:
            file.write("x")
    except OSError:
        pass
