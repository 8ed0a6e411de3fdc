# %% [markdown]
# Looks for the exams, the solutions and the gradebook: by import, by inspect, in every folder.

# %% attack="first"
import importlib
import os
import pathlib

for name in ("autograder.exams.softmax", "autograder.engine.checks", "autograder.classroom.grading"):
    try:
        importlib.import_module(name)
        print("LEAKED", name)
    except ImportError:
        pass
for top in ("/work", "/home", "/root", "/tmp", "/var", "/mnt", "/srv", "/opt", "../.."):
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in ("lib", "site-packages")]
        for file in files:
            path = pathlib.Path(folder, file)
            if file in ("gradebook.db", "secret") or ("exams" in folder and "autograder" in folder):
                print("LEAKED", path)
            if file == "softmax.py" and "BEGIN SOLUTION" in path.read_text():
                print("LEAKED", path)
