# %% [markdown] softmax=0
# HTML and scripts in outputs: the instructor reads them in a browser that may change marks.

# %% attack="first"
from IPython.display import HTML, Javascript, SVG, Markdown, display

display(HTML("<script>hostile_mark()</script><img src=x onerror=hostile_mark()>"))
display(Javascript("hostile_mark()"), Markdown("<script>hostile_mark()</script>"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' onload='hostile_mark()'></svg>"))
print("<script>hostile_mark()</script>")
raise ValueError("<script>hostile_mark()</script>")

# %% answer="softmax"
def softmax(x, dim=-1):
    raise ValueError("<script>hostile_mark()</script>")
