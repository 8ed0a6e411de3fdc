# %% [markdown] student="=1+1;<img src=x onerror=hostile_mark()>"
# A student whose name is a formula in a spreadsheet and an element in a page.
