"""Train the class-conditional model of config/own-model.yaml as diffusers' unconditional example trains the other.

    python benchmarks/own/train.py --images data/own-model/train.safetensors --out data/own-model/digits-by-class

The loop is that of train_unconditional.py of diffusers 0.40, with labels and, as guidance needs it, a null class:
AdamW with a cosine schedule, noise prediction, EMA weights, a DDPMScheduler of 1,000 steps. 4,200 steps take 12 minutes
of one core. Nothing of slimdiff is used but its file of images.
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

NETWORK = Path(__file__).with_name("unet")
BATCH, RATE, WARMUP, NULL = 32, 2e-3, 100, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4200)
    args = parser.parse_args()
    torch.manual_seed(0)
    tensors = load_file(args.images)
    images, labels = tensors["train_images"], tensors["train_labels"]
    config = UNet2DModel.load_config(NETWORK)
    model = UNet2DModel.from_config(config, num_class_embeds=NULL + 1).to(memory_format=torch.channels_last)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_cosine_schedule_with_warmup(optimizer, WARMUP, args.steps)
    average = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    started, total = time.process_time(), 0.0
    for step in range(1, args.steps + 1):
        chosen = torch.randint(len(images), (BATCH,))
        clean = images[chosen].float() / 127.5 - 1
        noise, t = torch.randn_like(clean), torch.randint(1000, (BATCH,))
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
