"""An exercise ends with `# show_solution("03.2")`. Its page shows that solution, folded,
below what the check says."""
import re

from distill_nb.lesson import _solutions

CALL = re.compile(r"^# show_solution\(\"((\w+)\.\d+)\"\)\n?", re.M)
FOLDED = """::: {{.callout-tip collapse="true"}}
### Solution

```python
{code}
```
:::"""


def fold_solutions(cells): # → cells
    out = []
    for cell in cells:
        source = "".join(cell["source"])
        call = CALL.search(source) if cell["cell_type"] == "code" else None
        out.append(cell)
        if call is None: continue
        cell["source"] = CALL.sub("", source).rstrip().splitlines(keepends=True)
        text = FOLDED.format(code=_solutions(call[2])[call[1]])
        out.append(dict(cell_type="markdown", metadata={}, source=text.splitlines(keepends=True)))
    return out
