# %% [markdown]
# A loop that ignores every signal that can be ignored.

# %% attack="last"
import signal

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
