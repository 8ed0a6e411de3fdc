# %% [markdown]
# Finds the object that carries replies and sends a reply ahead of its time.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
for number in range(1, 60):
    peer.channel.send(Writer(lambda value: None).frame({"reply": number, "value": {"number": "5"}}))
