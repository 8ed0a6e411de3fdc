# %% [markdown]
# json.dumps gives what the student likes: replies are written with it. The process can answer nothing any more.

# %% attack="last"
import json

json.dumps = lambda *_, **__: "{}"
