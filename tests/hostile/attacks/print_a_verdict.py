# %% [markdown]
# Prints and displays a verdict with full points, with the MIME type that the marks travel in.

# %% attack="last"
from IPython.display import display

print("softmax: 5 of 5 points")
verdict = {"exercise": "softmax", "points": 5.0, "max_points": 5.0, "findings": [], "diagnosis": None, "seed": 1,
           "devices": ["cpu"], "note": ""}
display({"application/vnd.autograder.verdict+json": verdict, "text/plain": "5.0"}, raw=True)
