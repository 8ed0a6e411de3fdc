# %% [markdown] softmax=0
# Codes that steer the terminal of whoever reads the report: titles, the clipboard, lines that vanish.

# %% answer="softmax"
class Error(Exception):
    pass


Error.__name__ = "\x1b]0;hostile\x07"


def softmax(x, dim=-1):
    raise Error("\x1b[2J\x1b]52;c;aG9zdGlsZQ==\x07\x9b31m\u202e 5/5 \r\x08")
