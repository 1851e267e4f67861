"""Train a UNet2DModel on small images as diffusers' unconditional training example does, and write its folder.

    python benchmarks/own/train.py --images results/data/mnist/images.safetensors --out mnist-model

The loop is that of diffusers' examples/unconditional_image_generation/train_unconditional.py: AdamW with a cosine
schedule, noise prediction, EMA weights, a DDPMScheduler of 1,000 steps. `--classes` adds labels and a null class, as
guidance needs. 4,200 steps take ten minutes of one core. Nothing of slimdiff is used but its file of images.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

BATCH, RATE, WARMUP, NULL = 32, 2e-3, 100, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4200)
    parser.add_argument("--classes", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    tensors = load_file(args.images)
    images, labels = tensors["train_images"], tensors["train_labels"]
    model = UNet2DModel(
        sample_size=images.shape[-1],
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
        num_class_embeds=NULL + 1 if args.classes else None,
    ).to(memory_format=torch.channels_last)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_cosine_schedule_with_warmup(optimizer, WARMUP, args.steps)
    average = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    started, total = time.process_time(), 0.0
    for step in range(1, args.steps + 1):
        chosen = torch.randint(len(images), (BATCH,))
        clean = images[chosen].float() / 127.5 - 1
        noise, t = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        given = None
        if args.classes:
            given = labels[chosen].masked_fill(torch.rand(BATCH) < 0.1, NULL)
        loss = F.mse_loss(model(scheduler.add_noise(clean, noise, t), t, given).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        total += loss.item()
        if step % 100 == 0:
            print(f"step {step}  loss {total / 100:.4f}  {time.process_time() - started:.0f} s", flush=True)
            total = 0.0
    average.copy_to(model.parameters())
    DDPMPipeline(unet=model.eval(), scheduler=scheduler).save_pretrained(args.out)


if __name__ == "__main__":
    main()
