"""What bench_peers.py compares a cold start with: a timm checkpoint from a folder, in the straightforward way.

    python tests/by_hand/straightforward_recipe.py FOLDER IMAGE

It prints the five largest outputs, one a line: index and value.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

folder, image = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((folder / "config.json").read_text())
model = timm.create_model(
    config["architecture"], num_classes=config["num_classes"], pretrained_cfg=config["pretrained_cfg"]
)
model.load_state_dict(load_file(folder / "model.safetensors"))
model.eval()
preprocess = create_transform(**resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    embedding = model(preprocess(Image.open(image).convert("RGB"))[None])[0]
for index in embedding.topk(5).indices.tolist():
    print(index, float(embedding[index]))
