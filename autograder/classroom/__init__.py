"""A class from folder to gradebook: intake, marking, nbgrader's database, reports; and a class to try it on."""

import sys

# nbformat's jsonschema would build a parser of internationalised addresses, which takes each process two seconds and
# which no notebook's schema asks for; without this module it does without.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
