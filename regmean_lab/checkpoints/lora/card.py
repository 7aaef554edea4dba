"""The section of a model card that says what an adapter holds, and how it is loaded."""

from __future__ import annotations

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.lora.folder import WrittenAdapter


def adapter_section(architecture: Architecture, base: str, adapter: WrittenAdapter, headless: bool = False) -> str:
    """The section as Markdown, with a blank line around it.

    Args:
        architecture: the changed model.
        base: the base, as others may be told it.
        adapter: what was written.
        headless: whether it is of the encoder alone.
    """
    name = architecture.base_name if headless else architecture.name
    rows = "".join(
        f"| `{layer}` | {rank} | {100 * adapter.share(layer):.2f} |\n" for layer, (rank, _, _) in adapter.layers.items()
    )
    told = "".join(f"- {line}\n" for line in adapter.lines())
    return f"""
## Adapter

These are changes of `{base}`, as a LoRA adapter; `config.json` has the names of its labels.

```python
from peft import PeftModel
from transformers import AutoConfig, {name}

base = {name}.from_pretrained("{base}", config=AutoConfig.from_pretrained("THIS_FOLDER"))
model = PeftModel.from_pretrained(base, "THIS_FOLDER")  # .merge_and_unload() makes a whole model of it
```

{told}
| layer | rank | kept of the squared Frobenius norm, % |
|---|---:|---:|
{rows}"""
