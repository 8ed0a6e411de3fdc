# %% [markdown]
# A numpy.py in the working folder would be imported by an exam in place of NumPy.

# %% attack="first"
import pathlib

for name in ("numpy", "torch", "autograder", "sitecustomize", "usercustomize"):
    pathlib.Path(f"{name}.py").write_text("raise SystemExit('hostile-mark')")
    pathlib.Path.home().joinpath(f"{name}.py").write_text("raise SystemExit('hostile-mark')")
