"""A class from folder to gradebook: intake, marking, nbgrader's database, reports; and a class to try it on."""
