"""A trainer that leaves the shipped adapter, as if it had been trained just now.

Where it is to merge an adapter, it leaves the model that it was given.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.settings import at_root

SHIPPED = at_root("data/embedded/adapter")
EXPERT = at_root("data/embedded/expert")
_TRAINER = """#!{python}
import json, pathlib, shutil, sys, time

import yaml

keys = yaml.safe_load(open(sys.argv[-1]))
if {reads!r}:
    # As LLaMA-Factory does it.
    from datasets import load_dataset
    load_dataset("json", data_files=[keys["dataset_dir"] + "/train.jsonl"], cache_dir=None)
if "export_dir" in keys:
    shutil.copytree({merged!r}, keys["export_dir"])
    sys.exit()
output = pathlib.Path(keys["output_dir"])
output.mkdir(parents=True)
figures = {{"loss": "0.69", "grad_norm": "1.0", "rewards/chosen": "0", "rewards/margins": "0"}}
for step in range(1, 5):
    print(str(figures), flush=True)
    print(f" 10%|#    | {{step}}/4 [00:01<00:03,  1.00s/it]", flush=True)
    time.sleep(0.15)
    if step == 3:
        config = json.load(open({adapter!r} + "/adapter_config.json"))
        config["base_model_name_or_path"] = keys["model_name_or_path"]
        (output / "adapter_config.json").write_text(json.dumps(config))
shutil.copy({adapter!r} + "/adapter_model.safetensors", output)
points = [dict(step=1, loss=0.69, **{{"rewards/chosen": 0.0}}), dict(step=4, loss=0.3)]
state = {{"global_step": 4, "max_steps": 4, "log_history": points}}
(output / "trainer_state.json").write_text(json.dumps(state))
"""


def write_trainer(file: Path, merged: Path = EXPERT, *, reads: bool = False) -> Path:
    """The program, for `training.python`; `merged` is what it leaves of a merge.

    With `reads` it reads the rows by the library that LLaMA-Factory reads them by.
    """
    program = _TRAINER.format(
        python=sys.executable, adapter=str(SHIPPED), merged=str(merged), reads=reads
    )
    file.write_text(program)
    file.chmod(0o755)
    return file
