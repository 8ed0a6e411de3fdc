# %% [markdown]
# Walks the stack, the garbage collector and the loaded modules for exams, seeds and the gradebook.

# %% attack="last"
import gc
import os
import sys

frame = sys._getframe()
while frame is not None:
    if "exam" in str(frame.f_code.co_filename).rpartition("autograder")[2]:
        print("LEAKED", frame.f_code)
    frame = frame.f_back
for value in gc.get_objects():
    kind = type(value)
    # Other libraries have classes of these names, too.
    ours = str(getattr(kind, "__module__", "")).startswith(("autograder", "nbgrader"))
    if ours and kind.__name__ in ("Exam", "Misconception", "Variant", "ExamStep", "Plan", "Gradebook"):
        print("LEAKED", kind)
for name in list(sys.modules):
    if name.startswith(("autograder.exams", "autograder.engine", "autograder.classroom", "nbgrader")):
        print("LEAKED", name)
for name in os.environ:
    if "SECRET" in name or "TOKEN" in name:
        print("LEAKED", name)
