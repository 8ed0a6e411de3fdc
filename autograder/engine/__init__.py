"""Right or wrong, and which misconception: runs the exams, knows devices, dtypes, tolerances and words."""
