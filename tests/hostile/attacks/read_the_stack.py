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
    if type(value).__name__ in ("Exam", "Misconception", "Variant", "ExamStep", "Plan", "Gradebook"):
        print("LEAKED", type(value))
for name in list(sys.modules):
    if name.startswith(("autograder.exams", "autograder.engine", "autograder.classroom", "nbgrader")):
        print("LEAKED", name)
for name in os.environ:
    if "SECRET" in name or "TOKEN" in name:
        print("LEAKED", name)
